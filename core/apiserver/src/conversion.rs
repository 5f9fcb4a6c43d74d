//! Conversion of custom resources between their versions, where a webhook does it.
//!
//! The registry works with such an object in the version of the request; it is converted where it is read from the
//! store and where it is written. All that has the wanted version already is left as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keelson_api::custom_resource::conversion::{self, Conversion};
use keelson_api::{GroupVersionKind, Object, ResourceInfo, Status};
use parking_lot::Mutex;

use crate::admission::dynamic::hooks::client_config;
use crate::cache::{self, Cached, WatchEvent};
use crate::registry::Registry;
use crate::remote::{Remote, RemoteConfig, ServiceResolver};

/// How long a webhook may take for one batch.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects that are sent at once.
const BATCH: usize = 500;
/// The largest answer that is read.
const ANSWER_BYTES: usize = 256 << 20;
/// Webhooks to which connections are kept.
const REMOTES: usize = 64;

/// Asks conversion webhooks.
pub struct Converter {
    resolver: Arc<ServiceResolver>,
    remotes: Mutex<Vec<(RemoteConfig, Remote)>>,
}

/// A failure as upstream tells it: without a reason.
fn failed(text: String) -> Status {
    Status::new(500, "", text)
}

fn shown(object: &Object) -> String {
    format!("{}, Kind={}", object.api_version(), object.kind())
}

/// The webhook of a resource that has one.
pub fn webhook(resource: &ResourceInfo) -> Option<&Conversion> {
    resource.custom.as_ref()?.conversion.as_deref()
}

impl Converter {
    /// Finds webhooks behind Services by a resolver.
    pub fn new(resolver: Arc<ServiceResolver>) -> Self {
        Converter { resolver, remotes: Mutex::default() }
    }

    fn remote(&self, webhook: &Conversion) -> Result<Remote, String> {
        let config = RemoteConfig { timeout: TIMEOUT, ..client_config(&webhook.client_config)? };
        let mut remotes = self.remotes.lock();
        if let Some((_, found)) = remotes.iter().find(|(known, _)| *known == config) {
            return Ok(found.clone());
        }
        let made = Remote::new(config.clone(), &self.resolver).map_err(|error| error.to_string())?;
        if remotes.len() == REMOTES {
            remotes.remove(0);
        }
        remotes.push((config, made.clone()));
        Ok(made)
    }

    /// Brings objects of one kind into a version, each at its place.
    pub async fn convert(
        &self,
        webhook: &Conversion,
        mut objects: Vec<Object>,
        to: &GroupVersionKind,
    ) -> Result<Vec<Object>, Status> {
        let wanted = to.api_version();
        let others = |object: &&mut Object| object.api_version() != wanted;
        let mut waiting: Vec<&mut Object> = objects.iter_mut().filter(others).collect();
        for batch in waiting.chunks_mut(BATCH) {
            let sent: Vec<Object> = batch.iter().map(|object| (**object).clone()).collect();
            let converted = self.ask(webhook, sent, to, &wanted).await?;
            for (object, new) in batch.iter_mut().zip(converted) {
                **object = new;
            }
        }
        Ok(objects)
    }

    async fn ask(
        &self,
        webhook: &Conversion,
        objects: Vec<Object>,
        to: &GroupVersionKind,
        wanted: &str,
    ) -> Result<Vec<Object>, Status> {
        let about = format!("conversion webhook for {}", objects.first().map(shown).unwrap_or_default());
        let fail = |why: String| failed(format!("{about} failed: {why}"));
        let uid = uuid::Uuid::new_v4().to_string();
        let review = webhook.review(&uid, wanted, &objects);
        let review = review.ok_or_else(|| failed("no supported conversion review versions".to_owned()))?;
        let remote = self.remote(webhook).map_err(fail)?;
        let answer = remote.post_json("timeout=30s", &review, ANSWER_BYTES).await;
        let answer = answer.map_err(|error| fail(error.to_string()))?;
        let converted = conversion::converted(&review, answer).map_err(fail)?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            return Err(failed(format!("{about} returned {got} objects, expected {expected}")));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (original, new))| conversion::take(original, new, to, index))
            .collect::<Result<_, _>>()
            .map_err(|why| failed(format!("{about} returned {why}")))
    }
}

impl Registry {
    /// A document in a version of its resource, where a webhook converts it.
    pub async fn in_version(
        &self,
        resource: &ResourceInfo,
        object: Object,
        to: &GroupVersionKind,
    ) -> Result<Object, Status> {
        let Some(webhook) = webhook(resource).filter(|_| is_of(resource, &object)) else { return Ok(object) };
        let mut converted = self.converter().convert(webhook, vec![object], to).await?;
        converted.pop().ok_or_else(|| Status::internal("a conversion gave nothing"))
    }

    /// A stored document in the version of a resource, where a webhook converts it.
    pub async fn served_bytes(&self, resource: &ResourceInfo, stored: Bytes) -> Result<Bytes, Status> {
        if webhook(resource).is_none() {
            return Ok(stored);
        }
        let object = self.in_version(resource, cache::decode(&stored)?, &resource.gvk()).await?;
        serde_json::to_vec(&object.into_value()).map(Bytes::from).map_err(Status::internal)
    }

    /// Stored objects in the version of a resource, where a webhook converts them.
    pub async fn served_objects(
        &self,
        resource: &ResourceInfo,
        stored: Vec<Arc<Cached>>,
    ) -> Result<Vec<Arc<Cached>>, Status> {
        let Some(webhook) = webhook(resource) else { return Ok(stored) };
        let documents = stored.iter().map(|it| cache::decode(&it.bytes)).collect::<Result<_, _>>()?;
        let converted = self.converter().convert(webhook, documents, &resource.gvk()).await?;
        let pairs = stored.iter().zip(converted);
        pairs.map(|(stored, object)| Ok(Arc::new(stored.with_document(object)?))).collect()
    }

    /// Events with their objects in the version of a resource, where a webhook converts them.
    pub(crate) async fn served_events(
        &self,
        resource: &ResourceInfo,
        events: Vec<Arc<WatchEvent>>,
    ) -> Result<Vec<Arc<WatchEvent>>, Status> {
        if webhook(resource).is_none() {
            return Ok(events);
        }
        let objects = events.iter().map(|event| Arc::clone(&event.object)).collect();
        let objects = self.served_objects(resource, objects).await?;
        let previous = events.iter().filter_map(|event| event.previous.clone()).collect();
        let mut previous = self.served_objects(resource, previous).await?.into_iter();
        let pairs = events.iter().zip(objects);
        let with = pairs.map(|(event, object)| {
            let previous = event.previous.as_ref().and_then(|_| previous.next());
            Arc::new(WatchEvent::new(event.revision, event.kind, object, previous))
        });
        Ok(with.collect())
    }
}

/// Whether a document is an object of the resource; another one, such as a Status, has no versions.
fn is_of(resource: &ResourceInfo, object: &Object) -> bool {
    object.kind() == resource.kind && object.gvk().group == resource.group
}
