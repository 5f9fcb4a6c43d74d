//! Plugins make themselves known: each serves a socket in `DATA/plugins_registry`, and is gone when that is. What is to be done with
//! a plugin depends on its type, and is a [`Handler`]'s.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use keelson_csi::registration::registration_client::RegistrationClient;
use keelson_csi::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::folder_watch::FolderWatch;

/// Between two looks into the folder while a plugin is there that could not be met.
const LOOK: Duration = Duration::from_secs(1);
/// How long one that could not be met is left alone, at most.
const LONGEST: u32 = 60;
/// How long a plugin may take to say who it is.
const LIMIT: Duration = Duration::from_secs(10);
/// Where kubelets elsewhere have their folder.
pub(crate) const USUAL: &str = "/var/lib/kubelet";

/// Who works with plugins of one type.
#[async_trait]
pub(crate) trait Handler: Send + Sync {
    /// The type, as plugins say it.
    fn kind(&self) -> &'static str;

    /// Takes a plugin up, or says why it cannot be used. `socket` is the one in the folder, by which it will be forgotten.
    async fn meet(&self, socket: &Path, info: &PluginInfo) -> Result<(), String>;

    /// A plugin is gone.
    async fn forget(&self, socket: &Path, name: &str) -> Result<(), String>;
}

/// Who works with plugins, by their types.
pub(crate) type Handlers = Vec<Arc<dyn Handler>>;

/// Which socket it is: one of the same name made anew is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64, i64);

/// A socket that was seen.
#[derive(Debug)]
enum Seen {
    /// Its plugin is known, with type and name.
    Known(Identity, String, String),
    /// It failed so often, and is asked again after so many looks.
    Failed(Identity, u32, u32),
}

/// The same path below `data_dir`, if it is below the folder that kubelets elsewhere have; `None` where that is the same.
pub(crate) fn translated(data_dir: &Path, path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(USUAL).ok()?;
    let climbs = rest.components().any(|part| matches!(part, std::path::Component::ParentDir));
    (data_dir != Path::new(USUAL) && !climbs)
        .then(|| if rest.as_os_str().is_empty() { data_dir.to_owned() } else { data_dir.join(rest) })
}

/// A connection to a Unix socket, made at the first call and made anew when it broke.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://plugin").connect_with_connector_lazy(connector)
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

/// Meets plugins as they come, and forgets those that go, until `shutdown`.
pub(crate) async fn keep(data_dir: PathBuf, handlers: Handlers, shutdown: CancellationToken) {
    let folder = data_dir.join("plugins_registry");
    for folder in [&folder, &data_dir.join("plugins")] {
        if let Err(error) = tokio::fs::create_dir_all(folder).await {
            tracing::error!(folder = %folder.display(), %error, "no plugin can make itself known");
            return;
        }
    }
    let mut seen: HashMap<PathBuf, Seen> = HashMap::new();
    loop {
        // Watched before it is read, so that no socket comes between both.
        let watch = FolderWatch::new(&folder);
        let is_read = match sockets(&folder) {
            Ok(found) => {
                look(&handlers, &mut seen, found).await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the folder of plugins cannot be read");
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

async fn look(handlers: &Handlers, seen: &mut HashMap<PathBuf, Seen>, found: HashMap<PathBuf, Identity>) {
    let is_same = |path: &PathBuf, known: &Identity| found.get(path) == Some(known);
    let gone: Vec<PathBuf> = seen
        .iter()
        .filter(|(path, seen)| match seen {
            Seen::Known(identity, ..) | Seen::Failed(identity, ..) => !is_same(path, identity),
        })
        .map(|(path, _)| path.clone())
        .collect();
    for path in gone {
        let Some(Seen::Known(_, kind, name)) = seen.remove(&path) else { continue };
        tracing::info!(kind, plugin = name, "a plugin is gone");
        for handler in handlers.iter().filter(|handler| handler.kind() == kind) {
            if let Err(error) = handler.forget(&path, &name).await {
                tracing::warn!(kind, plugin = name, error, "that a plugin is gone cannot be said");
            }
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
        let now = match register(handlers, &path).await {
            Ok((kind, name)) => {
                tracing::info!(kind, plugin = name, "a plugin is there");
                Seen::Known(identity, kind, name)
            }
            Err(error) => {
                tracing::warn!(socket = %path.display(), error, "a plugin cannot be used");
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

fn failed(call: &'static str) -> impl FnOnce(tonic::Status) -> String {
    move |status| format!("rpc error: code = {:?} desc = {call}: {}", status.code(), status.message())
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(LIMIT);
    request
}

/// Meets the plugin behind a socket and tells it how that went; its type and name.
async fn register(handlers: &Handlers, socket: &Path) -> Result<(String, String), String> {
    let mut plugin = RegistrationClient::new(channel(socket));
    let info = plugin.get_info(timed(InfoRequest {})).await.map_err(failed("GetInfo"))?.into_inner();
    let met = meet(handlers, socket, &info).await;
    let error = met.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: met.is_ok(), error };
    let told = plugin.notify_registration_status(timed(status)).await;
    met?;
    told.map_err(failed("NotifyRegistrationStatus"))?;
    Ok((info.r#type, info.name))
}

async fn meet(handlers: &Handlers, socket: &Path, info: &PluginInfo) -> Result<(), String> {
    let Some(handler) = handlers.iter().find(|handler| handler.kind() == info.r#type) else {
        return Err(format!("plugins of type {:?} are not supported by this node", info.r#type));
    };
    handler.meet(socket, info).await
}

/// Refuses names that are no part of a path.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if is_plain { Ok(()) } else { Err(format!("{name:?} is no name of a driver")) }
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
