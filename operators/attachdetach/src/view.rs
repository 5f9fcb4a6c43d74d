//! What is kept of pods, claims, volumes, drivers, nodes and attachments (pure).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ContainerStatus, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::ObjectKey;
use keelson_operator_kit::pod::{is_terminal, is_terminating};
use keelson_operator_kit::recorder::reference;
use kube::ResourceExt;

use crate::name;

/// The annotation of nodes whose kubelets leave attaching to others.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// The node has been shut down for good, somebody says.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Why it is not known whether a node works of which nobody has heard, as the nodelifecycle operator says.
const NEVER_SPOKEN: &str = "NodeStatusNeverUpdated";

/// A pod that has a node and claims, and is not over.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// The object, for Events.
    pub reference: ObjectReference,
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// The names of its claims, with whether each is to be its own.
    pub claims: Vec<(String, Ownership)>,
}

/// Whose claim it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Anybody's.
    Any,
    /// The pod's own, for which it was made.
    Pod,
}

/// Whether nothing of a pod runs, as far as is known.
fn is_still(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return true };
    let runs = |status: &ContainerStatus| {
        status.state.as_ref().is_none_or(|state| state.terminated.is_none() && state.waiting.is_none())
    };
    let all =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    !all.into_iter().flatten().flatten().any(runs)
}

impl PodView {
    /// What is kept of a pod; `None` of one that wants nothing attached.
    pub fn read(pod: Pod) -> Option<Self> {
        if is_terminal(&pod) || is_terminating(&pod) && is_still(&pod) {
            return None;
        }
        let spec = pod.spec.as_ref()?;
        let node = spec.node_name.clone().filter(|node| !node.is_empty())?;
        let claims = spec.volumes.iter().flatten().filter_map(|volume| {
            match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => Some((source.claim_name.clone(), Ownership::Any)),
                (None, Some(_)) => Some((format!("{}-{}", pod.name_any(), volume.name), Ownership::Pod)),
                (None, None) => None,
            }
        });
        let claims: Vec<_> = claims.collect();
        let uid = pod.uid()?;
        (!claims.is_empty()).then(|| PodView { reference: reference(&pod), uid, node, claims })
    }
}

/// A claim that is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimView {
    /// Its UID.
    pub uid: String,
    /// Its volume's name.
    pub volume: String,
    /// The UID of the object that controls it.
    pub owner: Option<String>,
}

impl ClaimView {
    /// What is kept of a claim; `None` of one that is not bound.
    pub fn read(claim: PersistentVolumeClaim) -> Option<Self> {
        let owners = claim.owner_references();
        let owner = owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone());
        let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
        let volume = claim.spec.as_ref()?.volume_name.clone().filter(|name| bound && !name.is_empty())?;
        Some(ClaimView { uid: claim.uid()?, volume, owner })
    }
}

/// A volume of a storage driver.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeView {
    /// The driver.
    pub driver: String,
    /// What the driver calls the volume.
    pub handle: String,
    /// How many nodes may have it at once.
    pub reach: Reach,
    /// The claim that has it, and that claim's UID.
    pub claim: Option<(ObjectKey, String)>,
}

/// How many nodes may have a volume at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One.
    Exclusive,
    /// Several, or as many as the driver allows.
    Shared,
}

impl VolumeView {
    /// What is kept of a volume; `None` of one that is no driver's.
    pub fn read(volume: PersistentVolume) -> Option<Self> {
        let spec = volume.spec?;
        let source = spec.csi?;
        let modes = spec.access_modes.unwrap_or_default();
        let is_shared = |mode: &String| mode == "ReadWriteMany" || mode == "ReadOnlyMany";
        let reach =
            if modes.is_empty() || modes.iter().any(is_shared) { Reach::Shared } else { Reach::Exclusive };
        let claim = spec
            .claim_ref
            .and_then(|it| Some((ObjectKey::new(it.namespace.as_deref()?, it.name.as_deref()?), it.uid?)));
        Some(VolumeView { driver: source.driver, handle: source.volume_handle, reach, claim })
    }
}

/// Whether volumes of a driver are attached before they are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverView {
    /// They are.
    pub attaches: bool,
}

impl DriverView {
    /// What is kept of a driver.
    pub fn read(driver: CSIDriver) -> Option<Self> {
        Some(DriverView { attaches: driver.spec.attach_required != Some(false) })
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Who attaches volumes to it.
    pub attacher: Attacher,
    /// What it says of its health.
    pub health: Health,
    /// Somebody says that it never will again.
    pub out_of_service: bool,
    /// The volumes that it says it uses.
    pub in_use: BTreeSet<String>,
    /// The volumes that it was told are attached.
    pub attached: BTreeSet<String>,
}

/// What a node says of its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing: its kubelet has not spoken since the Node was made.
    #[default]
    Silent,
    /// That it does not work, or nothing any more.
    Ill,
    /// That it works.
    Well,
}

/// Who attaches volumes to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attacher {
    /// This operator.
    #[default]
    Operator,
    /// Its kubelet.
    Kubelet,
}

impl NodeView {
    /// What is kept of a node.
    pub fn read(node: Node) -> Option<Self> {
        let is_managed = node.annotations().get(MANAGED).is_some_and(|it| it == "true");
        let attacher = if is_managed { Attacher::Operator } else { Attacher::Kubelet };
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let health = match ready {
            None => Health::Silent,
            Some(ready) if ready.reason.as_deref() == Some(NEVER_SPOKEN) => Health::Silent,
            Some(ready) if ready.status == "True" => Health::Well,
            Some(_) => Health::Ill,
        };
        Some(NodeView {
            attacher,
            health,
            out_of_service: taints.iter().any(|taint| taint.key == OUT_OF_SERVICE),
            in_use: status.volumes_in_use.into_iter().flatten().collect(),
            attached: status.volumes_attached.into_iter().flatten().map(|volume| volume.name).collect(),
        })
    }
}

/// An attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachmentView {
    /// Its UID.
    pub uid: String,
    /// The driver.
    pub driver: String,
    /// The node.
    pub node: String,
    /// The PersistentVolume.
    pub volume: String,
    /// When it was made.
    pub created: Timestamp,
    /// It is to go.
    pub ending: bool,
    /// The volume is attached.
    pub attached: bool,
    /// Why it is not, as the driver says, and when.
    pub error: Option<(String, Option<Timestamp>)>,
}

impl AttachmentView {
    /// What is kept of an attachment; `None` of one that this operator cannot have made.
    pub fn read(attachment: VolumeAttachment) -> Option<Self> {
        let ours = name::is_attachment(&attachment.name_any());
        let volume = attachment.spec.source.persistent_volume_name.filter(|_| ours)?;
        let status = attachment.status.unwrap_or_default();
        Some(AttachmentView {
            uid: attachment.metadata.uid?,
            driver: attachment.spec.attacher,
            node: attachment.spec.node_name,
            volume,
            created: attachment.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            ending: attachment.metadata.deletion_timestamp.is_some(),
            attached: status.attached,
            error: status
                .attach_error
                .map(|error| (error.message.unwrap_or_default(), error.time.map(|time| time.0))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn pod(status: Value, deleted: bool) -> Option<PodView> {
        let deleted = deleted.then_some("2026-01-01T00:00:00Z");
        let volumes = json!([
            {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "d", "emptyDir": {}},
        ]);
        PodView::read(
            from_value(json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u", "deletionTimestamp": deleted},
                "spec": {"nodeName": "a", "containers": [], "volumes": volumes},
                "status": status,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_pod_wants_its_claims_until_nothing_of_it_runs() {
        let running = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
        let found = pod(running.clone(), false).unwrap();
        assert_eq!(found.claims, [("c".to_owned(), Ownership::Any), ("p-e".to_owned(), Ownership::Pod)]);
        assert!(pod(json!({}), false).is_some());
        assert!(pod(running, true).is_some());
        assert!(pod(json!({}), true).is_none());
        assert!(pod(json!({"phase": "Succeeded"}), false).is_none());
    }

    #[test]
    fn a_volume_is_for_one_node_unless_its_modes_say_otherwise() {
        let reach = |modes: Value| {
            let csi = json!({"driver": "d", "volumeHandle": "h"});
            let volume = from_value(json!({"spec": {"csi": csi, "accessModes": modes}})).unwrap();
            VolumeView::read(volume).unwrap().reach
        };
        assert_eq!(reach(json!(["ReadWriteOnce"])), Reach::Exclusive);
        assert_eq!(reach(json!(["ReadWriteOncePod"])), Reach::Exclusive);
        assert_eq!(reach(json!(["ReadWriteOnce", "ReadOnlyMany"])), Reach::Shared);
        assert_eq!(reach(json!([])), Reach::Shared);
    }

    #[test]
    fn attachments_of_others_are_not_looked_at() {
        let of = |name: &str| {
            let spec = json!({"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "pv"}});
            AttachmentView::read(
                from_value(json!({"metadata": {"name": name, "uid": "u"}, "spec": spec})).unwrap(),
            )
        };
        assert!(of("somebodys").is_none());
        assert!(of(&name::attachment("h", "d", "a")).is_some());
    }
}
