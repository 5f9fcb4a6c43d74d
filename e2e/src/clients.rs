//! Other people's clients, in the versions that this machine has.
//!
//! `e2e/fetch-clients` puts newer kubectls and helm into a folder below the home folder's cache; Google's SDK brings older
//! kubectls. A test drives what is there and says what is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where Google's SDK keeps kubectls of several versions.
const SDK: [&str; 2] = ["/usr/lib/google-cloud-sdk/bin", "/google-cloud-sdk/bin"];

/// The folder that `e2e/fetch-clients` fills.
pub fn folder() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    std::env::var_os("KEELSON_CLIENTS").map_or_else(|| home.join(".cache/keelson/clients"), PathBuf::from)
}

/// Every kubectl that is there, by its minor version; the one on the PATH is not among them.
pub fn kubectls() -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    let folder = folder();
    let places = SDK.iter().map(|place| (Path::new(place), "kubectl.1."));
    for (place, prefix) in places.chain([(folder.as_path(), "kubectl-1.")]) {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(minor) = name.strip_prefix(prefix).and_then(|minor| minor.parse().ok()) {
                found.insert(minor, entry.path());
            }
        }
    }
    found
}

/// The helm that is there.
pub fn helm() -> Option<PathBuf> {
    Some(folder().join("helm")).filter(|helm| helm.exists())
}

/// A Python that has the `kubernetes` package.
pub fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let output = std::process::Command::new(python).args(["-c", "import kubernetes"]).output();
        output.is_ok_and(|output| output.status.success())
    })
}
