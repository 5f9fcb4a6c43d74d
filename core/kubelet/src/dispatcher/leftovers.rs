//! What pods that nobody knows have left below the data folder and of logs.
//!
//! A volume of a storage driver stays published until its driver is there: what cannot be removed is looked for again.

use std::path::{Path, PathBuf};

use crate::volume::Volumes;

/// Folders of pods, by UID, and of logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    folders: Vec<String>,
    logs: Vec<PathBuf>,
}

impl Leftovers {
    /// (disk) What there is of pods of which nothing is known; `None` when it cannot be listed.
    pub(super) async fn find(
        volumes: &Volumes,
        log_dir: &Path,
        is_known: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let folders = volumes.remaining().await;
        let folders = folders.inspect_err(|error| tracing::warn!(%error, "folders of pods cannot be listed"));
        let logs = logs(log_dir).await;
        let logs = logs.inspect_err(|error| tracing::warn!(%error, "folders of logs cannot be listed"));
        let (mut folders, logs) = (folders.ok()?, logs.ok()?);
        folders.retain(|uid| !is_known(uid));
        let of_nobody = logs.into_iter().filter(|(uid, _)| !is_known(uid));
        Some(Self { folders, logs: of_nobody.map(|(_, path)| path).collect() })
    }

    /// (disk) Removes all of it; says whether nothing is left.
    pub(super) async fn remove(self, volumes: &Volumes, log_dir: &Path) -> bool {
        let mut is_done = true;
        for uid in self.folders {
            match volumes.tear_down(&uid).await {
                Ok(()) => tracing::info!(uid, "the folder of a pod that is gone was removed"),
                Err(error) => {
                    tracing::warn!(uid, %error, "the folder of a pod that is gone is not removed");
                    is_done = false;
                }
            }
        }
        for path in self.logs {
            match tokio::fs::remove_dir_all(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "logs of a pod that is gone are not removed");
                    is_done = false;
                }
                Ok(()) | Err(_) => {}
            }
        }
        crate::log_links::sweep(log_dir).await;
        is_done
    }
}

/// The folders of logs, by the UIDs of their pods.
async fn logs(log_dir: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut entries = match tokio::fs::read_dir(log_dir).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        // NAMESPACE_NAME_UID, of which none has an underscore.
        let name = entry.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit_once('_')).map(|(_, uid)| uid.to_owned());
        found.extend(uid.map(|uid| (uid, entry.path())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::csi::Drivers;
    use crate::objects::Objects;
    use crate::testing;

    #[tokio::test]
    async fn what_a_driver_has_not_taken_back_yet_is_found_again() {
        let data_dir = std::env::temp_dir().join(format!("keelson-left-{}", uuid::Uuid::new_v4()));
        let log_dir = data_dir.join("logs/pods");
        let volume = data_dir.join("pods/of-driver/volumes/kubernetes.io~csi/v");
        for folder in
            [&volume, &data_dir.join("pods/plain"), &data_dir.join("pods/known"), &log_dir.join("n_p_plain")]
        {
            fs::create_dir_all(folder).unwrap();
        }
        fs::create_dir_all(log_dir.join("n_p_known")).unwrap();
        let record = serde_json::json!({ "driverName": "d.example", "volumeHandle": "h" });
        fs::write(volume.join("vol_data.json"), record.to_string()).unwrap();
        let config = Arc::new(Config { data_dir: data_dir.clone(), ..testing::config() });
        let client = testing::no_api();
        let drivers = Arc::new(Drivers::new(Arc::clone(&config), client.clone()));
        let objects = Objects::new(client.clone());
        let volumes = Volumes::new(config, client, objects, drivers);
        let find = async || Leftovers::find(&volumes, &log_dir, |uid| uid == "known").await.unwrap();
        assert!(!find().await.remove(&volumes, &log_dir).await);
        let left = Leftovers { folders: vec!["of-driver".to_owned()], logs: Vec::new() };
        assert_eq!(find().await, left);
        // As when its driver has taken the volume back.
        fs::remove_dir_all(&volume).unwrap();
        assert!(find().await.remove(&volumes, &log_dir).await);
        assert_eq!(find().await, Leftovers::default());
        assert!(data_dir.join("pods/known").exists() && log_dir.join("n_p_known").exists());
        fs::remove_dir_all(&data_dir).unwrap();
    }
}
