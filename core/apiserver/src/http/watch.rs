//! Watches: a stream of lines, one for each event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use jiff::Timestamp;
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status, convert, protobuf};
use keelson_store::EventKind;
use serde_json::json;
use tokio::time::Instant;

use super::negotiation::{Form, Media, Wanted};
use super::objects::{is_as_served, message, serve_as};
use super::table;
use crate::cache::{self, Cached, ResourceCache, WatchEvent, frame, message_frame, word};
use crate::registry::Registry;
use crate::registry::list::Selection;
use crate::registry::list::options::WatchOptions;
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
    encoding: Encoding,
    columns: table::Columns,
    /// Every event up to here has been looked at.
    position: u64,
    /// The newest revision that the client has heard of.
    told: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    /// Once its time is over: the last revision that is told.
    last: Option<u64>,
    deadline: Instant,
    ready: VecDeque<Bytes>,
    ended: bool,
    /// Of a custom resource: what tells that its definition may be another one, or gone.
    served: Option<Served>,
}

/// How events are written.
enum Encoding {
    /// A line of JSON each.
    Lines,
    /// A frame of protobuf each; with the kind whose objects are kept as messages, if there is one.
    Frames(Option<(GroupVersionKind, protobuf::Message)>),
}

impl Encoding {
    fn of(resource: &ResourceInfo, wanted: Wanted) -> Self {
        match wanted.media {
            Media::Json | Media::Yaml => Encoding::Lines,
            Media::Protobuf => Encoding::Frames(message(resource).map(|message| (resource.gvk(), message))),
        }
    }

    fn media_type(&self) -> &'static str {
        match self {
            Encoding::Lines => "application/json",
            Encoding::Frames(_) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// An event about a JSON document.
    fn frame(&self, kind: &str, json: &[u8]) -> Result<Bytes, Status> {
        match self {
            Encoding::Lines => Ok(frame(kind, json)),
            Encoding::Frames(_) => {
                let document = protobuf::document(json).map_err(Status::internal)?;
                Ok(protobuf::watch_frame(kind, &document).into())
            }
        }
    }

    /// An event about an object that is sent as it is kept.
    fn shared(&self, kind: &str, object: &Cached, event: Option<&WatchEvent>) -> Result<Bytes, Status> {
        let own = event.filter(|event| word(event.kind) == kind);
        match (self, own) {
            (Encoding::Lines, Some(event)) => Ok(event.frame()),
            (Encoding::Lines, None) => Ok(frame(kind, &object.bytes)),
            (Encoding::Frames(Some((gvk, message))), Some(event)) => event.message_frame(gvk, *message),
            (Encoding::Frames(Some((gvk, message))), None) => {
                Ok(message_frame(kind, gvk, object.message(*message)?))
            }
            (Encoding::Frames(None), _) => self.frame(kind, &object.bytes),
        }
    }

    /// The end of a watch that failed.
    fn error(&self, status: &Status) -> Bytes {
        let text = status.to_value().to_string();
        self.frame("ERROR", text.as_bytes()).unwrap_or_else(|_| frame("ERROR", text.as_bytes()))
    }
}

/// A custom resource's place among those that are served.
struct Served {
    registry: Arc<Registry>,
    changes: tokio::sync::watch::Receiver<()>,
}

impl Served {
    fn new(registry: &Arc<Registry>) -> Self {
        let mut changes = registry.catalog_changes();
        // What has changed since the request was read is looked at first.
        changes.mark_changed();
        Served { registry: Arc::clone(registry), changes }
    }

    /// Ends when other resources are served.
    async fn changed(served: &mut Option<Self>) {
        let lasts = match served {
            Some(served) => served.changes.changed().await.is_ok(),
            None => false,
        };
        if !lasts {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the definition of a resource is still the one that it was.
    fn holds(&self, resource: &ResourceInfo) -> bool {
        let catalog = self.registry.catalog();
        let found = catalog.find(&resource.group, &resource.version, &resource.plural);
        let found = found.and_then(|it| it.custom.as_ref());
        found.zip(resource.custom.as_ref()).is_some_and(|(now, then)| now.is_same_definition(then))
    }
}

/// Starts a watch.
pub(super) async fn serve(
    registry: &Arc<Registry>,
    info: &RequestInfo,
    resource: &Arc<ResourceInfo>,
    wanted: Wanted,
) -> Result<Response, Status> {
    let cache = registry.resource(&convert::storage_resource(resource));
    let options = WatchOptions::of(info, resource)?;
    let seconds = match options.timeout_seconds {
        0 => rand::random_range(1800..3600),
        seconds => seconds,
    };
    let selection = Selection::of(info, resource)?;
    let mut watcher = Watcher {
        newest: cache.follow_scope(&selection.scope(resource)),
        selection,
        resource: Arc::clone(resource),
        info: info.clone(),
        form: wanted.form,
        encoding: Encoding::of(resource, wanted),
        columns: table::Columns::Shown,
        position: 0,
        told: 0,
        next_bookmark: Instant::now() + BOOKMARKS,
        last: None,
        bookmarks: info.flag("allowWatchBookmarks"),
        deadline: Instant::now() + Duration::from_secs(seconds),
        ready: VecDeque::new(),
        ended: false,
        // Before anything is read: a change that comes later is seen.
        served: resource.custom.is_some().then(|| Served::new(registry)),
        cache,
    };
    if let Err(status) = watcher.place(registry, &options).await {
        watcher.ended = true;
        watcher.ready.push_back(watcher.encoding.error(&status));
    }
    watcher.told = watcher.position;
    let media_type = header::HeaderValue::from_static(watcher.encoding.media_type());
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let frame = watcher.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frame), watcher))
    });
    let mut response = Response::new(Body::from_stream(stream));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

impl Watcher {
    /// Finds where to begin. What stands against it is an event of the stream.
    async fn place(&mut self, registry: &Registry, options: &WatchOptions) -> Result<(), Status> {
        match (options.revision, options.initial_events) {
            (Some(asked), None | Some(false)) if asked > 0 => {
                // Nothing of this cluster is newer than what is: one who says so has followed another.
                registry.reach(asked).await?;
                self.position = asked;
                let place = self.cache.events_after(asked, 0);
                place.map(drop).map_err(|error| Status::expired(error.to_string()))
            }
            (_, Some(false)) => {
                self.position = self.cache.list().revision;
                Ok(())
            }
            (revision, initial) => {
                match revision {
                    Some(revision) => registry.reach(revision).await?,
                    None => registry.catch_up().await?,
                }
                self.begin(registry, initial == Some(true) && self.bookmarks).await
            }
        }
    }

    /// Sends the present state first.
    async fn begin(&mut self, registry: &Registry, mark_end: bool) -> Result<(), Status> {
        let listing = self.cache.list();
        let known = self.selection.before_conversion(&self.resource);
        let first = known.as_ref().unwrap_or(&self.selection);
        let selected = listing.objects.values().filter(|object| first.matches(object)).cloned();
        for object in registry.served_objects(&self.resource, selected.collect()).await? {
            if known.is_some() && !self.selection.matches(&object) {
                continue;
            }
            let frame = self.shape("ADDED", &object, None)?;
            self.ready.push_back(frame);
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
            // Time counts, however much happens that is not selected.
            let now = Instant::now();
            if now >= self.deadline {
                // What has happened until then is still told.
                let last = *self.last.get_or_insert(self.cache.list().revision);
                self.ended = self.position >= last;
            }
            self.newest.borrow_and_update();
            match self.cache.events_after(self.position, BATCH) {
                Err(expired) => {
                    self.ended = true;
                    return Some(self.encoding.error(&Status::expired(expired.to_string())));
                }
                Ok(events) if events.is_empty() => {
                    if now >= self.deadline {
                        self.ended = true;
                        self.tell();
                    } else if now >= self.next_bookmark {
                        self.next_bookmark = now + BOOKMARKS;
                        self.tell();
                    } else {
                        self.wait().await;
                    }
                }
                Ok(events) => {
                    let events = match self.in_version(events).await {
                        Ok(events) => events,
                        Err(status) => {
                            self.ended = true;
                            return Some(frame("ERROR", status.to_value().to_string().as_bytes()));
                        }
                    };
                    for event in events {
                        self.position = event.revision;
                        match self.take(&event) {
                            Ok(Some(frame)) => {
                                self.told = event.revision;
                                self.ready.push_back(frame);
                            }
                            Ok(None) => {}
                            Err(status) => {
                                self.ended = true;
                                self.ready.push_back(self.encoding.error(&status));
                            }
                        }
                    }
                }
            }
        }
    }

    /// Events in the version that is watched, where a webhook converts them.
    async fn in_version(&self, events: Vec<Arc<WatchEvent>>) -> Result<Vec<Arc<WatchEvent>>, Status> {
        match &self.served {
            Some(served) => served.registry.served_events(&self.resource, events).await,
            None => Ok(events),
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
        let until = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        let changed = async {
            tokio::select! {
                changed = self.newest.changed() => Some(changed),
                () = Served::changed(&mut self.served) => None,
            }
        };
        match tokio::time::timeout_at(until, changed).await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(_))) => self.ended = true,
            Ok(None) => {
                self.ended = self.served.as_ref().is_some_and(|served| !served.holds(&self.resource));
            }
            // It is time for something, which the loop sees.
            Err(_) => {}
        }
    }

    /// Tells a client that asked for it how far it is.
    fn tell(&mut self) {
        if !self.bookmarks {
            return;
        }
        // Nothing of this resource lies between a quiet watcher's place and the newest revision of all.
        let listing = self.cache.list();
        if self.cache.events_after(self.position, 1).is_ok_and(|events| events.is_empty()) {
            self.position = self.position.max(listing.revision);
        }
        if self.position > self.told {
            self.told = self.position;
            match self.bookmark(self.position, false) {
                Ok(frame) => self.ready.push_back(frame),
                Err(_) => self.ended = true,
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
        if !is_as_served(&self.resource, &object.bytes) {
            return self.shape_object(kind, cache::decode(&object.bytes)?);
        }
        match self.form {
            Form::Object | Form::AggregatedDiscovery => self.encoding.shared(kind, object, event),
            Form::Table | Form::Metadata => self.shape_object(kind, cache::decode(&object.bytes)?),
        }
    }

    fn shape_object(&mut self, kind: &'static str, object: Object) -> Result<Bytes, Status> {
        let value = match self.form {
            Form::Object | Form::AggregatedDiscovery => {
                let mut object = object;
                serve_as(&self.resource, &mut object);
                object.into_value()
            }
            Form::Metadata => table::metadata_of(&object),
            Form::Table => {
                let metadata = json!({"resourceVersion": object.resource_version()});
                let rows = vec![table::row(&self.info, &self.resource, object, Timestamp::now())];
                let columns = std::mem::replace(&mut self.columns, table::Columns::Omitted);
                table::table(&self.resource, metadata, rows, columns)
            }
        };
        self.encoding.frame(kind, value.to_string().as_bytes())
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
        self.encoding.frame("BOOKMARK", value.to_string().as_bytes())
    }
}
