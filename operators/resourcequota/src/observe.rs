//! The quotas, and watches on the kinds that they count (client).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ResourceQuota;
use keelson_api::{GroupResource, Object};
use keelson_operator_kit::discovery::discover;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// After a deletion, so that many at once are counted once.
const SOON: Duration = Duration::from_millis(100);
/// After a change that may or may not matter, or that admission has counted already.
const LATER: Duration = Duration::from_secs(2);

/// What is known of the cluster.
#[derive(Default)]
pub struct Known {
    quotas: Informer<()>,
    watches: Mutex<HashMap<GroupResource, Watch>>,
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

/// A watch on one kind; it ends when it is dropped.
struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a quota cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read the quota")]
    Read(#[source] kube::Error),
    /// It is not known which kinds there are.
    #[error("ask which kinds there are")]
    Discover(#[source] kube::Error),
    /// Its objects cannot be counted.
    #[error("list {0}")]
    List(GroupResource, #[source] kube::Error),
    /// An object is none.
    #[error("read an object")]
    Decode(#[source] serde_json::Error),
}

/// How quotas are spoken of.
pub fn quotas() -> ApiResource {
    ApiResource::erase::<ResourceQuota>(&())
}

fn object(object: &DynamicObject) -> Result<Object, Error> {
    let value = serde_json::to_value(object).map_err(Error::Decode)?;
    serde_json::from_value(value).map(Object).map_err(Error::Decode)
}

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.quotas,
            |_: ResourceQuota| Some(()),
            |world, change| match change.old {
                None => world.queue.add(change.key.clone()),
                // Its limits, which are to be in its status, or what admission has counted.
                Some(_) => world.queue.add_after(change.key.clone(), SOON),
            },
        );
    }
}

/// The quota as it stands now.
pub async fn quota(world: &World, key: &ObjectKey) -> Result<Option<Object>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), key.namespace(), &quotas());
    let found = api.get_opt(key.name()).await.map_err(Error::Read)?;
    found.as_ref().map(object).transpose()
}

/// Without a quota nothing needs to be watched.
pub fn rest(world: &World) {
    if world.known.quotas.is_empty() {
        world.known.watches.lock().clear();
    }
}

/// The kinds among these that are served.
pub async fn served(
    world: &World,
    kinds: &[GroupResource],
) -> Result<Vec<(GroupResource, ApiResource)>, Error> {
    let found = discover(&world.client).await.map_err(Error::Discover)?;
    let of = |kind: &GroupResource| {
        let served = found.resources.iter().find(|it| {
            it.namespaced && it.resource.group == kind.group && it.resource.plural == kind.resource
        });
        served.filter(|it| it.supports("list") && it.supports("watch")).map(|it| it.resource.clone())
    };
    Ok(kinds.iter().filter_map(|kind| Some((kind.clone(), of(kind)?))).collect())
}

/// Sees to it that changes of a kind are heard of.
pub fn watch(world: &Arc<World>, kind: &GroupResource, resource: &ApiResource) {
    let mut watches = world.known.watches.lock();
    if let Some(watch) = watches.get(kind) {
        if !watch.0.is_finished() {
            return;
        }
        tracing::warn!(resource = %kind, "a watch for quotas has ended, and is started again");
    }
    let (world, resource) = (Arc::clone(world), resource.clone());
    watches.insert(kind.clone(), Watch(tokio::spawn(async move { follow(&world, &resource).await })));
}

async fn follow(world: &World, resource: &ApiResource) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(world.client.clone(), resource);
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let (object, pause) = match &event {
            Ok(Event::Delete(object)) => (object, SOON),
            Ok(Event::Apply(object)) => (object, LATER),
            Ok(Event::Init | Event::InitApply(_) | Event::InitDone) => continue,
            Err(error) => {
                tracing::debug!(resource = %resource.plural, %error, "a watch for quotas failed");
                continue;
            }
        };
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        for (key, _) in world.known.quotas.in_namespace(namespace) {
            world.queue.add_after(key, pause);
        }
    }
}

/// All objects of these kinds in a namespace.
pub async fn objects(
    world: &World,
    namespace: &str,
    kinds: &[(GroupResource, ApiResource)],
) -> Result<Vec<(GroupResource, Object)>, Error> {
    let mut found = Vec::new();
    for (kind, resource) in kinds {
        let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), namespace, resource);
        let list = api.list(&ListParams::default()).await;
        for item in list.map_err(|error| Error::List(kind.clone(), error))? {
            found.push((kind.clone(), object(&item)?));
        }
    }
    Ok(found)
}
