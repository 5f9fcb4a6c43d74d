//! Lists: selection, and pages that read one state.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use keelson_api::selector::{FieldRequirement, FieldSelector, LabelSelector};
use keelson_api::{ResourceInfo, Status, convert};

use super::Registry;
use crate::cache::{Cached, Listing, Scope};
use crate::conversion::webhook;
use crate::request_info::RequestInfo;
use options::{ListOptions, Match, Token};

pub mod options;

/// Fields that a selector may name, beside `metadata.name` and `metadata.namespace`.
fn selectable(resource: &ResourceInfo) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            // What old clients call its node's name.
            "spec.host",
            "status.phase",
            "status.podIP",
            "status.podIPs",
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
        ("resource.k8s.io", "resourceslices") => &["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// Whether objects are selected by their namespace. Of some kinds that have none the field is not known.
fn has_namespace_field(resource: &ResourceInfo) -> bool {
    !matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "nodes" | "namespaces")
            | ("certificates.k8s.io", "certificatesigningrequests")
            | ("resource.k8s.io", "resourceslices")
    )
}

/// What a field of a built-in kind is compared as where a document does not have it. Numbers and truths have no
/// empty text.
fn unset(field: &str) -> &'static str {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

/// The refusal of a field that a kind's objects are not selected by.
fn unknown_field(resource: &ResourceInfo, field: &str) -> Status {
    if resource.custom.is_none() && selectable(resource).is_empty() {
        return Status::bad_request(format!(
            "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ));
    }
    Status::bad_request(format!("field label not supported: {field}"))
}

/// What is to be selected.
#[derive(Clone, Debug)]
pub struct Selection {
    namespace: Option<String>,
    name: Option<String>,
    labels: LabelSelector,
    fields: Option<FieldSelector>,
    is_custom: bool,
}

impl Selection {
    /// Reads the selectors of a request.
    pub fn of(info: &RequestInfo, resource: &ResourceInfo) -> Result<Self, Status> {
        let labels = LabelSelector::parse(info.parameter("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let mut selection = Selection {
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            labels,
            fields: None,
            is_custom: resource.custom.is_some(),
        };
        let text = info.parameter("fieldSelector").unwrap_or_default();
        if text.is_empty() {
            return Ok(selection);
        }
        let mut fields =
            FieldSelector::parse(text).map_err(|error| Status::bad_request(error.to_string()))?;
        for requirement in &mut fields.requirements {
            let known = requirement.field == "metadata.name"
                || requirement.field == "metadata.namespace" && has_namespace_field(resource)
                || selectable(resource).contains(&requirement.field.as_str())
                || resource.custom.as_ref().is_some_and(|it| it.selectable.contains(&requirement.field));
            if !known {
                return Err(unknown_field(resource, &requirement.field));
            }
            requirement.field = match requirement.field.as_str() {
                "spec.host" if resource.custom.is_none() => "spec.nodeName".to_owned(),
                field => convert::stored_field(resource, field).into_owned(),
            };
        }
        selection.fields = Some(fields);
        Ok(selection)
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Cached) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| object.namespace.as_deref() == Some(namespace))
            && self.name.as_deref().is_none_or(|name| &*object.name == name)
            && self.labels.matches(object.labels.as_ref())
            && self.fields.as_ref().is_none_or(|fields| {
                fields.requirements.iter().all(|it| (self.value(object, &it.field) == it.value) == it.equal)
            })
    }

    /// What can be told of objects that are converted before their fields are looked at; `None` where that is all.
    pub fn before_conversion(&self, resource: &ResourceInfo) -> Option<Selection> {
        webhook(resource)?;
        let of_metadata = |it: &FieldRequirement| it.field.starts_with("metadata.");
        let (known, later): (Vec<_>, Vec<_>) =
            self.fields.as_ref()?.requirements.iter().cloned().partition(of_metadata);
        let fields = Some(FieldSelector { requirements: known });
        (!later.is_empty()).then(|| Selection { fields, ..self.clone() })
    }

    /// The text that a field of an object is compared as.
    fn value<'a>(&self, object: &'a Cached, field: &str) -> Cow<'a, str> {
        if self.is_custom {
            return object.field(field);
        }
        let value = match field {
            // It may be named, and is never filled.
            "status.podIPs" => return Cow::Borrowed(""),
            "source" => Some(object.field("source.component")).filter(|source| !source.is_empty()),
            _ => Some(object.field(field)),
        };
        let value = value.unwrap_or_else(|| object.field("reportingComponent"));
        if value.is_empty() { Cow::Borrowed(unset(field)) } else { value }
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

    /// Whether every object is selected, or every one of a namespace.
    pub fn is_whole_range(&self) -> bool {
        self.name.is_none() && self.fields.is_none() && self.labels.matches_everything()
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

/// How long a request waits for a revision that has not been reached, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl Registry {
    /// Waits until a revision has been reached, for a while.
    pub async fn reach(&self, revision: u64) -> Result<(), Status> {
        let end = tokio::time::Instant::now() + PATIENCE;
        // Another server may have told of a point that has brought nothing new, and of which this one has not heard.
        if self.revision() < revision {
            let _ = tokio::time::timeout_at(end, self.store().barrier()).await;
        }
        while self.revision() < revision {
            if tokio::time::Instant::now() >= end {
                return Err(Status::too_large_resource_version(revision, self.revision()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until every write that was answered is in the cache.
    pub async fn catch_up(&self) -> Result<(), Status> {
        if self.store().is_sole() {
            return Ok(());
        }
        self.store().barrier().await.map(drop).map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The objects that a request selects.
    pub async fn list(&self, info: &RequestInfo, resource: &ResourceInfo) -> Result<Page, Status> {
        let selection = Selection::of(info, resource)?;
        let options = ListOptions::of(info, resource)?;
        let cache = self.resource(&convert::storage_resource(resource));
        let too_old = |_| Status::expired("The resourceVersion for the provided list is too old.");
        let listing = match (options.token.as_ref().map(|token| (token, token.revision())), options.at) {
            (Some((token, Some(revision))), _) => {
                cache.list_at(revision).map_err(|_| inconsistent(&token.start))?
            }
            (Some((_, None)), _) | (None, Match::Newest) => {
                self.catch_up().await?;
                cache.list()
            }
            (None, Match::Any) => cache.list(),
            (None, Match::NotOlderThan(revision)) => {
                self.reach(revision).await?;
                cache.list()
            }
            (None, Match::Exact(revision)) => {
                self.reach(revision).await?;
                cache.list_at(revision).map_err(too_old)?
            }
        };
        let (token, limit) = (options.token.as_ref(), options.limit);
        let Some(known) = selection.before_conversion(resource) else {
            return self.page(&listing, &selection, token, limit, &cache);
        };
        let page = self.page(&listing, &known, token, limit, &cache)?;
        let mut objects = self.served_objects(resource, page.objects).await?;
        objects.retain(|object| selection.matches(object));
        Ok(Page { objects, ..page })
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
        let mut last = None;
        for (key, object) in
            listing.objects.range::<_, str>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded))
        {
            if !key.starts_with(&prefix) {
                break;
            }
            if limit.is_some_and(|limit| objects.len() == limit) {
                next = Token::new(Some(listing.revision), key).encode()?;
                last = Some::<&str>(key);
                cache.pin(listing);
                break;
            }
            seen += 1;
            if selection.matches(object) {
                objects.push(Arc::clone(object));
            }
        }
        // The object at which the page ended is the first of those that follow.
        let remaining = last.filter(|_| selection.is_whole_range()).map(|last| {
            if token.is_none() && prefix.is_empty() {
                return listing.objects.len() - seen;
            }
            let rest = (std::ops::Bound::Included(last), std::ops::Bound::Unbounded);
            let rest = listing.objects.range::<_, str>(rest);
            rest.take_while(|(key, _)| key.starts_with(&prefix)).count()
        });
        cache.lists.add(seen, objects.len());
        Ok(Page { objects, revision: listing.revision, next, remaining })
    }
}

/// 410 for a page of a state that is no longer kept, with the token of the rest as it is now.
fn inconsistent(start: &str) -> Status {
    let mut status = Status::expired(INCONSISTENT);
    status.continue_token = Token::new(None, start).encode().unwrap_or_default();
    status
}
