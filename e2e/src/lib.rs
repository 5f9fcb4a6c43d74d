//! End-to-end tests on real clusters, driven by the real kubectl.
//!
//! - [`Server`]: a control-plane member alone, as a process with a folder and a port of its own
//! - [`Servers`]: several of them that are one cluster, in namespaces of their own; needs root
//! - [`Cluster`]: what `keelson up` makes, in network and mount namespaces of its own; needs root
//! - [`Switch`]: a network with several such machines on it
//! - [`Containerd`]: a container runtime in a cluster's namespaces; [`Node`]: a cluster whose pods it runs, or the embedded one
//! - [`Etcd`]: an etcd of one or several members
//! - [`Kubectl`]: how both are driven
//! - [`Pod`]: the manifest of a pod; [`Objects`]: what pods have become
//! - [`Plugin`]: a plugin of a kubelet; [`plugin_server`]: what such programs have in common
//! - [`LoopDevice`]: a file as a block device; [`LoopDevices`]: takes them away
//! - [`WallClock`]: sets the time of one process
//! - [`Resolver`]: a name server outside of the cluster
//! - [`clients`]: kubectls of other versions, helm
//! - [`image`]: images for tests, made from Debian's busybox
//! - [`measure`]: what benchmarks say and look at
//!
//! Tests run side by side; what they start ends with its value, and its log is printed when the test that owns it fails.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

pub mod clients;
mod cluster;
mod containerd;
mod disks;
mod engine;
mod etcd;
pub mod image;
mod kubectl;
mod loop_device;
mod machine;
mod machines;
pub mod measure;
mod namespaces;
mod objects;
mod plugin;
pub mod plugin_server;
mod pod;
mod resolver;
mod server;
mod servers;
mod traces;
mod wall_clock;

pub use cluster::{BUSYBOX, Cluster, LONG, PATIENCE, ROOM};
pub use containerd::Containerd;
pub use engine::{Engine, Node, Topic};
pub use etcd::Etcd;
pub use kubectl::Kubectl;
pub use loop_device::{LoopDevice, LoopDevices};
pub use machines::Switch;
pub use objects::Objects;
pub use plugin::Plugin;
pub use pod::Pod;
pub use resolver::Resolver;
pub use server::Server;
pub use servers::Servers;
pub use wall_clock::WallClock;

/// The binary under test: what `KEELSON_BIN` names, or one that is built on first use with the profile of the tests.
pub fn binary() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let outcome = BINARY.get_or_init(|| match std::env::var_os("KEELSON_BIN") {
        Some(ready) => Ok(PathBuf::from(ready)),
        None => build().map_err(|error| format!("{error:#}")),
    });
    outcome.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The manifests that the project ships.
pub fn manifests() -> anyhow::Result<PathBuf> {
    // Read when it runs: a target folder may outlive the clone that it was filled from.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("run the tests with cargo")?;
    Ok(PathBuf::from(package).join("../manifests"))
}

fn build() -> anyhow::Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("run the tests with cargo")?;
    // Tests lie in the folder `deps` beside the binary, programs beside it themselves.
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("this program has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("this program has no folder")?;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "keelson"]).current_dir(package);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().context("run cargo")?;
    ensure!(output.status.success(), "build keelson: {}", String::from_utf8_lossy(&output.stderr));
    Ok(folder.join("keelson"))
}

/// Between two looks of [`eventually`].
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks again and again until `look` finds something; an error that says what was waited for, and what was seen last,
/// if that takes longer than `limit`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let until = Instant::now() + limit;
    loop {
        let seen = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > until {
            match seen {
                Some(error) => return Err(error.context(format!("waited {limit:?} for: {what}"))),
                None => bail!("waited {limit:?} for: {what}"),
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
