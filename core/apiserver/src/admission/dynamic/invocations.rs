//! Which policies are about a request, by which bindings and with which parameters.

use keelson_api::{GroupResource, GroupVersionKind, Object, Status, convert};
use serde_json::Value;

use super::policies::{Binding, Params, Policy};
use super::request::{Seen, View};
use crate::admission::Attributes;
use crate::cache;
use crate::registry::Registry;

/// A policy that is about a request by a binding.
pub(super) struct Invocation<'a, R> {
    /// The policy.
    pub(super) policy: &'a Policy<R>,
    /// The binding.
    pub(super) binding: &'a Binding,
    /// The version in which the policy sees the request.
    pub(super) view: View<'a>,
    /// One of its parameters, null for none at all; or why its parameters cannot be had.
    pub(super) param: Result<Value, String>,
}

/// All policies that are about a request, in their order, once with each parameter.
pub(super) fn invocations<'a, R>(
    registry: &Registry,
    attributes: &Attributes<'_>,
    seen: &Seen<'a>,
    object: Option<&Object>,
    policies: &'a [Policy<R>],
) -> Result<Vec<Invocation<'a, R>>, Status> {
    let mut found = Vec::new();
    for policy in policies {
        let Some(view) = seen.view(&policy.matches, object)? else { continue };
        for binding in &policy.bindings {
            if let Some(matches) = &binding.matches
                && !seen.is_bound(matches, object)?
            {
                continue;
            }
            let of = |param| Invocation { policy, binding, view: view.clone(), param };
            let kind = policy.param_kind.as_ref();
            match parameters(registry, kind, binding.params.as_ref(), attributes.namespace) {
                Ok(params) => found.extend(params.into_iter().map(|param| of(Ok(param)))),
                Err(why) => found.push(of(Err(why))),
            }
        }
    }
    Ok(found)
}

/// The parameters of a binding; null stands for none at all. The text says why they cannot be had.
fn parameters(
    registry: &Registry,
    kind: Option<&GroupVersionKind>,
    wanted: Option<&Params>,
    namespace: Option<&str>,
) -> Result<Vec<Value>, String> {
    let (Some(kind), Some(wanted)) = (kind, wanted) else { return Ok(vec![Value::Null]) };
    let catalog = registry.catalog();
    let resource = catalog.find_kind(kind).ok_or_else(|| {
        format!(
            "failed to find resource referenced by paramKind: '{}, Kind={}'",
            kind.api_version(),
            kind.kind
        )
    })?;
    let namespace = match (resource.namespaced, wanted.namespace.as_deref().or(namespace)) {
        (true, None) => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .into(),
            );
        }
        (true, namespace) => namespace,
        (false, _) if wanted.namespace.is_some() => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
        }
        (false, _) => None,
    };
    let cache = registry.resource(&convert::storage_resource(resource));
    let found = match &wanted.name {
        Some(name) => {
            let key = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
            cache.get(&key).into_iter().collect()
        }
        None => {
            let all = cache.list();
            let own = all.objects.values().filter(|it| it.namespace.as_deref() == namespace);
            own.filter(|it| wanted.selector.matches(it.labels.as_ref())).cloned().collect::<Vec<_>>()
        }
    };
    if found.is_empty() && !wanted.may_be_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let read = found.iter().map(|object| {
        let mut object = cache::decode(&object.bytes).map_err(|error| error.to_string())?;
        convert::convert(&mut object, kind);
        Ok(object.into_value())
    });
    read.collect()
}

/// The namespace of a request, for expressions; null where it has none.
pub(super) fn namespace_object(registry: &Registry, attributes: &Attributes<'_>) -> Result<Value, Status> {
    let Some(name) = attributes.namespace else { return Ok(Value::Null) };
    let namespaces = GroupResource::new("", "namespaces");
    match registry.resource(&namespaces).get(name) {
        Some(found) => Ok(cache::decode(&found.bytes)?.into_value()),
        None => Ok(Value::Null),
    }
}
