//! The machine's login manager, by D-Bus: it says when the machine is to shut down, and waits with that while it is asked to.
//!
//! The protocol is that of systemd's inhibitor locks, mode `delay`.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use zbus::OwnedFd;

/// Settings that tell it to wait for longer.
const OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
/// It may take a moment until it has read them.
const RELOAD: Duration = Duration::from_millis(100);
const RELOADS: usize = 30;

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Login {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> zbus::Result<u64>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Units {
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
}

/// Why it is not known when the machine shuts down.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogindError {
    #[error("connect to the system's bus")]
    Connect(#[source] zbus::Error),
    #[error("ask the login manager")]
    Ask(#[source] zbus::Error),
    #[error("write {OVERRIDE}")]
    Override(#[source] std::io::Error),
    #[error("have the login manager read its settings")]
    Reload(#[source] zbus::Error),
    #[error(
        "the login manager waits for {is:?} (InhibitDelayMaxSec), which is less than the {wanted:?} that pods have"
    )]
    TooShort { is: Duration, wanted: Duration },
    #[error("the login manager says no more")]
    Ended,
}

/// While it lives, the machine waits with its shutdown.
pub(super) struct Lock(#[expect(dead_code, reason = "to be closed")] OwnedFd);

/// A connection to the login manager.
pub(super) struct Logind {
    bus: zbus::Connection,
    login: LoginProxy<'static>,
    signals: PrepareForShutdownStream,
}

impl Logind {
    /// Connects, and listens.
    pub(super) async fn connect() -> Result<Self, LogindError> {
        let bus = zbus::Connection::system().await.map_err(LogindError::Connect)?;
        let login = LoginProxy::new(&bus).await.map_err(LogindError::Ask)?;
        let signals = login.receive_prepare_for_shutdown().await.map_err(LogindError::Ask)?;
        Ok(Logind { bus, login, signals })
    }

    async fn delay(&self) -> Result<Duration, LogindError> {
        self.login.inhibit_delay_max().await.map(Duration::from_micros).map_err(LogindError::Ask)
    }

    /// Has it wait for so long at least.
    pub(super) async fn allow(&self, wanted: Duration) -> Result<(), LogindError> {
        if self.delay().await? >= wanted {
            return Ok(());
        }
        let text = format!(
            "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n",
            wanted.as_secs_f64().ceil()
        );
        write_override(&text).await.map_err(LogindError::Override)?;
        let units = UnitsProxy::new(&self.bus).await.map_err(LogindError::Reload)?;
        let told = units.kill_unit("systemd-logind.service", "all", libc::SIGHUP);
        told.await.map_err(LogindError::Reload)?;
        for _ in 0..RELOADS {
            if self.delay().await? >= wanted {
                return Ok(());
            }
            tokio::time::sleep(RELOAD).await;
        }
        Err(LogindError::TooShort { is: self.delay().await?, wanted })
    }

    /// Has it wait until the lock is dropped.
    pub(super) async fn lock(&self) -> Result<Lock, LogindError> {
        let why = "Kubelet needs time to handle node shutdown";
        let lock = self.login.inhibit("shutdown", "kubelet", why, "delay");
        lock.await.map(Lock).map_err(LogindError::Ask)
    }

    /// Whether the machine is about to shut down already.
    pub(super) async fn is_leaving(&self) -> Result<bool, LogindError> {
        self.login.preparing_for_shutdown().await.map_err(LogindError::Ask)
    }

    /// What it says next: whether the machine is to shut down, or no longer is.
    pub(super) async fn next(&mut self) -> Result<bool, LogindError> {
        let signal = self.signals.next().await.ok_or(LogindError::Ended)?;
        signal.args().map(|args| args.start).map_err(LogindError::Ask)
    }
}

async fn write_override(text: &str) -> std::io::Result<()> {
    let path = Path::new(OVERRIDE);
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(path, text).await
}
