//! At start: what is on disk and what still lives become the runtime's state again; what belongs to nothing goes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::container_mounts;
use crate::error::{CallError, chain, file};
use crate::image::store::PARTIAL_KEPT;
use crate::snapshot;
use crate::state::{
    Container, ContainerRecord, Phase, Runtime, Sandbox, SandboxRecord, phase_on_disk, read_record,
};

/// Between two sweeps of what pulls have left.
const SWEEP: Duration = Duration::from_secs(60 * 60);

fn folders(path: &Path) -> Result<Vec<PathBuf>, CallError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file("read", path)(error)),
    };
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

impl Runtime {
    /// Adopts living pods, marks dead ones, removes remains. One broken record does not stop the others.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), CallError> {
        for folder in folders(&self.pods_folder())? {
            match load_sandbox(&folder) {
                Ok(Some(sandbox)) => self.adopt(Arc::new(sandbox)).await,
                Ok(None) => self.discard(&folder),
                Err(error) => {
                    tracing::error!(%error, folder = %folder.display(), "pod not readable; left alone");
                }
            }
        }
        self.remove_stray_namespaces()?;
        self.images.collect(&self.layers_in_use())?;
        Ok(())
    }

    /// Removes from time to time what pulls that were given up have left, until `shutdown`.
    pub(crate) async fn sweep(self: Arc<Self>, shutdown: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                let runtime = Arc::clone(&self);
                let work = move || runtime.images.collect_old(&runtime.layers_in_use(), PARTIAL_KEPT);
                match tokio::task::spawn_blocking(work).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(error = %chain(&error), "what pulls have left is not removed")
                    }
                    Err(error) => tracing::error!(%error, "removing what pulls have left broke off"),
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    async fn adopt(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let folder = sandbox.folder.clone();
        self.sandboxes.write().insert(sandbox.id.clone(), Arc::clone(&sandbox));
        for path in folders(&folder.join("containers")).unwrap_or_default() {
            match load_container(&path) {
                Ok(Some(container)) => {
                    self.containers.write().insert(container.id.clone(), Arc::new(container));
                }
                Ok(None) => discard_container(&path),
                Err(error) => {
                    tracing::error!(%error, folder = %path.display(), "container not readable; left alone");
                }
            }
        }
        let (complete, stopped) = {
            let record = sandbox.record.lock();
            (record.complete, record.stopped)
        };
        if stopped {
            return;
        }
        if !complete {
            // The caller of its creation never had an answer.
            if let Err(error) = self.remove_sandbox(&sandbox.id).await {
                tracing::error!(error = %chain(&error), sandbox = sandbox.id, "unfinished sandbox not removed");
            }
            return;
        }
        if let Err(error) = self.follow(&sandbox).await {
            tracing::warn!(error = %chain(&error), sandbox = sandbox.id, "pod process is gone");
            self.pod_process_gone(&sandbox);
        }
    }

    /// Before its record there is nothing of a sandbox but its folder.
    fn discard(&self, folder: &Path) {
        if let Err(error) = fs::remove_dir_all(folder) {
            tracing::error!(%error, folder = %folder.display(), "remains of a pod not removed");
        }
    }

    fn remove_stray_namespaces(&self) -> Result<(), CallError> {
        let known: HashSet<PathBuf> = self.sandboxes.read().keys().map(|id| self.netns_path(id)).collect();
        for path in folders(&self.config.root.join("netns"))? {
            if !known.contains(&path) {
                snapshot::unmount(&path)?;
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Stops and removes every pod; containers that do not end within `grace` are killed.
    pub(crate) async fn remove_pods(self: &Arc<Self>, grace: std::time::Duration) -> Result<(), CallError> {
        let containers: Vec<String> = self.containers.read().keys().cloned().collect();
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let stops = containers.iter().map(|id| self.stop_container(id, seconds));
        for stopped in futures::future::join_all(stops).await {
            // What could not be asked to end is killed with its pod.
            if let Err(error) = stopped {
                tracing::warn!(error = %chain(&error), "a container was not stopped in order");
            }
        }
        let ids: Vec<String> = self.sandboxes.read().keys().cloned().collect();
        let removals = ids.iter().map(|id| self.remove_sandbox(id));
        for result in futures::future::join_all(removals).await {
            result?;
        }
        Ok(())
    }
}

fn discard_container(folder: &Path) {
    if let Err(error) = container_mounts::unmount_all(folder) {
        tracing::error!(%error, folder = %folder.display(), "remains of a container still mounted");
        return;
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::error!(%error, folder = %folder.display(), "remains of a container not removed");
    }
}

fn load_sandbox(folder: &Path) -> io::Result<Option<Sandbox>> {
    let Some(record) = read_record::<SandboxRecord>(&folder.join("sandbox.json"))? else { return Ok(None) };
    Ok(Some(Sandbox {
        id: record.id.clone(),
        folder: folder.to_owned(),
        config: record.config.0.clone(),
        pause: Mutex::new(read_record(&folder.join("pause.json"))?.unwrap_or(0)),
        record: Mutex::new(record),
        alive: watch::Sender::new(false),
        changing: tokio::sync::Mutex::new(()),
    }))
}

fn load_container(folder: &Path) -> io::Result<Option<Container>> {
    let Some(record) = read_record::<ContainerRecord>(&folder.join("record.json"))? else { return Ok(None) };
    let phase: Phase = phase_on_disk(folder, &record)?;
    Ok(Some(Container::new(folder.to_owned(), record, phase)))
}
