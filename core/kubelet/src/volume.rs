//! Volumes of pods: made below `DATA/pods/UID/volumes/kubernetes.io~KIND/NAME`, kept current, taken away.
//!
//! - `plan` (pure): which kind a volume is, or why it is refused
//! - `payload` (pure) and `source`: the files of configMap, secret, downwardAPI and projected volumes
//! - `atomic_writer`: changes all files of a volume at once
//! - `token`: service-account tokens, asked for anew before they end
//! - `empty_dir`, `host_path`: folders; `sub_path`: parts of volumes, opened without leaving the volume
//! - `claim`: what lies behind a claim; `local`: folders of persistent volumes on this node
//! - `mode` (pure) and `device`: block devices, held while pods have them
//! - `ownership`: fsGroup; `mount_point`: mounts below a pod's folder, and its removal
//!
//! One task makes content anew when an object changed or a token is old; containers see it without a restart.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIVolumeSource, Container, Pod, SecretReference, Volume};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Config;
use crate::csi::{self, Drivers, Wanted};
use crate::objects::Objects;

mod atomic_writer;
mod claim;
mod device;
mod empty_dir;
mod error;
mod host_path;
pub(crate) mod local;
mod mode;
mod mount_point;
mod mounts;
mod ownership;
mod payload;
mod plan;
mod source;
mod sub_path;
pub(crate) mod token;

pub(crate) use device::{DeviceError, RECORD as DEVICE_RECORD, is_of_earlier_boot};
pub(crate) use error::{SetUpError, VolumeError};
pub(crate) use mounts::Recursion;
use plan::Kind;
pub(crate) use plan::{Local, local as local_volumes};

/// No token is asked for more often, whatever the clocks say.
const PAUSE: Duration = Duration::from_secs(1);
/// The wall clock is looked at so often while a token is waited for: it may have been set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);
/// How long after a failed refresh the next is tried.
const RETRY: Duration = Duration::from_secs(30);

/// All volumes of this node's pods.
pub(crate) struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    objects: Arc<Objects>,
    client: kube::Client,
    drivers: Arc<Drivers>,
    tokens: token::Tokens,
    /// Where the volumes behind claims are, by the pod's UID and the volume's name.
    places: Mutex<HashMap<(String, String), Place>>,
    /// The block devices of pods, by the same.
    held: Mutex<HashMap<(String, String), device::Holding>>,
    /// Pods whose volumes are set up, in their newest state, with a lock that keeps two set-ups of one pod apart.
    pods: Mutex<HashMap<String, Known>>,
    /// A token's end may have come nearer.
    timing: Notify,
}

/// Where a volume is that is not in the pod's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A folder that is mounted.
    Folder(PathBuf),
    /// A block device that containers get as it is, by the link in the pod's folder.
    Device { link: PathBuf, read_only: bool },
    /// An image, by the runtime's name of it.
    Image(String),
}

impl Place {
    fn path(&self) -> Option<&Path> {
        match self {
            Place::Folder(path) | Place::Device { link: path, .. } => Some(path),
            Place::Image(_) => None,
        }
    }
}

#[derive(Clone)]
struct Known {
    pod: Arc<Pod>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

fn uid(pod: &Pod) -> Result<&str, VolumeError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    // It becomes a part of a path.
    if uid.is_empty() || uid.starts_with('.') || uid.contains('/') {
        return Err(VolumeError::Uid { uid: uid.to_owned() });
    }
    Ok(uid)
}

impl Volumes {
    /// Must be called within a tokio runtime: content is kept current by a task that ends with the last user.
    pub(crate) fn new(
        config: Arc<Config>,
        client: kube::Client,
        objects: Arc<Objects>,
        drivers: Arc<Drivers>,
    ) -> Self {
        let tokens = token::Tokens::new(client.clone());
        let (places, held, pods) = (Mutex::default(), Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner {
            config,
            objects,
            client,
            drivers,
            tokens,
            places,
            held,
            pods,
            timing: Notify::new(),
        });
        tokio::spawn(keep_current(Arc::downgrade(&inner), Arc::clone(&inner.objects)));
        Volumes { inner }
    }

    /// Makes the pod's volumes, or makes their content current. May be repeated, also with a newer state of the pod.
    ///
    /// The pod's objects are registered by this; [`Volumes::tear_down`] forgets them.
    pub(crate) async fn set_up(&self, pod: &Arc<Pod>) -> Result<(), VolumeError> {
        let uid = uid(pod)?.to_owned();
        self.inner.objects.register(pod);
        let turn = {
            let mut pods = self.inner.pods.lock();
            let fresh = || Known { pod: Arc::default(), turn: Arc::default() };
            let known = pods.entry(uid).or_insert_with(fresh);
            known.pod = Arc::clone(pod);
            Arc::clone(&known.turn)
        };
        let _turn = turn.lock().await;
        let result = self.inner.make_all(pod).await;
        self.inner.timing.notify_one();
        result
    }

    /// The mounts of a container of a pod whose volumes are set up. `env` is for `subPathExpr`, `recursion` what the pod's
    /// runtime can do.
    pub(crate) async fn mounts(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        env: &[(String, String)],
        recursion: Recursion,
    ) -> Result<Vec<keelson_cri::v1::Mount>, VolumeError> {
        let uid = uid(pod)?.to_owned();
        let (pod, container, env) = (Arc::clone(pod), container.clone(), env.to_vec());
        let data_dir = self.inner.config.data_dir.clone();
        let places = self.inner.places_of(&uid);
        blocking(move || mounts::of(&data_dir, &uid, &pod, &container, &env, &places, recursion)).await
    }

    /// Takes what the runtime calls the image of a volume.
    pub(crate) fn found_image(&self, pod: &Pod, volume: &str, id: String) -> Result<(), VolumeError> {
        let key = (uid(pod)?.to_owned(), volume.to_owned());
        self.inner.places.lock().insert(key, Place::Image(id));
        Ok(())
    }

    /// The block devices of a container of a pod whose volumes are set up.
    pub(crate) fn devices(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Vec<keelson_cri::v1::Device>, VolumeError> {
        mounts::devices(container, &self.inner.places_of(uid(pod)?))
    }

    /// UIDs of all pods that have a folder, also those of an earlier run.
    pub(crate) async fn remaining(&self) -> Result<Vec<String>, VolumeError> {
        let folder = self.inner.config.data_dir.join("pods");
        blocking(move || mount_point::names(&folder)).await
    }

    /// Takes everything below `DATA/pods/UID` away: mounts, volumes, and the folder itself. May be repeated, also
    /// for pods of an earlier run. What a hostPath or a link points to stays.
    pub(crate) async fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        if uid.is_empty() || uid.starts_with('.') || uid.contains('/') {
            return Err(VolumeError::Uid { uid: uid.to_owned() });
        }
        let known = self.inner.pods.lock().remove(uid);
        self.inner.objects.unregister(uid);
        self.inner.tokens.forget(uid);
        let turn = known.map(|known| known.turn).unwrap_or_default();
        let _turn = turn.lock().await;
        // What was under way when the pod was forgotten may have got a token meanwhile.
        self.inner.tokens.forget(uid);
        let folder = self.inner.config.data_dir.join("pods").join(uid);
        // Its containers have gone: a device that is held could not be taken away.
        self.inner.held.lock().retain(|(of, _), _| of != uid);
        let (data_dir, of) = (self.inner.config.data_dir.clone(), uid.to_owned());
        blocking(move || {
            let failed = |reason| VolumeError::TearDown {
                action: "remove the devices of",
                path: of.clone().into(),
                reason,
            };
            device::unlink_all(&data_dir, &of).map_err(failed)
        })
        .await?;
        self.inner.drivers.unpublish_all(uid).await?;
        blocking(move || mount_point::remove(&folder)).await?;
        self.inner.places.lock().retain(|(of, _), _| of != uid);
        Ok(())
    }
}

/// Runs what waits for the disk beside the tasks.
async fn blocking<T: Send + 'static, E: From<error::Interrupted> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(error::Interrupted.into()),
    }
}

/// Pods of which something could not be made current.
#[derive(Debug, Default)]
struct Failures {
    pods: HashSet<String>,
    /// When it is tried again.
    retry: Option<Instant>,
}

impl Failures {
    /// (pure) How it went with a pod. What goes well with others puts nothing off.
    fn note(&mut self, uid: String, is_well: bool, now: Instant) {
        if is_well {
            self.pods.remove(&uid);
        } else {
            self.pods.insert(uid);
        }
        self.retry = match self.retry {
            _ if self.pods.is_empty() => None,
            Some(retry) if is_well || retry > now => Some(retry),
            Some(_) | None => Some(now + RETRY),
        };
    }

    /// (pure) Forgets pods.
    fn forget(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.pods.retain(|uid| !is_gone(uid));
        if self.pods.is_empty() {
            self.retry = None;
        }
    }
}

/// Makes content anew when objects of pods changed, and tokens when they are old.
async fn keep_current(inner: Weak<Inner>, objects: Arc<Objects>) {
    let mut failures = Failures::default();
    loop {
        let Some(alive) = inner.upgrade() else { return };
        let now = jiff::Timestamp::now();
        let refresh = alive.tokens.next_refresh(now);
        let next = refresh.map(|at| {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            Instant::now() + wait.clamp(PAUSE, LOOK_AT_CLOCK)
        });
        let retry = failures.retry;
        let due = retry.into_iter().chain(next).min();
        let timer = async {
            match due {
                // What failed is not tried without a pause.
                Some(due) => tokio::time::sleep_until(retry.map_or(due, |retry| due.max(retry))).await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = objects.changed() => Some(changed),
            () = timer => None,
            () = alive.timing.notified() => continue,
        };
        // Nothing is due yet, unless somebody has set the clock.
        let is_early = alive.tokens.next_refresh(jiff::Timestamp::now()) > Some(jiff::Timestamp::now());
        if changed.is_none() && retry.is_none() && is_early {
            continue;
        }
        let pods: Vec<(String, Known)> = {
            let known = alive.pods.lock();
            let wanted = |uid: &str| changed.as_ref().is_none_or(|changed| changed.contains(uid));
            let chosen = known.iter().filter(|(uid, _)| wanted(uid));
            chosen.map(|(uid, known)| (uid.clone(), known.clone())).collect()
        };
        for (uid, Known { pod, turn }) in pods {
            let _turn = turn.lock().await;
            let here = alive.pods.lock().contains_key(&uid);
            let made = if here { alive.refresh(&pod).await } else { Ok(()) };
            failures.note(uid, made.is_ok(), Instant::now());
            if let Err(error) = made {
                let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
                tracing::warn!(?namespace, pod = ?name, %error, "a volume cannot be made current");
            }
        }
        // Those that have gone.
        failures.forget(|uid| !alive.pods.lock().contains_key(uid));
    }
}

impl Inner {
    fn places_of(&self, uid: &str) -> HashMap<String, Place> {
        let places = self.places.lock();
        let own = places.iter().filter(|((of, _), _)| of == uid);
        own.map(|((_, volume), place)| (volume.clone(), place.clone())).collect()
    }

    /// Has a driver make a volume be there.
    async fn publish(
        &self,
        pod: &Pod,
        volume: &Volume,
        wanted: &Wanted,
        read_only: bool,
    ) -> Result<(), SetUpError> {
        let group = ownership::FsGroup::of(pod);
        let always = ownership::FsGroup::is_always(pod);
        let published = self.drivers.publish(pod, wanted, group.map(ownership::FsGroup::number)).await?;
        let path = published.path.clone();
        if wanted.block {
            let record = published.beside(device::RECORD);
            self.map(
                pod,
                volume,
                Mapping { plugin: "kubernetes.io~csi", name: &wanted.name, path, record, read_only },
            )
            .await?;
            return blocking(move || {
                published.done().map_err(error::io_error("write the mark of", &published.path))
            })
            .await;
        }
        blocking(move || {
            if let (Some(group), csi::Ownership::Kubelet) = (group, published.ownership)
                && (always || !group.is_set(&published.path)?)
            {
                group.apply(&published.path, ownership::Access::Write)?;
            }
            published.done().map_err(error::io_error("write the mark of", &published.path))
        })
        .await?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.places.lock().insert((uid, volume.name.clone()), Place::Folder(path));
        Ok(())
    }

    /// Gives a pod a block device that is there.
    async fn map(&self, pod: &Pod, volume: &Volume, mapping: Mapping<'_>) -> Result<(), SetUpError> {
        let Mapping { plugin, name, path, record, read_only } = mapping;
        let key = (pod.metadata.uid.clone().unwrap_or_default(), volume.name.clone());
        let link = device::link(&self.config.data_dir, &key.0, plugin, name);
        let made = link.clone();
        let held = blocking(move || device::map(&path, &made, &record).map_err(SetUpError::from)).await?;
        self.held.lock().entry(key.clone()).or_default().add(held);
        self.places.lock().insert(key, Place::Device { link, read_only });
        Ok(())
    }

    /// A volume of a driver that lives in its pod.
    async fn make_inline(
        &self,
        pod: &Pod,
        volume: &Volume,
        source: &CSIVolumeSource,
    ) -> Result<(), SetUpError> {
        let (uid, namespace) =
            (pod.metadata.uid.as_deref().unwrap_or_default(), pod.metadata.namespace.clone());
        let secret = source.node_publish_secret_ref.clone();
        let wanted = Wanted {
            driver: source.driver.clone(),
            handle: csi::inline_handle(uid, &volume.name),
            name: volume.name.clone(),
            lifecycle: csi::Lifecycle::Ephemeral,
            block: false,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            mount_options: Vec::new(),
            stage_secret: None,
            publish_secret: secret.map(|it| SecretReference { name: Some(it.name), namespace }),
            expand_secret: None,
        };
        self.publish(pod, volume, &wanted, wanted.read_only).await
    }

    /// Makes what lies behind a claim ready for the pod. `mark` is made when it is, and goes with the pod.
    async fn make_claimed(
        &self,
        pod: &Pod,
        volume: &Volume,
        kind: Kind<'_>,
        mark: PathBuf,
    ) -> Result<(), SetUpError> {
        let Some(name) = claim::name_of(&kind, pod, volume) else { return Ok(()) };
        let (node, ephemeral) = (&self.config.node_name, matches!(kind, Kind::Ephemeral));
        let claimed = claim::resolve(&self.client, node, pod, &name, ephemeral, |_| mark.exists()).await?;
        let misuse = pod.spec.as_ref().and_then(|spec| mode::misuse(spec, &volume.name, claimed.block));
        if let Some(misuse) = misuse {
            return Err(SetUpError::Misused(misuse));
        }
        let is_block = claimed.block;
        let made = self.make_resolved(pod, volume, kind, mark, claimed).await;
        made.map_err(|reason| if is_block { SetUpError::Block(Box::new(reason)) } else { reason })
    }

    /// Makes what a claim's volume is ready for the pod.
    async fn make_resolved(
        &self,
        pod: &Pod,
        volume: &Volume,
        kind: Kind<'_>,
        mark: PathBuf,
        claimed: claim::Claimed,
    ) -> Result<(), SetUpError> {
        let read_only = claimed.read_only || kind.is_read_only();
        let group = ownership::FsGroup::of(pod).filter(|_| !kind.is_read_only());
        let always = ownership::FsGroup::is_always(pod);
        if let claim::Backing::Csi(wanted) = &claimed.backing {
            let wanted =
                Wanted { read_only: wanted.read_only || kind.is_read_only(), ..Wanted::clone(wanted) };
            return self.publish(pod, volume, &wanted, read_only).await;
        }
        let folders = local::folder(&self.config);
        let (name, is_block, record) = (claimed.name.clone(), claimed.block, mark.join(device::RECORD));
        let path = blocking(move || mount_claimed(&claimed, &folders, &mark, group, always)).await?;
        if is_block {
            let plugin = "kubernetes.io~local-volume";
            return self.map(pod, volume, Mapping { plugin, name: &name, path, record, read_only }).await;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.places.lock().insert((uid, volume.name.clone()), Place::Folder(path));
        Ok(())
    }

    async fn make_all(&self, pod: &Pod) -> Result<(), VolumeError> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        // What is refused is refused before anything is made.
        for volume in volumes {
            plan::kind(volume).map_err(|reason| VolumeError::new(&volume.name, reason.into()))?;
        }
        let mut outcome = Ok(());
        for volume in volumes {
            // What containers may be writing to is looked at whatever has become of the others.
            let is_device = || pod.spec.as_ref().is_some_and(|spec| mode::is_device(spec, &volume.name));
            if outcome.is_err() && !is_device() {
                continue;
            }
            let made = self.make(pod, volume).await;
            if let Err(reason) = made {
                let error = VolumeError::new(&volume.name, reason);
                if outcome.is_ok() || error.is_loss() {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Makes the content of those volumes current that have content.
    async fn refresh(&self, pod: &Pod) -> Result<(), VolumeError> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut result = Ok(());
        for volume in volumes {
            let made = match plan::kind(volume) {
                Ok(
                    Kind::EmptyDir(_)
                    | Kind::HostPath(_)
                    | Kind::Claim(_)
                    | Kind::Ephemeral
                    | Kind::Csi(_)
                    | Kind::Image,
                ) => Ok(()),
                Ok(_) => self.make(pod, volume).await,
                Err(reason) => Err(reason.into()),
            };
            result = result.and(made.map_err(|reason| VolumeError::new(&volume.name, reason)));
        }
        result
    }

    async fn make(&self, pod: &Pod, volume: &Volume) -> Result<(), SetUpError> {
        let kind = plan::kind(volume)?;
        let folder = plan::path(
            &self.config.data_dir,
            pod.metadata.uid.as_deref().unwrap_or_default(),
            &kind,
            &volume.name,
        );
        let group = ownership::FsGroup::of(pod);
        match kind {
            Kind::EmptyDir(source) => {
                let allocatable = crate::node::allocatable::memory(&self.config)?;
                let plan = empty_dir::plan(source, pod, allocatable)?;
                blocking(move || empty_dir::make(&folder, &plan, group)).await
            }
            Kind::HostPath(source) => {
                let kind = source.type_.clone().unwrap_or_default();
                blocking(move || host_path::check(&folder, &kind).map_err(SetUpError::from)).await
            }
            // Found when all else is there.
            Kind::Image => Ok(()),
            Kind::Csi(source) => self.make_inline(pod, volume, source).await,
            kind @ (Kind::Claim(_) | Kind::Ephemeral) => self.make_claimed(pod, volume, kind, folder).await,
            kind @ (Kind::ConfigMap(_) | Kind::Secret(_) | Kind::DownwardApi(_) | Kind::Projected(_)) => {
                let (config, objects, tokens) = (&self.config, &self.objects, &self.tokens);
                let sources = source::Sources { pod, config, objects, tokens };
                let payload = sources.payload(&kind).await?;
                let in_memory = kind.is_in_memory();
                blocking(move || write(&folder, in_memory, payload, group)).await
            }
        }
    }
}

/// A block device that a pod is to have.
struct Mapping<'a> {
    /// The folder of links, by the volume's kind.
    plugin: &'static str,
    /// The name of the PersistentVolume.
    name: &'a str,
    path: PathBuf,
    /// The file that says what the pod was given.
    record: PathBuf,
    read_only: bool,
}

/// Makes or checks a persistent volume on this node. Answers where it is.
fn mount_claimed(
    claimed: &claim::Claimed,
    folders: &Path,
    mark: &Path,
    group: Option<ownership::FsGroup>,
    always: bool,
) -> Result<PathBuf, SetUpError> {
    let path = match &claimed.backing {
        claim::Backing::HostPath(source) => {
            host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
            PathBuf::from(&source.path)
        }
        claim::Backing::Csi(wanted) => {
            return Err(
                csi::CsiError::Refused(format!("a volume of driver {} is no path", wanted.driver)).into()
            );
        }
        claim::Backing::Local(path) => {
            if claimed.is_own {
                local::make(folders, &claimed.name, path)?;
            }
            // That a device is one is seen when it is opened.
            if !claimed.block {
                host_path::check(path, "Directory")?;
            }
            path.clone()
        }
    };
    // Once for a pod: its containers may be at work there when it is set up again.
    if let (claim::Backing::Local(path), Some(group), false, false) =
        (&claimed.backing, group, claimed.block, mark.exists())
        && (always || !group.is_set(path)?)
    {
        group.apply(path, ownership::Access::Write)?;
    }
    mount_point::folder(mark)?;
    Ok(path)
}

fn write(
    folder: &Path,
    in_memory: bool,
    payload: payload::Payload,
    group: Option<ownership::FsGroup>,
) -> Result<(), SetUpError> {
    mount_point::folder(folder)?;
    if in_memory {
        mount_point::tmpfs(folder, None, 0o755)?;
    }
    atomic_writer::write(folder, &payload, group)?;
    Ok(())
}

#[cfg(test)]
mod tests;
