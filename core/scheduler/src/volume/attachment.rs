//! What is attached to nodes, or about to be, or on its way out (VolumeAttachment): each takes one of the places for volumes of its
//! driver, also when its pod has gone (pure).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::Volumes;
use super::limits::{Attachable, Attached};
use crate::names::NodeName;

/// A VolumeAttachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    node: NodeName,
    driver: Arc<str>,
    source: Source,
}

/// What is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// The PersistentVolume of this name.
    Volume(Arc<str>),
    /// A volume that has no object, by the driver's name of it.
    Handle(Arc<str>),
}

impl Attachment {
    /// Reads one; `None` if it says not what is attached.
    pub fn read(attachment: &VolumeAttachment) -> Option<Self> {
        let spec = &attachment.spec;
        let inline = spec.source.inline_volume_spec.as_ref().and_then(|spec| spec.csi.as_ref());
        let named = spec.source.persistent_volume_name.as_deref().map(|name| Source::Volume(name.into()));
        Some(Attachment {
            node: NodeName::new(&spec.node_name),
            driver: spec.attacher.as_str().into(),
            source: named.or_else(|| Some(Source::Handle(inline?.volume_handle.as_str().into())))?,
        })
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    by_name: HashMap<Arc<str>, Attachment>,
    by_node: HashMap<NodeName, HashSet<Arc<str>>>,
}

impl Attachments {
    /// Takes one in. What is attached to what does not change.
    pub fn insert(&mut self, name: Arc<str>, attachment: Attachment) {
        self.remove(&name);
        self.by_node.entry(attachment.node.clone()).or_default().insert(Arc::clone(&name));
        self.by_name.insert(name, attachment);
    }

    /// One is gone.
    pub fn remove(&mut self, name: &str) {
        let Some(before) = self.by_name.remove(name) else { return };
        if let Some(names) = self.by_node.get_mut(&before.node) {
            names.remove(name);
            if names.is_empty() {
                self.by_node.remove(&before.node);
            }
        }
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    fn of<'a>(&'a self, node: &NodeName) -> impl Iterator<Item = (&'a Arc<str>, &'a Attachment)> {
        let names = self.by_node.get(node).into_iter().flatten();
        names.filter_map(|name| self.by_name.get_key_value(name))
    }
}

impl Volumes {
    /// The volumes that have places on a node besides those of its pods.
    pub fn attached<'a>(&'a self, node: &'a NodeName) -> impl Iterator<Item = Attachable> + 'a {
        self.attachments.of(node).map(|(name, attachment)| {
            let driver = Arc::clone(&attachment.driver);
            match &attachment.source {
                Source::Handle(handle) => (driver, Attached::Handle(Arc::clone(handle))),
                Source::Volume(volume) => match self.volumes.get(volume).map(|volume| &volume.driver) {
                    Some(Some((driver, handle))) => {
                        (Arc::clone(driver), Attached::Handle(Arc::clone(handle)))
                    }
                    // The volume was deleted by force: it has its place all the same.
                    Some(None) | None => (driver, Attached::Attachment(Arc::clone(name))),
                },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Volume;
    use serde_json::{Value, from_value, json};

    #[test]
    fn what_is_attached_to_a_node_is_the_volume_of_its_pods_as_long_as_that_is_known() {
        let mut volumes = Volumes::default();
        let csi = json!({"driver": "d", "volumeHandle": "h"});
        let volume = Volume::read(&from_value(json!({"metadata": {}, "spec": {"csi": csi}})).unwrap());
        volumes.volumes.insert("pv".into(), volume);
        let attachment = |node: &str, source: Value| {
            let spec = json!({"attacher": "d", "nodeName": node, "source": source});
            Attachment::read(&from_value(json!({"metadata": {}, "spec": spec})).unwrap())
        };
        let named =
            |node: &str, volume: &str| attachment(node, json!({"persistentVolumeName": volume})).unwrap();
        volumes.attachments.insert("1".into(), named("a", "pv"));
        volumes.attachments.insert("2".into(), named("a", "lost"));
        volumes.attachments.insert("3".into(), named("b", "pv"));
        let inline = json!({"inlineVolumeSpec": {"csi": {"driver": "d", "volumeHandle": "i"}}});
        volumes.attachments.insert("4".into(), attachment("b", inline).unwrap());
        assert_eq!(attachment("b", json!({})), None);
        let of =
            |volumes: &Volumes, node: &str| volumes.attached(&NodeName::new(node)).collect::<HashSet<_>>();
        let handle = |handle: &str| ("d".into(), Attached::Handle(handle.into()));
        let lost = ("d".into(), Attached::Attachment("2".into()));
        assert_eq!(of(&volumes, "a"), HashSet::from([handle("h"), lost]));
        assert_eq!(of(&volumes, "b"), HashSet::from([handle("h"), handle("i")]));
        volumes.attachments.remove("3");
        volumes.attachments.remove("4");
        assert!(of(&volumes, "b").is_empty() && volumes.attachments.by_node.len() == 1);
    }
}
