//! `LOGS/containers/POD_NAMESPACE_CONTAINER-ID.log`: links to the logs of containers, as those who collect logs look for them.
//!
//! They lie beside the folder of logs and lead there by a relative path, so that they hold wherever the folder above both is mounted: a
//! collector's pod mounts that at `/var/log`. Nothing outside of it is touched, since a machine may have several clusters.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::pod::PodModel;

/// The longest name that file systems take, without `.log`.
const LONGEST: usize = 255 - 4;

/// Where the links lie; nowhere if the logs' folder has no parent.
fn folder(log_dir: &Path) -> Option<PathBuf> {
    log_dir.parent().map(|above| above.join("containers"))
}

/// (pure) The name of a link.
fn name(pod: &PodModel, container: &str, id: &str) -> String {
    let mut name = format!("{}_{}_{container}-{id}", pod.name, pod.namespace);
    // All of it is ASCII; what is too long keeps its beginning.
    name.truncate(LONGEST);
    format!("{name}.log")
}

fn make_link(log_dir: &Path, name: &str, log: &Path) -> io::Result<()> {
    let Some(folder) = folder(log_dir) else { return Ok(()) };
    let (Some(logs), Ok(below)) = (log_dir.file_name(), log.strip_prefix(log_dir)) else { return Ok(()) };
    fs::create_dir_all(&folder)?;
    let link = folder.join(name);
    match symlink(Path::new("..").join(logs).join(below), &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Links to the log of an instance. Nothing depends on it: a link that cannot be made is told in the node's log.
pub(crate) async fn make(log_dir: &Path, pod: &PodModel, container: &str, id: &str, log: &Path) {
    let (log_dir, name, log) = (log_dir.to_owned(), name(pod, container, id), log.to_owned());
    let told = name.clone();
    let made = tokio::task::spawn_blocking(move || make_link(&log_dir, &name, &log)).await;
    if let Err(error) = made.unwrap_or_else(|error| Err(io::Error::other(error))) {
        tracing::warn!(link = told, %error, "a log has no link");
    }
}

/// Removes links that lead nowhere any more. Blocks.
fn sweep_below(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink())
            && fs::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Removes links to logs that are gone.
pub(crate) async fn sweep(log_dir: &Path) {
    let Some(folder) = folder(log_dir) else { return };
    let swept = tokio::task::spawn_blocking(move || sweep_below(&folder)).await;
    if let Err(error) = swept.unwrap_or_else(|error| Err(io::Error::other(error))) {
        tracing::warn!(%error, "links to logs that are gone stay");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(name: &str) -> PodModel {
        let pod = serde_json::json!({"metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}});
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    #[tokio::test]
    async fn a_link_leads_to_its_log_wherever_both_are_mounted_and_goes_with_it() {
        let above = std::env::temp_dir().join(format!("keelson-links-{}", uuid::Uuid::new_v4()));
        let log = above.join("pods/n_p_u/c/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "hello").unwrap();
        let log_dir = above.join("pods");
        for _ in 0..2 {
            make(&log_dir, &pod("p"), "c", "abc", &log).await;
        }
        let elsewhere = above.with_extension("moved");
        fs::rename(&above, &elsewhere).unwrap();
        let link = elsewhere.join("containers/p_n_c-abc.log");
        assert_eq!(fs::read_to_string(&link).unwrap(), "hello");
        fs::write(elsewhere.join("containers/theirs"), "kept").unwrap();
        sweep(&elsewhere.join("pods")).await;
        assert!(link.exists());
        fs::remove_file(elsewhere.join("pods/n_p_u/c/0.log")).unwrap();
        sweep(&elsewhere.join("pods")).await;
        assert!(fs::symlink_metadata(&link).is_err());
        assert!(elsewhere.join("containers/theirs").exists());
        fs::remove_dir_all(&elsewhere).unwrap();
    }

    #[test]
    fn a_name_is_no_longer_than_file_systems_take() {
        assert_eq!(name(&pod(&"p".repeat(300)), "c", "i").len(), 255);
    }
}
