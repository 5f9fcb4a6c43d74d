//! What makes devices and volumes known to a kubelet, on the side of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::{Cluster, LONG, eventually};

/// A plugin of a kubelet, as a process in a cluster's namespaces with a folder of its own. It ends with its value.
///
/// The programs are in `src/bin`; [`crate::plugin_server`] is what they have in common.
pub struct Plugin {
    process: Child,
    folder: PathBuf,
}

impl Plugin {
    /// `PROGRAM FOLDER ENDPOINT REGISTRATION NAME MORE`, with the sockets where a kubelet looks for those of a driver.
    pub fn driver(cluster: &Cluster, program: &str, name: &str, more: &[&str]) -> anyhow::Result<Self> {
        let folder = cluster.folder().join("driver");
        let endpoint = cluster.data_dir().join("kubelet/plugins").join(name).join("plugin.sock");
        let mut command = cluster.client().program(program);
        command.arg(&folder).arg(endpoint).arg(Self::registration(cluster, name)).arg(name).args(more);
        Self::start(command, folder)
    }

    /// The socket by which a kubelet finds a driver.
    pub fn registration(cluster: &Cluster, name: &str) -> PathBuf {
        cluster.data_dir().join("kubelet/plugins_registry").join(format!("{name}-reg.sock"))
    }

    /// A program that lists in its folder what it is asked.
    pub fn start(mut command: Command, folder: PathBuf) -> anyhow::Result<Self> {
        let process = command.stdin(Stdio::null()).spawn().context("start a plugin")?;
        Ok(Plugin { process, folder })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it was asked so far, in order; nothing before the first time.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many times it was asked this.
    pub fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|it| *it == call).count()
    }

    /// Waits until it has been asked this.
    pub fn await_call(&self, call: &str) -> anyhow::Result<()> {
        eventually(&format!("the call {call}"), LONG, || Ok((self.count(call) > 0).then_some(())))
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
