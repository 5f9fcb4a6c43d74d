//! A control-plane member alone.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary;
use crate::kubectl::Kubectl;

/// A running control-plane member.
pub struct Server {
    child: Child,
    dir: Arc<tempfile::TempDir>,
    url: String,
}

/// A server that did not start, with its folder.
pub struct Failed {
    /// Why not.
    pub error: anyhow::Error,
    dir: Arc<tempfile::TempDir>,
    bind: String,
}

impl Failed {
    /// Starts it again on the same folder and port.
    pub fn start_again(self, flags: &[&str]) -> anyhow::Result<Server> {
        Server::start_in(self.dir, &self.bind, flags).map_err(|failed| failed.error)
    }
}

impl Server {
    /// Starts one with an empty folder.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with an empty folder, and further flags.
    pub fn start_with(flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(Arc::new(tempfile::tempdir()?), "127.0.0.1:0", flags).map_err(|failed| failed.error)
    }

    /// Starts another one of the same cluster, which keeps its state elsewhere: with the first one's keys, at another
    /// address and the same port.
    pub fn start_beside(&self, address: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let copied = Command::new("cp")
            .arg("-r")
            .args(["pki", "server.json"].map(|name| self.dir.path().join(name)))
            .arg(dir.path())
            .status()?;
        anyhow::ensure!(copied.success(), "the keys cannot be copied");
        for name in ["apiserver.crt", "apiserver.key"] {
            std::fs::remove_file(dir.path().join("pki").join(name))?;
        }
        let name = format!("--tls-san={address}");
        let flags = [flags, &[&name]].concat();
        let port = self.url.rsplit(':').next().context("the address has no port")?;
        Self::start_in(Arc::new(dir), &format!("{address}:{port}"), &flags).map_err(|failed| failed.error)
    }

    fn start_in(dir: Arc<tempfile::TempDir>, bind: &str, flags: &[&str]) -> Result<Self, Failed> {
        match Self::launch(&dir, bind, flags) {
            Ok((child, url)) => Ok(Server { child, dir, url }),
            Err(error) => Err(Failed { error, dir, bind: bind.to_owned() }),
        }
    }

    fn launch(dir: &tempfile::TempDir, bind: &str, flags: &[&str]) -> anyhow::Result<(Child, String)> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log"))?;
        let mut child = Command::new(binary()?)
            .args(["server", "--profile", "minimal", "--bind", bind, "--data-dir"])
            .arg(dir.path())
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(output).lines();
        let url = loop {
            let Some(line) = lines.next() else {
                let status = child.wait()?;
                let log = logged(dir)?;
                bail!("the server ended with {status} before it was ready:\n{log}");
            };
            let line = line?;
            if let Some(rest) = line.strip_prefix("API server ready at ") {
                break rest.split(' ').next().unwrap_or(rest).to_owned();
            }
        };
        // The pipe is read to its end, so that the server never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok((child, url))
    }

    /// Its address, such as `https://127.0.0.1:40123`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// The folder of its data.
    pub fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Kills it without warning and starts it again on the same folder and port.
    pub fn kill_and_restart(self) -> anyhow::Result<Self> {
        self.kill_and_restart_with(&[])
    }

    /// The same with further flags.
    pub fn kill_and_restart_with(self, flags: &[&str]) -> anyhow::Result<Self> {
        self.restart_with(flags).map_err(|failed| failed.error)
    }

    /// Kills it without warning and starts it again, successfully or not.
    pub fn restart_with(mut self, flags: &[&str]) -> Result<Self, Failed> {
        // What has ended by itself needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let bind = self.url.trim_start_matches("https://").to_owned();
        Self::start_in(Arc::clone(&self.dir), &bind, flags)
    }

    /// Asks it to end, has something done meanwhile, and starts it again on the same folder and port.
    pub fn stopped(mut self, work: impl FnOnce()) -> Result<Self, Failed> {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // What has ended by itself needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
        work();
        let bind = self.url.trim_start_matches("https://").to_owned();
        Self::start_in(Arc::clone(&self.dir), &bind, &[])
    }

    /// How kubectl is run.
    pub fn client(&self) -> Kubectl {
        Kubectl {
            prefix: Vec::new(),
            program: "kubectl".to_owned(),
            kubeconfig: self.kubeconfig(),
            home: self.dir.path().to_owned(),
        }
    }

    /// A kubectl command against it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.client().command(arguments)
    }

    /// What a kubectl command prints; an error if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.client().run(arguments)
    }

    /// What a kubectl command that must fail prints.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.client().fails(arguments)
    }

    /// What a kubectl command prints that reads a manifest.
    pub fn kubectl_with(&self, arguments: &[&str], manifest: &str) -> anyhow::Result<String> {
        self.client().with(arguments, manifest)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<std::process::ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        Ok(self.child.wait()?)
    }
}

/// What a server has logged, the beginning of it: a log may be a device that has no end.
fn logged(dir: &tempfile::TempDir) -> std::io::Result<String> {
    let mut log = Vec::new();
    std::fs::File::open(dir.path().join("log"))?.take(4 << 20).read_to_end(&mut log)?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Ok(log) = logged(&self.dir)
        {
            eprintln!("--- the server's log ---\n{log}");
        }
    }
}
