//! What a claim no longer needs (pure).

use k8s_openapi::api::resource::v1::ResourceClaimConsumerReference as Consumer;

use crate::observe::{ClaimView, PodView};

/// Keeps a claim as long as devices are its own.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// What is to be done with a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimPlan {
    /// Who may use it from now on, where that changes.
    pub users: Option<Vec<Consumer>>,
    /// Whether its devices are free.
    pub deallocate: bool,
    /// Its finalizers, where they change.
    pub finalizers: Option<Vec<String>>,
    /// Whether it goes.
    pub delete: bool,
}

/// Decides for a claim, of which `users` may still use it; `owner` is the pod of the name that it was made for.
pub fn decide_claim(claim: &ClaimView, users: Vec<Consumer>, owner: Option<&PodView>) -> ClaimPlan {
    let mut plan = ClaimPlan::default();
    let is_unused = users.is_empty();
    let is_protected = claim.finalizers.iter().any(|it| it == FINALIZER);
    let is_freed = is_unused && is_protected && (!claim.reserved.is_empty() || claim.ending);
    if users.len() < claim.reserved.len() {
        plan.users = Some(users);
    }
    if is_freed {
        plan.deallocate = claim.allocated;
        plan.finalizers = Some(claim.finalizers.iter().filter(|it| *it != FINALIZER).cloned().collect());
    }
    if let (true, Some((_, uid)), Some(pod)) = (is_unused, &claim.owner, owner) {
        plan.delete = !claim.ending && (pod.uid != *uid || pod.over);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: &str) -> Consumer {
        Consumer { resource: "pods".into(), name: uid.into(), uid: uid.into(), api_group: None }
    }

    fn claim(users: &[&str]) -> ClaimView {
        ClaimView {
            owner: Some(("p".into(), "u".into())),
            finalizers: vec!["other".into(), FINALIZER.into()],
            allocated: true,
            reserved: users.iter().map(|uid| user(uid)).collect(),
            ..ClaimView::default()
        }
    }

    fn pod(uid: &str, over: bool) -> PodView {
        PodView { uid: uid.into(), over, ..PodView::default() }
    }

    #[test]
    fn devices_are_free_when_the_last_user_is_over() {
        let plan = decide_claim(&claim(&["a", "b"]), vec![user("b")], None);
        assert_eq!(plan, ClaimPlan { users: Some(vec![user("b")]), ..ClaimPlan::default() });
        let plan = decide_claim(&claim(&["a"]), vec![], Some(&pod("u", false)));
        assert_eq!(
            plan,
            ClaimPlan {
                users: Some(vec![]),
                deallocate: true,
                finalizers: Some(vec!["other".into()]),
                delete: false
            }
        );
    }

    #[test]
    fn a_claim_that_was_allocated_for_nobody_yet_stays_so_until_it_is_to_go() {
        assert_eq!(decide_claim(&claim(&[]), vec![], None), ClaimPlan::default());
        let plan = decide_claim(&ClaimView { ending: true, ..claim(&[]) }, vec![], None);
        assert!(plan.deallocate && plan.finalizers.is_some() && !plan.delete);
    }

    #[test]
    fn a_claim_that_was_made_for_a_pod_goes_when_the_pod_is_over() {
        for (pod, goes) in [(pod("u", true), true), (pod("v", false), true), (pod("u", false), false)] {
            assert_eq!(decide_claim(&claim(&["u"]), vec![], Some(&pod)).delete, goes);
        }
        assert!(!decide_claim(&claim(&["x"]), vec![user("x")], Some(&pod("u", true))).delete);
    }
}
