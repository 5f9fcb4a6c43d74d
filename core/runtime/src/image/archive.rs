//! Import of OCI image layouts (folder or archive) and of docker archives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{Descriptor, ImageConfig, Manifest, architecture};
use super::layer::{self, Hashing};
use super::store::{Image, ImageStore, StoreError};

/// Bounds of an archive's small files.
pub(super) const MAX_DOCUMENT: u64 = 16 << 20;
const MAX_FILES: usize = 100_000;
/// What overlayfs stacks.
const MAX_LAYERS: usize = 500;

/// Why nothing was imported or exported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive or folder could not be read.
    #[error("read {name}")]
    Read {
        /// What of it.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A document in it is not what it should be.
    #[error("{name} is damaged")]
    Document {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Neither kind of archive.
    #[error("neither an OCI layout (index.json) nor a docker archive (manifest.json)")]
    Unknown,
    /// It has no image that this machine can run.
    #[error("no image for linux/{0}")]
    Platform(&'static str),
    /// Layers and configuration do not match.
    #[error("{layers} layers, but the configuration names {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// More layers than the kernel stacks.
    #[error("{0} layers are too many; at most {MAX_LAYERS} can be stacked")]
    TooManyLayers(usize),
    /// The name of an image is none.
    #[error("{0:?} is no name of an image")]
    Name(String),
    /// No such image.
    #[error("no image {0}")]
    NotFound(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn read_error(name: &str) -> impl FnOnce(io::Error) -> ImportError {
    move |source| ImportError::Read { name: name.to_owned(), source }
}

/// The files of an archive by their name in it.
struct Files {
    by_name: BTreeMap<String, PathBuf>,
    /// Removed when done, if ours.
    staged: Option<PathBuf>,
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            let _ = fs::remove_dir_all(staged);
        }
    }
}

fn plain_name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches("./").trim_start_matches('/').to_owned()
}

impl Files {
    fn of_folder(root: &Path) -> Result<Self, ImportError> {
        let mut by_name = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let name = folder.display().to_string();
            for entry in fs::read_dir(&folder).map_err(read_error(&name))? {
                let path = entry.map_err(read_error(&name))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(relative) = path.strip_prefix(root) {
                    by_name.insert(plain_name(relative), path.clone());
                }
            }
        }
        Ok(Self { by_name, staged: None })
    }

    fn of_archive(reader: impl Read + 'static, store: &ImageStore) -> Result<Self, ImportError> {
        let staged = store.stage()?;
        let mut files = Self { by_name: BTreeMap::new(), staged: Some(staged.clone()) };
        let plain = layer::decompress(reader).map_err(read_error("the archive"))?;
        let mut archive = tar::Archive::new(plain);
        for entry in archive.entries().map_err(read_error("the archive"))? {
            let mut entry = entry.map_err(read_error("the archive"))?;
            let name = plain_name(&entry.path().map_err(read_error("the archive"))?);
            if files.by_name.len() >= MAX_FILES {
                return Err(read_error(&name)(io::ErrorKind::FileTooLarge.into()));
            }
            // The name in the archive never becomes a name on disk.
            let path = staged.join(files.by_name.len().to_string());
            match entry.header().entry_type() {
                tar::EntryType::Regular => {
                    store.check_room(entry.size())?;
                    let mut file = File::create(&path).map_err(read_error(&name))?;
                    io::copy(&mut entry, &mut file).map_err(read_error(&name))?;
                    files.by_name.insert(name, path);
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let link = entry.link_name().map_err(read_error(&name))?.unwrap_or_default();
                    let target = plain_name(&resolve(&name, &link));
                    if let Some(path) = files.by_name.get(&target).cloned() {
                        files.by_name.insert(name, path);
                    }
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn open(&self, name: &str) -> Result<File, ImportError> {
        let path = self.by_name.get(&plain_name(Path::new(name)));
        let path = path.ok_or_else(|| read_error(name)(io::ErrorKind::NotFound.into()))?;
        File::open(path).map_err(read_error(name))
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ImportError> {
        let mut text = Vec::new();
        let mut file = self.open(name)?.take(MAX_DOCUMENT);
        file.read_to_end(&mut text).map_err(read_error(name))?;
        Ok(text)
    }
}

/// A link relative to the folder of the file that is one.
fn resolve(name: &str, link: &Path) -> PathBuf {
    let mut out = Path::new(name).parent().unwrap_or(Path::new("")).to_owned();
    for component in link.components() {
        match component {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::Normal(part) => out.push(part),
            std::path::Component::RootDir => out = PathBuf::new(),
            std::path::Component::CurDir | std::path::Component::Prefix(_) => {}
        }
    }
    out
}

fn parse<'a, T: Deserialize<'a>>(name: &str, text: &'a [u8]) -> Result<T, ImportError> {
    serde_json::from_slice(text).map_err(|source| ImportError::Document { name: name.to_owned(), source })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl ImageStore {
    /// Imports every image of an OCI layout (folder, or archive plain or packed) or of a docker archive. `name`
    /// overrides the names in it, for archives of one image.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, ImportError> {
        let label = path.display().to_string();
        let _lease = self.lease()?;
        let files = if path.is_dir() {
            Files::of_folder(path)?
        } else {
            Files::of_archive(File::open(path).map_err(read_error(&label))?, self)?
        };
        self.import_files(&files, name)
    }

    /// Imports from a stream.
    pub fn import_reader(
        &self,
        reader: impl Read + 'static,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImportError> {
        let _lease = self.lease()?;
        let files = Files::of_archive(reader, self)?;
        self.import_files(&files, name)
    }

    fn import_files(&self, files: &Files, name: Option<&str>) -> Result<Vec<Image>, ImportError> {
        if files.by_name.contains_key("manifest.json") {
            let text = files.document("manifest.json")?;
            let images: Vec<DockerImage> = parse("manifest.json", &text)?;
            return images.iter().map(|image| self.import_docker(files, image, name)).collect();
        }
        if !files.by_name.contains_key("index.json") {
            return Err(ImportError::Unknown);
        }
        let text = files.document("index.json")?;
        let index: Manifest = parse("index.json", &text)?;
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let named = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .find_map(|key| descriptor.annotations.get(*key));
            let name = name.or(named.map(String::as_str));
            images.push(self.import_oci(files, descriptor, name, 0)?);
        }
        Ok(images)
    }

    fn import_docker(
        &self,
        files: &Files,
        image: &DockerImage,
        name: Option<&str>,
    ) -> Result<Image, ImportError> {
        let config_text = files.document(&image.config)?;
        let config: ImageConfig = parse(&image.config, &config_text)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let digest = self.take_blob(files, layer, None)?;
            let size = self.blob_size(&digest)?;
            let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
            layers.push(Descriptor { media_type, digest, size, ..Descriptor::default() });
        }
        let config_digest = self.put_blob(&config_text)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some("application/vnd.oci.image.manifest.v1+json".to_owned()),
            config: Some(Descriptor {
                media_type: "application/vnd.oci.image.config.v1+json".to_owned(),
                digest: config_digest,
                size: config_text.len() as u64,
                ..Descriptor::default()
            }),
            layers,
            manifests: Vec::new(),
        };
        let text = serde_json::to_vec(&manifest)
            .map_err(|source| ImportError::Document { name: "manifest".to_owned(), source })?;
        let digest = self.put_blob(&text)?;
        let names: Vec<String> = match name {
            Some(name) => vec![name.to_owned()],
            None => image.repo_tags.clone().unwrap_or_default(),
        };
        self.complete(&manifest, &config, &digest, &names)
    }

    fn import_oci(
        &self,
        files: &Files,
        descriptor: &Descriptor,
        name: Option<&str>,
        depth: u8,
    ) -> Result<Image, ImportError> {
        let text = files.document(&blob_name(&descriptor.digest)?)?;
        let manifest: Manifest = parse(&descriptor.digest, &text)?;
        let Some(config) = &manifest.config else {
            let chosen = manifest.for_this_machine().filter(|_| depth < 4);
            let chosen = chosen.ok_or(ImportError::Platform(architecture()))?;
            return self.import_oci(files, chosen, name, depth + 1);
        };
        let config_digest = self.take_blob(files, &blob_name(&config.digest)?, Some(&config.digest))?;
        let config_text = files.document(&blob_name(&config_digest)?)?;
        let config: ImageConfig = parse(&config_digest, &config_text)?;
        for layer in &manifest.layers {
            self.take_blob(files, &blob_name(&layer.digest)?, Some(&layer.digest))?;
        }
        let digest = self.take_blob(files, &blob_name(&descriptor.digest)?, Some(&descriptor.digest))?;
        let names: Vec<String> = name.map(ToOwned::to_owned).into_iter().collect();
        self.complete(&manifest, &config, &digest, &names)
    }

    /// Copies a file into the blobs, checking its digest.
    fn take_blob(&self, files: &Files, name: &str, expected: Option<&str>) -> Result<String, ImportError> {
        let source = files.open(name)?;
        self.check_room(source.metadata().map_err(read_error(name))?.len())?;
        let mut reader = Hashing::new(source);
        let folder = self.stage()?;
        let staged = folder.join("blob");
        let mut file = File::create(&staged).map_err(read_error(name))?;
        io::copy(&mut reader, &mut file).map_err(read_error(name))?;
        drop(file);
        let actual = reader.digest();
        let result = match expected.filter(|expected| *expected != actual) {
            Some(expected) => {
                Err(StoreError::Digest { expected: expected.to_owned(), actual: actual.clone() })
            }
            None => self.adopt_blob(&staged, &actual),
        };
        let _ = fs::remove_dir_all(&folder);
        result?;
        Ok(actual)
    }

    fn blob_size(&self, digest: &str) -> Result<u64, ImportError> {
        let path = self.blob_path(digest)?;
        Ok(path.metadata().map_err(read_error(digest))?.len())
    }

    /// Refuses an image that this machine cannot run.
    pub(super) fn check(&self, manifest: &Manifest, config: &ImageConfig) -> Result<(), ImportError> {
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if diff_ids != layers {
            return Err(ImportError::Layers { layers, diff_ids });
        }
        if layers > MAX_LAYERS {
            return Err(ImportError::TooManyLayers(layers));
        }
        let runs_here = (config.os.is_empty() || config.os == "linux")
            && (config.architecture.is_empty() || config.architecture == architecture());
        if runs_here { Ok(()) } else { Err(ImportError::Platform(architecture())) }
    }

    /// Unpacks the layers of a manifest whose blobs are all here, and records the image.
    pub(super) fn complete(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        digest: &str,
        names: &[String],
    ) -> Result<Image, ImportError> {
        self.check(manifest, config)?;
        let diff_ids = &config.rootfs.diff_ids;
        let mut layers = Vec::new();
        let mut parent: Option<String> = None;
        for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let layer = self.unpack_layer(&descriptor.digest, diff_id, parent.as_deref())?;
            parent = Some(layer.chain_id.clone());
            layers.push(layer);
        }
        let (mut tags, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let reference = super::normalize(name).map_err(|_| ImportError::Name(name.clone()))?;
            if reference.digest().is_none() {
                tags.insert(reference.whole());
            }
            digests.insert(format!("{}/{}@{digest}", reference.registry(), reference.repository()));
        }
        let Some(config) = &manifest.config else { return Err(ImportError::Unknown) };
        let size = manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + config.size;
        let (id, manifest) = (config.digest.clone(), digest.to_owned());
        let image = Image { id, manifest, layers, size, tags, digests, pinned: false };
        self.put(image.clone())?;
        Ok(image)
    }
}

pub(super) fn blob_name(digest: &str) -> Result<String, ImportError> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let hex = hex.ok_or_else(|| StoreError::NoDigest(digest.to_owned()))?;
    Ok(format!("blobs/sha256/{hex}"))
}
