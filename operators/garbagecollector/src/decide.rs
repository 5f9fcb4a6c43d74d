//! Whether an object is garbage (pure).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;

use crate::graph::{FOREGROUND, ORPHAN};

/// How the owner that a reference names stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Solid,
    /// There is none of this name, or it is another object now.
    Absent,
    /// It waits for its dependents to go.
    Waiting,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Leave it.
    Keep,
    /// It has another owner: only these references stay.
    Release(Vec<OwnerReference>),
    /// It is garbage.
    Delete(PropagationPolicy),
}

/// Decides over an object whose owners stand so, in the order of its references.
pub fn judge(object: &ObjectMeta, standings: &[Standing], has_dependents: bool) -> Verdict {
    let references = object.owner_references.as_deref().unwrap_or_default();
    if references.is_empty() || object.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    let solid: Vec<OwnerReference> = references
        .iter()
        .zip(standings)
        .filter(|(_, standing)| **standing == Standing::Solid)
        .map(|(reference, _)| reference.clone())
        .collect();
    if solid.len() == references.len() {
        return Verdict::Keep;
    }
    if !solid.is_empty() {
        return Verdict::Release(solid);
    }
    let has = |name: &str| object.finalizers.iter().flatten().any(|own| own == name);
    // Who waits wants to see all of it gone, so what is below goes first.
    if has_dependents && standings.contains(&Standing::Waiting) {
        Verdict::Delete(PropagationPolicy::Foreground)
    } else if has(ORPHAN) {
        Verdict::Delete(PropagationPolicy::Orphan)
    } else if has(FOREGROUND) {
        Verdict::Delete(PropagationPolicy::Foreground)
    } else {
        Verdict::Delete(PropagationPolicy::Background)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(owners: &[&str], finalizers: &[&str]) -> ObjectMeta {
        let owner = |uid: &&str| OwnerReference { uid: (*uid).to_owned(), ..OwnerReference::default() };
        ObjectMeta {
            owner_references: Some(owners.iter().map(owner).collect()),
            finalizers: Some(finalizers.iter().map(|it| (*it).to_owned()).collect()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        use Standing::{Absent, Solid};
        let two = object(&["1", "2"], &[]);
        assert_eq!(judge(&two, &[Solid, Solid], false), Verdict::Keep);
        let Verdict::Release(left) = judge(&two, &[Absent, Solid], false) else { panic!() };
        assert_eq!(left[0].uid, "2");
        assert_eq!(judge(&two, &[Absent, Absent], true), Verdict::Delete(PropagationPolicy::Background));
        assert_eq!(judge(&object(&[], &[]), &[], true), Verdict::Keep);
    }

    #[test]
    fn an_owner_that_waits_pulls_whole_trees_down_from_their_leaves() {
        use Standing::{Solid, Waiting};
        let one = object(&["1"], &[]);
        assert_eq!(judge(&one, &[Waiting], true), Verdict::Delete(PropagationPolicy::Foreground));
        assert_eq!(judge(&one, &[Waiting], false), Verdict::Delete(PropagationPolicy::Background));
        assert!(matches!(judge(&object(&["1", "2"], &[]), &[Waiting, Solid], true), Verdict::Release(_)));
    }

    #[test]
    fn the_finalizers_of_an_object_say_how_it_goes() {
        let orphaning = object(&["1"], &[ORPHAN]);
        let verdict = judge(&orphaning, &[Standing::Absent], true);
        assert_eq!(verdict, Verdict::Delete(PropagationPolicy::Orphan));
    }
}
