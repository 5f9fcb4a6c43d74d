//! Drivers make themselves known: each serves a socket in `DATA/plugins_registry`, and is gone when that is.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_csi::registration::registration_client::RegistrationClient;
use keelson_csi::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tokio_util::sync::CancellationToken;

use super::Drivers;
use super::driver::{CsiError, Driver, channel};
use super::node_object;
use crate::folder_watch::FolderWatch;

/// Between two looks into the folder while a plugin is there that could not be met.
const LOOK: Duration = Duration::from_secs(1);
/// How long one that could not be met is left alone, at most.
const LONGEST: u32 = 60;
/// How long a plugin may take to say who it is.
const LIMIT: Duration = Duration::from_secs(10);

/// Which socket it is: one of the same name made anew is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64, i64);

/// A plugin by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plugin {
    /// A storage driver.
    Csi(String),
    /// What offers a resource.
    Device(String),
}

/// A socket that was seen.
#[derive(Debug)]
enum Seen {
    /// Its plugin is known.
    Known(Identity, Plugin),
    /// It failed so often, and is asked again after so many looks.
    Failed(Identity, u32, u32),
}

fn sockets(folder: &Path) -> std::io::Result<HashMap<PathBuf, Identity>> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            let metadata = entry.metadata()?;
            found.insert(entry.path(), Identity(metadata.dev(), metadata.ino(), metadata.ctime_nsec()));
        }
    }
    Ok(found)
}

/// Meets drivers as they come, and forgets those that go, until `shutdown`.
pub(crate) async fn keep(drivers: Arc<Drivers>, shutdown: CancellationToken) {
    let folder = drivers.config.data_dir.join("plugins_registry");
    for folder in [&folder, &drivers.config.data_dir.join("plugins")] {
        if let Err(error) = tokio::fs::create_dir_all(folder).await {
            tracing::error!(folder = %folder.display(), %error, "no storage driver can make itself known");
            return;
        }
    }
    let mut seen: HashMap<PathBuf, Seen> = HashMap::new();
    loop {
        // Watched before it is read, so that no socket comes between both.
        let watch = FolderWatch::new(&folder);
        let is_read = match sockets(&folder) {
            Ok(found) => {
                look(&drivers, &mut seen, found).await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the folder of storage drivers cannot be read");
                false
            }
        };
        let is_settled = is_read && seen.values().all(|one| matches!(one, Seen::Known(..)));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed(watch) => {}
            () = tokio::time::sleep(LOOK), if !is_settled => {}
        }
    }
}

/// Waits for a change in the folder; where none can be seen, for the time of the next look.
async fn changed(watch: std::io::Result<FolderWatch>) {
    let seen = match watch {
        Ok(watch) => watch.changed().await.is_ok(),
        Err(_) => false,
    };
    if !seen {
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(drivers: &Drivers, seen: &mut HashMap<PathBuf, Seen>, found: HashMap<PathBuf, Identity>) {
    let is_same = |path: &PathBuf, known: &Identity| found.get(path) == Some(known);
    let gone: Vec<PathBuf> = seen
        .iter()
        .filter(|(path, seen)| match seen {
            Seen::Known(identity, _) | Seen::Failed(identity, ..) => !is_same(path, identity),
        })
        .map(|(path, _)| path.clone())
        .collect();
    for path in gone {
        match seen.remove(&path) {
            Some(Seen::Known(_, Plugin::Csi(name))) => {
                if let Err(error) = forget(drivers, &name).await {
                    tracing::warn!(driver = name, %error, "that a storage driver is gone cannot be said");
                }
            }
            Some(Seen::Known(_, Plugin::Device(resource))) => drivers.devices.deregister(&resource),
            Some(Seen::Failed(..)) | None => {}
        }
    }
    for (path, identity) in found {
        let failures = match seen.get_mut(&path) {
            Some(Seen::Known(..)) => continue,
            Some(Seen::Failed(_, _, wait)) if *wait > 0 => {
                *wait -= 1;
                continue;
            }
            Some(Seen::Failed(_, failures, _)) => *failures,
            None => 0,
        };
        let now = match register(drivers, &path).await {
            Ok(plugin) => {
                tracing::info!(?plugin, "a plugin is there");
                Seen::Known(identity, plugin)
            }
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "a plugin cannot be used");
                Seen::Failed(
                    identity,
                    failures + 1,
                    1_u32.checked_shl(failures).unwrap_or(LONGEST).min(LONGEST),
                )
            }
        };
        seen.insert(path, now);
    }
}

async fn forget(drivers: &Drivers, name: &str) -> Result<(), CsiError> {
    drivers.known.lock().remove(name);
    tracing::info!(driver = name, "a storage driver is gone");
    node_object::write(&drivers.client, &drivers.config.node_name, name, None).await
}

fn failed(call: &'static str) -> impl FnOnce(tonic::Status) -> CsiError {
    move |status| CsiError::Call { call, code: status.code(), message: status.message().to_owned() }
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(LIMIT);
    request
}

/// Meets the driver behind a socket and tells it how that went; its name.
async fn register(drivers: &Drivers, socket: &Path) -> Result<Plugin, CsiError> {
    let mut plugin = RegistrationClient::new(channel(socket));
    let info = plugin.get_info(timed(InfoRequest {})).await.map_err(failed("GetInfo"))?.into_inner();
    let met = meet(drivers, socket, &info).await;
    let error = met.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: met.is_ok(), error };
    let told = plugin.notify_registration_status(timed(status)).await;
    let met = met?;
    told.map_err(failed("NotifyRegistrationStatus"))?;
    Ok(met)
}

async fn meet(drivers: &Drivers, socket: &Path, info: &PluginInfo) -> Result<Plugin, CsiError> {
    let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
    if info.r#type == "DevicePlugin" {
        let met = drivers.devices.register(&info.name, &info.supported_versions, endpoint).await;
        return met
            .map(|()| Plugin::Device(info.name.clone()))
            .map_err(|error| CsiError::Refused(error.to_string()));
    }
    if info.r#type != "CSIPlugin" {
        return Err(CsiError::Refused(format!(
            "plugins of type {:?} are not supported by this node",
            info.r#type
        )));
    }
    let is_plain = !info.name.is_empty() && !info.name.starts_with('.') && !info.name.contains('/');
    if !is_plain {
        return Err(CsiError::Refused(format!("{:?} is no name of a driver", info.name)));
    }
    let fits = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(fits) {
        let versions = info.supported_versions.join(", ");
        return Err(CsiError::Refused(format!(
            "driver {} speaks none of the versions 1.x: {versions}",
            info.name
        )));
    }
    let driver = Driver::meet(&info.name, endpoint, &drivers.config.data_dir).await?;
    node_object::write(&drivers.client, &drivers.config.node_name, &info.name, Some(&driver)).await?;
    drivers.known.lock().insert(info.name.clone(), Arc::new(driver));
    Ok(Plugin::Csi(info.name.clone()))
}
