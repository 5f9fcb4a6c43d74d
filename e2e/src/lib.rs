//! End-to-end tests on real clusters, driven by the real kubectl.
//!
//! A [`Server`] is a process of the real binary with a folder and a port of its own, so that tests run side by side;
//! it ends with its value, and its log is printed when the test that owns it fails.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The binary under test, built on first use with the profile of the tests.
pub fn binary() -> anyhow::Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let outcome = BINARY.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    outcome.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn build() -> anyhow::Result<PathBuf> {
    // Read when it runs: a target folder may outlive the clone that it was filled from.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").context("run the tests with cargo")?;
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "keelson"])
        .current_dir(package)
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "build keelson: {}", String::from_utf8_lossy(&output.stderr));
    // Tests lie in the folder `deps` beside the binary.
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("the test has no folder")?;
    Ok(folder.join("keelson"))
}

/// A running control-plane member.
pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    url: String,
}

impl Server {
    /// Starts one with an empty folder.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_in(tempfile::tempdir()?, "127.0.0.1:0")
    }

    fn start_in(dir: tempfile::TempDir, bind: &str) -> anyhow::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log"))?;
        let mut child = Command::new(binary()?)
            .args(["server", "--bind", bind, "--data-dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let output = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(output).lines();
        let url = loop {
            let Some(line) = lines.next() else {
                let status = child.wait()?;
                let log = std::fs::read_to_string(dir.path().join("log"))?;
                bail!("the server ended with {status} before it was ready:\n{log}");
            };
            let line = line?;
            if let Some(rest) = line.strip_prefix("API server ready at ") {
                break rest.split(' ').next().unwrap_or(rest).to_owned();
            }
        };
        // The pipe is read to its end, so that the server never waits for it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Server { child, dir, url })
    }

    /// Its address, such as `https://127.0.0.1:40123`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Kills it without warning and starts it again on the same folder and port.
    pub fn kill_and_restart(mut self) -> anyhow::Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        let bind = self.url.trim_start_matches("https://").to_owned();
        Self::start_in(dir, &bind)
    }

    /// A kubectl command against it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .env("KUBECTL_DELETE_SKIP_CONFIRM", "true");
        command
    }

    /// What a kubectl command prints; an error if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("run kubectl: is it installed?")?;
        ensure!(output.status.success(), "kubectl {arguments:?} failed:\n{}", text(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a kubectl command that must fail prints.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("run kubectl: is it installed?")?;
        ensure!(!output.status.success(), "kubectl {arguments:?} did not fail:\n{}", text(&output));
        Ok(text(&output))
    }

    /// What a kubectl command prints that reads a manifest.
    pub fn kubectl_with(&self, arguments: &[&str], manifest: &str) -> anyhow::Result<String> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl: is it installed?")?;
        // The separator tells kubectl that what follows is YAML, even where it begins with a brace.
        child.stdin.take().context("no input")?.write_all(format!("---\n{manifest}").as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "kubectl {arguments:?} failed:\n{}", text(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<std::process::ExitStatus> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.dir.path().join("log"))
        {
            eprintln!("--- the server's log ---\n{log}");
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
