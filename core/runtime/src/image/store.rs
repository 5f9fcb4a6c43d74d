//! The index of images: names, manifests, layers. Shared between processes by a lock on the store's folder.
//!
//! ```text
//! lock                 held while the index changes
//! index.json           every image
//! blobs/sha256/HEX     configurations, manifests, packed layers
//! layers/HEX/          unpacked layers by chain id, as overlayfs stacks them
//! partial/HEX          blobs that are coming, or of which a pull that was interrupted has brought a part
//! staging/             unfinished work
//! lease                held shared by those who bring blobs and layers in, alone by those who sweep
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::config::ImageConfig;
use super::layer::{self, LayerError};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store could not be used.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The index is not readable as such.
    #[error("the index of images is damaged")]
    Damaged(#[source] serde_json::Error),
    /// The image's configuration is not readable as such.
    #[error("the configuration of image {id} is damaged")]
    Configuration {
        /// The image.
        id: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A blob has other content than its name says.
    #[error("blob {expected} has the content {actual}")]
    Digest {
        /// The promised digest.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// It would not fit.
    #[error("no space left on device: at least {needed} bytes are needed in {path}, {available} are free")]
    Room {
        /// The store.
        path: PathBuf,
        /// Bytes that are to come.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// Not of the form `sha256:HEX`.
    #[error("{0:?} is no sha256 digest")]
    NoDigest(String),
    /// A layer could not be unpacked.
    #[error("unpack layer {digest}")]
    Layer {
        /// The layer's digest.
        digest: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File { action, path: path.to_owned(), source }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    file.map_err(file_error("open", path))
}

/// Keeps the store from being swept.
#[derive(Debug)]
pub(crate) struct Lease {
    _lock: Flock<File>,
}

/// One unpacked layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// `sha256:HEX` of the packed blob; `None` for a layer that never was an archive.
    pub digest: Option<String>,
    /// Hex name of the folder below `layers`.
    pub chain_id: String,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:HEX` of the configuration.
    pub id: String,
    /// `sha256:HEX` of the manifest.
    pub manifest: String,
    /// Bottom first.
    pub layers: Vec<Layer>,
    /// Bytes of blobs, as transferred.
    pub size: u64,
    /// Names with a tag.
    pub tags: BTreeSet<String>,
    /// Names with a digest.
    pub digests: BTreeSet<String>,
    /// Never collected as garbage.
    pub pinned: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, Image>,
}

/// The images on this machine.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
}

impl ImageStore {
    /// Opens the store in `root`, creating it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        for folder in [store.root.join("blobs/sha256"), store.layers(), store.partials(), store.staging()] {
            fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        }
        // Other users of the machine must not run what layers hold, least of all programs that run as their owner.
        fs::set_permissions(&store.root, Permissions::from_mode(0o700))
            .map_err(file_error("protect", &store.root))?;
        Ok(store)
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Where a blob is until it is whole.
    pub(super) fn partial_path(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let place = self.blob_path(digest)?;
        Ok(self.partials().join(place.file_name().unwrap_or_default()))
    }

    /// Refuses what would not fit on the disk.
    pub(super) fn check_room(&self, needed: u64) -> Result<(), StoreError> {
        let disk = nix::sys::statvfs::statvfs(&self.root);
        let disk = disk.map_err(|error| file_error("look at", &self.root)(error.into()))?;
        #[allow(clippy::useless_conversion, reason = "widths differ between architectures")]
        let available = u64::from(disk.blocks_available()).saturating_mul(u64::from(disk.fragment_size()));
        if needed <= available {
            return Ok(());
        }
        Err(StoreError::Room { path: self.root.clone(), needed, available })
    }

    /// A fresh folder for unfinished work.
    pub(super) fn stage(&self) -> Result<PathBuf, StoreError> {
        let path = self.staging().join(uuid::Uuid::new_v4().simple().to_string());
        fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        Ok(path)
    }

    pub(super) fn blob_path(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        let hex = hex.ok_or_else(|| StoreError::NoDigest(digest.to_owned()))?;
        Ok(self.root.join("blobs/sha256").join(hex))
    }

    /// The folder of an unpacked layer.
    pub(crate) fn layer_path(&self, chain_id: &str) -> PathBuf {
        self.layers().join(chain_id)
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let path = self.root.join("lock");
        let _lock = Flock::lock(open_lock(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| file_error("lock", &path)(error.into()))?;
        let mut index = self.read_index()?;
        let before = serde_json::to_vec(&index).map_err(StoreError::Damaged)?;
        let result = change(&mut index)?;
        if serde_json::to_vec(&index).map_err(StoreError::Damaged)? != before {
            let path = self.root.join("index.json");
            crate::pod_process::record(&path, &index).map_err(file_error("write", &path))?;
        }
        Ok(result)
    }

    fn read_index(&self) -> Result<Index, StoreError> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(StoreError::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(file_error("read", &path)(error)),
        }
    }

    /// Every image, by id.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        // The index is replaced whole, so that reading needs no lock.
        Ok(self.read_index()?.images.into_values().collect())
    }

    /// The image of this name, digest name, id, or beginning of an id.
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let index = self.read_index()?;
        let bare = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = bare.len() >= 8 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex {
            let prefix = format!("sha256:{bare}");
            let found = index.images.values().find(|image| image.id.starts_with(&prefix));
            if found.is_some() {
                return Ok(found.cloned());
            }
        }
        let Ok(reference) = super::normalize(name) else { return Ok(None) };
        let whole = reference.whole();
        let by_digest = reference
            .digest()
            .map(|digest| format!("{}/{}@{digest}", reference.registry(), reference.repository()));
        let fits = |image: &&Image| {
            image.tags.contains(&whole)
                || image.digests.contains(&whole)
                || by_digest.as_ref().is_some_and(|name| image.digests.contains(name))
        };
        Ok(index.images.values().find(fits).cloned())
    }

    /// What the image says of the containers made from it.
    pub(crate) fn config(&self, image: &Image) -> Result<ImageConfig, StoreError> {
        let path = self.blob_path(&image.id)?;
        let text = fs::read(&path).map_err(file_error("read", &path))?;
        serde_json::from_slice(&text)
            .map_err(|source| StoreError::Configuration { id: image.id.clone(), source })
    }

    /// Records the image; its names leave the images that had them.
    pub(super) fn put(&self, image: Image) -> Result<(), StoreError> {
        self.locked(|index| {
            for other in index.images.values_mut().filter(|other| other.id != image.id) {
                other.tags.retain(|name| !image.tags.contains(name));
            }
            // A former version of the running program is nothing without its name.
            let former =
                |one: &Image| one.tags.is_empty() && one.layers.iter().any(|layer| layer.digest.is_none());
            index.images.retain(|id, one| *id == image.id || !former(one));
            match index.images.get_mut(&image.id) {
                Some(known) => {
                    known.tags.extend(image.tags);
                    known.digests.extend(image.digests);
                    known.pinned |= image.pinned;
                    // The same configuration may come with layers packed in another way: one way, whole.
                    (known.manifest, known.layers, known.size) = (image.manifest, image.layers, image.size);
                }
                None => {
                    index.images.insert(image.id.clone(), image);
                }
            }
            Ok(())
        })
    }

    /// Forgets the image that `name` names: by id the whole image, by name this name, and the image with its last.
    /// Layers of `in_use` (chain ids) stay. True when there was one.
    pub fn remove(&self, name: &str, in_use: &HashSet<String>) -> Result<bool, StoreError> {
        let Some(found) = self.find(name)? else { return Ok(false) };
        let whole = super::normalize(name).ok().map(|reference| reference.whole());
        self.locked(|index| {
            let Some(image) = index.images.get_mut(&found.id) else { return Ok(()) };
            let named = whole.is_some_and(|whole| image.tags.remove(&whole) || image.digests.remove(&whole));
            if !named || image.tags.is_empty() {
                index.images.remove(&found.id);
            }
            self.sweep(index, in_use)
        })?;
        Ok(true)
    }

    /// Removes blobs and layers that no image has and no container uses, and unfinished work, unless somebody is at
    /// work now.
    pub(crate) fn collect(&self, in_use: &HashSet<String>) -> Result<(), StoreError> {
        self.locked(|index| self.sweep(index, in_use))
    }

    /// The same, but for what came within `age`: whoever brought it may come back for the rest.
    pub(crate) fn collect_old(&self, in_use: &HashSet<String>, age: Duration) -> Result<(), StoreError> {
        self.locked(|index| self.sweep_but(index, in_use, Some(age)))
    }

    /// While this is held nothing is swept: blobs and layers may exist that the index does not know yet.
    pub(crate) fn lease(&self) -> Result<Lease, StoreError> {
        let path = self.root.join("lease");
        let lock = Flock::lock(open_lock(&path)?, FlockArg::LockShared);
        lock.map(|lock| Lease { _lock: lock }).map_err(|(_, error)| file_error("lock", &path)(error.into()))
    }

    fn sweep(&self, index: &Index, in_use: &HashSet<String>) -> Result<(), StoreError> {
        self.sweep_but(index, in_use, None)
    }

    /// Parts of blobs stay for their time anyway.
    fn sweep_but(
        &self,
        index: &Index,
        in_use: &HashSet<String>,
        age: Option<Duration>,
    ) -> Result<(), StoreError> {
        // Somebody is at work: this is done again from time to time.
        let Ok(_alone) = Flock::lock(open_lock(&self.root.join("lease"))?, FlockArg::LockExclusiveNonblock)
        else {
            return Ok(());
        };
        let images = || index.images.values();
        let blobs: HashSet<&str> = images()
            .flat_map(|image| {
                let layers = image.layers.iter().filter_map(|layer| layer.digest.as_deref());
                layers.chain([image.id.as_str(), image.manifest.as_str()])
            })
            .filter_map(|digest| digest.strip_prefix("sha256:"))
            .collect();
        let layers: HashSet<&str> =
            images().flat_map(|image| image.layers.iter().map(|layer| layer.chain_id.as_str())).collect();
        let is_new = |path: &Path| age.is_some_and(|age| is_younger(path, age));
        let (packed, unpacked, partials) = (self.root.join("blobs/sha256"), self.layers(), self.partials());
        sweep_folder(&packed, |name| blobs.contains(name) || is_new(&packed.join(name)))?;
        let is_used = |name: &str| layers.contains(name) || in_use.contains(name);
        sweep_folder(&unpacked, |name| is_used(name) || is_new(&unpacked.join(name)))?;
        sweep_folder(&partials, |name| is_recent(&partials.join(name)))?;
        sweep_folder(&self.staging(), |_| false)
    }

    /// Stores bytes under their digest, which is returned.
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<String, StoreError> {
        let name = format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
        let path = self.blob_path(&name)?;
        if !path.exists() {
            let staged = self.stage()?.join("blob");
            fs::write(&staged, bytes).map_err(file_error("write", &staged))?;
            self.adopt_blob(&staged, &name)?;
        }
        Ok(name)
    }

    /// Moves a complete file, whose digest has been checked, to its place.
    pub(super) fn adopt_blob(&self, staged: &Path, digest: &str) -> Result<(), StoreError> {
        let path = self.blob_path(digest)?;
        File::open(staged).and_then(|file| file.sync_all()).map_err(file_error("sync", staged))?;
        fs::rename(staged, &path).map_err(file_error("move to", &path))?;
        let folder = self.root.join("blobs/sha256");
        File::open(&folder).and_then(|file| file.sync_all()).map_err(file_error("sync", &folder))
    }

    /// Unpacks a layer blob, unless that is done already; `parent` is the chain below.
    pub(super) fn unpack_layer(
        &self,
        digest: &str,
        diff_id: &str,
        parent: Option<&str>,
    ) -> Result<Layer, StoreError> {
        let chain_id = chain_id(parent, diff_id);
        let layer = Layer { digest: Some(digest.to_owned()), chain_id };
        let target = self.layer_path(&layer.chain_id);
        if target.exists() {
            return Ok(layer);
        }
        let blob = self.blob_path(digest)?;
        let file = File::open(&blob).map_err(file_error("open", &blob))?;
        let staged = self.stage_layer(file, digest, diff_id)?;
        self.adopt_layer(&staged, &target)?;
        Ok(layer)
    }

    /// Unpacks a layer into a folder that is not its place yet.
    pub(super) fn stage_layer(
        &self,
        blob: impl Read + Send + 'static,
        digest: &str,
        diff_id: &str,
    ) -> Result<PathBuf, StoreError> {
        let staged = self.stage()?;
        let unpacked = layer::unpack(blob, &staged, diff_id);
        if let Err(source) = unpacked {
            let _ = fs::remove_dir_all(&staged);
            let source: Box<LayerError> = Box::new(source);
            return Err(StoreError::Layer { digest: digest.to_owned(), source });
        }
        Ok(staged)
    }

    /// Moves a complete layer folder to its place, on disk for good.
    pub(super) fn adopt_layer(&self, staged: &Path, target: &Path) -> Result<(), StoreError> {
        sync_filesystem(staged).map_err(file_error("sync", staged))?;
        match fs::rename(staged, target) {
            Ok(()) => {}
            // Another process was faster with the same content.
            Err(_) if target.exists() => {
                fs::remove_dir_all(staged).map_err(file_error("remove", staged))?;
            }
            Err(error) => return Err(file_error("move to", target)(error)),
        }
        let folder = self.layers();
        File::open(&folder).and_then(|file| file.sync_all()).map_err(file_error("sync", &folder))
    }
}

#[allow(unsafe_code)]
fn sync_filesystem(path: &Path) -> io::Result<()> {
    let folder = File::open(path)?;
    // SAFETY: the descriptor is open through the call.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What an interrupted pull has brought is kept this long: nobody may come back for it.
pub(crate) const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

fn is_recent(path: &Path) -> bool {
    let changed = path.metadata().and_then(|metadata| metadata.modified());
    // A time to come is that of a clock that was set back.
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < PARTIAL_KEPT))
}

/// Whether it has got its name within `age`: what is in a layer has times of its own.
fn is_younger(path: &Path, age: Duration) -> bool {
    let named = path.symlink_metadata().map(|metadata| metadata.ctime());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A time to come is that of a clock that was set back.
    named.is_ok_and(|at| {
        u64::try_from(at).is_ok_and(|at| now.as_secs().checked_sub(at).is_some_and(|it| it < age.as_secs()))
    })
}

fn sweep_folder(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(file_error("read", folder))? {
        let path = entry.map_err(file_error("read", folder))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&keep) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(file_error("remove", &path))?;
    }
    Ok(())
}

/// The hex name of a stack of layers (OCI image specification, "Layer ChainID").
pub(super) fn chain_id(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.trim_start_matches("sha256:").to_owned(),
        Some(parent) => hex::encode(digest(&SHA256, format!("sha256:{parent} {diff_id}").as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pull_that_was_given_up_has_brought_goes_when_nobody_came_back_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let blob = store.blob_path(&store.put_blob(b"a manifest").unwrap()).unwrap();
        let layers = ["used", "left"].map(|name| store.layer_path(name));
        layers.iter().for_each(|layer| fs::create_dir(layer).unwrap());
        let in_use = HashSet::from(["used".to_owned()]);
        let are_there = || [blob.exists(), layers[0].exists(), layers[1].exists()];
        store.collect_old(&in_use, Duration::from_secs(3600)).unwrap();
        assert_eq!(are_there(), [true, true, true]);
        let lease = store.lease().unwrap();
        store.collect_old(&in_use, Duration::ZERO).unwrap();
        assert_eq!(are_there(), [true, true, true], "somebody is at work");
        drop(lease);
        store.collect_old(&in_use, Duration::ZERO).unwrap();
        assert_eq!(are_there(), [false, true, false]);
        assert_eq!(fs::read_dir(store.staging()).unwrap().count(), 0);
    }
}
