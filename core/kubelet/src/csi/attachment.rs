//! Waits until a volume is attached to this node.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSIDriverSpec, VolumeAttachment};
use kube::Api;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use super::Drivers;
use super::driver::CsiError;
use super::mount::{Lifecycle, Wanted};

/// How long a volume is waited for before the pod is told, and tries again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What attaching has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attachment {
    /// The name of the VolumeAttachment; empty where the driver attaches nothing.
    pub(super) id: String,
    /// What the driver's controller has for its node.
    pub(super) metadata: BTreeMap<String, String>,
}

fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(digest(&SHA256, format!("{handle}{driver}{node}").as_bytes())))
}

/// The name of a volume in the Node's status.
pub(super) fn volume_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Whether the volume may be looked for (pure).
fn is_reported(node: &Node, volume: &str, name: &str) -> Result<(), CsiError> {
    let status = node.status.as_ref();
    let in_use = status.and_then(|status| status.volumes_in_use.as_ref());
    if !in_use.is_some_and(|volumes| volumes.iter().any(|it| it == volume)) {
        return Err(CsiError::Attachment(format!(
            "Volume has not been added to the list of VolumesInUse in the node's volume status for volume {name:?}"
        )));
    }
    let attached = status.and_then(|status| status.volumes_attached.as_ref());
    if !attached.is_some_and(|volumes| volumes.iter().any(|it| it.name == volume)) {
        return Err(CsiError::Attachment(format!(
            "Volume not attached according to node status for volume {name:?}"
        )));
    }
    Ok(())
}

/// What an attachment says (pure).
fn outcome(found: VolumeAttachment, handle: &str) -> Result<BTreeMap<String, String>, CsiError> {
    if found.metadata.deletion_timestamp.is_some() {
        return Err(CsiError::Attachment("volume attachment is being deleted".to_owned()));
    }
    let status = found.status.unwrap_or_default();
    if status.attached {
        return Ok(status.attachment_metadata.unwrap_or_default());
    }
    let why = status.attach_error.and_then(|error| error.message);
    Err(CsiError::Attachment(why.unwrap_or_else(|| format!("volume {handle} is not attached yet"))))
}

impl Drivers {
    /// What attaching the volume to this node has told; drivers whose volumes are not attached tell nothing.
    pub(super) async fn attachment(
        &self,
        uid: &str,
        wanted: &Wanted,
        spec: Option<&CSIDriverSpec>,
    ) -> Result<Attachment, CsiError> {
        // A driver that says nothing of itself attaches.
        let is_needed = spec.and_then(|spec| spec.attach_required) != Some(false);
        if wanted.lifecycle == Lifecycle::Ephemeral || !is_needed {
            return Ok(Attachment::default());
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.look_for_attachment(uid, wanted).await {
                Err(CsiError::Attachment(_)) if Instant::now() < end => tokio::time::sleep(LOOK).await,
                found => return found,
            }
        }
    }

    async fn look_for_attachment(&self, uid: &str, wanted: &Wanted) -> Result<Attachment, CsiError> {
        let volume = volume_name(&wanted.driver, &wanted.handle);
        let node = self.in_use.hold(&volume, uid).await?;
        is_reported(&node, &volume, &wanted.name)?;
        let id = attachment_name(&wanted.handle, &wanted.driver, &self.config.node_name);
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let found = api.get(&id).await.map_err(|error| {
            let why = CsiError::api("get", &id)(error);
            CsiError::Attachment(format!(
                "volume {} has GET error for volume attachment {id}: {why}",
                wanted.handle
            ))
        })?;
        Ok(Attachment { metadata: outcome(found, &wanted.handle)?, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn a_volume_is_looked_for_when_the_node_says_that_it_uses_it_and_that_it_is_attached() {
        let said = |status: Value| {
            let node: Node = from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap();
            is_reported(&node, &volume_name("d", "h"), "pv").map_err(|error| error.to_string())
        };
        let volume = "kubernetes.io/csi/d^h";
        let both = json!({"volumesInUse": [volume], "volumesAttached": [{"name": volume, "devicePath": ""}]});
        assert_eq!(said(both), Ok(()));
        assert!(
            said(json!({})).unwrap_err().starts_with("Volume has not been added to the list of VolumesInUse")
        );
        assert_eq!(
            said(json!({"volumesInUse": [volume]})).unwrap_err(),
            "Volume not attached according to node status for volume \"pv\""
        );
    }

    #[test]
    fn an_attachment_counts_when_it_is_made_and_not_on_its_way_out() {
        let of = |deleted: Value, status: Value| {
            let spec = json!({"attacher": "d", "nodeName": "n", "source": {}});
            let found = json!({"metadata": {"deletionTimestamp": deleted}, "spec": spec, "status": status});
            outcome(from_value(found).unwrap(), "h").map_err(|error| error.to_string())
        };
        let attached = json!({"attached": true, "attachmentMetadata": {"device": "/dev/x"}});
        let metadata = BTreeMap::from([("device".to_owned(), "/dev/x".to_owned())]);
        assert_eq!(of(Value::Null, attached.clone()), Ok(metadata));
        assert_eq!(
            of(json!("2026-01-01T00:00:00Z"), attached).unwrap_err(),
            "volume attachment is being deleted"
        );
        let failed = json!({"attached": false, "attachError": {"message": "no room"}});
        assert_eq!(of(Value::Null, failed).unwrap_err(), "no room");
    }
}
