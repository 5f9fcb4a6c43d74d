//! Stages and publishes volumes for pods, and takes that back.
//!
//! ```text
//! record (staging), NodeStageVolume, record (pod), NodePublishVolume, fsGroup, mark
//! NodeUnpublishVolume, the last pod's: NodeUnstageVolume and its record, the pod's record
//! ```
//!
//! A block device goes the same way, and is at `plugins/kubernetes.io/csi/volumeDevices`; there is nothing to be given to a group.
//!
//! **Invariant: what is recorded may be there, and nothing is there that is not recorded**, so that a process that ends between any two
//! steps leaves what the next one takes up: every call is made again, as drivers have to allow.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Secret, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use keelson_csi::v1;
use keelson_csi::v1::volume_capability::access_mode::Mode;
use keelson_csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use kube::Api;
use ring::digest::{SHA256, digest};

use super::Drivers;
use super::attachment::{Attachment, volume_name};
use super::bearer::Bearer;
use super::driver::{CsiError, Driver};
use super::expansion::is_mountable;
use super::record::{self, Layout, Record};
use super::republish::Entry;
use crate::volume::{DEVICE_RECORD, is_of_earlier_boot};

/// The file that says that all was done for a pod.
const DONE: &str = "published";

/// How long a volume lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// On its own.
    Persistent,
    /// As long as the pod.
    Ephemeral,
}

/// A volume that a pod is to have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) driver: String,
    pub(crate) handle: String,
    /// The name of the PersistentVolume, or of the pod's volume.
    pub(crate) name: String,
    pub(crate) lifecycle: Lifecycle,
    /// Whether it is a block device, and no file system.
    pub(crate) block: bool,
    pub(crate) read_only: bool,
    /// Empty for the driver's own choice.
    pub(crate) fs_type: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) access_modes: Vec<String>,
    pub(crate) mount_options: Vec<String>,
    pub(crate) stage_secret: Option<SecretReference>,
    pub(crate) publish_secret: Option<SecretReference>,
    pub(crate) expand_secret: Option<SecretReference>,
}

impl Wanted {
    /// Where it is for a pod.
    pub(super) fn layout(&self, data_dir: &Path, uid: &str) -> Layout {
        if self.block {
            Layout::of_device(data_dir, uid, &self.name)
        } else {
            Layout::of_file_system(data_dir, uid, &self.driver, &self.handle, &self.name)
        }
    }

    /// Whether the driver stages it.
    fn is_staged_by(&self, driver: &Driver) -> bool {
        driver.stages && self.lifecycle == Lifecycle::Persistent
    }
}

/// How a published volume's files come to belong to the pod's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// The kubelet gives them.
    Kubelet,
    /// They stay as they are, or the driver gave them.
    Driver,
}

/// A volume that is published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) path: PathBuf,
    /// What is still to be done: nothing where it was all done before.
    pub(crate) ownership: Ownership,
    folder: PathBuf,
}

impl Published {
    /// A file beside what is recorded of the volume, which goes with it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Records that nothing is left to be done for the pod.
    pub(crate) fn done(&self) -> io::Result<()> {
        fs::write(self.folder.join(DONE), b"")
    }
}

/// The handle of a volume that lives in its pod: the same in each run.
pub(crate) fn inline_handle(uid: &str, volume: &str) -> String {
    let hash = digest(&SHA256, format!("{uid}{volume}").as_bytes());
    format!("csi-{}", hex::encode(hash))
}

fn mode(modes: &[String], several_writers: bool) -> Mode {
    let has = |wanted: &str| modes.iter().any(|mode| mode == wanted);
    if has("ReadWriteMany") {
        Mode::MultiNodeMultiWriter
    } else if has("ReadWriteOnce") {
        if several_writers { Mode::SingleNodeMultiWriter } else { Mode::SingleNodeWriter }
    } else if has("ReadWriteOncePod") {
        if several_writers { Mode::SingleNodeSingleWriter } else { Mode::SingleNodeWriter }
    } else {
        Mode::MultiNodeReaderOnly
    }
}

/// Who gives the files of a volume to the pod's group (pure).
fn ownership(wanted: &Wanted, spec: Option<&CSIDriverSpec>, driver: &Driver) -> Ownership {
    let policy = spec.and_then(|spec| spec.fs_group_policy.as_deref()).unwrap_or("ReadWriteOnceWithFSType");
    let once =
        wanted.access_modes.iter().any(|mode| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"));
    let is_ours = match policy {
        "File" => true,
        "None" => false,
        _ => once && !wanted.fs_type.is_empty(),
    };
    if is_ours && !driver.mount_group && !wanted.read_only && !wanted.block {
        Ownership::Kubelet
    } else {
        Ownership::Driver
    }
}

/// What this node cannot do for a driver.
fn refusal(wanted: &Wanted, spec: Option<&CSIDriverSpec>) -> Option<String> {
    let driver = &wanted.driver;
    if wanted.block && record::RESERVED.contains(&wanted.name.as_str()) {
        let name = &wanted.name;
        return Some(format!("a PersistentVolume with volumeMode Block must not have the name {name:?}"));
    }
    let modes = spec.and_then(|spec| spec.volume_lifecycle_modes.as_ref());
    let has = |mode: &str| modes.is_some_and(|modes| modes.iter().any(|it| it == mode));
    let is_persistent = modes.is_none_or(Vec::is_empty) || has("Persistent");
    let fits = match wanted.lifecycle {
        Lifecycle::Persistent => is_persistent,
        Lifecycle::Ephemeral => has("Ephemeral"),
    };
    (!fits).then(|| format!("volume mode {:?} not supported by driver {driver}", wanted.lifecycle))
}

/// What a pod does with the volume.
pub(super) fn capability(wanted: &Wanted, driver: &Driver, group: Option<u32>) -> v1::VolumeCapability {
    let access_type = if wanted.block {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: wanted.fs_type.clone(),
            mount_flags: wanted.mount_options.clone(),
            volume_mount_group: group
                .filter(|_| driver.mount_group)
                .map(|it| it.to_string())
                .unwrap_or_default(),
        })
    };
    v1::VolumeCapability {
        access_type: Some(access_type),
        access_mode: Some(AccessMode { mode: mode(&wanted.access_modes, driver.several_writers).into() }),
    }
}

impl Drivers {
    pub(super) async fn secret(
        &self,
        reference: Option<&SecretReference>,
    ) -> Result<BTreeMap<String, String>, CsiError> {
        let Some(reference) = reference else { return Ok(BTreeMap::new()) };
        let (namespace, name) = (
            reference.namespace.as_deref().unwrap_or_default(),
            reference.name.as_deref().unwrap_or_default(),
        );
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = api.get(name).await.map_err(CsiError::api("read secret", name))?;
        let text = |data: Vec<u8>| {
            String::from_utf8(data)
                .map_err(|_| CsiError::Refused(format!("secret {namespace}/{name} is no text")))
        };
        secret.data.into_iter().flatten().map(|(key, data)| Ok((key, text(data.0)?))).collect()
    }

    /// Makes a volume be there for a pod. May be repeated; `group` is the pod's.
    pub(crate) async fn publish(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        group: Option<u32>,
    ) -> Result<Published, CsiError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let bearer = Bearer::of(pod);
        let data_dir = &self.config.data_dir;
        let folder = record::pod_folder(data_dir, uid, &wanted.name);
        let Layout { record: recorded, staged, target } = wanted.layout(data_dir, uid);
        let turn = self.turn(&wanted.driver, &wanted.handle);
        if self.is_published(uid, wanted).await? {
            self.published.add(bearer, wanted, group);
            return Ok(Published { path: target, ownership: Ownership::Driver, folder });
        }
        let driver = self.find(&wanted.driver)?;
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        let known =
            api.get_opt(&wanted.driver).await.map_err(CsiError::api("read CSIDriver", &wanted.driver))?;
        let spec = known.as_ref().map(|known| &known.spec);
        if let Some(why) = refusal(wanted, spec) {
            return Err(CsiError::Refused(why));
        }
        let Attachment { id, metadata } = self.attachment(uid, wanted, spec).await?;
        let publish_context = metadata;
        // From here on nobody else works on the volume; that it stays attached was reported.
        let _turn = turn.lock().await;
        let record = Record {
            driver_name: wanted.driver.clone(),
            volume_handle: wanted.handle.clone(),
            volume_lifecycle_mode: format!("{:?}", wanted.lifecycle),
            spec_vol_id: wanted.name.clone(),
            node_name: self.config.node_name.clone(),
            attachment_id: id,
            volume_mode: if wanted.block { record::BLOCK.to_owned() } else { String::new() },
        };
        // From here on the pod's end takes back what was done, also of a run that ended in between.
        let (kept, of_pod) = (record.clone(), folder.clone());
        on_disk(move || kept.write(&of_pod)).await?;
        let above = target.parent().filter(|_| wanted.block).map(Path::to_owned);
        let (is_staged, made) = (wanted.is_staged_by(&driver), staged.clone());
        on_disk(move || {
            if let Some(above) = above {
                // The file in it is the driver's to make.
                record.write_first(&recorded)?;
                fs::create_dir_all(&above).map_err(CsiError::disk("create", &above))?;
            } else if is_staged {
                record.write(&recorded)?;
            }
            if is_staged {
                fs::create_dir_all(&made).map_err(CsiError::disk("create", &made))?;
            }
            Ok(())
        })
        .await?;
        if is_staged {
            let request = v1::NodeStageVolumeRequest {
                volume_id: wanted.handle.clone(),
                publish_context: publish_context.clone().into_iter().collect(),
                staging_target_path: driver.path(&staged),
                volume_capability: Some(capability(wanted, &driver, group)),
                secrets: self.secret(wanted.stage_secret.as_ref()).await?.into_iter().collect(),
                volume_context: wanted.attributes.clone().into_iter().collect(),
            };
            driver.stage(request).await?;
        }
        self.call_publish(&driver, &bearer, wanted, spec, group, publish_context).await?;
        if let Some(growth) = self.growth(wanted).await? {
            match self.expand(&driver, &bearer, wanted, group, growth).await {
                Err(error) if is_mountable(&error) => {
                    tracing::info!(volume = wanted.name, %error, "a volume is mounted although it has not grown");
                }
                expanded => expanded?,
            }
        }
        self.published.add(bearer, wanted, group);
        Ok(Published { path: target, ownership: ownership(wanted, spec, &driver), folder })
    }

    /// Has the driver publish a volume that it has staged, once more if it was published before.
    async fn call_publish(
        &self,
        driver: &Driver,
        bearer: &Bearer,
        wanted: &Wanted,
        spec: Option<&CSIDriverSpec>,
        group: Option<u32>,
        publish_context: BTreeMap<String, String>,
    ) -> Result<(), CsiError> {
        let Layout { record: _, staged, target } = wanted.layout(&self.config.data_dir, &bearer.uid);
        let staged = if wanted.is_staged_by(driver) { driver.path(&staged) } else { String::new() };
        let mut context = wanted.attributes.clone();
        // Of the pod a driver is told for file systems alone, as by upstream's kubelet.
        let of_pod = spec.filter(|_| !wanted.block);
        if of_pod.and_then(|spec| spec.pod_info_on_mount) == Some(true) {
            context.extend(bearer.about(wanted.lifecycle));
        }
        let mut secrets = self.secret(wanted.publish_secret.as_ref()).await?;
        let tokens = self.tokens_for(bearer, of_pod).await?;
        match spec.and_then(|spec| spec.service_account_token_in_secrets) {
            Some(true) => secrets.extend(tokens),
            Some(false) | None => context.extend(tokens),
        }
        let request = v1::NodePublishVolumeRequest {
            volume_id: wanted.handle.clone(),
            publish_context: publish_context.into_iter().collect(),
            staging_target_path: staged,
            target_path: driver.path(&target),
            volume_capability: Some(capability(wanted, driver, group)),
            readonly: wanted.read_only,
            secrets: secrets.into_iter().collect(),
            volume_context: context.into_iter().collect(),
        };
        driver.publish(request).await
    }

    /// Whether all was done for a pod.
    async fn is_published(&self, uid: &str, wanted: &Wanted) -> Result<bool, CsiError> {
        let folder = record::pod_folder(&self.config.data_dir, uid, &wanted.name);
        let (target, block) = (wanted.layout(&self.config.data_dir, uid).target, wanted.block);
        let is_there = move || {
            if !folder.join(DONE).exists() {
                return Ok(false);
            }
            if !block {
                return is_mounted(&target);
            }
            // What a driver has made that is no mount outlives the machine's start, which leads to nothing, or to another device.
            let given = folder.join(DEVICE_RECORD);
            Ok(is_device(&target) && !is_of_earlier_boot(&given).map_err(CsiError::Device)?)
        };
        on_disk(is_there).await
    }

    /// Has the driver make the file system of a published volume as large as the volume has become.
    pub(super) async fn expand_published(
        &self,
        Entry { bearer, wanted, group }: &Entry,
    ) -> Result<(), CsiError> {
        let turn = self.turn(&wanted.driver, &wanted.handle);
        let _turn = turn.lock().await;
        // The pod may have ended meanwhile, and for another one it may have grown.
        if !self.is_published(&bearer.uid, wanted).await? {
            return Ok(());
        }
        let Some(growth) = self.growth(wanted).await?.filter(|growth| self.is_growth_due(wanted, growth))
        else {
            return Ok(());
        };
        let driver = self.find(&wanted.driver)?;
        self.expand(&driver, bearer, wanted, *group, growth).await
    }

    /// Has the driver publish a volume again that is published, for it has asked for that (`requiresRepublish`).
    pub(super) async fn republish(
        &self,
        Entry { bearer, wanted, group }: &Entry,
        spec: &CSIDriverSpec,
    ) -> Result<(), CsiError> {
        let driver = self.find(&wanted.driver)?;
        let turn = self.turn(&wanted.driver, &wanted.handle);
        let _turn = turn.lock().await;
        // The pod may have ended meanwhile.
        if !self.is_published(&bearer.uid, wanted).await? {
            return Ok(());
        }
        let Attachment { id: _, metadata } = self.attachment(&bearer.uid, wanted, Some(spec)).await?;
        self.call_publish(&driver, bearer, wanted, Some(spec), *group, metadata).await
    }

    /// Takes all volumes of drivers back from a pod, also of an earlier run.
    pub(crate) async fn unpublish_all(&self, uid: &str) -> Result<(), CsiError> {
        self.published.forget(uid);
        self.tokens.forget(uid);
        let (data_dir, of) = (self.config.data_dir.clone(), uid.to_owned());
        let mut outcome = Ok(());
        for (folder, record) in on_disk(move || record::of_pod(&data_dir, &of)).await? {
            // Nothing was done before it was recorded.
            let Some(record) = record else { continue };
            let turn = self.turn(&record.driver_name, &record.volume_handle);
            let _turn = turn.lock().await;
            // One that cannot be taken back keeps no other one.
            let taken = self.unpublish(uid, &folder, &record).await;
            if taken.is_ok() {
                self.grown.lock().remove(&record.spec_vol_id);
                self.in_use.release(&volume_name(&record.driver_name, &record.volume_handle), uid);
            }
            outcome = outcome.and(taken);
        }
        // What was published again while a turn was waited for.
        self.published.forget(uid);
        self.tokens.forget(uid);
        outcome?;
        // What was waited for and never came.
        self.in_use.release_all(uid);
        Ok(())
    }

    async fn unpublish(&self, uid: &str, folder: &Path, record: &Record) -> Result<(), CsiError> {
        let driver = self.find(&record.driver_name)?;
        let Layout { record: recorded, staged, target } = record.layout(&self.config.data_dir, uid);
        let block = record.is_block();
        let request = v1::NodeUnpublishVolumeRequest {
            volume_id: record.volume_handle.clone(),
            target_path: driver.path(&target),
        };
        driver.unpublish(request).await?;
        if block {
            let target = target.clone();
            on_disk(move || remove_published_device(&target)).await?;
        }
        let (data_dir, of, known, at) =
            (self.config.data_dir.clone(), uid.to_owned(), record.clone(), recorded.clone());
        let is_last = move || {
            let is_its = Record::read(&at)?.is_some_and(|staged| staged.is_staged_with(&known));
            let is_last = !record::is_shared(&data_dir, &of, &known)?;
            Ok((is_last, is_its))
        };
        let (is_last, is_its) = on_disk(is_last).await?;
        if is_last && is_its {
            if driver.stages {
                let request = v1::NodeUnstageVolumeRequest {
                    volume_id: record.volume_handle.clone(),
                    staging_target_path: driver.path(&staged),
                };
                driver.unstage(request).await?;
            }
            let remove = if block { remove_staged_device } else { remove };
            on_disk(move || remove(&staged, &recorded)).await?;
        }
        let folder = folder.to_owned();
        on_disk(move || remove(&target, &folder)).await?;
        // Nobody uses it any more, which may have been in the way of its growth.
        if is_last {
            self.refusals.lock().forget(&record.spec_vol_id);
        }
        Ok(())
    }
}

/// Runs what waits for the disk beside the tasks.
pub(super) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CsiError> + Send + 'static,
) -> Result<T, CsiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(CsiError::Refused("the node is stopping".to_owned())),
    }
}

/// Whether the path fits where something is mounted. Blocks, as all below does.
fn has_mount(path: &Path, fits: impl Fn(&Path, &Path) -> bool) -> Result<bool, CsiError> {
    let list = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(list).map_err(CsiError::disk("read", list))?;
    // The kernel lists mounts by their real paths. What may be mounted is not entered: a server that is gone would keep who does.
    let above = path.parent().and_then(|above| fs::canonicalize(above).ok());
    let real = above.zip(path.file_name()).map_or_else(|| path.to_owned(), |(above, name)| above.join(name));
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| fits(Path::new(point), &real)))
}

fn is_mounted(path: &Path) -> Result<bool, CsiError> {
    has_mount(path, |point, path| point == path)
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Removes what a driver has left where it has published a device.
fn remove_published_device(target: &Path) -> Result<(), CsiError> {
    if is_mounted(target)? {
        return Err(CsiError::Refused(format!("the driver has left a mount at {}", target.display())));
    }
    // Drivers make what they like there, and may have left the folder of a mount.
    let removed = fs::remove_file(target).or_else(|error| match error.kind() {
        io::ErrorKind::IsADirectory => fs::remove_dir(target),
        _ => Err(error),
    });
    unless_missing(removed).map_err(CsiError::disk("remove", target))?;
    // It stays where other pods have the device.
    target.parent().map(fs::remove_dir);
    Ok(())
}

/// Removes what was staged of a device, and then what is recorded of it: nothing through a mount.
fn remove_staged_device(staged: &Path, recorded: &Path) -> Result<(), CsiError> {
    if has_mount(staged, |point, staged| point.starts_with(staged))? {
        return Err(CsiError::Refused(format!("the driver has left a mount below {}", staged.display())));
    }
    unless_missing(fs::remove_dir_all(staged)).map_err(CsiError::disk("remove", staged))?;
    Record::remove(recorded)
}

/// Removes a folder of ours, once its mount is gone: nothing is removed through a mount.
fn remove(mount: &Path, folder: &Path) -> Result<(), CsiError> {
    if is_mounted(mount)? {
        return Err(CsiError::Refused(format!("the driver has left a mount at {}", mount.display())));
    }
    match fs::remove_dir(mount) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(CsiError::disk("remove", mount)(error));
        }
        Ok(()) | Err(_) => {}
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CsiError::disk("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
impl Wanted {
    /// Some volume.
    pub(super) fn example() -> Self {
        Wanted {
            driver: "d".into(),
            handle: "h".into(),
            name: "v".into(),
            lifecycle: Lifecycle::Persistent,
            block: false,
            read_only: false,
            fs_type: String::new(),
            attributes: BTreeMap::new(),
            access_modes: vec!["ReadWriteOnce".into()],
            mount_options: Vec::new(),
            stage_secret: None,
            publish_secret: None,
            expand_secret: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(lifecycle: Lifecycle) -> Wanted {
        Wanted { lifecycle, ..Wanted::example() }
    }

    #[test]
    fn a_mount_is_found_by_its_name_alone() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(is_mounted(Path::new("/sys/../proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
        // A link in the place of a mount point is none, wherever it leads.
        let folder = std::env::temp_dir().join(format!("keelson-mounted-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/proc", folder.join("mount")).unwrap();
        assert!(!is_mounted(&folder.join("mount")).unwrap());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_a_driver_has_left_of_a_device_is_removed_unless_something_is_in_it() {
        let folder = std::env::temp_dir().join(format!("keelson-published-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let target = folder.join("pv/uid");
        let make_above = || fs::create_dir_all(folder.join("pv")).unwrap();
        remove_published_device(&target).unwrap();
        make_above();
        fs::write(&target, "").unwrap();
        remove_published_device(&target).unwrap();
        assert!(!folder.join("pv").exists());
        fs::create_dir_all(&target).unwrap();
        remove_published_device(&target).unwrap();
        assert!(!folder.join("pv").exists());
        fs::create_dir_all(target.join("kept")).unwrap();
        assert!(remove_published_device(&target).is_err() && target.join("kept").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn access_modes_become_what_the_driver_can_tell_apart() {
        let of = |modes: &[&str], several| {
            mode(&modes.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(), several)
        };
        assert_eq!(of(&["ReadWriteOnce"], false), Mode::SingleNodeWriter);
        assert_eq!(of(&["ReadWriteOnce"], true), Mode::SingleNodeMultiWriter);
        assert_eq!(of(&["ReadWriteOncePod"], true), Mode::SingleNodeSingleWriter);
        assert_eq!(of(&["ReadOnlyMany"], true), Mode::MultiNodeReaderOnly);
        assert_eq!(of(&["ReadOnlyMany", "ReadWriteMany"], false), Mode::MultiNodeMultiWriter);
    }

    #[test]
    fn what_a_driver_is_not_made_for_is_refused() {
        let spec = |value: serde_json::Value| serde_json::from_value::<CSIDriverSpec>(value).unwrap();
        assert_eq!(refusal(&wanted(Lifecycle::Persistent), None), None);
        let named = |name: &str, block| Wanted { name: name.into(), block, ..Wanted::example() };
        assert_eq!(
            refusal(&named("staging", true), None).unwrap(),
            "a PersistentVolume with volumeMode Block must not have the name \"staging\""
        );
        assert!(refusal(&named("publish", true), None).is_some());
        assert_eq!(refusal(&named("staging", false), None), None);
        assert_eq!(refusal(&named("data", true), None), None);
        assert_eq!(
            refusal(&wanted(Lifecycle::Ephemeral), None).unwrap(),
            "volume mode Ephemeral not supported by driver d"
        );
        let inline = spec(json!({"volumeLifecycleModes": ["Ephemeral"]}));
        assert_eq!(refusal(&wanted(Lifecycle::Ephemeral), Some(&inline)), None);
        assert!(refusal(&wanted(Lifecycle::Persistent), Some(&inline)).is_some());
    }
}
