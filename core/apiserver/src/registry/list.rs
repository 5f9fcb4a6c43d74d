//! Lists: selection, and pages that read one state.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::{ResourceInfo, Status, convert};
use serde::{Deserialize, Serialize};

use super::Registry;
use crate::cache::{Cached, Listing, Scope};
use crate::request_info::RequestInfo;

/// Fields that a selector may name, beside `metadata.name` and `metadata.namespace`.
fn selectable(resource: &ResourceInfo) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "secrets") => &["type"],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests") => &["spec.signerName"],
        _ => &[],
    }
}

/// What is to be selected.
#[derive(Clone, Debug)]
pub struct Selection {
    namespace: Option<String>,
    name: Option<String>,
    labels: LabelSelector,
    fields: Option<FieldSelector>,
}

impl Selection {
    /// Reads the selectors of a request.
    pub fn of(info: &RequestInfo, resource: &ResourceInfo) -> Result<Self, Status> {
        let labels = LabelSelector::parse(info.parameter("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let mut selection =
            Selection { namespace: info.namespace.clone(), name: info.name.clone(), labels, fields: None };
        let text = info.parameter("fieldSelector").unwrap_or_default();
        if text.is_empty() {
            return Ok(selection);
        }
        let mut fields =
            FieldSelector::parse(text).map_err(|error| Status::bad_request(error.to_string()))?;
        for requirement in &mut fields.requirements {
            let known = ["metadata.name", "metadata.namespace"].contains(&requirement.field.as_str())
                || selectable(resource).contains(&requirement.field.as_str())
                || resource.custom.as_ref().is_some_and(|it| it.selectable.contains(&requirement.field));
            if !known {
                return Err(Status::bad_request(format!("field label not supported: {}", requirement.field)));
            }
            requirement.field = convert::stored_field(resource, &requirement.field).into_owned();
        }
        selection.fields = Some(fields);
        Ok(selection)
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Cached) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| object.namespace.as_deref() == Some(namespace))
            && self.name.as_deref().is_none_or(|name| &*object.name == name)
            && self.labels.matches(object.labels.as_deref())
            && self.fields.as_ref().is_none_or(|fields| {
                fields.requirements.iter().all(|it| (object.field(&it.field) == it.value) == it.equal)
            })
    }

    /// Whose events may be selected: those of one object, of a node's pods, of a namespace, or all.
    pub fn scope(&self, resource: &ResourceInfo) -> Scope {
        let exact = |field: &str| self.fields.as_ref().and_then(|fields| fields.exact(field));
        let name = self.name.as_deref().or_else(|| exact("metadata.name"));
        let namespace = self.namespace.as_deref().or_else(|| exact("metadata.namespace"));
        match (name, namespace, resource.namespaced) {
            (Some(name), _, false) => return Scope::Object(name.to_owned()),
            (Some(name), Some(namespace), true) => return Scope::Object(format!("{namespace}/{name}")),
            (Some(_), None, true) | (None, ..) => {}
        }
        if let (Some(node), "", "pods") =
            (exact("spec.nodeName"), resource.group.as_str(), resource.plural.as_str())
            && !node.is_empty()
        {
            return Scope::Node(node.to_owned());
        }
        namespace.map_or(Scope::All, |namespace| Scope::Namespace(namespace.to_owned()))
    }

    /// Whether every object of the cluster is selected.
    pub fn is_everything(&self) -> bool {
        self.namespace.is_none()
            && self.name.is_none()
            && self.fields.is_none()
            && self.labels.matches_everything()
    }
}

/// A list, or a page of one.
#[derive(Clone)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Arc<Cached>>,
    /// The revision of the whole list.
    pub revision: u64,
    /// How to get the next page; empty for none.
    pub next: String,
    /// How many objects follow, where no selector hides it.
    pub remaining: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "rv")]
    revision: u64,
    start: String,
}

impl Token {
    fn encode(&self) -> Result<String, Status> {
        serde_json::to_vec(self).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).map_err(Status::internal)
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
            Status::bad_request("continue key is not valid: it is not a token that this server gave")
        })
    }
}

fn number(info: &RequestInfo, name: &str) -> Result<Option<u64>, Status> {
    let Some(text) = info.parameter(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse()
        .map(Some)
        .map_err(|_| Status::bad_request(format!("invalid {name}: {text:?} is not a number")))
}

impl Registry {
    /// The objects that a request selects.
    pub async fn list(&self, info: &RequestInfo, resource: &ResourceInfo) -> Result<Page, Status> {
        let selection = Selection::of(info, resource)?;
        let cache = self.resource(&convert::storage_resource(resource));
        let limit = number(info, "limit")?.filter(|limit| *limit > 0).map(|limit| limit as usize);
        let asked = number(info, "resourceVersion")?;
        let exact = info.parameter("resourceVersionMatch") == Some("Exact");
        if exact && asked.is_none_or(|asked| asked == 0) {
            return Err(Status::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        let token = match info.parameter("continue").filter(|text| !text.is_empty()) {
            Some(text) => Some(Token::decode(text)?),
            None => None,
        };
        let gone = |revision: u64| {
            let now = self.revision();
            Status::expired(format!(
                "The provided continue parameter is too old to display a consistent list result: revision {revision} is no longer kept, the newest is {now}. You can start a new list without the continue parameter."
            ))
        };
        let listing = match (&token, asked) {
            (Some(token), _) => cache.list_at(token.revision).map_err(|_| gone(token.revision))?,
            (None, Some(asked)) if exact => cache.list_at(asked).map_err(|error| {
                Status::expired(format!("The resourceVersion for the provided list is too old: {error}"))
            })?,
            (None, None) => {
                self.store().barrier().await.map_err(|error| Status::unavailable(error.to_string()))?;
                cache.list()
            }
            (None, Some(asked)) => {
                let listing = cache.list();
                if asked > listing.revision {
                    let mut status = Status::timeout(format!(
                        "Too large resource version: {asked}, current: {}",
                        listing.revision
                    ));
                    status.details = serde_json::json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
                    return Err(status);
                }
                listing
            }
        };
        self.page(&listing, &selection, token.as_ref(), limit, &cache)
    }

    fn page(
        &self,
        listing: &Listing,
        selection: &Selection,
        token: Option<&Token>,
        limit: Option<usize>,
        cache: &crate::cache::ResourceCache,
    ) -> Result<Page, Status> {
        // A namespace is one run of keys.
        let prefix =
            selection.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let start = token.map_or(prefix.as_str(), |token| token.start.as_str()).max(prefix.as_str());
        let mut objects = Vec::new();
        let mut next = String::new();
        let mut seen = 0;
        let whole = listing.objects.len();
        for (key, object) in
            listing.objects.range::<_, str>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded))
        {
            if !key.starts_with(&prefix) {
                break;
            }
            if limit.is_some_and(|limit| objects.len() == limit) {
                next = Token { revision: listing.revision, start: key.to_string() }.encode()?;
                cache.pin(listing);
                break;
            }
            seen += 1;
            if selection.matches(object) {
                objects.push(Arc::clone(object));
            }
        }
        let before = token.map_or(0, |token| {
            let end = std::ops::Bound::Excluded(token.start.as_str());
            listing.objects.range::<_, str>((std::ops::Bound::Unbounded, end)).count()
        });
        let remaining = (!next.is_empty() && selection.is_everything()).then(|| whole - before - seen);
        Ok(Page { objects, revision: listing.revision, next, remaining })
    }
}
