//! What the servers of one cluster have in common: the authorities and the key of service accounts. One that joins is
//! given them by one that is there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Pki, PkiError, read, write};

/// The files below the folder of certificates, and who may read them.
const FILES: [(&str, u32); 7] = [
    ("ca.key", 0o600),
    ("sa.key", 0o600),
    ("front-proxy/ca.key", 0o600),
    ("front-proxy/ca.crt", 0o644),
    ("members/ca.key", 0o600),
    ("members/ca.crt", 0o644),
    // The last to be written: where it is, the others are.
    ("ca.crt", 0o644),
];

/// The keys of a cluster. Who has them is the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterKeys(BTreeMap<String, String>);

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why keys are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The folder belongs to another cluster.
    #[error(
        "{} has the keys of another cluster: choose another --data-dir, or remove this one if what is in it is no \
         longer wanted",
        dir.display()
    )]
    OtherCluster {
        /// The folder.
        dir: std::path::PathBuf,
    },
    /// Something is not among them.
    #[error("the server that was joined did not give {file}: do both run the same version?")]
    Missing {
        /// What.
        file: &'static str,
    },
    /// A file.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl Pki {
    /// What another server of this cluster is given.
    pub fn shared(&self) -> Result<ClusterKeys, PkiError> {
        // Each is made when it is first asked for.
        self.service_account_key()?;
        self.front_proxy()?;
        self.members()?;
        let mut keys = BTreeMap::new();
        for (file, _) in FILES {
            let path = self.dir.join(file);
            let text = read(&path)?.ok_or(PkiError::Unreadable { path })?;
            keys.insert(file.to_owned(), text);
        }
        Ok(ClusterKeys(keys))
    }
}

impl ClusterKeys {
    /// Whether a folder has keys already.
    pub fn are_in(dir: &Path) -> bool {
        dir.join("ca.crt").exists()
    }

    /// Writes them into a folder of certificates that has none, or these.
    pub fn take(&self, dir: &Path) -> Result<(), TakeError> {
        let mut all = Vec::with_capacity(FILES.len());
        for (file, mode) in FILES {
            all.push((file, mode, self.0.get(file).ok_or(TakeError::Missing { file })?));
        }
        for (file, _, text) in &all {
            if read(&dir.join(file))?.is_some_and(|found| found != **text) && Self::are_in(dir) {
                return Err(TakeError::OtherCluster { dir: dir.to_owned() });
            }
        }
        for (file, mode, text) in all {
            let path = dir.join(file);
            let folder = path.parent().unwrap_or(dir);
            fs::create_dir_all(folder).map_err(|source| PkiError::Io {
                action: "create",
                path: folder.to_owned(),
                source,
            })?;
            write(&path, text, mode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_given_the_keys_is_of_the_same_cluster() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pki = Pki::open(first.path()).unwrap();
        let keys = pki.shared().unwrap();
        assert!(!format!("{keys:?}").contains("BEGIN"), "they are not shown");
        keys.take(second.path()).unwrap();
        let other = Pki::open(second.path()).unwrap();
        assert_eq!(other.authority(), pki.authority());
        assert_eq!(other.members().unwrap().authority(), pki.members().unwrap().authority());
        assert_eq!(other.service_account_key().unwrap(), pki.service_account_key().unwrap());
        keys.take(second.path()).unwrap();
    }

    #[test]
    fn a_folder_of_another_cluster_stays_as_it_is() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = Pki::open(first.path()).unwrap().shared().unwrap();
        let other = Pki::open(second.path()).unwrap();
        assert!(matches!(keys.take(second.path()), Err(TakeError::OtherCluster { .. })));
        assert_eq!(Pki::open(second.path()).unwrap().authority(), other.authority());
    }
}
