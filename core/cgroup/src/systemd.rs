//! systemd as the maker of control groups, by D-Bus: transient slices and scopes.
//!
//! Guarantees: a unit that was started is active, and one that was stopped is gone, when the call returns. What is asked for
//! twice is there once. systemd and the bus may restart at any time: the connection is made anew, and the call is repeated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use zbus::{OwnedObjectPath, Variant};

use crate::CgroupName;
use crate::properties::{self, Property, Value, Version};

/// A job that takes longer hangs.
const JOB: Duration = Duration::from_secs(30);
/// Between two looks at a unit whose job has not been told to be done.
const LOOK: Duration = Duration::from_secs(1);
/// One call.
const CALL: Duration = Duration::from_secs(10);
/// systemd is back from a restart of its own within this.
const AWAY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);

/// Unit properties, as `a(sv)`.
type Properties<'a> = Vec<(&'a str, Variant<'a>)>;
/// Of units that come along, as `a(sa(sv))`; none do.
type Auxiliary<'a> = Vec<(&'a str, Properties<'a>)>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Properties<'_>,
        auxiliary: Auxiliary<'_>,
    ) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn set_unit_properties(&self, name: &str, runtime: bool, properties: Properties<'_>) -> zbus::Result<()>;
    fn attach_processes_to_unit(&self, name: &str, below: &str, processes: &[u32]) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: zbus::ObjectPath<'_>,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

/// Why systemd did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It does not run.
    #[error(
        "cgroupDriver systemd needs systemd as the machine's init, and /run/systemd/system is not there: start the machine with \
         systemd, or set cgroupDriver: cgroupfs"
    )]
    Absent,
    /// Its bus is not there, or it is not on it.
    #[error("reach systemd by the system's bus: does dbus-daemon or dbus-broker run?")]
    Connect(#[source] zbus::Error),
    /// It refused.
    #[error("have systemd {action} {unit}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// What it says.
        #[source]
        source: zbus::Error,
    },
    /// It does not answer.
    #[error("have systemd {action} {unit}: no answer")]
    Silent {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
    },
    /// It tried.
    #[error("have systemd {action} {unit}: the job ended as {result:?}")]
    Failed {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// How the job ended, in systemd's words.
        result: String,
    },
}

/// Whether the machine was started with systemd, as sd_booted(3) finds out.
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A connection to systemd, which is made when it is needed.
#[derive(Debug, Default)]
pub struct Systemd {
    connected: Mutex<Option<ManagerProxy<'static>>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Call<'a> {
    Start(&'a [Property]),
    Set(&'a [Property]),
    Attach(u32),
    Stop,
    Reset,
}

impl Call<'_> {
    fn action(self) -> &'static str {
        match self {
            Call::Start(_) => "start",
            Call::Set(_) => "set the limits of",
            Call::Attach(_) => "put a process into",
            Call::Stop => "stop",
            Call::Reset => "forget the failure of",
        }
    }

    /// Answers the job, if there is one.
    async fn make(self, manager: &ManagerProxy<'_>, unit: &str) -> zbus::Result<Option<OwnedObjectPath>> {
        match self {
            Call::Start(properties) => {
                let told = properties.iter().map(variant).collect();
                manager.start_transient_unit(unit, "replace", told, Vec::new()).await.map(Some)
            }
            Call::Set(properties) => {
                let told = properties.iter().map(variant).collect();
                manager.set_unit_properties(unit, true, told).await.map(|()| None)
            }
            Call::Attach(process) => {
                manager.attach_processes_to_unit(unit, "", &[process]).await.map(|()| None)
            }
            Call::Stop => manager.stop_unit(unit, "replace").await.map(Some),
            Call::Reset => manager.reset_failed_unit(unit).await.map(|()| None),
        }
    }
}

fn variant(property: &Property) -> (&str, Variant<'_>) {
    let value = match &property.value {
        Value::Bool(value) => Variant::from(*value),
        Value::Number(value) => Variant::from(*value),
        Value::Text(value) => Variant::from(value.as_str()),
        Value::Processes(value) => Variant::from(value.clone()),
        Value::Bytes(value) => Variant::from(value.clone()),
        Value::Devices(value) => Variant::from(value.clone()),
    };
    (property.name, value)
}

/// The name of an error that systemd answered.
fn name(error: &zbus::Error) -> &str {
    match error {
        zbus::Error::MethodError(name, ..) => name.as_str(),
        _ => "",
    }
}

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const UNKNOWN: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Whether the connection has ended, or nobody is at its other end, rather than that systemd refused.
fn is_lost(error: &zbus::Error) -> bool {
    use zbus::fdo::Error as Fdo;
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => true,
        zbus::Error::FDO(error) => matches!(
            **error,
            Fdo::Disconnected(_)
                | Fdo::NoReply(_)
                | Fdo::NoServer(_)
                | Fdo::NameHasNoOwner(_)
                | Fdo::ServiceUnknown(_)
                | Fdo::Timeout(_)
                | Fdo::TimedOut(_)
        ),
        _ => false,
    }
}

async fn connect() -> zbus::Result<ManagerProxy<'static>> {
    let bus = zbus::connection::Builder::system().method_timeout(CALL).build().await?;
    let manager = ManagerProxy::new(&bus).await?;
    manager.subscribe().await?;
    Ok(manager)
}

impl Systemd {
    /// Whether it is there and answers; says what is to be done if not.
    pub async fn check(&self) -> Result<(), SystemdError> {
        if !is_running() {
            return Err(SystemdError::Absent);
        }
        self.manager().await.map(drop)
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, SystemdError> {
        let mut connected = self.connected.lock().await;
        if let Some(manager) = &*connected {
            return Ok(manager.clone());
        }
        let manager = connect().await.map_err(SystemdError::Connect)?;
        *connected = Some(manager.clone());
        Ok(manager)
    }

    /// Asks, and waits for the job. When the connection is lost, the question is asked again on another.
    async fn ask(&self, unit: &str, call: Call<'_>) -> Result<(), SystemdError> {
        let action = call.action();
        let deadline = Instant::now() + AWAY;
        loop {
            let lost = match self.manager().await {
                Ok(manager) => match self.ask_once(&manager, unit, call).await {
                    Err(SystemdError::Refused { source, .. }) if is_lost(&source) => {
                        // Whoever comes meanwhile may have made another already: then one is made too many.
                        *self.connected.lock().await = None;
                        SystemdError::Refused { action, unit: unit.to_owned(), source }
                    }
                    done => return done,
                },
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(lost);
            }
            tracing::debug!(error = %lost, unit, "systemd is asked again");
            sleep(RETRY).await;
        }
    }

    async fn ask_once(
        &self,
        manager: &ManagerProxy<'static>,
        unit: &str,
        call: Call<'_>,
    ) -> Result<(), SystemdError> {
        let action = call.action();
        let refused = |source| SystemdError::Refused { action, unit: unit.to_owned(), source };
        // The end of the job may come before the answer.
        let mut removed = manager.receive_job_removed().await.map_err(refused)?;
        let Some(job) = call.make(manager, unit).await.map_err(refused)? else { return Ok(()) };
        let wanted = if matches!(call, Call::Stop) { ["inactive", "failed"] } else { ["active", "active"] };
        let deadline = Instant::now() + JOB;
        while Instant::now() < deadline {
            let Ok(signal) = timeout(LOOK, removed.next()).await else {
                // What is told while systemd restarts itself nobody hears.
                if wanted.contains(&state(manager, unit).await.map_err(refused)?.as_str()) {
                    return Ok(());
                }
                continue;
            };
            let Some(signal) = signal else {
                return Err(refused(
                    zbus::fdo::Error::Disconnected("the connection ended".to_owned()).into(),
                ));
            };
            let Ok(told) = signal.args() else { continue };
            if told.job.as_str() == job.as_str() {
                let result = told.result.clone();
                return match result.as_str() {
                    "done" => Ok(()),
                    _ => Err(SystemdError::Failed { action, unit: unit.to_owned(), result }),
                };
            }
        }
        Err(SystemdError::Silent { action, unit: unit.to_owned() })
    }

    /// Starts a unit. `false` when one of its name is there already.
    async fn start(&self, unit: &str, properties: &[Property]) -> Result<bool, SystemdError> {
        match self.ask(unit, Call::Start(properties)).await {
            Ok(()) => Ok(true),
            Err(SystemdError::Refused { source, .. }) if name(&source) == EXISTS => Ok(false),
            Err(error) => {
                self.reset(unit).await;
                Err(error)
            }
        }
    }

    /// Makes a slice, or gives the one that is there its limits.
    pub async fn slice(
        &self,
        slice: &str,
        limits: &[Property],
        version: Version,
    ) -> Result<(), SystemdError> {
        let mut all = properties::slice(format!("control group {slice} of Keelson"), version);
        all.extend_from_slice(limits);
        if self.start(slice, &all).await? {
            return Ok(());
        }
        // It may be there without having been told anything: systemd makes those above a unit by itself.
        let told: Vec<Property> =
            properties::accounting(version).into_iter().chain(limits.iter().cloned()).collect();
        self.set(slice, &told).await
    }

    /// Makes a scope in a slice, with a process in it; gives the one that is there the process.
    pub async fn scope(
        &self,
        scope: &str,
        slice: &str,
        process: u32,
        limits: &[Property],
        version: Version,
    ) -> Result<(), SystemdError> {
        let mut all = properties::scope(format!("container {scope} of Keelson"), slice, process, version);
        all.extend_from_slice(limits);
        if self.start(scope, &all).await? {
            return Ok(());
        }
        // What is left of one that failed keeps its name from others.
        self.reset(scope).await;
        if self.start(scope, &all).await? {
            return Ok(());
        }
        self.ask(scope, Call::Attach(process)).await?;
        self.set(scope, limits).await
    }

    /// Changes what a unit may use.
    pub async fn set(&self, unit: &str, limits: &[Property]) -> Result<(), SystemdError> {
        if limits.is_empty() {
            return Ok(());
        }
        self.ask(unit, Call::Set(limits)).await
    }

    /// Ends a unit with all that is in it. One that is not there is no error.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        match self.ask(unit, Call::Stop).await {
            Err(SystemdError::Refused { source, .. }) if name(&source) == UNKNOWN => return Ok(()),
            stopped => stopped?,
        }
        self.reset(unit).await;
        Ok(())
    }

    /// Ends and removes a cluster's slice with all that is below, as of `/keelson-0badcafe`, if there is one.
    pub async fn remove_slices(&self, root: &str) -> Result<(), SystemdError> {
        let slice = CgroupName::of_path(root).slice();
        let is_there = folders(&slice).next().is_some();
        if is_there && is_running() {
            self.stop(&slice).await?;
        }
        // What systemd knows nothing of: version 1 has hierarchies that are not its.
        for folder in folders(&slice) {
            if let Err(error) = remove_tree(&folder) {
                tracing::warn!(%error, folder = %folder.display(), "a control group stays");
            }
        }
        Ok(())
    }

    /// Has what is left of a unit that failed go; most have not.
    async fn reset(&self, unit: &str) {
        if let Err(error) = self.ask(unit, Call::Reset).await {
            tracing::trace!(%error, unit, "there is no failure to be forgotten");
        }
    }
}

/// Where a slice right below the root has its groups.
fn folders(slice: &str) -> impl Iterator<Item = PathBuf> {
    let mount = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
    let all: Vec<PathBuf> = below.chain([mount.to_owned()]).map(|hierarchy| hierarchy.join(slice)).collect();
    all.into_iter().filter(|folder| folder.is_dir())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

async fn state(manager: &ManagerProxy<'static>, unit: &str) -> zbus::Result<String> {
    let path = manager.load_unit(unit).await?;
    let unit = UnitProxy::builder(manager.inner().connection()).path(path).build().await?;
    unit.active_state().await
}
