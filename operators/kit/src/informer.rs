//! What a watch has told, kept small and shared.
//!
//! An informer holds for each object not the object, but the value that a `read` function makes of it, so that an
//! operator that needs labels and phase of pods keeps labels and phase of pods. Values are shared by `Arc`.
//!
//! # Guarantees
//! - After [`Informer::synced`] the informer holds all objects of its watch.
//! - A change is in the informer before its `on_change` is called.
//! - A watch that was interrupted is taken up again, and objects that went meanwhile are reported as gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::object_key::ObjectKey;

/// One object has come, changed or gone.
#[derive(Debug)]
pub struct Change<V> {
    /// Which.
    pub key: ObjectKey,
    /// What was known of it; `None` when it is new.
    pub old: Option<Arc<V>>,
    /// What is known now; `None` when it is gone.
    pub new: Option<Arc<V>>,
}

/// A view on all objects of a watch. Cheap to clone; all clones are the same view.
pub struct Informer<V>(Arc<Shared<V>>);

struct Shared<V> {
    objects: RwLock<Objects<V>>,
    index: Option<Index<V>>,
    synced: watch::Sender<bool>,
}

/// The text by which values are found with [`Informer::indexed`].
pub type Index<V> = fn(&ObjectKey, &V) -> String;

struct Objects<V> {
    by_namespace: HashMap<String, BTreeMap<ObjectKey, Arc<V>>>,
    by_index: HashMap<String, BTreeMap<ObjectKey, Arc<V>>>,
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Informer(Arc::clone(&self.0))
    }
}

impl<V> Default for Informer<V> {
    fn default() -> Self {
        Informer::with(None)
    }
}

impl<V> Informer<V> {
    fn with(index: Option<Index<V>>) -> Self {
        Informer(Arc::new(Shared {
            objects: RwLock::new(Objects { by_namespace: HashMap::new(), by_index: HashMap::new() }),
            index,
            synced: watch::Sender::new(false),
        }))
    }

    /// An empty informer that finds its values by a text, too.
    pub fn with_index(index: Index<V>) -> Self {
        Informer::with(Some(index))
    }

    /// What is known of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<V>> {
        self.0.objects.read().by_namespace.get(key.namespace())?.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn all(&self) -> Vec<(ObjectKey, Arc<V>)> {
        let objects = self.0.objects.read();
        objects.by_namespace.values().flatten().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    /// The objects of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<(ObjectKey, Arc<V>)> {
        collect(self.0.objects.read().by_namespace.get(namespace))
    }

    /// The objects with this text in the index; none where the informer has no index.
    pub fn indexed(&self, text: &str) -> Vec<(ObjectKey, Arc<V>)> {
        collect(self.0.objects.read().by_index.get(text))
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.0.objects.read().by_namespace.values().map(BTreeMap::len).sum()
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all objects are known.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Puts a value in, or takes it out; returns what was there before.
    pub fn put(&self, key: &ObjectKey, value: Option<Arc<V>>) -> Option<Arc<V>> {
        let mut objects = self.0.objects.write();
        let old = match &value {
            Some(value) => {
                let of = objects.by_namespace.entry(key.namespace().to_owned()).or_default();
                of.insert(key.clone(), Arc::clone(value))
            }
            None => take(&mut objects.by_namespace, key.namespace(), key),
        };
        if let Some(index) = self.0.index {
            if let Some(old) = &old {
                take(&mut objects.by_index, &index(key, old), key);
            }
            if let Some(value) = value {
                objects.by_index.entry(index(key, &value)).or_default().insert(key.clone(), value);
            }
        }
        old
    }

    /// Follows a watch for ever; `read` says what to keep of an object, `None` that it does not matter.
    pub async fn follow<K>(
        &self,
        events: impl Stream<Item = watcher::Result<Event<K>>>,
        kind: &str,
        read: impl Fn(K) -> Option<V>,
        on_change: impl Fn(&Change<V>),
    ) where
        K: Resource + Debug,
    {
        let mut listed = HashSet::new();
        futures::pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    let Some(key) = ObjectKey::of(&object) else { continue };
                    listed.insert(key.clone());
                    self.change(key, read(object), &on_change);
                }
                Ok(Event::InitDone) => {
                    self.retain(&std::mem::take(&mut listed), &on_change);
                    self.0.synced.send_replace(true);
                }
                Ok(Event::Apply(object)) => {
                    let Some(key) = ObjectKey::of(&object) else { continue };
                    self.change(key, read(object), &on_change);
                }
                Ok(Event::Delete(object)) => {
                    let Some(key) = ObjectKey::of(&object) else { continue };
                    self.change(key, None, &on_change);
                }
                Err(error) => {
                    tracing::warn!(kind, error = &error as &dyn std::error::Error, "a watch was interrupted");
                }
            }
        }
    }

    fn change(&self, key: ObjectKey, new: Option<V>, on_change: impl Fn(&Change<V>)) {
        let new = new.map(Arc::new);
        let old = self.put(&key, new.clone());
        if old.is_some() || new.is_some() {
            on_change(&Change { key, old, new });
        }
    }

    fn retain(&self, listed: &HashSet<ObjectKey>, on_change: impl Fn(&Change<V>)) {
        let gone: Vec<ObjectKey> =
            self.all().into_iter().map(|(key, _)| key).filter(|key| !listed.contains(key)).collect();
        for key in gone {
            self.change(key, None, &on_change);
        }
    }
}

fn collect<V>(of: Option<&BTreeMap<ObjectKey, Arc<V>>>) -> Vec<(ObjectKey, Arc<V>)> {
    of.into_iter().flatten().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
}

fn take<V>(
    map: &mut HashMap<String, BTreeMap<ObjectKey, Arc<V>>>,
    text: &str,
    key: &ObjectKey,
) -> Option<Arc<V>> {
    let of = map.get_mut(text)?;
    let old = of.remove(key);
    if of.is_empty() {
        map.remove(text);
    }
    old
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str, value: &str) -> ConfigMap {
        ConfigMap {
            metadata: kube::api::ObjectMeta {
                namespace: Some("a".to_owned()),
                name: Some(name.to_owned()),
                ..Default::default()
            },
            data: Some([("value".to_owned(), value.to_owned())].into()),
            ..Default::default()
        }
    }

    fn read(map: ConfigMap) -> Option<String> {
        map.data?.remove("value").filter(|value| !value.is_empty())
    }

    #[tokio::test]
    async fn an_object_that_vanished_while_the_watch_was_broken_is_reported_as_gone() {
        let informer: Informer<String> = Informer::with_index(|_, value| value.clone());
        let changes = RefCell::new(Vec::new());
        let events = [
            Event::Init,
            Event::InitApply(map("x", "1")),
            Event::InitApply(map("y", "1")),
            Event::InitDone,
            Event::Apply(map("y", "2")),
            Event::Init,
            Event::InitApply(map("y", "2")),
            Event::InitDone,
        ];
        informer
            .follow(stream::iter(events.map(Ok)), "ConfigMap", read, |change| {
                changes.borrow_mut().push((change.key.to_string(), change.new.is_some()));
            })
            .await;
        informer.synced().await;
        let seen = changes.into_inner();
        assert_eq!(seen.last(), Some(&("a/x".to_owned(), false)));
        assert_eq!(informer.len(), 1);
        assert!(informer.indexed("1").is_empty());
        assert_eq!(informer.indexed("2").len(), 1);
        assert_eq!(informer.in_namespace("a")[0].0, ObjectKey::new("a", "y"));
    }

    #[tokio::test]
    async fn an_object_that_no_longer_matters_leaves_the_informer() {
        let informer: Informer<String> = Informer::default();
        let events = [Event::Apply(map("x", "1")), Event::Apply(map("x", ""))];
        informer.follow(stream::iter(events.map(Ok)), "ConfigMap", read, |_| {}).await;
        assert!(informer.is_empty());
    }
}
