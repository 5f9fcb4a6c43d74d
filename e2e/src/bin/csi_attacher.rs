//! What the sidecar external-attacher and a driver's controller do, for tests: attaches volumes of the driver `csi_driver`.
//!
//! `csi_attacher FOLDER NAME`, with `KUBECONFIG`: FOLDER is the driver's. Attaching writes `attached/HANDLE` there, a ticket for one node, which
//! the driver demands when it stages a volume with the attribute `attached`. A volume with the attribute `fault` cannot be attached.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use keelson_e2e::plugin_server::Calls;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

/// How often an attachment is looked at until that goes well.
const TRIES: usize = 5;
/// Between two of these looks.
const PAUSE: Duration = Duration::from_secs(1);

struct Attacher {
    folder: PathBuf,
    name: String,
    calls: Calls,
    client: Client,
}

impl Attacher {
    fn finalizer(&self) -> String {
        format!("external-attacher/{}", self.name.replace('.', "-"))
    }

    async fn patch(&self, name: &str, patch: Value, is_status: bool) -> anyhow::Result<()> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let done = match is_status {
            true => api.patch_status(name, &params, &patch).await,
            false => api.patch(name, &params, &patch).await,
        };
        match done {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            done => done.map(drop).context("patch an attachment"),
        }
    }

    /// Looks at an attachment, and again after a failure: the API server may be killed meanwhile.
    async fn attend(&self, mut attachment: VolumeAttachment) {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let name = attachment.name_any();
        for _ in 0..TRIES {
            match self.look(&attachment).await {
                Ok(()) => return,
                Err(error) => eprintln!("an attachment is left as it is: {error:#}"),
            }
            tokio::time::sleep(PAUSE).await;
            match api.get_opt(&name).await {
                Ok(Some(found)) => attachment = found,
                Ok(None) => return,
                Err(error) => eprintln!("an attachment cannot be read: {error:#}"),
            }
        }
    }

    async fn look(&self, attachment: &VolumeAttachment) -> anyhow::Result<()> {
        let (name, spec) = (attachment.name_any(), &attachment.spec);
        if spec.attacher != self.name {
            return Ok(());
        }
        let volume = spec.source.persistent_volume_name.clone().context("an attachment of no volume")?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let source =
            volumes.get(&volume).await?.spec.and_then(|spec| spec.csi).context("no volume of CSI")?;
        let (handle, node) = (source.volume_handle, &spec.node_name);
        let ticket = self.folder.join("attached").join(&handle);
        let mut finalizers = attachment.finalizers().to_vec();
        let is_held = finalizers.contains(&self.finalizer());
        if attachment.metadata.deletion_timestamp.is_some() {
            if is_held {
                self.calls.add(&format!("detach {handle} {node}")).map_err(anyhow::Error::msg)?;
                match fs::remove_file(&ticket) {
                    // An earlier look has got as far as this.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed?,
                }
                finalizers.retain(|it| *it != self.finalizer());
                self.patch(&name, json!({"metadata": {"finalizers": finalizers}}), false).await?;
            }
            return Ok(());
        }
        let status = attachment.status.clone().unwrap_or_default();
        if status.attached {
            return Ok(());
        }
        if let Some(message) = source.volume_attributes.unwrap_or_default().get("fault") {
            if status.attach_error.is_some() {
                return Ok(());
            }
            let status = json!({"attached": false, "attachError": {"message": message}});
            return self.patch(&name, json!({"status": status}), true).await;
        }
        if !is_held {
            finalizers.push(self.finalizer());
            self.patch(&name, json!({"metadata": {"finalizers": finalizers}}), false).await?;
        }
        self.calls.add(&format!("attach {handle} {node}")).map_err(anyhow::Error::msg)?;
        let text = format!("{handle} at {node}");
        fs::create_dir_all(self.folder.join("attached"))?;
        fs::write(&ticket, &text)?;
        let status = json!({"attached": true, "attachmentMetadata": {"ticket": text}});
        self.patch(&name, json!({"status": status}), true).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name] = arguments.as_slice() else { anyhow::bail!("csi_attacher FOLDER NAME") };
    let folder = PathBuf::from(folder);
    // It may be that somebody has done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await?;
    let calls = Calls::new(&folder)?;
    let attacher = Attacher { folder, name: name.clone(), calls, client: client.clone() };
    let all: Api<VolumeAttachment> = Api::all(client);
    let mut events = watcher(all, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(event) = events.next().await {
        // The API server may be killed meanwhile.
        let Ok(attachment) = event else { continue };
        attacher.attend(attachment).await;
    }
    Ok(())
}
