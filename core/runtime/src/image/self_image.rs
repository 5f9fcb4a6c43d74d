//! The running binary as an image: one layer with the binary and the few files that programs look for.
//!
//! The binary is known by device, inode, size and time, so that an unchanged one costs a stat.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::config::{Defaults, ImageConfig, RootFs, architecture};
use super::store::{Image, ImageStore, Layer, StoreError};

/// The image that the binary carries.
#[derive(Debug, Clone)]
pub struct SelfImage {
    /// For example `keelson.io/keelson:0.1.0`.
    pub name: String,
    /// The binary, statically linked; it becomes `/keelson`.
    pub binary: PathBuf,
}

/// The argument upon which the program must call [`crate::pod_process::pause`].
const PAUSE: &str = "pause";

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\nnobody:x:65534:\n";

impl ImageStore {
    /// Makes the binary an image of the store, unless it is one already.
    pub fn register_self(&self, this: &SelfImage) -> Result<Image, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| StoreError::File { action: "read", path, source }
        };
        let metadata = fs::metadata(&this.binary).map_err(failed(&this.binary))?;
        let key = format!(
            "keelson binary {} {} {} {} {}",
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        let chain_id = hex::encode(digest(&SHA256, key.as_bytes()));
        let known = self.find(&this.name)?;
        if let Some(known) = known
            && known.layers.iter().any(|layer| layer.chain_id == chain_id)
            && self.layer_path(&chain_id).exists()
        {
            return Ok(known);
        }
        let _lease = self.lease()?;
        let target = self.layer_path(&chain_id);
        if !target.exists() {
            let staged = self.stage()?;
            fill(&staged, &this.binary).map_err(failed(&staged))?;
            self.adopt_layer(&staged, &target)?;
        }
        let config = config(&chain_id);
        let text = serde_json::to_vec(&config).map_err(StoreError::Damaged)?;
        let id = self.put_blob(&text)?;
        let reference = super::normalize(&this.name).map_err(|_| StoreError::NoDigest(this.name.clone()))?;
        let name = format!("{}/{}@{id}", reference.registry(), reference.repository());
        let image = Image {
            id: id.clone(),
            manifest: id,
            layers: vec![Layer { digest: None, chain_id }],
            size: metadata.size(),
            tags: BTreeSet::from([reference.whole()]),
            digests: BTreeSet::from([name]),
            pinned: true,
        };
        self.put(image.clone())?;
        Ok(image)
    }
}

fn config(chain_id: &str) -> ImageConfig {
    ImageConfig {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: Some(Defaults {
            user: Some("65532:65532".to_owned()),
            env: Some(vec!["PATH=/:/usr/local/bin:/usr/bin:/bin".to_owned()]),
            entrypoint: Some(vec!["/keelson".to_owned()]),
            // So that another container runtime can make its sandboxes of it.
            cmd: Some(vec![PAUSE.to_owned()]),
            working_dir: Some("/".to_owned()),
            ..Defaults::default()
        }),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![format!("sha256:{chain_id}")] },
    }
}

fn fill(folder: &Path, binary: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    let target = folder.join("keelson");
    // A second name for the same file where that is possible, a copy where it is another file system.
    if fs::hard_link(binary, &target).is_err() {
        fs::copy(binary, &target)?;
        fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    }
    for (name, mode) in
        [("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755), ("home/nonroot", 0o755)]
    {
        fs::create_dir(folder.join(name))?;
        fs::set_permissions(folder.join(name), Permissions::from_mode(mode))?;
    }
    std::os::unix::fs::chown(folder.join("home/nonroot"), Some(65532), Some(65532))?;
    for (name, content) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        fs::write(folder.join(name), content)?;
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o644))?;
    }
    Ok(())
}
