//! What a replacement may do beside replacing: create what is not there, and go by no revision.

use keelson_api::validation::FieldError;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status};

use super::Target;

/// Kinds whose objects are created by replacing what is not there.
const CREATED: [(&str, &str); 12] = [
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "podtemplates"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose objects are replaced at a revision only; so are all custom resources.
const CONDITIONAL: [(&str, &str); 16] = [
    ("", "serviceaccounts"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

fn is_in(list: &[(&str, &str)], resource: &ResourceInfo) -> bool {
    list.contains(&(resource.group.as_str(), resource.plural.as_str()))
}

/// Whether replacing an object that is not there creates it.
pub fn creates(target: &Target) -> bool {
    target.subresource.is_empty() && is_in(&CREATED, &target.resource)
}

/// Refuses a replacement that names no revision where its kind asks for one.
pub fn check_revision(target: &Target, object: &Object) -> Result<(), Status> {
    let is_conditional = target.resource.custom.is_some() || is_in(&CONDITIONAL, &target.resource);
    let names_one = object.resource_version().is_some_and(|version| !version.is_empty());
    if names_one || !is_conditional || !matches!(target.subresource.as_str(), "" | "status") {
        return Ok(());
    }
    let fault = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
    let about = target.group_resource();
    Err(Status::invalid(&GroupVersionKind::new(&about.group, "", &about.resource), &target.name, &[fault]))
}
