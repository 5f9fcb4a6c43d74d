//! Storage drivers on this node, spoken with over the Container Storage Interface.
//!
//! - `registration`: drivers make themselves known by a socket in `DATA/plugins_registry`, and go with it; so do plugins of devices
//! - `driver`: one of them, and what it is asked
//! - `node_object`: CSINode, and what drivers say of the node
//! - `record` (disk): what was staged and published, so that it is taken back also after a restart
//! - `mount`: stages and publishes volumes for pods, and takes that back
//!
//! Drivers from elsewhere mount `/var/lib/kubelet`, where the kubelet they know has its folder. Here that is `DATA`, wherever it lies: a
//! hostPath at or below `/var/lib/kubelet` leads there, and a driver whose endpoint begins with `/var/lib/kubelet` is told paths that do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Config;
use crate::devices::Devices;

mod driver;
mod mount;
mod node_object;
mod record;
mod registration;

pub(crate) use driver::CsiError;
pub(crate) use mount::{Lifecycle, Ownership, Wanted, inline_handle};
pub(crate) use registration::keep;

use driver::Driver;

/// Where kubelets elsewhere have their folder.
const USUAL: &str = "/var/lib/kubelet";

/// The same path below `data_dir`, if it is below the folder that kubelets elsewhere have; `None` where that is the same.
pub(crate) fn translated(data_dir: &Path, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(USUAL).ok()?;
    let climbs = rest.components().any(|part| matches!(part, std::path::Component::ParentDir));
    (data_dir != Path::new(USUAL) && !climbs)
        .then(|| if rest.as_os_str().is_empty() { data_dir.to_owned() } else { data_dir.join(rest) })
}

/// Who holds it works on a volume.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers of this node.
pub(crate) struct Drivers {
    config: Arc<Config>,
    client: kube::Client,
    /// Where plugins of devices belong.
    devices: Arc<Devices>,
    known: Mutex<HashMap<String, Arc<Driver>>>,
    /// A volume is staged, published and taken back by one at a time.
    turns: Mutex<HashMap<(String, String), Turn>>,
}

impl Drivers {
    /// None yet.
    pub(crate) fn new(config: Arc<Config>, client: kube::Client, devices: Arc<Devices>) -> Self {
        Drivers { config, client, devices, known: Mutex::default(), turns: Mutex::default() }
    }

    fn find(&self, name: &str) -> Result<Arc<Driver>, CsiError> {
        let found = self.known.lock().get(name).cloned();
        found.ok_or_else(|| CsiError::Unknown { driver: name.to_owned() })
    }

    fn turn(&self, driver: &str, handle: &str) -> Turn {
        let mut turns = self.turns.lock();
        // Those that nobody holds are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry((driver.to_owned(), handle.to_owned())).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_usual_folder_lead_to_this_nodes() {
        let to = |path: &str| translated(Path::new("/d/kubelet"), Path::new(path));
        assert_eq!(to("/var/lib/kubelet/plugins/x"), Some("/d/kubelet/plugins/x".into()));
        assert_eq!(to("/var/lib/kubelet"), Some("/d/kubelet".into()));
        assert_eq!(to("/var/lib/kubelets"), None);
        assert_eq!(to("/var/lib/kubelet/../x"), None);
        assert_eq!(translated(Path::new("/var/lib/kubelet"), Path::new("/var/lib/kubelet/x")), None);
    }
}
