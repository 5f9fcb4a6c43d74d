//! Does what was decided (client). Its one choice is the last question: whether the node uses what is to be taken from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use keelson_operator_kit::Fault;
use keelson_operator_kit::controller::{unless_changed, unless_gone};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::decide::{Attach, Consent, Detach, News, Plan, Told};
use crate::name;
use crate::observe::World;
use crate::view::{AttachmentView, Health, NodeView};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node cannot be told what is attached to it.
    #[error("write what is attached to node {0}")]
    Report(String, #[source] kube::Error),
    /// An attachment cannot be made.
    #[error("make the attachment {0}")]
    Attach(String, #[source] kube::Error),
    /// An attachment cannot be removed.
    #[error("remove the attachment {0}")]
    Detach(String, #[source] kube::Error),
}

impl Fault for Error {}

/// How soon a node is looked at again that could not be asked, or has begun to use what was to be taken from it.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the node, then detaches, then attaches, then tells pods. What fails keeps back nothing else but what depends on it; the first
/// error is answered. Says when the node is to be looked at again.
pub async fn act(
    world: &World,
    node: &str,
    known: Option<&NodeView>,
    plan: Plan,
) -> Result<Option<Duration>, Error> {
    let Plan { report, detach, attach, told, next } = plan;
    let mut next = next;
    let is_asked = detach.iter().any(|it| it.consent == Consent::Asked);
    let mut outcome = Ok(());
    let mut in_use = None;
    if let Some(known) = known
        && (report.is_some() || is_asked)
    {
        // What the node uses is asked of the answer: it reports before it looks whether a volume is attached.
        let attached = report.as_ref().unwrap_or(&known.attached);
        match self::report(world, node, attached).await {
            Ok(answer) => in_use = answer,
            Err(error) => outcome = Err(error),
        }
    }
    for Detach { name, uid, consent } in detach {
        if consent == Consent::Asked && in_use.as_ref().is_none_or(|in_use| in_use.contains(&name)) {
            next = Some(AGAIN);
            continue;
        }
        if consent == Consent::Assumed {
            tracing::warn!(
                node,
                attachment = name,
                "a volume is detached from a node that does not answer for it"
            );
        }
        outcome = outcome.and(remove(world, &name, uid).await);
        // Its watch has told nothing of it yet, and may never.
        if world.known.made.lock().contains_key(&name) {
            next = Some(AGAIN);
        }
    }
    for one in attach {
        let pods = one.pods.clone();
        let volume = one.volume.clone();
        if let Err(error) = make(world, node, one).await {
            for pod in &pods {
                tell(world, pod, &volume, &News::Failed(answer(&error), None));
            }
            outcome = outcome.and(Err(error));
        }
    }
    tell_what_is_new(world, node, told);
    outcome.map(|()| next)
}

fn answer(error: &Error) -> String {
    match error {
        Error::Report(_, kube::Error::Api(status))
        | Error::Attach(_, kube::Error::Api(status))
        | Error::Detach(_, kube::Error::Api(status)) => status.message.clone(),
        Error::Report(_, error) | Error::Attach(_, error) | Error::Detach(_, error) => error.to_string(),
    }
}

/// Writes what is attached to a node. Answers the names of attachments that it says it uses; `None` if it says nothing of that.
async fn report(
    world: &World,
    node: &str,
    attached: &BTreeSet<String>,
) -> Result<Option<BTreeSet<String>>, Error> {
    let api: Api<Node> = Api::all(world.client.clone());
    let list: Vec<_> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    let patch = Patch::Merge(json!({"status": {"volumesAttached": list}}));
    let written = api.patch_status(node, &PatchParams::default(), &patch).await;
    let written = unless_gone(written).map_err(|error| Error::Report(node.to_owned(), error))?;
    Ok(written.and_then(|written| uses(written, node)))
}

/// The attachments whose volumes a node says it uses; `None` where it has said nothing yet, as when it was made anew (pure).
fn uses(written: Node, node: &str) -> Option<BTreeSet<String>> {
    let view = NodeView::read(written).filter(|view| view.health != Health::Silent)?;
    Some(view.in_use.iter().filter_map(|volume| name::attachment_of_volume(volume, node)).collect())
}

async fn remove(world: &World, name: &str, uid: String) -> Result<(), Error> {
    let api: Api<VolumeAttachment> = Api::all(world.client.clone());
    let only = Preconditions { uid: Some(uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    let removed = api.delete(name, &params).await.map(|answer| answer.left());
    let left = unless_changed(removed).map_err(|error| Error::Detach(name.to_owned(), error))?.flatten();
    // Until its driver has let it go, nobody else gets the volume.
    if left.is_none_or(|left| left.finalizers().is_empty()) {
        let mut made = world.known.made.lock();
        if made.get(name).is_some_and(|made| made.uid == uid) {
            made.remove(name);
        }
    }
    Ok(())
}

async fn make(world: &World, node: &str, attach: Attach) -> Result<(), Error> {
    let Attach { name, driver, volume, pods: _ } = attach;
    let attachment = VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: driver,
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(volume),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    };
    let api: Api<VolumeAttachment> = Api::all(world.client.clone());
    match api.create(&PostParams::default(), &attachment).await {
        Ok(made) => {
            let mut list = world.known.made.lock();
            // Its watch may have been faster.
            let key = keelson_operator_kit::ObjectKey::cluster(&name);
            let seen = world.known.attachments.get(&key);
            if let Some(view) = AttachmentView::read(made)
                && seen.is_none_or(|seen| seen.uid != view.uid)
            {
                list.insert(name, Arc::new(view));
            }
            Ok(())
        }
        // Its watch is about to tell.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(Error::Attach(name, error)),
    }
}

fn tell_what_is_new(world: &World, node: &str, told: Vec<Told>) {
    let key = |it: &Told| (it.pod.uid.clone().unwrap_or_default(), it.volume.clone(), it.news.clone());
    let now: BTreeSet<_> = told.iter().map(key).collect();
    let before = match now.is_empty() {
        true => world.known.told.lock().remove(node),
        false => world.known.told.lock().insert(node.to_owned(), now),
    };
    let before = before.unwrap_or_default();
    for one in told {
        if !before.contains(&key(&one)) {
            tell(world, &one.pod, &one.volume, &one.news);
        }
    }
}

fn tell(world: &World, pod: &ObjectReference, volume: &str, news: &News) {
    const FAILED: &str = "FailedAttachVolume";
    let recorder = &world.recorder;
    match news {
        News::Attached => {
            let text = format!("AttachVolume.Attach succeeded for volume {volume:?} ");
            recorder.normal(pod, "SuccessfulAttachVolume", text);
        }
        News::Failed(why, _) => {
            recorder.warning(
                pod,
                FAILED,
                format!("AttachVolume.Attach failed for volume {volume:?} : {why}"),
            );
        }
        News::Elsewhere(why) => {
            recorder.warning(pod, FAILED, format!("Multi-Attach error for volume {volume:?} {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn a_node_is_asked_what_it_uses_once_it_has_said_how_it_is() {
        let uses = |conditions: serde_json::Value| {
            let volumes = json!([name::volume("d", "h")]);
            let status = json!({"volumesInUse": volumes, "conditions": conditions});
            let node = json!({"metadata": {"name": "a"}, "status": status});
            super::uses(from_value(node).unwrap(), "a")
        };
        let expected = BTreeSet::from([name::attachment("h", "d", "a")]);
        assert_eq!(uses(json!([{"type": "Ready", "status": "Unknown"}])), Some(expected));
        assert_eq!(uses(json!([])), None);
        let never = json!([{"type": "Ready", "status": "Unknown", "reason": "NodeStatusNeverUpdated"}]);
        assert_eq!(uses(never), None);
    }
}
