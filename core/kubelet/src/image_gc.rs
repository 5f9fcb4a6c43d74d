//! Takes unused images away when their disk is full, or when they have been unused for long: those first that were used longest ago.
//!
//! Images that containers were made from, be they dead, that pods name, that are pinned, or that the runtime makes sandboxes of stay.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use keelson_cri::v1;
use kube::runtime::events::EventType;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::configuration::KubeletConfiguration;
use crate::image::name::Name;
use crate::image::records::Records;
use crate::metrics::Metrics;
use crate::node::NodeRecorder;
use crate::node::machine::{self, FileSystem};
use crate::pods::Pods;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Between two looks at the images.
const INTERVAL: Duration = Duration::from_secs(300);
/// Of a large disk a part says little: with so many bytes free nothing goes, and it ends when there are so many.
const ENOUGH: u64 = 10 << 30;
const PLENTY: u64 = 15 << 30;

/// What is known of an image beyond what the runtime says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// When it came; nothing if it was there before this kubelet.
    first: Option<Instant>,
    /// When it was used last, as far as this kubelet knows.
    used: Option<Instant>,
}

/// (pure) Bytes to be freed; nothing while the disk is not too full. Percentages are of what is used, and `None` where nothing was said.
fn to_free(disk: &FileSystem, high: Option<u32>, low: Option<u32>) -> u64 {
    let usable = u128::from(disk.usable());
    let used = usable.saturating_sub(u128::from(disk.available));
    let is_full = used * 100 >= usable * u128::from(high.unwrap_or(85));
    let unsaid = high.is_none() && low.is_none();
    if !is_full || (unsaid && disk.available >= ENOUGH) {
        return 0;
    }
    let wanted = usable * u128::from(100 - low.unwrap_or(80).min(100)) / 100;
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let wanted = if unsaid { wanted.min(PLENTY) } else { wanted };
    wanted.saturating_sub(disk.available)
}

/// (pure) The images that a pod names for containers and volumes, as it names them and in full.
fn names(pod: &Pod, into: &mut HashSet<String>) {
    let Some(spec) = &pod.spec else { return };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_volume = |volume: &Volume| volume.image.as_ref().and_then(|image| image.reference.clone());
    let volumes = spec.volumes.iter().flatten().filter_map(of_volume);
    for name in containers.filter_map(|one| one.image.clone()).chain(volumes) {
        into.extend(Name::parse(&name).ok().map(|name| name.whole()));
        into.insert(name);
    }
}

/// (pure) The image that the runtime makes sandboxes of, if it has one and says so, as containerd does: not all pin it.
fn of_sandboxes(info: &HashMap<String, String>) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(info.get("config")?).ok()?;
    config.get("sandboxImage")?.as_str().map(str::to_owned)
}

/// (pure) Whether containers or pods name an image.
fn is_used(image: &v1::Image, named: &HashSet<String>) -> bool {
    let names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
    names.into_iter().any(|name| named.contains(name))
}

/// (pure) What may go at `now`, in the order in which it goes.
fn removable(
    images: &[v1::Image],
    named: &HashSet<String>,
    seen: &HashMap<String, Seen>,
    least_age: Duration,
    now: Instant,
) -> Vec<v1::Image> {
    let of = |image: &v1::Image| seen.get(&image.id).copied().unwrap_or_default();
    let may = |image: &&v1::Image| {
        let young = of(image).first.is_some_and(|first| now.duration_since(first) < least_age);
        !image.pinned && !is_used(image, named) && !young
    };
    let mut found: Vec<v1::Image> = images.iter().filter(may).cloned().collect();
    found.sort_by_key(|image| {
        let seen = of(image);
        (seen.used, seen.first, image.id.clone())
    });
    found
}

/// Where the runtime keeps images.
pub(crate) struct ImageFolder {
    runtime: RuntimeClient,
    known: OnceCell<PathBuf>,
}

impl ImageFolder {
    pub(crate) fn new(runtime: RuntimeClient) -> Self {
        Self { runtime, known: OnceCell::new() }
    }

    /// (client) The folder, once the runtime has said it.
    pub(crate) async fn get(&self) -> Option<&Path> {
        let ask = async || {
            let answer = self.runtime.image_fs_info(v1::ImageFsInfoRequest {}).await;
            let answer = answer.inspect_err(|error| {
                tracing::warn!(%error, "the runtime does not say where it keeps images");
            });
            let first = answer.map_err(drop)?.image_filesystems.into_iter().next();
            first.and_then(|one| one.fs_id).map(|id| PathBuf::from(id.mountpoint)).ok_or(())
        };
        self.known.get_or_try_init(ask).await.ok().map(PathBuf::as_path)
    }
}

/// Looks at images, and removes them.
pub(crate) struct ImageGc {
    settings: KubeletConfiguration,
    runtime: RuntimeClient,
    records: Records,
    pods: Arc<Pods>,
    recorder: NodeRecorder,
    metrics: Arc<Metrics>,
    seen: HashMap<String, Seen>,
    begun: Instant,
    /// From the second look on: until then nothing is known of pods that have no container yet.
    due: Instant,
    looked: bool,
    failed: bool,
    folder: Arc<ImageFolder>,
}

impl ImageGc {
    pub(crate) fn new(
        settings: KubeletConfiguration,
        runtime: RuntimeClient,
        records: Records,
        pods: Arc<Pods>,
        recorder: NodeRecorder,
        metrics: Arc<Metrics>,
        folder: Arc<ImageFolder>,
    ) -> Self {
        let begun = Instant::now();
        Self {
            settings,
            runtime,
            records,
            pods,
            recorder,
            metrics,
            seen: HashMap::new(),
            begun,
            due: begun,
            looked: false,
            failed: false,
            folder,
        }
    }

    /// What may go, after a look at all images and containers.
    async fn look(&mut self, now: Instant) -> Result<Vec<v1::Image>, RuntimeError> {
        let images = self.runtime.list_images(v1::ListImagesRequest { filter: None }).await?.images;
        let containers = self.runtime.list_containers(v1::ListContainersRequest { filter: None }).await?;
        let status = self.runtime.status(v1::StatusRequest { verbose: true }).await?;
        let mut named = HashSet::new();
        if let Some(name) = of_sandboxes(&status.info) {
            named.extend(Name::parse(&name).ok().map(|name| name.whole()));
            named.insert(name);
        }
        for one in containers.containers {
            named.extend(one.image.map(|image| image.image));
            named.extend([one.image_ref, one.image_id]);
        }
        self.pods.all().iter().for_each(|pod| names(pod, &mut named));
        named.remove("");
        let first = self.looked.then_some(now);
        self.looked = true;
        self.seen.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in &images {
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first, used: None });
            if is_used(image, &named) {
                seen.used = Some(now);
            }
        }
        Ok(removable(&images, &named, &self.seen, self.settings.image_minimum_gc_age.0, now))
    }

    /// `why` is what it is counted under.
    async fn remove(&mut self, image: &v1::Image, why: &'static str) -> Result<(), RuntimeError> {
        let spec = v1::ImageSpec { image: image.id.clone(), ..v1::ImageSpec::default() };
        self.runtime.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await?;
        self.metrics.lifecycle.image_removed(why);
        self.seen.remove(&image.id);
        tracing::info!(image = image.id, names = ?image.repo_tags, bytes = image.size, "an unused image was removed");
        if let Err(error) = self.records.forget(&image.id).await {
            tracing::warn!(%error, image = image.id, "what is known of a removed image's credentials stays");
        }
        Ok(())
    }

    /// Removes unused images until so many bytes are free; answers how many are.
    pub(crate) async fn free(&mut self, bytes: u64) -> Result<u64, RuntimeError> {
        let mut freed = 0;
        for image in self.look(Instant::now()).await? {
            if freed >= bytes {
                break;
            }
            match self.remove(&image, "space").await {
                Ok(()) => freed += image.size,
                Err(error) => tracing::warn!(%error, image = image.id, "an unused image is not removed"),
            }
        }
        Ok(freed)
    }

    /// Does what is due.
    pub(crate) async fn step(&mut self) {
        let now = Instant::now();
        if !self.looked {
            // What is there from before is not new when it is looked for again.
            if let Err(error) = self.look(now).await {
                tracing::debug!(%error, "images are not known yet");
            }
            return;
        }
        if now < self.due {
            return;
        }
        self.due = now + INTERVAL;
        let result = self.collect(now).await;
        if let Err(text) = &result {
            tracing::warn!(error = text, "images are not collected");
            // Once may be chance.
            if self.failed {
                self.recorder.tell(EventType::Warning, "ImageGCFailed", text.clone()).await;
            }
        }
        self.failed = result.is_err();
    }

    async fn collect(&mut self, now: Instant) -> Result<(), String> {
        self.remove_old(now).await.map_err(|error| error.to_string())?;
        let Some(folder) = self.folder.get().await else {
            return Err("the runtime does not say where it keeps images".to_owned());
        };
        let disk = machine::file_system(folder).map_err(|error| error.to_string())?;
        if disk.usable() == 0 {
            let text = format!("invalid capacity {} on image filesystem", disk.usable());
            self.recorder.tell(EventType::Warning, "InvalidDiskCapacity", text.clone()).await;
            return Err(text);
        }
        let (high, low) =
            (self.settings.image_gc_high_threshold_percent, self.settings.image_gc_low_threshold_percent);
        let wanted = to_free(&disk, high, low);
        if wanted == 0 {
            return Ok(());
        }
        let freed = self.free(wanted).await.map_err(|error| error.to_string())?;
        if freed >= wanted {
            return Ok(());
        }
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        self.recorder.tell(EventType::Warning, "FreeDiskSpaceFailed", text.clone()).await;
        Err(text)
    }

    /// Removes what nobody has used for too long, as far as this kubelet knows.
    async fn remove_old(&mut self, now: Instant) -> Result<(), RuntimeError> {
        let most = self.settings.image_maximum_gc_age.0;
        let unused = self.look(now).await?;
        if most.is_zero() || now.duration_since(self.begun) <= most {
            return Ok(());
        }
        for image in unused {
            let seen = self.seen.get(&image.id).copied().unwrap_or_default();
            let since = seen.used.or(seen.first).unwrap_or(self.begun);
            if now.duration_since(since) > most
                && let Err(error) = self.remove(&image, "age").await
            {
                tracing::warn!(%error, image = image.id, "an old image is not removed");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(usable: u64, available: u64) -> FileSystem {
        FileSystem { capacity: usable * 3, available, inodes: 0, inodes_free: 0, withheld: usable * 2 }
    }

    #[test]
    fn a_disk_that_is_too_full_is_freed_down_to_the_lower_mark() {
        assert_eq!(to_free(&disk(1000, 151), None, None), 0);
        assert_eq!(to_free(&disk(1000, 150), None, None), 50);
        assert_eq!(to_free(&disk(1000, 400), Some(50), Some(30)), 300);
        // Of a large disk much is still free.
        let (large, gibibyte) = (1 << 40, 1 << 30);
        assert_eq!(to_free(&disk(large, 20 * gibibyte), None, None), 0);
        assert_eq!(to_free(&disk(large, 9 * gibibyte), None, None), 6 * gibibyte);
        assert!(to_free(&disk(large, 20 * gibibyte), Some(85), None) > 0);
    }

    #[test]
    fn a_pod_uses_images_of_containers_and_of_volumes_however_it_names_them() {
        let pod = serde_json::json!({ "spec": { "containers": [{ "name": "a", "image": "busybox" }],
            "volumes": [{ "name": "v", "image": { "reference": "registry.example/models" } }] } });
        let mut named = HashSet::new();
        names(&serde_json::from_value(pod).unwrap(), &mut named);
        let tagged = |tag: &str| v1::Image { repo_tags: vec![tag.to_owned()], ..v1::Image::default() };
        assert!(is_used(&tagged("docker.io/library/busybox:latest"), &named));
        assert!(is_used(&tagged("registry.example/models:latest"), &named));
        assert!(!is_used(&tagged("registry.example/models:2"), &named));
    }

    #[test]
    fn the_image_of_sandboxes_is_known_where_the_runtime_says_it() {
        let info = |config: &str| HashMap::from([("config".to_owned(), config.to_owned())]);
        let of_containerd = info(r#"{"containerd": {}, "sandboxImage": "registry.k8s.io/pause:3.6"}"#);
        assert_eq!(of_sandboxes(&of_containerd).as_deref(), Some("registry.k8s.io/pause:3.6"));
        assert_eq!(of_sandboxes(&info("{}")), None);
        assert_eq!(of_sandboxes(&HashMap::new()), None);
    }

    #[test]
    fn images_that_were_used_longest_ago_go_first_and_used_pinned_and_young_ones_stay() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds| Some(now - Duration::from_secs(seconds));
        let image = |id: &str, pinned| v1::Image {
            id: id.to_owned(),
            repo_tags: vec![format!("{id}:1")],
            pinned,
            ..v1::Image::default()
        };
        let names = ["late", "early", "used", "named", "young", "never"];
        let mut images: Vec<_> = names.iter().map(|id| image(id, false)).collect();
        images.push(image("pinned", true));
        let named = HashSet::from(["used".to_owned(), "named:1".to_owned()]);
        let mut seen: HashMap<String, Seen> =
            names.iter().map(|id| ((*id).to_owned(), Seen { first: ago(900), used: None })).collect();
        seen.insert("late".into(), Seen { first: ago(900), used: ago(10) });
        seen.insert("early".into(), Seen { first: None, used: ago(20) });
        seen.insert("young".into(), Seen { first: ago(100), used: None });
        let found = removable(&images, &named, &seen, Duration::from_secs(120), now);
        let ids: Vec<_> = found.iter().map(|image| image.id.as_str()).collect();
        assert_eq!(ids, ["never", "early", "late"]);
    }
}
