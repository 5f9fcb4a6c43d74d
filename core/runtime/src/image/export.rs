//! Export of an image as an archive of an OCI layout. A layer that never was an archive, as the running binary's, is packed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::archive::{ImportError, blob_name, read_error};
use super::config::{Descriptor, Manifest};
use super::layer::Hashing;
use super::store::{Image, ImageStore};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The blobs of an image, its manifest first.
struct Blobs {
    files: Vec<(String, PathBuf)>,
    /// Removed when done, if some were made for this.
    staged: Option<PathBuf>,
}

impl Drop for Blobs {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            let _ = fs::remove_dir_all(staged);
        }
    }
}

impl ImageStore {
    /// Writes the image as an archive of an OCI layout.
    pub fn export(&self, name: &str, out: impl Write) -> Result<(), ImportError> {
        let _lease = self.lease()?;
        let image = self.find(name)?.ok_or_else(|| ImportError::NotFound(name.to_owned()))?;
        let blobs = self.blobs(&image)?;
        let mut annotations = BTreeMap::new();
        if let Some(tag) = image.tags.first() {
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.clone());
            annotations.insert("io.containerd.image.name".to_owned(), tag.clone());
        }
        let mut archive = tar::Builder::new(out);
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for (number, (digest, path)) in blobs.files.iter().enumerate() {
            let mut file = File::open(path).map_err(read_error(digest))?;
            if number == 0 {
                let descriptor = Descriptor {
                    media_type: MANIFEST.to_owned(),
                    digest: digest.clone(),
                    size: file.metadata().map_err(read_error(digest))?.len(),
                    annotations: std::mem::take(&mut annotations),
                    platform: None,
                };
                let index =
                    Manifest { schema_version: 2, manifests: vec![descriptor], ..Manifest::default() };
                append(&mut archive, "index.json", &text("index.json", &index)?)?;
            }
            archive.append_file(blob_name(digest)?, &mut file).map_err(read_error(digest))?;
        }
        archive.into_inner().and_then(|mut out| out.flush()).map_err(read_error("the archive"))
    }

    fn blobs(&self, image: &Image) -> Result<Blobs, ImportError> {
        let Some(layers) = image.layers.iter().map(|layer| layer.digest.clone()).collect::<Option<Vec<_>>>()
        else {
            return self.pack(image);
        };
        let digests = [image.manifest.clone(), image.id.clone()].into_iter().chain(layers);
        let files = digests.map(|digest| Ok((digest.clone(), self.blob_path(&digest)?)));
        Ok(Blobs { files: files.collect::<Result<_, ImportError>>()?, staged: None })
    }

    /// Makes archives of the folders of an image's layers, and a configuration and a manifest that name them.
    fn pack(&self, image: &Image) -> Result<Blobs, ImportError> {
        // Archives are a little larger than what is in them; the disk says so if this was too little.
        self.check_room(image.size)?;
        let staged = self.stage()?;
        let mut blobs = Blobs { files: Vec::new(), staged: Some(staged.clone()) };
        let mut config = self.config(image)?;
        config.rootfs.diff_ids.clear();
        let mut layers = Vec::new();
        for layer in &image.layers {
            let path = staged.join(&layer.chain_id);
            let failed = || read_error(&layer.chain_id);
            let (digest, size) = pack(&self.layer_path(&layer.chain_id), &path).map_err(failed())?;
            layers.push(descriptor(LAYER, &digest, size));
            config.rootfs.diff_ids.push(digest.clone());
            blobs.files.push((digest, path));
        }
        let config = blobs.add(&staged, "config", &text("configuration", &config)?)?;
        let config = descriptor(CONFIG, &config.0, config.1);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config: Some(config),
            layers,
            manifests: Vec::new(),
        };
        blobs.add(&staged, "manifest", &text("manifest", &manifest)?)?;
        blobs.files.reverse();
        Ok(blobs)
    }
}

impl Blobs {
    /// One more blob; its digest and its size.
    fn add(&mut self, staged: &Path, name: &str, content: &[u8]) -> Result<(String, u64), ImportError> {
        let path = staged.join(name);
        fs::write(&path, content).map_err(read_error(name))?;
        let digest = format!("sha256:{}", hex::encode(digest(&SHA256, content)));
        self.files.push((digest.clone(), path));
        Ok((digest, content.len() as u64))
    }
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest: digest.to_owned(), size, ..Descriptor::default() }
}

/// Packs a folder with owners and modes; the archive's digest and size.
fn pack(folder: &Path, target: &Path) -> io::Result<(String, u64)> {
    let mut archive = tar::Builder::new(File::create(target)?);
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder)?;
    archive.into_inner()?.flush()?;
    let mut packed = Hashing::new(File::open(target)?);
    let size = io::copy(&mut packed, &mut io::sink())?;
    Ok((packed.digest(), size))
}

fn text(name: &str, document: &impl Serialize) -> Result<Vec<u8>, ImportError> {
    serde_json::to_vec(document).map_err(|source| ImportError::Document { name: name.to_owned(), source })
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> Result<(), ImportError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).map_err(read_error(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::super::SelfImage;
    use super::*;

    #[test]
    fn the_image_of_a_binary_is_packed_when_it_is_exported() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("program");
        fs::write(&binary, "the program").unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let (from, to) = (ImageStore::open(from).unwrap(), ImageStore::open(to).unwrap());
        let name = "keelson.io/program:1".to_owned();
        from.register_self(&SelfImage { name: name.clone(), binary }).unwrap();
        let archive = folder.path().join("archive");
        let unfinished = || fs::read_dir(from.staging()).unwrap().count();
        let before = unfinished();
        from.export(&name, File::create(&archive).unwrap()).unwrap();
        assert_eq!(unfinished(), before);

        let imported = to.import(&archive, None).unwrap();
        assert_eq!(imported.len(), 1);
        let there = to.find(&name).unwrap().unwrap();
        let root = to.layer_path(&there.layers[0].chain_id);
        assert_eq!(fs::read_to_string(root.join("keelson")).unwrap(), "the program");
        let mode = |path: &str| root.join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("keelson"), mode("tmp"), mode("etc/passwd")), (0o755, 0o1777, 0o644));
        assert_eq!(root.join("home/nonroot").metadata().unwrap().uid(), 65532);
        let config = to.config(&there).unwrap();
        assert_eq!(config.config.unwrap().entrypoint.unwrap(), ["/keelson"]);
    }
}
