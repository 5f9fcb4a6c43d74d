//! Which claims a pod lacks (pure).

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::observe::{ClaimView, POD_CLAIM, PodView, Source};

/// The longest part of a name that is not random.
const MAX_BASE: usize = 57;
/// How many may use a claim at once.
const MAX_USERS: usize = 256;

/// What is to be done for a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPlan {
    /// Claims that are to be made.
    pub make: Vec<Make>,
    /// Claims that are there, and that the pod's status does not say: the claim's name in the pod, and its own.
    pub found: Vec<(String, String)>,
    /// What the pod's status says, and is so.
    pub known: Vec<(String, Option<String>)>,
    /// Claims with devices that the pod, which has a node already, may use, and does not yet.
    pub reserve: Vec<String>,
    /// Why claims cannot be made.
    pub faults: Vec<String>,
}

/// A claim that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Make {
    /// Its name in the pod.
    pub pod_claim: String,
    /// It.
    pub claim: ResourceClaim,
}

/// Decides for a pod. `find` gives a claim of its namespace, `made` the one that was made for a claim of the pod, `template` a
/// template.
pub fn decide_pod(
    (namespace, name): (&str, &str),
    pod: &PodView,
    find: impl Fn(&str) -> Option<ClaimView>,
    made: impl Fn(&str) -> Option<String>,
    template: impl Fn(&str) -> Option<ResourceClaimTemplate>,
) -> PodPlan {
    let mut plan = PodPlan::default();
    if pod.ending || pod.over {
        return plan;
    }
    for claim in &pod.claims {
        let (wanted, said) = match &claim.source {
            Source::Claim(_) => continue,
            Source::Template { made: Some(None), .. } => {
                plan.known.push((claim.name.clone(), None));
                continue;
            }
            Source::Template { template, made } => (template, made.clone().flatten()),
        };
        let is_own = |name: &String| {
            let found = find(name);
            found.is_some_and(|it| it.owner.is_some_and(|(_, uid)| uid == pod.uid))
        };
        if let Some(said) = said.clone().filter(is_own) {
            plan.known.push((claim.name.clone(), Some(said)));
        } else if let Some(found) = made(&claim.name) {
            if said.as_ref() == Some(&found) {
                plan.known.push((claim.name.clone(), Some(found)));
            } else {
                plan.found.push((claim.name.clone(), found));
            }
        } else {
            match template(wanted) {
                Some(template) => plan.make.push(Make {
                    pod_claim: claim.name.clone(),
                    claim: new_claim((namespace, name), &pod.uid, &claim.name, template),
                }),
                None => plan.faults.push(format!(
                    "PodResourceClaim {}: resource claim template {wanted:?}: \
                     resourceclaimtemplate.resource.k8s.io {wanted:?} not found",
                    claim.name
                )),
            }
        }
    }
    if pod.placed {
        let names = pod.claims.iter().filter_map(|claim| {
            let name = claim.claim()?;
            let found = find(name)?;
            let is_template = matches!(claim.source, Source::Template { .. });
            let is_own = found.owner.is_some_and(|(_, uid)| uid == pod.uid);
            let is_user = found.reserved.iter().any(|user| user.uid == pod.uid);
            let can = found.allocated && !found.ending && found.reserved.len() < MAX_USERS;
            (can && !is_user && (is_own || !is_template)).then(|| name.to_owned())
        });
        plan.reserve.extend(names);
    }
    plan
}

/// What a claim's name begins with: both names, shortened in proportion where they are too long.
fn base(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let part = |text: &str| text.chars().take(text.len() * MAX_BASE / whole.len()).collect::<String>();
    format!("{}-{}", part(pod), part(claim))
}

fn new_claim(
    (namespace, name): (&str, &str),
    uid: &str,
    pod_claim: &str,
    template: ResourceClaimTemplate,
) -> ResourceClaim {
    let meta = template.spec.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), pod_claim.to_owned());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base(name, pod_claim)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::observe::{PodClaim, pod_view};

    fn pod(status: serde_json::Value, node: Option<&str>) -> PodView {
        let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "own", "resourceClaimName": "c"}]);
        let pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": claims, "nodeName": node},
            "status": {"resourceClaimStatuses": status},
        });
        pod_view(&from_value(pod).unwrap()).unwrap()
    }

    fn template(name: &str) -> Option<ResourceClaimTemplate> {
        let spec = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": []}}});
        (name == "t").then(|| from_value(json!({"metadata": {"name": "t"}, "spec": spec})).unwrap())
    }

    fn own() -> ClaimView {
        ClaimView { owner: Some(("p".into(), "u".into())), ..ClaimView::default() }
    }

    #[test]
    fn a_claim_is_made_of_the_template_once() {
        let plan = decide_pod(("n", "p"), &pod(json!(null), None), |_| None, |_| None, template);
        let [Make { pod_claim, claim }] = plan.make.as_slice() else { panic!("{plan:?}") };
        assert_eq!((pod_claim.as_str(), claim.metadata.generate_name.as_deref()), ("gpu", Some("p-gpu-")));
        assert_eq!(claim.metadata.annotations.as_ref().unwrap()[POD_CLAIM], "gpu");
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        let made = |name: &str| (name == "gpu").then(|| "p-gpu-x".to_owned());
        let plan = decide_pod(("n", "p"), &pod(json!(null), None), |_| None, made, template);
        assert_eq!((plan.make.len(), plan.found), (0, vec![("gpu".to_owned(), "p-gpu-x".to_owned())]));
        let said = json!([{"name": "gpu", "resourceClaimName": "p-gpu-x"}]);
        let plan = decide_pod(("n", "p"), &pod(said.clone(), None), |_| Some(own()), |_| None, template);
        assert_eq!(
            plan,
            PodPlan { known: vec![("gpu".into(), Some("p-gpu-x".into()))], ..PodPlan::default() }
        );
        let plan = decide_pod(("n", "p"), &pod(said, None), |_| None, |_| None, template);
        assert_eq!(plan.make.len(), 1, "a claim that went is made anew");
    }

    #[test]
    fn a_template_that_is_not_there_is_told() {
        let plan = decide_pod(("n", "p"), &pod(json!(null), None), |_| None, |_| None, |_| None);
        assert_eq!(
            plan.faults,
            [
                r#"PodResourceClaim gpu: resource claim template "t": resourceclaimtemplate.resource.k8s.io "t" not found"#
            ]
        );
    }

    #[test]
    fn a_pod_that_has_a_node_gets_its_place_in_allocated_claims() {
        let allocated = ClaimView { allocated: true, ..own() };
        let said = json!([{"name": "gpu", "resourceClaimName": "x"}]);
        let find = |_: &str| Some(allocated.clone());
        let plan = decide_pod(("n", "p"), &pod(said.clone(), Some("node")), find, |_| None, template);
        assert_eq!(plan.reserve, ["x", "c"]);
        let plan = decide_pod(("n", "p"), &pod(said, None), find, |_| None, template);
        assert!(plan.reserve.is_empty());
    }

    #[test]
    fn long_names_are_shortened_in_proportion() {
        let name = base(&"p".repeat(100), &"c".repeat(50));
        assert_eq!(name, format!("{}-{}", "p".repeat(37), "c".repeat(18)));
        let ended = PodView {
            ending: true,
            claims: vec![PodClaim { name: "a".into(), source: Source::Claim("b".into()) }],
            ..PodView::default()
        };
        assert_eq!(decide_pod(("n", "p"), &ended, |_| None, |_| None, template), PodPlan::default());
    }
}
