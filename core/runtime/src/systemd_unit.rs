//! Scopes of systemd for pods and containers, where it makes the control groups (`cgroupDriver: systemd`).
//!
//! A scope lives as long as a process is in it, and systemd removes its group right after the last one. So the pod process keeps
//! one in a container's scope from before its start until its end is recorded, with how many of its processes ran out of memory.

use std::path::PathBuf;

use keelson_cgroup::name::expand_slice;
use keelson_cgroup::properties::{self, Property, Version};
use keelson_cgroup::{CgroupName, Driver};
use keelson_cri::v1;

use crate::cgroup::{self, Hierarchy};
use crate::device_filter;
use crate::error::{CallError, file};
use crate::pod_client;
use crate::pod_process::protocol::{Launch, Request, Response};
use crate::state::{Container, Runtime, Sandbox};

/// What scopes' names begin with, as containerd's do with `cri-containerd`.
const PREFIX: &str = "keelson";

/// A scope's name.
pub(crate) fn scope(id: &str) -> String {
    format!("{PREFIX}-{id}.scope")
}

/// (pure) The slice that a pod's scopes are in; `None` where its groups are folders.
///
/// A pod keeps to what it was made with: a slice by its name, or a path.
pub(crate) fn slice(asked: &str, driver: Driver, root: &str) -> Option<String> {
    match (asked, driver) {
        ("", Driver::Systemd) => Some(CgroupName::of_path(root).slice()),
        ("", Driver::Cgroupfs) => None,
        (asked, _) => expand_slice(asked).map(|_| asked.to_owned()),
    }
}

/// (pure) Whether a new pod's parent is one of the driver's.
pub(crate) fn check(asked: &str, driver: Driver) -> Result<(), CallError> {
    let is_slice = expand_slice(asked).is_some();
    match driver {
        _ if asked.is_empty() => Ok(()),
        Driver::Systemd if !is_slice => Err(CallError::Refused(format!(
            "invalid slice name: {asked}: the runtime's cgroup driver is systemd"
        ))),
        Driver::Cgroupfs if is_slice => Err(CallError::Refused(format!(
            "cgroup parent {asked} is a slice, and the runtime's cgroup driver is cgroupfs"
        ))),
        Driver::Systemd | Driver::Cgroupfs => Ok(()),
    }
}

impl Runtime {
    fn version(&self) -> Version {
        match self.hierarchy {
            Hierarchy::Split { .. } => Version::One,
            Hierarchy::Unified { .. } => Version::Two,
        }
    }

    /// The slice of a pod whose groups systemd makes.
    pub(crate) fn slice_of(&self, sandbox: &Sandbox) -> Option<String> {
        let asked = sandbox.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        slice(asked, self.config.cgroup_driver, &self.config.cgroup_root)
    }

    /// Puts a process into a scope of its own, if the pod's groups are systemd's.
    pub(crate) async fn start_scope(
        &self,
        sandbox: &Sandbox,
        id: &str,
        process: i32,
        limits: &[Property],
    ) -> Result<(), CallError> {
        let Some(slice) = self.slice_of(sandbox) else { return Ok(()) };
        let process = u32::try_from(process).map_err(|_| CallError::Missing("the scope's process"))?;
        self.systemd.scope(&scope(id), &slice, process, limits, self.version()).await.map_err(CallError::from)
    }

    /// The scope of a sandbox, with its pause process in it, which enters what systemd has no part in too: version 1 has
    /// hierarchies that it leaves alone.
    pub(crate) async fn start_sandbox_scope(&self, sandbox: &Sandbox) -> Result<(), CallError> {
        if self.slice_of(sandbox).is_none() {
            return Ok(());
        }
        let pause = *sandbox.pause.lock();
        self.start_scope(sandbox, &sandbox.id, pause, &[]).await?;
        let folders = self.hierarchy.folders(&self.cgroup_of(sandbox, &sandbox.id));
        let work = move || {
            let enter = |folder: &PathBuf| cgroup::enter(folder, pause).map_err(file("enter", folder));
            folders.iter().try_for_each(enter)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?
    }

    /// The scope of a container that is about to start, with a process of the pod process's in it.
    pub(crate) async fn start_container_scope(
        &self,
        sandbox: &Sandbox,
        container: &Container,
        launch: &Launch,
    ) -> Result<(), CallError> {
        if self.slice_of(sandbox).is_none() {
            return Ok(());
        }
        let held = pod_client::ask(&sandbox.folder, &Request::Hold { container: launch.id.clone() }).await;
        let Response::Held { pid } = held.map_err(CallError::Ask)? else {
            return Err(CallError::Ask(pod_client::PodClientError::Gone));
        };
        let resources = container.record.lock().resources.0.clone();
        let mut limits = properties::limits(&resources, 0, self.version());
        limits.extend(properties::devices(device_filter::allowed(&launch.bundle)?));
        let hierarchy = self.hierarchy.clone();
        let work = move || hierarchy.counting(pid);
        let counting = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)?;
        self.start_scope(sandbox, &launch.id, pid, &limits).await?;
        // It is none of the pod's processes: where they are counted is none of systemd's concern.
        let Some(folder) = counting else { return Ok(()) };
        let work = move || std::fs::write(folder.join("cgroup.procs"), pid.to_string());
        if let Err(error) = tokio::task::spawn_blocking(work).await.map_err(|_| CallError::Interrupted)? {
            tracing::debug!(%error, container = launch.id, "the process that holds a scope is counted as one of the pod's");
        }
        Ok(())
    }

    /// Tells systemd of the limits of a container that runs.
    pub(crate) async fn limit_scope(
        &self,
        container: &Container,
        limits: &v1::LinuxContainerResources,
    ) -> Result<(), CallError> {
        let sandbox = self.find_sandbox(&container.sandbox)?;
        if self.slice_of(&sandbox).is_none() {
            return Ok(());
        }
        let limits = properties::limits(limits, 0, self.version());
        self.systemd.set(&scope(&container.id), &limits).await.map_err(CallError::from)
    }

    /// Ends a scope, if the pod's groups are systemd's. What is left of its groups is not systemd's.
    pub(crate) async fn end_scope(&self, sandbox: &Sandbox, id: &str) -> Result<(), CallError> {
        if self.slice_of(sandbox).is_none() {
            return Ok(());
        }
        // systemd would ask first, and wait.
        self.hierarchy.kill(&self.cgroup_of(sandbox, id));
        self.systemd.stop(&scope(id)).await.map_err(CallError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_scopes_are_in_the_slice_that_it_was_made_with() {
        let of = |asked: &str, driver| slice(asked, driver, "/keelson-1");
        assert_eq!(of("a-podb.slice", Driver::Systemd).as_deref(), Some("a-podb.slice"));
        // The driver may be another one since.
        assert_eq!(of("a-podb.slice", Driver::Cgroupfs).as_deref(), Some("a-podb.slice"));
        assert_eq!(of("/a/podb", Driver::Systemd), None);
        assert_eq!(of("", Driver::Systemd).as_deref(), Some("keelson_1.slice"));
        assert_eq!(of("", Driver::Cgroupfs), None);
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused() {
        let said = |asked, driver| check(asked, driver).map_err(|error| error.to_string());
        assert_eq!(said("a.slice", Driver::Systemd), Ok(()));
        assert_eq!(said("/a/b", Driver::Cgroupfs), Ok(()));
        assert_eq!(said("", Driver::Systemd), Ok(()));
        assert!(said("/a/b", Driver::Systemd).unwrap_err().starts_with("invalid slice name: /a/b"));
        assert!(said("a.slice", Driver::Cgroupfs).unwrap_err().contains("is a slice"));
    }
}
