//! Which claims are prepared for which pods, in the file `dra_manager_state`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::state_file::{StateFile, replace};

const FILE: &str = "dra_manager_state";

/// Why it is not known what is prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file cannot be read or written.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged: drain the node, and remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Namespace and name of a claim.
pub(crate) type ClaimName = (String, String);

/// A device that a driver has prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) pool_name: String,
    pub(crate) device_name: String,
    /// The requests that it is for; empty for all.
    pub(crate) request_names: Vec<String>,
    pub(crate) cdi_device_ids: Vec<String>,
}

/// A claim that is prepared, or may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Claim {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(super) uid: String,
    /// The UIDs of the pods that have it.
    pub(super) pods: BTreeSet<String>,
    /// The drivers of its devices, with what they have prepared.
    pub(crate) drivers: BTreeMap<String, Vec<Device>>,
    /// Whether all of them have.
    pub(super) prepared: bool,
    /// Whether they have in this run: the machine may have begun anew since an earlier one, and knows nothing of it.
    #[serde(skip)]
    pub(super) asked: bool,
}

impl Claim {
    /// Its devices for a request, or for all of them, with their drivers.
    pub(super) fn devices(&self, request: Option<&str>) -> impl Iterator<Item = (&str, &Device)> {
        let is_for = move |device: &Device| {
            let mut names = device.request_names.iter().map(|name| name.split('/').next().unwrap_or(name));
            device.request_names.is_empty() || request.is_none_or(|request| names.any(|name| name == request))
        };
        let all = self
            .drivers
            .iter()
            .flat_map(|(driver, devices)| devices.iter().map(move |device| (driver.as_str(), device)));
        all.filter(move |(_, device)| is_for(device))
    }

    /// The names by which the runtime finds those.
    pub(super) fn cdi_devices(&self, request: Option<&str>) -> Vec<String> {
        self.devices(request).flat_map(|(_, device)| device.cdi_device_ids.iter().cloned()).collect()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    /// The claims, as JSON.
    data: String,
    /// Of the data.
    checksum: String,
}

type Claims = BTreeMap<ClaimName, Claim>;

/// What is prepared, on disk before it holds.
#[derive(Debug)]
pub(super) struct State {
    file: StateFile,
    claims: Arc<Mutex<Claims>>,
}

fn checksum(data: &str) -> String {
    hex::encode(digest(&SHA256, data.as_bytes()))
}

/// Writes claims down. It blocks.
fn save(path: &Path, claims: &Claims) -> io::Result<()> {
    let data = serde_json::to_string(&claims.values().collect::<Vec<_>>())?;
    replace(path, &serde_json::to_vec(&Checkpoint { checksum: checksum(&data), data })?)
}

impl State {
    /// Reads what an earlier run has recorded. `folder` is the kubelet's.
    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let claims = match fs::read(&path) {
            Ok(text) => {
                let read = serde_json::from_slice::<Checkpoint>(&text).ok();
                let read = read.filter(|checkpoint| checksum(&checkpoint.data) == checkpoint.checksum);
                let claims = read.and_then(|it| serde_json::from_str::<Vec<Claim>>(&it.data).ok());
                claims.ok_or_else(|| StateError::Damaged { path: path.clone() })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StateError::File { action: "read", path, source }),
        };
        let named = claims.into_iter().map(|claim| ((claim.namespace.clone(), claim.name.clone()), claim));
        Ok(State { file: StateFile::new(path), claims: Arc::new(Mutex::new(named.collect())) })
    }

    /// What is known of a claim.
    pub(super) fn get(&self, name: &ClaimName) -> Option<Claim> {
        self.claims.lock().get(name).cloned()
    }

    /// The claims of a pod.
    pub(super) fn of_pod(&self, uid: &str) -> Vec<ClaimName> {
        let claims = self.claims.lock();
        let of = claims.iter().filter(|(_, claim)| claim.pods.contains(uid));
        of.map(|(name, _)| name.clone()).collect()
    }

    /// The UIDs of all pods with claims.
    pub(super) fn pods(&self) -> BTreeSet<String> {
        self.claims.lock().values().flat_map(|claim| claim.pods.iter().cloned()).collect()
    }

    /// Records a claim, or with `None` that it is no more; what cannot be written does not hold.
    pub(super) async fn put(&self, name: &ClaimName, claim: Option<Claim>) -> Result<(), StateError> {
        let (name, held) = (name.clone(), Arc::clone(&self.claims));
        let work = move |path: &Path| {
            let mut claims = held.lock().clone();
            if claims.get(&name) == claim.as_ref() {
                return Ok(());
            }
            match claim {
                Some(claim) => drop(claims.insert(name, claim)),
                None => drop(claims.remove(&name)),
            }
            save(path, &claims)?;
            *held.lock() = claims;
            Ok(())
        };
        let failed = |source| StateError::File { action: "write", path: self.file.path().to_owned(), source };
        self.file.work(work).await.and_then(|written| written).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("keelson-dra-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn claim() -> Claim {
        let device = |name: &str, requests: &[&str]| Device {
            device_name: name.into(),
            request_names: requests.iter().map(ToString::to_string).collect(),
            cdi_device_ids: vec![format!("v/c={name}")],
            ..Device::default()
        };
        let devices = vec![device("a", &["x"]), device("b", &["y/fast"]), device("c", &[])];
        Claim {
            namespace: "n".into(),
            name: "c".into(),
            uid: "u".into(),
            pods: BTreeSet::from(["p".to_owned()]),
            drivers: BTreeMap::from([("d".to_owned(), devices)]),
            prepared: true,
            asked: false,
        }
    }

    #[tokio::test]
    async fn what_was_recorded_is_known_after_a_restart_and_damage_is_told() {
        let folder = folder();
        let name = ("n".to_owned(), "c".to_owned());
        let state = State::open(&folder).unwrap();
        state.put(&name, Some(claim())).await.unwrap();
        let state = State::open(&folder).unwrap();
        assert_eq!((state.get(&name), state.of_pod("p")), (Some(claim()), vec![name.clone()]));
        assert_eq!(state.pods(), BTreeSet::from(["p".to_owned()]));
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).unwrap().replace("v/c=a", "v/c=z");
        fs::write(&path, text).unwrap();
        assert!(matches!(State::open(&folder), Err(StateError::Damaged { .. })));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_container_gets_the_devices_of_its_request() {
        assert_eq!(claim().cdi_devices(Some("x")), ["v/c=a", "v/c=c"]);
        assert_eq!(claim().cdi_devices(Some("y")), ["v/c=b", "v/c=c"]);
        assert_eq!(claim().cdi_devices(None).len(), 3);
    }
}
