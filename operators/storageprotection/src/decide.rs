//! Whether an object is to have its finalizer (pure).

use crate::observe::{Kind, View};

/// What is to be done with the finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is as it should be.
    Leave,
    /// The object is not protected yet.
    Add,
    /// The object is to go, and nobody is known to use it: it goes when nobody does.
    Remove,
}

impl Kind {
    /// The finalizer of the kind.
    pub fn finalizer(self) -> &'static str {
        match self {
            Kind::Claim => "kubernetes.io/pvc-protection",
            Kind::Volume => "kubernetes.io/pv-protection",
            Kind::AttributesClass => "kubernetes.io/vac-protection",
        }
    }
}

/// Decides for an object, of which is known whether somebody uses it.
pub fn decide(kind: Kind, view: &View, in_use: bool) -> Plan {
    let held = view.finalizers.iter().any(|it| it == kind.finalizer());
    match (view.ending, held) {
        (false, false) => Plan::Add,
        (true, true) if !in_use => Plan::Remove,
        (false | true, true) | (true, false) => Plan::Leave,
    }
}

/// The finalizers after the plan.
pub fn finalizers(kind: Kind, view: &View, plan: Plan) -> Vec<String> {
    let mut list = view.finalizers.clone();
    match plan {
        Plan::Leave => {}
        Plan::Add => list.push(kind.finalizer().to_owned()),
        Plan::Remove => list.retain(|it| it != kind.finalizer()),
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ending: bool, finalizers: &[&str]) -> View {
        View { ending, finalizers: finalizers.iter().map(|it| (*it).to_owned()).collect(), ..View::default() }
    }

    #[test]
    fn the_finalizer_goes_when_the_object_is_to_go_and_nobody_uses_it() {
        let own = Kind::Claim.finalizer();
        let table = [
            (view(false, &[]), false, Plan::Add),
            (view(false, &[own]), false, Plan::Leave),
            (view(true, &[own]), true, Plan::Leave),
            (view(true, &[own]), false, Plan::Remove),
            (view(true, &["other"]), false, Plan::Leave),
        ];
        for (view, in_use, plan) in table {
            assert_eq!(decide(Kind::Claim, &view, in_use), plan, "{view:?}");
        }
        assert_eq!(finalizers(Kind::Claim, &view(true, &["a", own]), Plan::Remove), ["a"]);
    }
}
