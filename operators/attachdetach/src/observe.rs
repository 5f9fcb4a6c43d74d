//! What is known of pods, claims, volumes, drivers, nodes and attachments (client).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use keelson_operator_kit::informer::Change;
use keelson_operator_kit::{Informer, ObjectKey, Observe, Watches};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::decide::{Elsewhere, News, Wanted};
use crate::name;
use crate::view::{AttachmentView, ClaimView, DriverView, NodeView, Ownership, PodView, VolumeView};

/// What pods of a node were told: the pod's UID, the volume, what.
pub type Told = BTreeSet<(String, String, News)>;

/// What is known of the cluster.
pub struct Known {
    /// Pods with claims, by node.
    pub pods: Informer<PodView>,
    /// Claims that are bound.
    pub claims: Informer<ClaimView>,
    /// Volumes of drivers.
    pub volumes: Informer<VolumeView>,
    /// Drivers.
    pub drivers: Informer<DriverView>,
    /// All nodes.
    pub nodes: Informer<NodeView>,
    /// Attachments, by node.
    pub attachments: Informer<AttachmentView>,
    /// Attachments that were made and that their watch has not told yet.
    pub made: Mutex<BTreeMap<String, Arc<AttachmentView>>>,
    /// Since when nobody has wanted an attachment.
    pub unwanted: Mutex<HashMap<String, Instant>>,
    /// What pods were told last, by node.
    pub told: Mutex<HashMap<String, Told>>,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            pods: Informer::with_index(|_, pod| pod.node.clone()),
            claims: Informer::default(),
            volumes: Informer::default(),
            drivers: Informer::default(),
            nodes: Informer::default(),
            attachments: Informer::with_index(|_, attachment| attachment.node.clone()),
            made: Mutex::default(),
            unwanted: Mutex::default(),
            told: Mutex::default(),
        }
    }
}

/// Everything that a reconcile reads and writes.
pub type World = keelson_operator_kit::World<Known>;

impl Observe for Known {
    type Subject = ObjectKey;

    fn watch(watches: &mut Watches<'_, Self>) {
        watches.all(
            |it| &it.pods,
            PodView::read,
            |world, change| {
                for pod in change.old.iter().chain(&change.new) {
                    world.queue.add(ObjectKey::cluster(&pod.node));
                }
            },
        );
        watches.all(
            |it| &it.claims,
            ClaimView::read,
            |world, change| {
                if change.old != change.new {
                    look_at_users(world, &change.key);
                }
            },
        );
        watches.all(
            |it| &it.volumes,
            VolumeView::read,
            |world, change| {
                if change.old != change.new {
                    for (claim, _) in change.old.iter().chain(&change.new).filter_map(|it| it.claim.as_ref())
                    {
                        look_at_users(world, claim);
                    }
                }
            },
        );
        watches.all(
            |it| &it.drivers,
            DriverView::read,
            |world, change| {
                if change.old != change.new {
                    world.known.pods.all().iter().for_each(|(_, pod)| {
                        world.queue.add(ObjectKey::cluster(&pod.node));
                    });
                }
            },
        );
        watches.all(
            |it| &it.nodes,
            NodeView::read,
            |world, change| {
                if change.new.is_none() {
                    world.known.told.lock().remove(change.key.name());
                }
                if change.old != change.new {
                    world.queue.add(change.key.clone());
                }
            },
        );
        watches.all(|it| &it.attachments, AttachmentView::read, attachment_changed);
    }
}

fn look_at_users(world: &World, claim: &ObjectKey) {
    for pod in world.known.users(claim) {
        world.queue.add(ObjectKey::cluster(&pod.node));
    }
}

fn attachment_changed(world: &World, change: &Change<AttachmentView>) {
    let name = change.key.name();
    {
        let mut made = world.known.made.lock();
        let is_seen = |made: &Arc<AttachmentView>| {
            change.old.iter().chain(&change.new).any(|seen| seen.uid == made.uid)
        };
        if made.get(name).is_some_and(is_seen) {
            made.remove(name);
        }
    }
    if change.new.is_none() {
        world.known.unwanted.lock().remove(name);
    }
    for view in change.old.iter().chain(&change.new) {
        world.queue.add(ObjectKey::cluster(&view.node));
    }
    // Another node may wait for its volume.
    let (Some(gone), None) = (&change.old, &change.new) else { return };
    let volume = world.known.volumes.get(&ObjectKey::cluster(&gone.volume));
    if let Some((claim, _)) = volume.as_ref().and_then(|volume| volume.claim.as_ref()) {
        look_at_users(world, claim);
    }
}

impl Known {
    /// Pods that have a claim.
    fn users(&self, claim: &ObjectKey) -> Vec<Arc<PodView>> {
        let pods = self.pods.in_namespace(claim.namespace()).into_iter().map(|(_, pod)| pod);
        pods.filter(|pod| pod.claims.iter().any(|(name, _)| name == claim.name())).collect()
    }

    /// The volume of a claim of a pod, with its name, if it is a driver's and has to be attached.
    fn volume_of(
        &self,
        namespace: &str,
        pod: &PodView,
        claim: &str,
        whose: Ownership,
    ) -> Option<(String, Arc<VolumeView>)> {
        let found = self.claims.get(&ObjectKey::new(namespace, claim))?;
        if whose == Ownership::Pod && found.owner.as_ref() != Some(&pod.uid) {
            return None;
        }
        let volume = self.volumes.get(&ObjectKey::cluster(&found.volume))?;
        if volume.claim.as_ref().is_none_or(|(_, uid)| *uid != found.uid) {
            return None;
        }
        // A driver that says nothing of itself attaches.
        let driver = self.drivers.get(&ObjectKey::cluster(&volume.driver));
        driver.is_none_or(|driver| driver.attaches).then(|| (found.volume.clone(), volume))
    }

    /// What the pods of a node want attached, by the names of attachments.
    pub fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut wanted = BTreeMap::new();
        for (key, pod) in self.pods.indexed(node) {
            for (claim, whose) in &pod.claims {
                let Some((name, volume)) = self.volume_of(key.namespace(), &pod, claim, *whose) else {
                    continue;
                };
                let of = name::attachment(&volume.handle, &volume.driver, node);
                let entry = wanted.entry(of).or_insert_with(|| Wanted {
                    driver: volume.driver.clone(),
                    handle: volume.handle.clone(),
                    volume: name,
                    reach: volume.reach,
                    pods: Vec::new(),
                });
                entry.pods.push(pod.reference.clone());
            }
        }
        wanted
    }

    /// The attachments of a node by their names, also those that were just made; and the handles of their volumes.
    pub fn found(&self, node: &str) -> (BTreeMap<String, Arc<AttachmentView>>, BTreeMap<String, String>) {
        let made = self.made.lock();
        let made = made.iter().filter(|(_, view)| view.node == node);
        let mut found: BTreeMap<_, _> = made.map(|(name, view)| (name.clone(), Arc::clone(view))).collect();
        let known = self.attachments.indexed(node).into_iter();
        found.extend(known.map(|(key, view)| (key.name().to_owned(), view)));
        let mut handles = BTreeMap::new();
        found.retain(|name, view| {
            let Some(volume) = self.volumes.get(&ObjectKey::cluster(&view.volume)) else { return true };
            let is_ours = name::attachment(&volume.handle, &view.driver, node) == *name;
            if is_ours {
                handles.insert(name.clone(), volume.handle.clone());
            }
            is_ours
        });
        (found, handles)
    }

    /// Who has a volume on other nodes than this.
    pub fn elsewhere(&self, node: &str, wanted: &Wanted) -> Elsewhere {
        let has = |name: &str, view: &AttachmentView| {
            view.node != node
                && view.driver == wanted.driver
                && name == name::attachment(&wanted.handle, &wanted.driver, &view.node)
        };
        let mut nodes: BTreeSet<String> = BTreeSet::new();
        for (name, view) in self.made.lock().iter().filter(|(name, view)| has(name, view)) {
            tracing::debug!(name, node, "the volume was just attached elsewhere");
            nodes.insert(view.node.clone());
        }
        let known = self.attachments.all();
        nodes.extend(
            known.iter().filter(|(key, view)| has(key.name(), view)).map(|(_, view)| view.node.clone()),
        );
        let volume = self.volumes.get(&ObjectKey::cluster(&wanted.volume));
        let claim = volume.as_ref().and_then(|volume| volume.claim.as_ref());
        let users = claim.map(|(claim, _)| self.users(claim)).unwrap_or_default();
        let pods = users.iter().filter(|pod| nodes.contains(&pod.node));
        Elsewhere { attached: !nodes.is_empty(), pods: pods.map(|pod| pod.reference.clone()).collect() }
    }

    /// Takes note of which attachments nobody wants, and says since when.
    pub fn unwanted_since(
        &self,
        found: &BTreeMap<String, Arc<AttachmentView>>,
        wanted: &BTreeMap<String, Wanted>,
        now: Instant,
    ) -> HashMap<String, Duration> {
        let mut known = self.unwanted.lock();
        let mut since = HashMap::new();
        for name in found.keys() {
            if wanted.contains_key(name) {
                known.remove(name);
            } else {
                let begin = *known.entry(name.clone()).or_insert(now);
                since.insert(name.clone(), now.duration_since(begin));
            }
        }
        since
    }
}
