//! Pods of the node itself: manifests in a folder, which run whatever the API says.
//!
//! ```text
//! folder --manifest--> static pods --dispatcher--> workers
//!                          `-- mirrors --> what the API shows of them
//! ```
//!
//! A pod is of the file's content: another content is another pod, which begins when the one before it has ended.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::folder_watch::FolderWatch;

mod manifest;
pub(crate) mod mirrors;

/// A folder that is not there, or cannot be read, is looked for again after this.
const RETRY: Duration = Duration::from_secs(20);
/// A larger file is no manifest.
const MAX_FILE: u64 = 1 << 20;

/// By UID.
pub(crate) type StaticPods = BTreeMap<String, Arc<Pod>>;

/// What was made of a file.
struct Known {
    text: Vec<u8>,
    pod: Option<Arc<Pod>>,
}

/// The folder of a node's manifests.
pub(crate) struct Folder {
    /// Without it there are none.
    path: Option<PathBuf>,
    node: String,
    files: HashMap<PathBuf, Known>,
    pods: watch::Sender<Arc<StaticPods>>,
}

/// The files that may be manifests.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_file = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
        if !is_hidden && is_file {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Folder {
    /// Reads the folder for the first time.
    pub(crate) fn open(path: Option<PathBuf>, node: &str) -> (Self, watch::Receiver<Arc<StaticPods>>) {
        let (pods, receiver) = watch::channel(Arc::default());
        let mut folder = Self { path, node: node.to_owned(), files: HashMap::new(), pods };
        folder.read();
        (folder, receiver)
    }

    /// Takes the folder's content over. A file that cannot be read any more, as while it is written, stays what it was.
    /// Says whether it is there.
    fn read(&mut self) -> bool {
        let Some(folder) = &self.path else { return true };
        let paths = match files(folder) {
            Ok(paths) => paths,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the folder of static pods cannot be read");
                return false;
            }
        };
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            let known = before.remove(&path);
            let known = match std::fs::read(&path) {
                Ok(text) => self.understand(&path, text, known),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a manifest cannot be read");
                    known
                }
            };
            if let Some(known) = known {
                self.files.insert(path, known);
            }
        }
        let pods = self.distinct();
        self.pods.send_if_modified(|known| {
            let is_other = !known.keys().eq(pods.keys());
            if is_other {
                *known = Arc::new(pods);
            }
            is_other
        });
        true
    }

    /// The pods of all files; of those of one name the one whose file comes first.
    fn distinct(&self) -> StaticPods {
        let files: BTreeMap<&PathBuf, &Known> = self.files.iter().collect();
        let (mut names, mut pods) = (HashMap::new(), StaticPods::new());
        for (path, pod) in files.into_iter().filter_map(|(path, known)| Some((path, known.pod.as_ref()?))) {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            match names.entry(mirrors::full_name(pod)) {
                Entry::Vacant(free) => {
                    free.insert(path);
                    pods.insert(uid, Arc::clone(pod));
                }
                Entry::Occupied(taken) => {
                    let ((namespace, name), first) = (taken.key(), taken.get());
                    let (path, first) = (path.display(), first.display());
                    tracing::warn!(%path, %first, namespace, name, "a static pod of this name is in another file");
                }
            }
        }
        pods
    }

    fn understand(&self, path: &Path, text: Vec<u8>, known: Option<Known>) -> Option<Known> {
        if known.as_ref().is_some_and(|known| known.text == text) {
            return known;
        }
        match manifest::read(&text, path, &self.node) {
            Ok(pod) => Some(Known { text, pod: Some(Arc::new(pod)) }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file is no static pod");
                Some(Known { text, pod: known.and_then(|known| known.pod) })
            }
        }
    }

    /// Follows the folder until the shutdown.
    pub(crate) async fn keep(mut self, shutdown: CancellationToken) {
        let Some(path) = self.path.clone() else { return };
        loop {
            // Watched before it is read, so that no change is lost between both.
            let watch = FolderWatch::new(&path);
            let is_there = tokio::task::block_in_place(|| self.read());
            let wait = async {
                let changed = match &watch {
                    Ok(watch) if is_there => watch.changed().await.is_ok(),
                    Ok(_) | Err(_) => false,
                };
                if !changed {
                    tokio::time::sleep(RETRY).await;
                }
            };
            if shutdown.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_file_is_a_pod_until_it_goes_and_stays_what_it_was_while_it_is_half_written() {
        let folder = std::env::temp_dir().join(format!("keelson-static-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        let path = folder.join("web.yaml");
        std::fs::write(&path, POD).unwrap();
        std::fs::write(folder.join(".web.yaml.swp"), POD).unwrap();
        let (mut kept, pods) = Folder::open(Some(folder.clone()), "node-1");
        let first: Vec<String> = pods.borrow().keys().cloned().collect();
        assert_eq!(first.len(), 1);
        std::fs::write(&path, &POD[..60]).unwrap();
        assert!(kept.read());
        assert!(pods.borrow().keys().eq(&first));
        std::fs::write(&path, POD.replace("image: i", "image: other")).unwrap();
        assert!(kept.read());
        assert_eq!(pods.borrow().len(), 1);
        assert!(!pods.borrow().keys().eq(&first));
        std::fs::remove_file(&path).unwrap();
        assert!(kept.read());
        assert!(pods.borrow().is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn of_manifests_of_one_name_the_first_file_is_the_pod_until_it_goes() {
        let folder = std::env::temp_dir().join(format!("keelson-static-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        for (file, image) in [("b.yaml", "second"), ("a.yaml", "first"), ("c.yaml", "third")] {
            std::fs::write(folder.join(file), POD.replace("image: i", &format!("image: {image}"))).unwrap();
        }
        std::fs::write(folder.join("d.yaml"), POD.replace("name: web", "name: other")).unwrap();
        let (mut kept, pods) = Folder::open(Some(folder.clone()), "node-1");
        let images = || {
            let pods = pods.borrow();
            let image = |pod: &Arc<Pod>| pod.spec.as_ref()?.containers[0].image.clone();
            let mut images: Vec<String> = pods.values().filter_map(image).collect();
            images.sort();
            images
        };
        assert_eq!(images(), ["first", "i"]);
        std::fs::remove_file(folder.join("a.yaml")).unwrap();
        assert!(kept.read());
        assert_eq!(images(), ["i", "second"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
