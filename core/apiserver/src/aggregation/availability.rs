//! Whether an extension API server can be reached, and what it serves.
//!
//! A server is looked at when its Service or that one's endpoints change, every half minute, and after a failure sooner.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::{GroupResource, Object};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Extension, api_services, openapi, registration};
use crate::cache;
use crate::registry::Registry;

/// Between two looks.
const AGAIN: Duration = Duration::from_secs(30);
/// After the first failure; doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest list of resources, and index of OpenAPI documents, that is read.
const DOCUMENT: usize = 4 << 20;
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

/// What was seen of a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Whether requests are passed on to it.
    pub available: bool,
    /// Its resources as aggregated discovery shows them, once they were read.
    pub resources: Option<Value>,
    /// Whether they were read in the last look.
    pub is_fresh: bool,
    /// The URL of its OpenAPI v3 document, with its hash.
    pub openapi: Option<String>,
}

impl Seen {
    /// What the stored condition says, until the server is looked at.
    pub(super) fn of_status(object: &Object) -> Self {
        let condition = object.get(&["status", "conditions"]).and_then(Value::as_array);
        let condition = condition.and_then(|all| all.iter().find(|it| it["type"] == "Available"));
        Seen { available: condition.is_some_and(|it| it["status"] == "True"), ..Seen::default() }
    }
}

/// Why a server is taken for available, or not.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    available: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: String) -> Self {
        Verdict { available: false, reason, message }
    }
}

/// What can be told from the Service and its slices (pure). `None` if the server must be asked.
fn judge(service: &(String, String, u16), found: Option<&Object>, slices: &[Object]) -> Option<Verdict> {
    let (namespace, name, port) = service;
    let at = format!("service/{name} in {namespace:?}");
    let Some(found) = found else {
        return Some(Verdict::no("ServiceNotFound", format!("{at} is not present")));
    };
    if found.get_str(&["spec", "type"]).unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let ports = found.get(&["spec", "ports"]).and_then(Value::as_array);
    let Some(found) = ports.into_iter().flatten().find(|it| it["port"] == *port) else {
        return Some(Verdict::no("ServicePortError", format!("{at} is not listening on port {port}")));
    };
    if slices.is_empty() {
        return Some(Verdict::no("EndpointsNotFound", format!("cannot find endpointslices for {at}")));
    }
    let port = found["name"].as_str().unwrap_or_default();
    let list = |slice: &Object, field: &str| {
        slice.get(&[field]).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let is_active = |slice: &Object| {
        list(slice, "endpoints").iter().any(|it| it["conditions"]["ready"] != false)
            && list(slice, "ports")
                .iter()
                .any(|it| it["name"].as_str().unwrap_or_default() == port && it["port"].is_u64())
    };
    let text = || format!("endpointslices for {at} have no addresses with port name {port:?}");
    (!slices.iter().any(is_active)).then(|| Verdict::no("MissingEndpoints", text()))
}

/// The Service and its slices, with revisions that tell whether they have changed.
struct Behind {
    service: Option<Object>,
    slices: Vec<Object>,
    revisions: Vec<u64>,
}

fn behind(registry: &Registry, service: &(String, String, u16)) -> Behind {
    let (namespace, name, _) = service;
    let mut out = Behind { service: None, slices: Vec::new(), revisions: Vec::new() };
    if let Some(found) =
        registry.resource(&GroupResource::new("", "services")).get(&format!("{namespace}/{name}"))
    {
        out.revisions.push(found.revision);
        out.service = cache::decode(&found.bytes).ok();
    }
    let slices = registry.resource(&GroupResource::new("discovery.k8s.io", "endpointslices")).list();
    let own = |it: &&Arc<cache::Cached>| it.namespace.as_deref() == Some(namespace.as_str());
    for stored in slices.objects.values().filter(own) {
        let Ok(slice) = cache::decode(&stored.bytes) else { continue };
        if slice.get_str(&["metadata", "labels", SERVICE_OF_SLICE]) == Some(name) {
            out.revisions.push(stored.revision);
            out.slices.push(slice);
        }
    }
    out
}

/// Looks at a server again and again, until its APIService is another one or gone.
pub(super) async fn watch(extension: Weak<Extension>, registry: Arc<Registry>, stop: CancellationToken) {
    let of = |group: &str, plural: &str| registry.resource(&GroupResource::new(group, plural)).follow();
    let (mut services, mut slices) = (of("", "services"), of("discovery.k8s.io", "endpointslices"));
    let mut wait = RETRY;
    loop {
        services.borrow_and_update();
        slices.borrow_and_update();
        let Some(strong) = extension.upgrade() else { return };
        let behind = behind(&registry, &strong.service);
        let verdict = tokio::select! {
            () = stop.cancelled() => return,
            verdict = look(&strong, &behind) => verdict,
        };
        wait = if verdict.available { RETRY } else { (wait * 2).min(AGAIN) };
        if let Err(error) = tell(&registry, &strong.name, &verdict).await {
            tracing::warn!(%error, object = strong.name, "the condition of an APIService could not be written");
        }
        if verdict.available {
            tokio::select! {
                () = stop.cancelled() => return,
                () = openapi::refresh(&strong) => {}
            }
        }
        let (service, again) = (strong.service.clone(), if verdict.available { AGAIN } else { wait });
        // Whoever waits does not hold it.
        drop(strong);
        let again = tokio::time::sleep(again);
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut again => break,
                changed = services.changed() => if changed.is_err() { return },
                changed = slices.changed() => if changed.is_err() { return },
            }
            if self::behind(&registry, &service).revisions != behind.revisions {
                break;
            }
        }
    }
}

async fn look(extension: &Extension, behind: &Behind) -> Verdict {
    let seen = extension.seen.load_full();
    if let Some(verdict) = judge(&extension.service, behind.service.as_ref(), &behind.slices) {
        extension.seen.store(Arc::new(Seen { available: false, is_fresh: false, ..Seen::clone(&seen) }));
        return verdict;
    }
    let path = format!("/apis/{}/{}", extension.group, extension.version);
    let asked = tokio::time::timeout(PATIENCE, extension.document(&path, DOCUMENT)).await;
    let answer = asked.unwrap_or_else(|_| Err(format!("timed out waiting for {path}")));
    match answer {
        Err(error) => {
            extension.seen.store(Arc::new(Seen { available: false, is_fresh: false, ..Seen::clone(&seen) }));
            Verdict::no("FailedDiscoveryCheck", format!("failing or missing response from {path}: {error}"))
        }
        Ok(list) => {
            let index = tokio::time::timeout(PATIENCE, extension.document("/openapi/v3", DOCUMENT)).await;
            let index = index.ok().and_then(Result::ok).unwrap_or_default();
            let url = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str();
            let own = format!("/openapi/v3{path}");
            let url = url.filter(|url| url.split('?').next() == Some(own.as_str()));
            extension.seen.store(Arc::new(Seen {
                available: true,
                resources: Some(resources(&list, &extension.group, &extension.version)),
                is_fresh: true,
                openapi: url.map(str::to_owned),
            }));
            Verdict { available: true, reason: "Passed", message: "all checks passed".to_owned() }
        }
    }
}

/// A server's list of resources as aggregated discovery shows it (pure).
fn resources(list: &Value, group: &str, version: &str) -> Value {
    let all: &[Value] = list["resources"].as_array().map_or(&[], Vec::as_slice);
    let or =
        |value: &Value, other: &str| value.as_str().filter(|it| !it.is_empty()).unwrap_or(other).to_owned();
    let kind = |it: &Value| json!({"group": or(&it["group"], group), "version": or(&it["version"], version), "kind": it["kind"]});
    let name = |it: &Value| it["name"].as_str().unwrap_or_default().to_owned();
    let mut out: Vec<Value> = Vec::new();
    for resource in all.iter().filter(|it| !name(it).contains('/')) {
        let plural = name(resource);
        let mut entry = json!({
            "resource": plural, "responseKind": kind(resource), "verbs": resource["verbs"],
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"].as_str().unwrap_or_default(),
        });
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry[field] = resource[field].clone();
            }
        }
        let subresources = all.iter().filter_map(|it| {
            let name = name(it).strip_prefix(&format!("{plural}/"))?.to_owned();
            Some(json!({"subresource": name, "responseKind": kind(it), "verbs": it["verbs"]}))
        });
        let subresources: Vec<Value> = subresources.collect();
        if !subresources.is_empty() {
            entry["subresources"] = subresources.into();
        }
        out.push(entry);
    }
    out.into()
}

/// Writes the condition, if it is another one.
async fn tell(registry: &Registry, name: &str, verdict: &Verdict) -> Result<(), keelson_api::Status> {
    let stored = registry.resource(&api_services()).get(name);
    let Some(object) = stored.and_then(|stored| cache::decode(&stored.bytes).ok()) else { return Ok(()) };
    let status = if verdict.available { "True" } else { "False" };
    let before = object.get(&["status", "conditions"]).and_then(Value::as_array);
    let before = before.and_then(|all| all.iter().find(|it| it["type"] == "Available"));
    let is = |field: &str, value: &str| before.is_some_and(|it| it[field] == value);
    if is("status", status) && is("reason", verdict.reason) && is("message", &verdict.message) {
        return Ok(());
    }
    let since = before.filter(|_| is("status", status)).and_then(|it| it["lastTransitionTime"].as_str());
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!([{"type": "Available", "status": status, "reason": verdict.reason,
        "message": verdict.message, "lastTransitionTime": since.unwrap_or(&now)}]);
    registration::set_conditions(registry, name, &condition).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_server_that_cannot_be_asked_says_why() {
        let at = ("n".to_owned(), "s".to_owned(), 443);
        let reason =
            |service: Option<&Object>, slices: &[Object]| judge(&at, service, slices).map(|it| it.reason);
        let service =
            object(json!({"spec": {"type": "ClusterIP", "ports": [{"port": 443, "name": "https"}]}}));
        let other = object(json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(reason(None, &[]), Some("ServiceNotFound"));
        assert_eq!(reason(Some(&other), &[]), Some("ServicePortError"));
        assert_eq!(reason(Some(&service), &[]), Some("EndpointsNotFound"));
        let slice = |ready: bool, name: &str| {
            object(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
                "ports": [{"name": name, "port": 8443}]}))
        };
        assert_eq!(reason(Some(&service), &[slice(false, "https")]), Some("MissingEndpoints"));
        assert_eq!(reason(Some(&service), &[slice(true, "http")]), Some("MissingEndpoints"));
        assert_eq!(reason(Some(&service), &[slice(false, "https"), slice(true, "https")]), None);
        let verdict = judge(&at, None, &[]).unwrap();
        assert_eq!(verdict.message, "service/s in \"n\" is not present");
    }

    #[test]
    fn a_list_of_resources_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["th"]},
            {"name": "things/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]}]});
        let expected = json!([{"resource": "things", "singularResource": "thing", "scope": "Namespaced", "verbs": ["get"],
            "shortNames": ["th"], "responseKind": {"group": "g", "version": "v1", "kind": "Thing"},
            "subresources": [{"subresource": "scale", "verbs": ["get"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}]}]);
        assert_eq!(resources(&list, "g", "v1"), expected);
    }
}
