//! The groups of a kubelet's pods, as folders or as slices of systemd.
//!
//! With systemd, it makes a pod's slice with its limits before the runtime puts scopes into it. The same limits are written into
//! the group's files, for systemd has no property for each, and rounds some.

use std::collections::HashSet;
use std::path::Path;

use keelson_cgroup::properties::{self, Version};
use keelson_cgroup::{CgroupName, Driver, Names, Systemd, SystemdError};
use keelson_cri::v1;
use tonic::Code;

use super::CgroupError;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// A runtime that fails to say who makes its groups is asked so often.
const ATTEMPTS: u32 = 3;
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// A group that could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error(transparent)]
    Folder(#[from] CgroupError),
    #[error("{0}")]
    Systemd(String),
    #[error("change a control group")]
    Broken(#[from] tokio::task::JoinError),
}

impl From<SystemdError> for GroupError {
    /// With its causes, for it is read in an event.
    fn from(error: SystemdError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            text.push_str(&format!(": {source}"));
            cause = source.source();
        }
        GroupError::Systemd(text)
    }
}

/// Why it is not known who makes the groups.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error(transparent)]
    Ask(#[from] RuntimeError),
    #[error("runtime returned an unknown cgroup driver {0}")]
    Unknown(i32),
}

/// (pure) Whom a runtime has make its groups; `None` where it does not say.
fn told(answer: &v1::RuntimeConfigResponse) -> Result<Option<Driver>, DriverError> {
    let Some(linux) = &answer.linux else { return Ok(None) };
    match v1::CgroupDriver::try_from(linux.cgroup_driver) {
        Ok(v1::CgroupDriver::Systemd) => Ok(Some(Driver::Systemd)),
        Ok(v1::CgroupDriver::Cgroupfs) => Ok(Some(Driver::Cgroupfs)),
        Err(_) => Err(DriverError::Unknown(linux.cgroup_driver)),
    }
}

/// Whom the runtime has make its groups; what is configured where it does not say, or is too old to be asked.
pub(crate) async fn driver(runtime: &RuntimeClient, configured: Driver) -> Result<Driver, DriverError> {
    let mut attempt = 1;
    loop {
        match runtime.runtime_config(v1::RuntimeConfigRequest {}).await {
            Ok(answer) => {
                let driver = told(&answer)?.unwrap_or(configured);
                tracing::debug!(?driver, ?configured, "who makes control groups");
                return Ok(driver);
            }
            Err(error) if error.status.code() == Code::Unimplemented => {
                let text = "CRI implementation should be updated to support RuntimeConfig. Falling back to using cgroupDriver from kubelet config.";
                tracing::info!(driver = ?configured, "{text}");
                return Ok(configured);
            }
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(error) => tracing::info!(%error, "the runtime does not say who makes control groups"),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The groups of all pods of this kubelet.
#[derive(Debug)]
pub(crate) struct Groups {
    names: Names,
    systemd: Systemd,
    version: Version,
}

impl Groups {
    pub(crate) fn new(names: Names) -> Self {
        let version = if super::is_unified() { Version::Two } else { Version::One };
        Groups { names, systemd: Systemd::default(), version }
    }

    /// Whether they can be made.
    pub(crate) async fn check(&self) -> Result<(), SystemdError> {
        match self.names.driver {
            Driver::Cgroupfs => Ok(()),
            Driver::Systemd => self.systemd.check().await,
        }
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether systemd makes them. Otherwise they come with the runtime's first container.
    pub(crate) fn are_by_systemd(&self) -> bool {
        self.names.driver == Driver::Systemd
    }

    /// Has systemd make a group, or change what is there already. Does nothing otherwise.
    pub(crate) async fn make(
        &self,
        name: &CgroupName,
        limits: &v1::LinuxContainerResources,
        pids: u64,
    ) -> Result<(), GroupError> {
        if !self.are_by_systemd() {
            return Ok(());
        }
        let limits = properties::limits(limits, pids, self.version);
        self.systemd.slice(&name.slice(), &limits, self.version).await.map_err(GroupError::from)
    }

    /// Gives a group that exists its share of the processors and its limits.
    pub(crate) async fn limit(
        &self,
        name: &CgroupName,
        limits: &v1::LinuxContainerResources,
        pids: u64,
    ) -> Result<(), GroupError> {
        self.make(name, limits, pids).await?;
        let (path, limits) = (self.names.path(name), limits.clone());
        Ok(tokio::task::spawn_blocking(move || super::limit(&path, &limits, pids)).await??)
    }

    /// The same for a group that is somebody else's: systemd is told nothing more of it.
    pub(crate) async fn limit_existing(
        &self,
        name: &CgroupName,
        limits: &v1::LinuxContainerResources,
        pids: u64,
    ) -> Result<(), GroupError> {
        if self.are_by_systemd() {
            let told = properties::limits(limits, pids, self.version);
            self.systemd.set(&name.slice(), &told).await?;
        }
        let (path, limits) = (self.names.path(name), limits.clone());
        Ok(tokio::task::spawn_blocking(move || super::limit(&path, &limits, pids)).await??)
    }

    /// The same, but for what would be less than it has now: systemd is told of that with the rest, by [`Groups::limit`].
    pub(crate) async fn raise(
        &self,
        name: &CgroupName,
        limits: &v1::LinuxContainerResources,
    ) -> Result<(), GroupError> {
        let (path, limits) = (self.names.path(name), limits.clone());
        Ok(tokio::task::spawn_blocking(move || super::raise(&path, &limits)).await??)
    }

    /// The classes that pods' groups are in.
    fn classes(&self) -> [CgroupName; 3] {
        let root = &self.names.root;
        [root.clone(), root.child("burstable"), root.child("besteffort")]
    }

    /// Removes a pod's group, of whichever class it is; may be repeated.
    pub(crate) async fn remove_pod(&self, uid: &str) -> Result<(), GroupError> {
        // The class of a pod that the API no longer knows is not known either.
        for class in self.classes() {
            let name = class.child(&format!("pod{uid}"));
            let path = self.names.path(&name);
            if self.are_by_systemd() {
                self.systemd.stop(&name.slice()).await?;
            }
            tokio::task::spawn_blocking(move || super::remove(&path)).await??;
        }
        Ok(())
    }

    /// Removes the groups of classes that have no pod's any more.
    pub(crate) async fn remove_classes(&self) {
        let [root, burstable, best_effort] = self.classes();
        for class in [burstable, best_effort, root] {
            let path = self.names.path(&class);
            let below = path.clone();
            let found = tokio::task::spawn_blocking(move || super::below(Path::new(super::MOUNT), &below));
            // What cannot be seen is not empty.
            if !found.await.is_ok_and(|found| found.is_empty()) {
                continue;
            }
            if self.are_by_systemd()
                && let Err(error) = self.systemd.stop(&class.slice()).await
            {
                tracing::warn!(%error, path, "the slice of a class of pods stays");
            }
            // Others may have put theirs there meanwhile, if the group is the machine's.
            if tokio::task::spawn_blocking(move || super::remove_empty(&path)).await.is_err() {
                tracing::warn!("the control group of a class of pods stays");
            }
        }
    }

    /// UIDs of pods that nobody knows and whose slices are there: of those that ended while their sandbox was still to come.
    pub(crate) async fn strangers(&self, uids: &[String]) -> Vec<String> {
        if !self.are_by_systemd() {
            return Vec::new();
        }
        let mut all = Vec::new();
        for class in self.classes() {
            let known = uids.iter().map(|uid| class.child(&format!("pod{uid}")).slice()).collect();
            let beginning = class.child("pod").slice();
            let path = self.names.path(&class);
            let found = tokio::task::spawn_blocking(move || {
                let names = super::below(Path::new(super::MOUNT), &path);
                strangers(&names, &beginning, &known)
            });
            all.extend(found.await.unwrap_or_default());
        }
        all
    }
}

/// (pure) Of names those that begin as pods' slices do, `CLASS-pod.slice` without its end, and are not known: the UIDs, in which there
/// is a dash where a slice's name has none.
fn strangers(names: &[String], beginning: &str, known: &HashSet<String>) -> Vec<String> {
    let beginning = beginning.trim_end_matches(".slice");
    let of_nobody = names.iter().filter(|name| !known.contains(*name));
    let uids = of_nobody.filter_map(|name| name.strip_prefix(beginning)?.strip_suffix(".slice"));
    uids.filter(|uid| !uid.is_empty()).map(|uid| uid.replace('_', "-")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_says_nothing_is_not_followed() {
        let answer = |cgroup_driver: i32| v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
        };
        assert_eq!(told(&answer(v1::CgroupDriver::Systemd as i32)).unwrap(), Some(Driver::Systemd));
        assert_eq!(told(&answer(v1::CgroupDriver::Cgroupfs as i32)).unwrap(), Some(Driver::Cgroupfs));
        assert_eq!(told(&v1::RuntimeConfigResponse { linux: None }).unwrap(), None);
        assert_eq!(told(&answer(7)).unwrap_err().to_string(), "runtime returned an unknown cgroup driver 7");
    }

    #[test]
    fn only_slices_of_pods_can_be_strangers() {
        let names =
            ["a-kubepods-poda_1.slice", "a-kubepods-podb_2.slice", "a-kubepods-burstable.slice", "x.scope"];
        let class = CgroupName::of_path("/a/kubepods");
        let known = HashSet::from([class.child("poda-1").slice()]);
        let found = strangers(&names.map(str::to_owned), &class.child("pod").slice(), &known);
        assert_eq!(found, ["b-2"]);
    }
}
