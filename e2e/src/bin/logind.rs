//! A login manager for tests: as much of systemd's as a kubelet asks for, on the system's bus.
//!
//! `logind` reads lines from its input: `shutdown` and `cancel` tell everybody of it. It prints `lock taken` and
//! `lock released`. Like systemd's it waits no longer than it is set to: for 5 seconds, or as `/etc/systemd/logind.conf.d` says after
//! a SIGHUP, which it gets through `org.freedesktop.systemd1`.

use std::io::{BufRead as _, Read as _, pipe};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use zbus::object_server::SignalEmitter;
use zbus::{fdo, interface};

const PATH: &str = "/org/freedesktop/login1";

/// In microseconds.
type Delay = Arc<AtomicU64>;

struct Login(Delay);

#[interface(name = "org.freedesktop.login1.Manager")]
impl Login {
    async fn inhibit(&self, what: &str, who: &str, _why: &str, mode: &str) -> fdo::Result<zbus::OwnedFd> {
        if (what, mode) != ("shutdown", "delay") {
            return Err(fdo::Error::InvalidArgs(format!("{what} {mode}")));
        }
        let (mut reader, writer) = pipe().map_err(|error| fdo::Error::Failed(error.to_string()))?;
        println!("lock taken by {who}");
        std::thread::spawn(move || {
            // Its end comes when nobody has the other one any more.
            let _ = reader.read(&mut [0]);
            println!("lock released");
        });
        Ok(OwnedFd::from(writer).into())
    }

    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    async fn inhibit_delay_max(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn preparing_for_shutdown(&self) -> bool {
        false
    }

    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

struct Units(Delay);

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Units {
    async fn kill_unit(&self, name: &str, _whom: &str, signal: i32) -> fdo::Result<()> {
        if (name, signal) != ("systemd-logind.service", nix::libc::SIGHUP) {
            return Err(fdo::Error::InvalidArgs(format!("{name} {signal}")));
        }
        let text = std::fs::read_to_string("/etc/systemd/logind.conf.d/99-kubelet.conf");
        let text = text.map_err(|error| fdo::Error::Failed(error.to_string()))?;
        let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")?.parse().ok());
        let seconds: u64 = seconds.ok_or_else(|| fdo::Error::Failed("no delay in the settings".into()))?;
        self.0.store(seconds * 1_000_000, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let delay = Arc::new(AtomicU64::new(5_000_000));
    let bus = zbus::connection::Builder::system()
        .name("org.freedesktop.login1")
        .name("org.freedesktop.systemd1")
        .serve_at(PATH, Login(Arc::clone(&delay)))
        .serve_at("/org/freedesktop/systemd1", Units(delay))
        .build()
        .await
        .context("connect to the system's bus")?;
    let login = bus.object_server().interface::<_, Login>(PATH).await?;
    println!("ready");
    // Nothing else is to be done meanwhile that this would hold up: the bus has a task of its own.
    let (lines, mut told) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    while let Some(line) = told.recv().await {
        match line.as_str() {
            "shutdown" => login.prepare_for_shutdown(true).await?,
            "cancel" => login.prepare_for_shutdown(false).await?,
            other => anyhow::bail!("{other:?} is no command"),
        }
    }
    Ok(())
}
