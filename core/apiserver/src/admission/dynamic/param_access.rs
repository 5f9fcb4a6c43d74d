//! Whoever has objects serve as parameters must be allowed to read them: what expressions say of a request may tell what
//! is in them.

use std::sync::Arc;

use keelson_api::admission::GROUP;
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, GroupVersionKind, Object, Status};
use serde_json::Value;

use super::mutating_policy::rules::Mutations;
use super::policies::Rules;
use super::validating_policy::rules::Validations;
use crate::admission::Attributes;
use crate::authorization::{Authorizer, Decision};
use crate::cache;
use crate::identity::MASTERS;
use crate::registry::Registry;
use crate::request_info::RequestInfo;

const ANY: &str = "*";

/// Which objects are to serve as parameters; `*` stands for all, and for what is not known.
struct Wanted {
    kind: Option<GroupVersionKind>,
    namespace: String,
    name: String,
    path: &'static str,
}

/// What the writer of a policy or binding may not read, though it is to serve as its parameter.
///
/// # Errors
/// The policy of a binding cannot be read.
pub(super) async fn fault(
    authorizer: &Arc<dyn Authorizer>,
    registry: &Registry,
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<Option<FieldError>, Status> {
    let who = attributes.identity;
    if who.is_in(MASTERS) {
        return Ok(None);
    }
    let Some(wanted) = wanted(registry, attributes, object)? else { return Ok(None) };
    let (mut group, mut version, mut resource) = (ANY.to_owned(), ANY.to_owned(), ANY.to_owned());
    if let Some(kind) = &wanted.kind {
        (group, version) = (kind.group.clone(), kind.version.clone());
        if let Some(found) = registry.catalog().find_kind(kind) {
            resource = found.plural.clone();
        }
    }
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let info = RequestInfo {
        verb: "get".to_owned(),
        is_resource: true,
        group,
        version,
        resource,
        namespace: some(&wanted.namespace),
        name: some(&wanted.name),
        ..RequestInfo::default()
    };
    if matches!(authorizer.authorize(who, &info).await, Decision::Allow) {
        return Ok(None);
    }
    let which = match (&wanted.kind, wanted.path) {
        (Some(kind), "spec.paramKind") => format!(
            "must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            kind.kind,
            kind.api_version()
        ),
        _ => "does not have \"get\" permission on the object referenced by paramRef".to_owned(),
    };
    Ok(Some(FieldError::forbidden(wanted.path, format!("user {:?} {which}", who.username))))
}

/// The parameters that a write asks for anew.
fn wanted(
    registry: &Registry,
    attributes: &Attributes<'_>,
    object: &Object,
) -> Result<Option<Wanted>, Status> {
    let set = |path: &[&str]| object.get(path).filter(|it| !it.is_null());
    let same = |path: &[&str]| attributes.old.is_some_and(|old| old.get(path) == object.get(path));
    let text = |it: &Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
    match attributes.resource.plural.as_str() {
        Mutations::POLICIES | Validations::POLICIES => {
            Ok(set(&["spec", "paramKind"]).filter(|_| !same(&["spec", "paramKind"])).map(|kind| Wanted {
                kind: Some(kind_of(kind)),
                namespace: ANY.to_owned(),
                name: ANY.to_owned(),
                path: "spec.paramKind",
            }))
        }
        plural @ (Mutations::BINDINGS | Validations::BINDINGS) => {
            let changed = !same(&["spec", "paramRef"]) || !same(&["spec", "policyName"]);
            let Some(reference) = set(&["spec", "paramRef"]).filter(|_| changed) else { return Ok(None) };
            let is_mutating = plural == Mutations::BINDINGS;
            let policies = if is_mutating { Mutations::POLICIES } else { Validations::POLICIES };
            let policies = GroupResource::new(GROUP, policies);
            let name = object.get_str(&["spec", "policyName"]).unwrap_or_default();
            let policy = match registry.resource(&policies).get(name) {
                Some(found) => Some(cache::decode(&found.bytes)?),
                None => None,
            };
            let kind = policy.as_ref().and_then(|it| it.get(&["spec", "paramKind"]));
            Ok(Some(Wanted {
                kind: kind.filter(|kind| !kind.is_null()).map(kind_of),
                namespace: text(reference, "namespace"),
                name: text(reference, "name"),
                path: "spec.paramRef",
            }))
        }
        _ => Ok(None),
    }
}

fn kind_of(kind: &Value) -> GroupVersionKind {
    let text = |field: &str| kind[field].as_str().unwrap_or_default();
    GroupVersionKind::from_api_version(text("apiVersion"), text("kind"))
}
