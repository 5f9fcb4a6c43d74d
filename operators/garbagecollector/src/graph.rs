//! Who owns whom (pure).
//!
//! Of most objects only the UID is kept: who owns nothing and is owned by nobody needs no more. A change answers which
//! objects have to be looked at because of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::discovery::Served;

use crate::uid::Uid;

#[cfg(test)]
mod tests;

/// The finalizer of an object whose blocking dependents have to go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to be left.
pub const ORPHAN: &str = "orphan";

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindId(pub u32);

/// A reference to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which.
    pub uid: Uid,
    /// Whether it waits for the dependent when it is deleted in the foreground.
    pub blocks: bool,
}

/// How an object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It does not.
    No,
    /// For itself: its dependents are looked at when it is gone.
    Plain,
    /// After its blocking dependents.
    Foreground,
    /// After its dependents were let go.
    Orphan,
}

/// What is kept of an object that has owners, or that ends in a way which concerns its dependents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its kind.
    pub kind: KindId,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its owners.
    pub owners: Box<[Owner]>,
    /// How it ends.
    pub ending: Ending,
}

impl Node {
    /// Reads an object.
    pub fn read(kind: KindId, metadata: &ObjectMeta) -> Option<(Uid, Self)> {
        let uid = Uid::new(metadata.uid.as_deref()?);
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, metadata.name.as_deref()?);
        let owners = metadata.owner_references.iter().flatten().map(|owner| Owner {
            uid: Uid::new(&owner.uid),
            blocks: owner.block_owner_deletion == Some(true),
        });
        Some((uid, Node { kind, key, owners: owners.collect(), ending: ending(metadata) }))
    }
}

/// How an object ends.
pub fn ending(metadata: &ObjectMeta) -> Ending {
    let has = |name: &str| metadata.finalizers.iter().flatten().any(|own| own == name);
    match metadata.deletion_timestamp {
        None => Ending::No,
        Some(_) if has(ORPHAN) => Ending::Orphan,
        Some(_) if has(FOREGROUND) => Ending::Foreground,
        Some(_) => Ending::Plain,
    }
}

/// An object that can be asked for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its UID.
    pub uid: Uid,
    /// Its kind.
    pub kind: Arc<Served>,
    /// Its namespace and name.
    pub key: ObjectKey,
}

/// What has to be done about an object.
#[derive(Clone, Debug)]
pub enum Look {
    /// Nothing.
    Nothing,
    /// Find out whether it still has an owner.
    Judge {
        /// The object.
        target: Target,
        /// Whether it has dependents of its own.
        has_dependents: bool,
        /// Whether one of these waits for its own dependents, so that they may wait for one another.
        may_be_circle: bool,
    },
    /// It waits for its dependents.
    Foreground {
        /// The object.
        target: Target,
        /// Whether one that blocks it is still there.
        blocked: bool,
        /// The blocking dependents that do not end in the foreground themselves.
        dependents: Vec<Uid>,
    },
    /// Its dependents have to be let go.
    Orphan {
        /// The object.
        target: Target,
        /// The dependents.
        dependents: Vec<Target>,
    },
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Graph {
    kinds: HashMap<KindId, Arc<Served>>,
    present: HashMap<Uid, KindId>,
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, Vec<Uid>>,
}

impl Graph {
    /// A kind is watched from now on.
    pub fn add_kind(&mut self, id: KindId, kind: Arc<Served>) {
        self.kinds.insert(id, kind);
    }

    /// A kind is served no longer, and its objects are gone.
    pub fn remove_kind(&mut self, id: KindId) -> Vec<Uid> {
        let wanted = self.retain(id, &HashSet::new());
        self.kinds.remove(&id);
        wanted
    }

    /// Of a kind only these objects are there.
    pub fn retain(&mut self, kind: KindId, listed: &HashSet<Uid>) -> Vec<Uid> {
        let gone: Vec<Uid> = self
            .present
            .iter()
            .filter(|(uid, of)| **of == kind && !listed.contains(uid))
            .map(|(uid, _)| *uid)
            .collect();
        gone.into_iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// An object is there.
    pub fn apply(&mut self, uid: Uid, new: Node) -> Vec<Uid> {
        self.present.insert(uid, new.kind);
        let old = self.nodes.remove(&uid);
        let (owners, ended): (&[Owner], _) =
            old.as_ref().map_or((&[], Ending::No), |old| (&old.owners, old.ending));
        let mut wanted = Vec::new();
        if new.ending != ended {
            match new.ending {
                Ending::No | Ending::Plain => {}
                Ending::Orphan => wanted.push(uid),
                Ending::Foreground => {
                    wanted.push(uid);
                    wanted.extend(self.dependents.get(&uid).into_iter().flatten());
                }
            }
        }
        if *owners != *new.owners {
            let blocked = |owner: &Owner| new.owners.iter().any(|other| other == owner);
            wanted.extend(
                owners
                    .iter()
                    .filter(|owner| owner.blocks && !blocked(owner) && self.ends_in_foreground(owner.uid))
                    .map(|owner| owner.uid),
            );
            unlink(&mut self.dependents, uid, owners);
            for owner in &new.owners {
                let of = self.dependents.entry(owner.uid).or_default();
                if !of.contains(&uid) {
                    of.push(uid);
                }
            }
            if self.has_doubtful_owner(&new) {
                wanted.push(uid);
            }
            // One that came late is let go, too.
            let letting_go = |owner: &&Owner| self.ends(owner.uid, Ending::Orphan);
            wanted.extend(new.owners.iter().filter(letting_go).map(|owner| owner.uid));
        }
        if !new.owners.is_empty() || matches!(new.ending, Ending::Foreground | Ending::Orphan) {
            self.nodes.insert(uid, new);
        }
        wanted
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: Uid) -> Vec<Uid> {
        self.present.remove(&uid);
        let mut wanted: Vec<Uid> = self.dependents.get(&uid).into_iter().flatten().copied().collect();
        if let Some(node) = self.nodes.remove(&uid) {
            unlink(&mut self.dependents, uid, &node.owners);
            let waiting = node.owners.iter().map(|owner| owner.uid);
            wanted.extend(waiting.filter(|owner| self.ends_in_foreground(*owner)));
        }
        wanted
    }

    /// What has to be done about an object.
    pub fn look(&self, uid: Uid) -> Look {
        let Some(node) = self.nodes.get(&uid) else { return Look::Nothing };
        let Some(target) = self.target(uid) else { return Look::Nothing };
        let own: &[Uid] = self.dependents.get(&uid).map_or(&[], Vec::as_slice);
        match node.ending {
            Ending::Plain => Look::Nothing,
            Ending::No if self.has_doubtful_owner(node) => Look::Judge {
                target,
                has_dependents: !own.is_empty(),
                may_be_circle: own.iter().any(|dependent| self.ends_in_foreground(*dependent)),
            },
            Ending::No => Look::Nothing,
            Ending::Foreground => {
                let blocks = |dependent: &&Uid| {
                    let node = self.nodes.get(*dependent);
                    node.is_some_and(|it| it.owners.iter().any(|owner| owner.uid == uid && owner.blocks))
                };
                let blocking: Vec<Uid> = own.iter().filter(blocks).copied().collect();
                let blocked = !blocking.is_empty();
                let dependents = blocking.into_iter().filter(|it| !self.ends_in_foreground(*it)).collect();
                Look::Foreground { target, blocked, dependents }
            }
            Ending::Orphan => {
                let dependents = own.iter().filter_map(|dependent| self.target(*dependent)).collect();
                Look::Orphan { target, dependents }
            }
        }
    }

    fn target(&self, uid: Uid) -> Option<Target> {
        let node = self.nodes.get(&uid)?;
        Some(Target { uid, kind: Arc::clone(self.kinds.get(&node.kind)?), key: node.key.clone() })
    }

    /// Whether an owner may be absent, or waits for this very object to go.
    fn has_doubtful_owner(&self, node: &Node) -> bool {
        node.owners
            .iter()
            .any(|owner| !self.present.contains_key(&owner.uid) || self.ends_in_foreground(owner.uid))
    }

    fn ends_in_foreground(&self, uid: Uid) -> bool {
        self.ends(uid, Ending::Foreground)
    }

    fn ends(&self, uid: Uid, how: Ending) -> bool {
        self.nodes.get(&uid).is_some_and(|node| node.ending == how)
    }
}

fn unlink(dependents: &mut HashMap<Uid, Vec<Uid>>, uid: Uid, owners: &[Owner]) {
    for owner in owners {
        if let Some(of) = dependents.get_mut(&owner.uid) {
            of.retain(|other| *other != uid);
            if of.is_empty() {
                dependents.remove(&owner.uid);
            }
        }
    }
}
