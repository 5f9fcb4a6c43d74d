//! One stored object, several served versions: which form is stored, and how a document gets from one to the other.
//!
//! A conversion is a pure function of a document, and nothing is lost on the way there and back. What an older version
//! has no field for travels in annotations, as upstream has it.

mod autoscaling;
mod event;

use crate::kinds::{GroupResource, GroupVersionKind, ResourceInfo};
use crate::object::Object;

const EVENTS: &str = "events.k8s.io";

/// The kind in which objects of a served resource are worked with: the one that is stored, unless a webhook converts
/// them where they are read and written. Events of both groups are one `v1` `Event`.
pub fn storage_kind(resource: &ResourceInfo) -> GroupVersionKind {
    match (resource.group.as_str(), resource.plural.as_str()) {
        (EVENTS, "events") => GroupVersionKind::new("", "v1", "Event"),
        _ if resource.custom.as_ref().is_some_and(|it| it.conversion.is_some()) => resource.gvk(),
        (group, _) => GroupVersionKind::new(group, &resource.storage_version, &resource.kind),
    }
}

/// The resource below whose name objects of a served resource are stored.
pub fn storage_resource(resource: &ResourceInfo) -> GroupResource {
    GroupResource::new(&storage_kind(resource).group, &resource.plural)
}

/// Whether a resource is stored in another form than it is served in.
pub fn is_converted(resource: &ResourceInfo) -> bool {
    storage_kind(resource) != resource.gvk()
}

/// Brings a document from one version of its kind into another. Versions whose fields are alike differ in
/// `apiVersion` alone.
pub fn convert(object: &mut Object, to: &GroupVersionKind) {
    let from = object.gvk();
    match ((from.group.as_str(), from.version.as_str()), (to.group.as_str(), to.version.as_str())) {
        ((EVENTS, _), ("", _)) if to.kind == "Event" => event::to_core(object),
        (("", _), (EVENTS, _)) if to.kind == "Event" => event::from_core(object),
        (("autoscaling", "v1"), ("autoscaling", "v2")) => autoscaling::v1_to_v2(object),
        (("autoscaling", "v2"), ("autoscaling", "v1")) => autoscaling::v2_to_v1(object),
        _ => {}
    }
    object.set_gvk(to);
}

/// The field of the stored form that a field selector of a served form means.
pub fn stored_field<'a>(resource: &ResourceInfo, field: &'a str) -> std::borrow::Cow<'a, str> {
    if resource.group == EVENTS {
        if let Some(rest) = field.strip_prefix("regarding.") {
            return format!("involvedObject.{rest}").into();
        }
        if field == "reportingController" {
            return "reportingComponent".into();
        }
    }
    field.into()
}
