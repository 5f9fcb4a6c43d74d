//! What pods use of the node's disk: logs, writable layers and local volumes, in bytes and inodes.
//!
//! Counting walks folders, so it is done in the background, and who asks gets what was counted last. **Guarantee**: all counting
//! together takes no more than one part in [`SHARE`] of a processor, as long as no pod takes [`LONGEST`] / [`SHARE`] by itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::iter::Sum;
use std::ops::Add;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_cri::v1;
use parking_lot::RwLock;

use crate::config::Config;
use crate::labels;
use crate::pod::PodModel;
use crate::runtime_client::RuntimeClient;
use crate::volume::{self, Local};

/// A pod with limits is counted this often, if that is cheap.
const LIMITED: Duration = Duration::from_secs(10);
/// Every other pod is.
const UNLIMITED: Duration = Duration::from_secs(60);
/// No pod is left uncounted for longer.
const LONGEST: Duration = Duration::from_secs(600);
/// Counting takes one part in so many of the time.
const SHARE: u32 = 20;

/// Room on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes that are allocated, which are less than the length of files with holes.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) inodes: u64,
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What one container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    /// Its log files, also those of earlier instances that are kept.
    pub(crate) logs: Usage,
    /// What its newest instance has written beside its volumes, as far as the runtime says.
    pub(crate) layer: Option<Usage>,
}

/// What a volume in the pod's folder uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VolumeUsage {
    /// How much.
    pub(crate) usage: Usage,
    /// Of memory, and not of a disk.
    pub(crate) in_memory: bool,
}

/// What one pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodUsage {
    /// When it was counted.
    pub(crate) at: Timestamp,
    /// By container.
    pub(crate) containers: BTreeMap<String, ContainerUsage>,
    /// By volume; those elsewhere than in the pod's folder are not listed.
    pub(crate) volumes: BTreeMap<String, VolumeUsage>,
    /// What the node keeps of the pod: its hosts file, last words.
    pub(crate) files: Usage,
}

impl PodUsage {
    /// Everything that lies on a disk and goes with the pod.
    pub(crate) fn ephemeral_storage(&self) -> Usage {
        let containers = self.containers.values().map(|one| one.logs + one.layer.unwrap_or_default());
        containers.chain([self.local_volumes(), self.files]).sum()
    }

    /// The volumes on a disk.
    pub(crate) fn local_volumes(&self) -> Usage {
        self.volumes.values().filter(|one| !one.in_memory).map(|one| one.usage).sum()
    }
}

#[derive(Debug)]
struct Entry {
    usage: Arc<PodUsage>,
    due: Instant,
}

/// What all pods of the node use.
#[derive(Debug, Default)]
pub(crate) struct DiskUsage {
    by_uid: RwLock<HashMap<String, Entry>>,
}

/// Allocated bytes and inodes below a folder, on its file system alone; a file of several names counts once.
fn count(folder: &Path) -> Usage {
    let Ok(root) = fs::symlink_metadata(folder) else { return Usage::default() };
    let mut sum = Usage { bytes: root.blocks() * 512, inodes: 1 };
    let mut seen = HashSet::new();
    let mut folders = if root.is_dir() { vec![folder.to_owned()] } else { Vec::new() };
    while let Some(folder) = folders.pop() {
        // What goes while it is counted is not there.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() != root.dev()
                || (found.nlink() > 1 && !found.is_dir() && !seen.insert(found.ino()))
            {
                continue;
            }
            sum = sum + Usage { bytes: found.blocks() * 512, inodes: 1 };
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    sum
}

/// Where a pod's files are.
#[derive(Debug)]
struct Places {
    uid: String,
    logs: PathBuf,
    containers: Vec<String>,
    volumes: Vec<Local>,
    folder: PathBuf,
    limited: bool,
}

impl Places {
    fn new(config: &Config, pod: &PodModel) -> Self {
        let volumes = pod.spec().volumes.as_deref().unwrap_or_default();
        Self {
            logs: crate::sandbox::log_directory(pod, config),
            containers: pod.members.iter().map(|member| member.name().to_owned()).collect(),
            volumes: volume::local_volumes(&config.data_dir, &pod.uid, volumes),
            folder: config.data_dir.join("pods").join(&pod.uid),
            limited: is_limited(pod),
            uid: pod.uid.clone(),
        }
    }

    fn count(&self) -> PodUsage {
        let container = |name: &String| {
            (name.clone(), ContainerUsage { logs: count(&self.logs.join(name)), layer: None })
        };
        let volume = |one: &Local| {
            (one.name.clone(), VolumeUsage { usage: count(&one.folder), in_memory: one.in_memory })
        };
        PodUsage {
            at: Timestamp::now(),
            containers: self.containers.iter().map(container).collect(),
            volumes: self.volumes.iter().map(volume).collect(),
            files: count(&self.folder.join("etc-hosts")) + count(&self.folder.join("containers")),
        }
    }
}

/// Whether anything bounds what the pod may write.
pub(crate) fn is_limited(pod: &PodModel) -> bool {
    let volumes = pod.spec().volumes.iter().flatten();
    let mut sizes = volumes.filter_map(|volume| volume.empty_dir.as_ref()?.size_limit.as_ref());
    let limited = |member: &crate::pod::Member| {
        let limits = member.container.resources.as_ref().and_then(|all| all.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key("ephemeral-storage"))
    };
    sizes.next().is_some() || pod.members.iter().any(limited)
}

type Layers = HashMap<(String, String), (u32, Usage)>;

/// (pure) The writable layer of the newest instance of each container, by the pod's UID and the container's name.
fn layers(stats: Vec<v1::ContainerStats>) -> Layers {
    let mut found: Layers = HashMap::new();
    for one in stats {
        let Some((attributes, layer)) = one.attributes.zip(one.writable_layer) else { continue };
        let label = |name: &str| attributes.labels.get(name).cloned();
        let Some(key) = label(labels::POD_UID).zip(label(labels::CONTAINER_NAME)) else { continue };
        let attempt = attributes.metadata.map_or(0, |metadata| metadata.attempt);
        let usage = Usage {
            bytes: layer.used_bytes.map_or(0, |used| used.value),
            inodes: layer.inodes_used.map_or(0, |used| used.value),
        };
        if found.get(&key).is_none_or(|(known, _)| *known <= attempt) {
            found.insert(key, (attempt, usage));
        }
    }
    found
}

/// (pure) When a pod is counted again, of which counting took so long on a node of so many pods.
fn pause(limited: bool, took: Duration, pods: usize) -> Duration {
    let pods = u32::try_from(pods.max(1)).unwrap_or(u32::MAX);
    let fair = took.saturating_mul(SHARE).saturating_mul(pods);
    fair.max(if limited { LIMITED } else { UNLIMITED }).min(LONGEST)
}

impl DiskUsage {
    /// What a pod used when it was counted last; nothing before that.
    pub(crate) fn of(&self, uid: &str) -> Option<Arc<PodUsage>> {
        self.by_uid.read().get(uid).map(|entry| Arc::clone(&entry.usage))
    }

    /// Counts those pods whose turn it is, and forgets those that are gone.
    pub(crate) async fn refresh(&self, config: &Config, runtime: &RuntimeClient, pods: &[Arc<Pod>]) {
        let now = Instant::now();
        let models: Vec<PodModel> =
            pods.iter().filter_map(|pod| PodModel::new(Arc::clone(pod)).ok()).collect();
        let due: Vec<Places> = {
            let mut known = self.by_uid.write();
            known.retain(|uid, _| models.iter().any(|pod| pod.uid == *uid));
            let due = |pod: &&PodModel| known.get(&pod.uid).is_none_or(|entry| entry.due <= now);
            models.iter().filter(due).map(|pod| Places::new(config, pod)).collect()
        };
        if due.is_empty() {
            return;
        }
        let stats = runtime.list_container_stats(v1::ListContainerStatsRequest { filter: None }).await;
        let layers = match stats {
            Ok(answer) => layers(answer.stats),
            Err(error) => {
                tracing::warn!(%error, "the runtime does not say what containers have written");
                Layers::new()
            }
        };
        let work = move || {
            let each = due.into_iter().map(|places| {
                let begun = Instant::now();
                let usage = places.count();
                (places, usage, begun.elapsed())
            });
            each.collect::<Vec<_>>()
        };
        let counted = match tokio::task::spawn_blocking(work).await {
            Ok(counted) => counted,
            Err(error) => {
                tracing::error!(%error, "what pods use of the disk is not counted");
                return;
            }
        };
        let mut known = self.by_uid.write();
        for (places, mut usage, took) in counted {
            for (name, container) in &mut usage.containers {
                let before = known.get(&places.uid).and_then(|entry| entry.usage.containers.get(name));
                let key = (places.uid.clone(), name.clone());
                container.layer = match layers.get(&key) {
                    Some((_, layer)) => Some(*layer),
                    None => before.and_then(|before| before.layer).filter(|_| layers.is_empty()),
                };
            }
            let due = Instant::now() + pause(places.limited, took, models.len());
            known.insert(places.uid, Entry { usage: Arc::new(usage), due });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_counted_with_what_is_below_and_each_file_once() {
        let folder = std::env::temp_dir().join(format!("keelson-usage-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("below")).unwrap();
        let empty = count(&folder);
        assert_eq!(empty.inodes, 2);
        fs::write(folder.join("below/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(folder.join("below/file"), folder.join("other")).unwrap();
        std::os::unix::fs::symlink("/", folder.join("root")).unwrap();
        fs::File::create(folder.join("hole")).unwrap().set_len(1 << 30).unwrap();
        let full = count(&folder);
        assert_eq!(full.inodes, 5);
        assert!(((1 << 20)..(2 << 20)).contains(&(full.bytes - empty.bytes)), "{full:?}");
        assert_eq!(count(&folder.join("nowhere")), Usage::default());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_in_memory_is_not_on_the_disk() {
        let usage = |bytes| Usage { bytes, inodes: 1 };
        let volume = |bytes, in_memory| VolumeUsage { usage: usage(bytes), in_memory };
        let pod = PodUsage {
            containers: [("a".to_owned(), ContainerUsage { logs: usage(1), layer: Some(usage(10)) })].into(),
            volumes: [("disk".to_owned(), volume(100, false)), ("memory".to_owned(), volume(1000, true))]
                .into(),
            files: usage(10_000),
            ..PodUsage::default()
        };
        assert_eq!(pod.ephemeral_storage(), Usage { bytes: 10_111, inodes: 4 });
    }

    #[test]
    fn counting_takes_a_small_part_of_the_time_however_many_pods_there_are() {
        assert_eq!(pause(true, Duration::from_millis(1), 10), LIMITED);
        assert_eq!(pause(false, Duration::from_millis(1), 10), UNLIMITED);
        assert_eq!(pause(true, Duration::from_millis(100), 10), Duration::from_secs(20));
        assert_eq!(pause(true, Duration::from_secs(60), 100), LONGEST);
    }

    #[test]
    fn the_newest_instance_counts_for_its_container() {
        let stats = |attempt, bytes| v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt }),
                labels: HashMap::from([
                    (labels::POD_UID.to_owned(), "u".to_owned()),
                    (labels::CONTAINER_NAME.to_owned(), "c".to_owned()),
                ]),
                ..v1::ContainerAttributes::default()
            }),
            writable_layer: Some(v1::FilesystemUsage {
                used_bytes: Some(v1::UInt64Value { value: bytes }),
                ..v1::FilesystemUsage::default()
            }),
            ..v1::ContainerStats::default()
        };
        let found = layers(vec![stats(2, 7), stats(1, 5)]);
        assert_eq!(found[&("u".to_owned(), "c".to_owned())].1.bytes, 7);
    }
}
