//! The ConfigMaps, Secrets and Services that this node's pods refer to, watched while a pod does.
//!
//! One watch per object, shared by all pods that refer to it and dropped with the last of them. An immutable object
//! is read once. Guarantee: what a getter says to be absent was absent at the API server when it was asked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

mod reference;

pub(crate) use reference::{MASTER_SERVICE, MASTER_SERVICE_NAMESPACE};

/// How long a getter waits for a new watch before it asks by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an object cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// The API server did not give it.
    #[error("{}", answer(source))]
    Read {
        /// What the client says.
        source: Box<kube::Error>,
    },
}

/// The server's own words where there are some.
pub(crate) fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// One ConfigMap.
    ConfigMap { namespace: String, name: String },
    /// One Secret.
    Secret { namespace: String, name: String },
    /// All Services of a namespace.
    Services { namespace: String },
}

/// What is known of it.
#[derive(Clone, Debug)]
enum Content {
    Unread,
    /// The watch fails; getters ask by themselves.
    Unreadable,
    Absent,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Services(Arc<Vec<Service>>),
}

#[derive(Debug)]
struct Entry {
    pods: HashSet<String>,
    content: watch::Receiver<Content>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    pods: HashMap<String, BTreeSet<Key>>,
    /// Pods whose objects changed since they were last asked for.
    changed: BTreeSet<String>,
}

/// The objects that registered pods refer to.
pub(crate) struct Objects {
    client: kube::Client,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    /// Takes what the watch saw. Services do not change what a running pod sees.
    fn put(&self, key: &Key, sender: &watch::Sender<Content>, content: Content) {
        let first = matches!(*sender.borrow(), Content::Unread | Content::Unreadable);
        sender.send_replace(content);
        if first || matches!(key, Key::Services { .. }) {
            return;
        }
        let mut state = self.state.lock();
        let State { entries, changed, .. } = &mut *state;
        if let Some(entry) = entries.get(key) {
            changed.extend(entry.pods.iter().cloned());
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Objects {
    pub(crate) fn new(client: kube::Client) -> Arc<Self> {
        Arc::new(Objects { client, shared: Arc::default() })
    }

    /// Watches what a pod refers to from now on. May be called again with the pod's newer state.
    pub(crate) fn register(&self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let wanted = reference::of(pod);
        let mut state = self.shared.state.lock();
        for key in &wanted {
            let entry = state.entries.entry(key.clone()).or_insert_with(|| self.watch(key));
            entry.pods.insert(uid.clone());
        }
        let before = state.pods.insert(uid.clone(), wanted.clone()).unwrap_or_default();
        for key in before.difference(&wanted) {
            release(&mut state.entries, key, &uid);
        }
    }

    /// Forgets a pod, and what nobody else refers to.
    pub(crate) fn unregister(&self, uid: &str) {
        let mut state = self.shared.state.lock();
        state.changed.remove(uid);
        for key in state.pods.remove(uid).unwrap_or_default() {
            release(&mut state.entries, &key, uid);
        }
    }

    /// Waits until objects of registered pods have changed; the pods' UIDs.
    pub(crate) async fn changed(&self) -> BTreeSet<String> {
        loop {
            let notified = self.shared.changed.notified();
            let changed = std::mem::take(&mut self.shared.state.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            notified.await;
        }
    }

    fn watch(&self, key: &Key) -> Entry {
        let (sender, content) = watch::channel(Content::Unread);
        let (client, shared, key) = (self.client.clone(), Arc::clone(&self.shared), key.clone());
        let task = tokio::spawn(async move {
            match key.clone() {
                Key::ConfigMap { namespace, name } => {
                    let one = |it: ConfigMap| (it.immutable == Some(true), Content::ConfigMap(Arc::new(it)));
                    follow(Api::namespaced(client, &namespace), &name, &key, &shared, &sender, one).await;
                }
                Key::Secret { namespace, name } => {
                    let one = |it: Secret| (it.immutable == Some(true), Content::Secret(Arc::new(it)));
                    follow(Api::namespaced(client, &namespace), &name, &key, &shared, &sender, one).await;
                }
                Key::Services { namespace } => {
                    follow_services(Api::namespaced(client, &namespace), &key, &shared, &sender).await;
                }
            }
            // The content stays readable after the last change of an immutable object.
            sender.closed().await;
        })
        .abort_handle();
        Entry { pods: HashSet::new(), content, task }
    }

    async fn known(&self, key: &Key) -> Content {
        let receiver = self.shared.state.lock().entries.get(key).map(|entry| entry.content.clone());
        let Some(mut receiver) = receiver else { return Content::Unread };
        let read = receiver.wait_for(|content| !matches!(content, Content::Unread));
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(content)) => content.clone(),
            Ok(Err(_)) | Err(_) => Content::Unread,
        }
    }

    /// A ConfigMap, or `None` when there is none of this name.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        let key = Key::ConfigMap { namespace: namespace.to_owned(), name: name.to_owned() };
        if let Content::ConfigMap(found) = self.known(&key).await {
            return Ok(Some(found));
        }
        read::<ConfigMap>(&self.client, namespace, name).await
    }

    /// A Secret, or `None` when there is none of this name.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, ObjectError> {
        let key = Key::Secret { namespace: namespace.to_owned(), name: name.to_owned() };
        if let Content::Secret(found) = self.known(&key).await {
            return Ok(Some(found));
        }
        read::<Secret>(&self.client, namespace, name).await
    }

    /// The Services of a namespace, in the order of their names.
    pub(crate) async fn services(&self, namespace: &str) -> Result<Arc<Vec<Service>>, ObjectError> {
        let key = Key::Services { namespace: namespace.to_owned() };
        if let Content::Services(found) = self.known(&key).await {
            return Ok(found);
        }
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let list = api.list(&kube::api::ListParams::default()).await;
        let mut items = list.map_err(|source| ObjectError::Read { source: Box::new(source) })?.items;
        items.sort_by_key(kube::ResourceExt::name_any);
        Ok(Arc::new(items))
    }
}

fn release(entries: &mut HashMap<Key, Entry>, key: &Key, uid: &str) {
    if let Some(entry) = entries.get_mut(key) {
        entry.pods.remove(uid);
        if entry.pods.is_empty() {
            entries.remove(key);
        }
    }
}

async fn read<K>(client: &kube::Client, namespace: &str, name: &str) -> Result<Option<Arc<K>>, ObjectError>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|source| ObjectError::Read { source: Box::new(source) })?;
    Ok(found.map(Arc::new))
}

/// Watches one object by its name, until it is known to be immutable.
async fn follow<K>(
    api: Api<K>,
    name: &str,
    key: &Key,
    shared: &Shared,
    sender: &watch::Sender<Content>,
    content: impl Fn(K) -> (bool, Content),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let selected = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, selected).default_backoff());
    let mut version = None;
    let mut listed = None;
    while let Some(event) = events.next().await {
        let object = match event {
            Ok(watcher::Event::Init) => {
                listed = None;
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed = Some(object);
                continue;
            }
            Ok(watcher::Event::InitDone) => listed.take(),
            Ok(watcher::Event::Apply(object)) => Some(object),
            Ok(watcher::Event::Delete(_)) => None,
            Err(error) => {
                tracing::warn!(?key, %error, "an object of a pod cannot be watched");
                unreadable(sender);
                continue;
            }
        };
        let now = object.as_ref().and_then(kube::ResourceExt::resource_version);
        let unread = matches!(*sender.borrow(), Content::Unread | Content::Unreadable);
        if !unread && now == version {
            continue;
        }
        version = now;
        let Some(mut object) = object else {
            shared.put(key, sender, Content::Absent);
            continue;
        };
        object.managed_fields_mut().clear();
        let (immutable, content) = content(object);
        shared.put(key, sender, content);
        if immutable {
            return;
        }
    }
}

/// Getters of what was never read need not wait for the watch.
fn unreadable(sender: &watch::Sender<Content>) {
    sender.send_if_modified(|content| {
        let unread = matches!(content, Content::Unread);
        if unread {
            *content = Content::Unreadable;
        }
        unread
    });
}

async fn follow_services(api: Api<Service>, key: &Key, shared: &Shared, sender: &watch::Sender<Content>) {
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut known: std::collections::BTreeMap<String, Service> = std::collections::BTreeMap::new();
    let mut complete = false;
    let lean = |mut service: Service| {
        service.metadata.managed_fields = None;
        service.metadata.annotations = None;
        service.status = None;
        service
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                known.clear();
                complete = false;
            }
            Ok(watcher::Event::InitApply(service) | watcher::Event::Apply(service)) => {
                known.insert(service.name_any(), lean(service));
            }
            Ok(watcher::Event::InitDone) => complete = true,
            Ok(watcher::Event::Delete(service)) => {
                known.remove(&service.name_any());
            }
            Err(error) => {
                tracing::warn!(?key, %error, "services cannot be watched");
                unreadable(sender);
                continue;
            }
        }
        if complete {
            shared.put(key, sender, Content::Services(Arc::new(known.values().cloned().collect())));
        }
    }
}

#[cfg(test)]
mod tests;
