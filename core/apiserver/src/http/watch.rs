//! Watches: a stream of lines, one for each event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use jiff::Timestamp;
use keelson_api::{Object, ResourceInfo, Status};
use keelson_store::EventKind;
use serde_json::json;
use tokio::time::Instant;

use super::negotiation::Form;
use super::table;
use crate::cache::{self, Cached, ResourceCache, WatchEvent, frame, word};
use crate::registry::Registry;
use crate::registry::list::Selection;
use crate::request_info::RequestInfo;

/// Events that are taken from the ring at once.
const BATCH: usize = 256;
/// How often a quiet watch that allows it is told the newest revision.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// One watcher: its selection, its place in the ring, and what it has yet to send.
struct Watcher {
    cache: Arc<ResourceCache>,
    newest: tokio::sync::watch::Receiver<u64>,
    resource: Arc<ResourceInfo>,
    info: RequestInfo,
    selection: Selection,
    form: Form,
    columns: table::Columns,
    position: u64,
    bookmarks: bool,
    deadline: Instant,
    ready: VecDeque<Bytes>,
    ended: bool,
}

fn revision(info: &RequestInfo) -> Result<Option<u64>, Status> {
    match info.parameter("resourceVersion") {
        None | Some("" | "0") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("invalid resourceVersion {text:?}"))),
    }
}

/// Starts a watch.
pub(super) fn serve(
    registry: &Registry,
    info: &RequestInfo,
    resource: &Arc<ResourceInfo>,
    form: Form,
) -> Result<Response, Status> {
    let cache = registry.resource(&resource.group_resource());
    let initial = match info.parameter("sendInitialEvents") {
        Some(_) if info.parameter("resourceVersionMatch") != Some("NotOlderThan") => {
            return Err(Status::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        Some("true" | "1") => true,
        Some(_) | None => false,
    };
    let asked = revision(info)?;
    let seconds = match info.parameter("timeoutSeconds") {
        Some(text) => {
            text.parse().map_err(|_| Status::bad_request(format!("invalid timeoutSeconds {text:?}")))?
        }
        None => rand::random_range(1800..3600),
    };
    let mut watcher = Watcher {
        newest: cache.follow(),
        selection: Selection::of(info, resource)?,
        resource: Arc::clone(resource),
        info: info.clone(),
        form,
        columns: table::Columns::Shown,
        position: 0,
        bookmarks: info.flag("allowWatchBookmarks"),
        deadline: Instant::now() + Duration::from_secs(seconds),
        ready: VecDeque::new(),
        ended: false,
        cache,
    };
    match asked {
        Some(asked) if !initial => {
            watcher.position = asked;
            // A place that has been passed is refused before the stream begins.
            watcher.cache.events_after(asked, 0).map_err(|error| Status::expired(error.to_string()))?;
        }
        _ if initial || info.parameter("sendInitialEvents").is_none() => watcher.begin(initial)?,
        _ => watcher.position = watcher.cache.list().revision,
    }
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let frame = watcher.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frame), watcher))
    });
    let mut response = Response::new(Body::from_stream(stream));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

impl Watcher {
    /// Sends the present state first.
    fn begin(&mut self, mark_end: bool) -> Result<(), Status> {
        let listing = self.cache.list();
        for object in listing.objects.values() {
            if self.selection.matches(object) {
                let frame = self.shape("ADDED", object, None)?;
                self.ready.push_back(frame);
            }
        }
        self.position = listing.revision;
        if mark_end {
            let frame = self.bookmark(listing.revision, mark_end)?;
            self.ready.push_back(frame);
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(self.join(frame));
            }
            if self.ended {
                return None;
            }
            self.newest.borrow_and_update();
            match self.cache.events_after(self.position, BATCH) {
                Err(expired) => {
                    self.ended = true;
                    let status = Status::expired(expired.to_string()).to_value();
                    return Some(frame("ERROR", status.to_string().as_bytes()));
                }
                Ok(events) if events.is_empty() => self.wait().await,
                Ok(events) => {
                    for event in events {
                        self.position = event.revision;
                        match self.take(&event) {
                            Ok(Some(frame)) => self.ready.push_back(frame),
                            Ok(None) => {}
                            Err(status) => {
                                self.ended = true;
                                let text = status.to_value().to_string();
                                self.ready.push_back(frame("ERROR", text.as_bytes()));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Small frames that are ready together leave together.
    fn join(&mut self, first: Bytes) -> Bytes {
        if self.ready.is_empty() {
            return first;
        }
        let mut joined = first.to_vec();
        while joined.len() < 64 << 10
            && let Some(more) = self.ready.pop_front()
        {
            joined.extend_from_slice(&more);
        }
        joined.into()
    }

    async fn wait(&mut self) {
        let pause = if self.bookmarks { BOOKMARKS } else { Duration::from_secs(3600) };
        let until = self.deadline.min(Instant::now() + pause);
        match tokio::time::timeout_at(until, self.newest.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.ended = true,
            Err(_) if Instant::now() >= self.deadline => self.ended = true,
            Err(_) => {
                // Nothing of this resource lies between its place and the newest revision of all.
                let listing = self.cache.list();
                let quiet = self.cache.events_after(self.position, 1).is_ok_and(|events| events.is_empty());
                if quiet && listing.revision > self.position {
                    self.position = listing.revision;
                    match self.bookmark(listing.revision, false) {
                        Ok(frame) => self.ready.push_back(frame),
                        Err(_) => self.ended = true,
                    }
                }
            }
        }
    }

    /// An event as this watcher sees it: an object that enters the selection is added, one that leaves it deleted.
    fn take(&mut self, event: &WatchEvent) -> Result<Option<Bytes>, Status> {
        let before = event.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        if event.kind == EventKind::Deleted {
            return if before {
                self.shape("DELETED", &event.object, Some(event)).map(Some)
            } else {
                Ok(None)
            };
        }
        match (before, self.selection.matches(&event.object)) {
            (false, false) => Ok(None),
            (false, true) => self.shape("ADDED", &event.object, Some(event)).map(Some),
            (true, true) => self.shape("MODIFIED", &event.object, Some(event)).map(Some),
            (true, false) => {
                let Some(previous) = &event.previous else { return Ok(None) };
                let mut object = cache::decode(&previous.bytes)?;
                object.set_resource_version(Some(&event.revision.to_string()));
                self.shape_object("DELETED", object).map(Some)
            }
        }
    }

    fn shape(
        &mut self,
        kind: &'static str,
        object: &Cached,
        event: Option<&WatchEvent>,
    ) -> Result<Bytes, Status> {
        match (&self.form, event) {
            (Form::Object | Form::AggregatedDiscovery, Some(event)) if word(event.kind) == kind => {
                Ok(event.frame())
            }
            (Form::Object | Form::AggregatedDiscovery, _) => Ok(frame(kind, &object.bytes)),
            (Form::Table | Form::Metadata, _) => self.shape_object(kind, cache::decode(&object.bytes)?),
        }
    }

    fn shape_object(&mut self, kind: &'static str, object: Object) -> Result<Bytes, Status> {
        let value = match self.form {
            Form::Object | Form::AggregatedDiscovery => object.into_value(),
            Form::Metadata => table::metadata_of(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": object.resource_version()});
                let rows = vec![table::row(&self.info, &self.resource, object, Timestamp::now())];
                let columns = std::mem::replace(&mut self.columns, table::Columns::Omitted);
                table::table(&self.resource, metadata, rows, columns)
            }
        };
        Ok(frame(kind, value.to_string().as_bytes()))
    }

    fn bookmark(&self, revision: u64, ends_initial: bool) -> Result<Bytes, Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let value = match self.form {
            Form::Table => table::table(&self.resource, metadata, Vec::new(), table::Columns::Omitted),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Object | Form::AggregatedDiscovery => json!({
                "kind": self.resource.kind, "apiVersion": self.resource.group_version().to_string(), "metadata": metadata,
            }),
        };
        Ok(frame("BOOKMARK", value.to_string().as_bytes()))
    }
}
