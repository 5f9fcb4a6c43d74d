//! The watches (client): what the API says, reduced to what decisions need.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::device::claim::Claim as DeviceClaim;
use crate::device::class::Class as DeviceClass;
use crate::device::slice::Slice;
use crate::labels::Labels;
use crate::names::{NamespaceName, NodeName, ObjectName, PodUid};
use crate::node::NodeInfo;
use crate::pod::{PendingPod, PodInfo};
use crate::queue::Condition;
use crate::volume::attachment::Attachment;
use crate::volume::limits::Limits;
use crate::volume::{Claim, Class, Volume};

/// Something that the API says.
#[derive(Debug)]
pub enum Update {
    /// This is there, or has changed.
    Seen(Box<Object>),
    /// This is gone, or is no business of ours any more.
    Gone(Key),
    /// Of this kind, only these are there.
    Listed(Kind, HashSet<Key>),
}

/// An object, as far as it matters.
#[derive(Debug)]
pub enum Object {
    /// A node.
    Node(NodeInfo),
    /// A pod that waits for a node.
    Pending(PendingPod, Standing),
    /// A pod that has a node.
    Placed(Arc<PodInfo>, NodeName),
    /// A namespace.
    Namespace(NamespaceName, Labels),
    /// A claim of a volume.
    Claim(ObjectName, Claim),
    /// A volume.
    Volume(Arc<str>, Volume),
    /// A class of volumes.
    Class(Arc<str>, Class),
    /// How many volumes a node can have.
    Limits(NodeName, Limits),
    /// A volume that is attached to a node, or about to be.
    Attachment(Arc<str>, Attachment),
    /// A claim to devices.
    DeviceClaim(ObjectName, Arc<DeviceClaim>),
    /// Devices that a driver offers.
    Slice(Arc<str>, Arc<Slice>),
    /// A class of devices.
    DeviceClass(Arc<str>, Arc<DeviceClass>),
}

/// What the API knows of earlier attempts to schedule a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why it could not be scheduled.
    pub condition: Option<Condition>,
    /// The node on which room was made for it.
    pub nominated: Option<NodeName>,
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Node.
    Node,
    /// Pod.
    Pod,
    /// Namespace.
    Namespace,
    /// PersistentVolumeClaim.
    Claim,
    /// PersistentVolume.
    Volume,
    /// StorageClass.
    Class,
    /// CSINode.
    Limits,
    /// VolumeAttachment.
    Attachment,
    /// ResourceClaim.
    DeviceClaim,
    /// ResourceSlice.
    Slice,
    /// DeviceClass.
    DeviceClass,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::Node,
        Kind::Pod,
        Kind::Namespace,
        Kind::Claim,
        Kind::Volume,
        Kind::Class,
        Kind::Limits,
        Kind::Attachment,
        Kind::DeviceClaim,
        Kind::Slice,
        Kind::DeviceClass,
    ];
}

/// The identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A node.
    Node(NodeName),
    /// A pod.
    Pod(PodUid),
    /// A namespace.
    Namespace(NamespaceName),
    /// A claim of a volume.
    Claim(ObjectName),
    /// A volume.
    Volume(Arc<str>),
    /// A class of volumes.
    Class(Arc<str>),
    /// How many volumes a node can have.
    Limits(NodeName),
    /// A volume that is attached to a node, or about to be.
    Attachment(Arc<str>),
    /// A claim to devices.
    DeviceClaim(ObjectName),
    /// Devices that a driver offers.
    Slice(Arc<str>),
    /// A class of devices.
    DeviceClass(Arc<str>),
}

impl Object {
    fn key(&self) -> Key {
        match self {
            Object::Node(node) => Key::Node(node.name.clone()),
            Object::Pending(pod, _) => Key::Pod(pod.info.uid.clone()),
            Object::Placed(pod, _) => Key::Pod(pod.uid.clone()),
            Object::Namespace(name, _) => Key::Namespace(name.clone()),
            Object::Claim(name, _) => Key::Claim(name.clone()),
            Object::Volume(name, _) => Key::Volume(name.clone()),
            Object::Class(name, _) => Key::Class(name.clone()),
            Object::Limits(name, _) => Key::Limits(name.clone()),
            Object::Attachment(name, _) => Key::Attachment(name.clone()),
            Object::DeviceClaim(name, _) => Key::DeviceClaim(name.clone()),
            Object::Slice(name, _) => Key::Slice(name.clone()),
            Object::DeviceClass(name, _) => Key::DeviceClass(name.clone()),
        }
    }
}

/// Pods that have ended need no room.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Starts all watches. The stream goes on for ever: a broken watch is taken up again, with growing pauses.
pub fn watch(client: &Client, scheduler_name: &str) -> SelectAll<BoxStream<'static, Update>> {
    let everything = watcher::Config::default();
    let unfinished = watcher::Config::default().fields(UNFINISHED);
    let own = scheduler_name.to_owned();
    stream::select_all([
        updates(Api::all(client.clone()), everything.clone(), Kind::Node, read_node),
        updates(Api::all(client.clone()), unfinished, Kind::Pod, move |pod| read_pod(pod, &own)),
        updates(Api::all(client.clone()), everything.clone(), Kind::Namespace, read_namespace),
        updates(Api::all(client.clone()), everything.clone(), Kind::Claim, read_claim),
        updates(Api::all(client.clone()), everything.clone(), Kind::Volume, read_volume),
        updates(Api::all(client.clone()), everything.clone(), Kind::Class, read_class),
        updates(Api::all(client.clone()), everything.clone(), Kind::Limits, read_limits),
        updates(Api::all(client.clone()), everything.clone(), Kind::Attachment, read_attachment),
        updates(Api::all(client.clone()), everything.clone(), Kind::DeviceClaim, read_device_claim),
        updates(Api::all(client.clone()), everything.clone(), Kind::Slice, read_slice),
        updates(Api::all(client.clone()), everything, Kind::DeviceClass, read_device_class),
    ])
}

fn updates<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: Kind,
    read: impl Fn(&K) -> Option<Reading> + Send + 'static,
) -> BoxStream<'static, Update>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut listed = HashSet::new();
    let events = watcher(api, config).default_backoff();
    let updates = events.filter_map(move |event| {
        let update = match event {
            Ok(event) => translate(event, kind, &read, &mut listed),
            Err(error) => {
                tracing::warn!(?kind, error = &error as &dyn std::error::Error, "a watch was interrupted");
                None
            }
        };
        std::future::ready(update)
    });
    updates.boxed()
}

/// What an object is to us.
enum Reading {
    Object(Box<Object>),
    /// It does not matter (any more).
    Nothing(Key),
}

impl Reading {
    fn of(object: Object) -> Self {
        Reading::Object(Box::new(object))
    }
}

fn translate<K>(
    event: Event<K>,
    kind: Kind,
    read: impl Fn(&K) -> Option<Reading>,
    listed: &mut HashSet<Key>,
) -> Option<Update> {
    match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(object) => match read(&object)? {
            Reading::Object(object) => {
                listed.insert(object.key());
                Some(Update::Seen(object))
            }
            Reading::Nothing(_) => None,
        },
        Event::InitDone => Some(Update::Listed(kind, std::mem::take(listed))),
        Event::Apply(object) => match read(&object)? {
            Reading::Object(object) => Some(Update::Seen(object)),
            Reading::Nothing(key) => Some(Update::Gone(key)),
        },
        Event::Delete(object) => match read(&object)? {
            Reading::Object(object) => Some(Update::Gone(object.key())),
            Reading::Nothing(key) => Some(Update::Gone(key)),
        },
    }
}

fn read_node(node: &core::Node) -> Option<Reading> {
    NodeInfo::read(node).map(Object::Node).map(Reading::of)
}

fn read_pod(pod: &core::Pod, own: &str) -> Option<Reading> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let ours = spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == own;
    let deleting = pod.metadata.deletion_timestamp.is_some();
    match spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        Some(node) if !ended => {
            let info = Arc::new(PodInfo::read(pod)?);
            Some(Reading::of(Object::Placed(info, NodeName::new(node))))
        }
        None if ours && !ended && !deleting => {
            let standing = Standing::read(pod);
            Some(Reading::of(Object::Pending(PendingPod::read(pod)?, standing)))
        }
        Some(_) | None => Some(Reading::Nothing(Key::Pod(PodUid::new(pod.metadata.uid.as_deref()?)))),
    }
}

fn read_namespace(namespace: &core::Namespace) -> Option<Reading> {
    let name = NamespaceName::new(namespace.metadata.name.as_deref()?);
    Some(Reading::of(Object::Namespace(name, Labels::from(namespace.metadata.labels.as_ref()))))
}

fn read_claim(claim: &core::PersistentVolumeClaim) -> Option<Reading> {
    let name = ObjectName::new(claim.metadata.namespace.as_deref()?, claim.metadata.name.as_deref()?);
    Some(Reading::of(Object::Claim(name, Claim::read(claim))))
}

fn read_volume(volume: &core::PersistentVolume) -> Option<Reading> {
    let name = volume.metadata.name.as_deref()?;
    Some(Reading::of(Object::Volume(name.into(), Volume::read(volume))))
}

fn read_class(class: &StorageClass) -> Option<Reading> {
    let name = class.metadata.name.as_deref()?;
    Some(Reading::of(Object::Class(name.into(), Class::read(class))))
}

fn read_limits(node: &CSINode) -> Option<Reading> {
    let name = NodeName::new(node.metadata.name.as_deref()?);
    Some(Reading::of(Object::Limits(name, Limits::read(node))))
}

fn read_attachment(attachment: &VolumeAttachment) -> Option<Reading> {
    let name: Arc<str> = attachment.metadata.name.as_deref()?.into();
    Some(match Attachment::read(attachment) {
        Some(attachment) => Reading::of(Object::Attachment(name, attachment)),
        None => Reading::Nothing(Key::Attachment(name)),
    })
}

fn read_device_claim(claim: &resource::ResourceClaim) -> Option<Reading> {
    device_claim(claim).map(|(name, claim)| Reading::of(Object::DeviceClaim(name, claim)))
}

/// Name and content of a claim to devices.
pub fn device_claim(claim: &resource::ResourceClaim) -> Option<(ObjectName, Arc<DeviceClaim>)> {
    let name = ObjectName::new(claim.metadata.namespace.as_deref()?, claim.metadata.name.as_deref()?);
    Some((name, Arc::new(DeviceClaim::read(claim))))
}

fn read_slice(slice: &resource::ResourceSlice) -> Option<Reading> {
    let name: Arc<str> = slice.metadata.name.as_deref()?.into();
    Some(match Slice::read(slice) {
        Some(slice) => Reading::of(Object::Slice(name, Arc::new(slice))),
        None => Reading::Nothing(Key::Slice(name)),
    })
}

fn read_device_class(class: &resource::DeviceClass) -> Option<Reading> {
    let class = DeviceClass::read(class)?;
    Some(Reading::of(Object::DeviceClass(class.name.clone(), Arc::new(class))))
}

impl Standing {
    fn read(pod: &core::Pod) -> Self {
        let Some(status) = &pod.status else { return Standing::default() };
        let scheduled =
            status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
        let condition =
            scheduled.filter(|condition| condition.status == "False").map(|condition| Condition {
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
            });
        let nominated = status.nominated_node_name.as_deref().filter(|name| !name.is_empty());
        Standing { condition, nominated: nominated.map(NodeName::new) }
    }
}
