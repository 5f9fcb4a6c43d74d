//! The real kubectl.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, ensure};

/// Runs kubectl against one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// Programs that lead into the cluster's namespaces, with their arguments.
    pub(crate) prefix: Vec<String>,
    /// Which kubectl.
    pub(crate) program: String,
    pub(crate) kubeconfig: PathBuf,
    /// Where it keeps its cache.
    pub(crate) home: PathBuf,
}

impl Kubectl {
    /// A program that runs where the cluster is.
    pub fn program(&self, program: &str) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("KUBECTL_DELETE_SKIP_CONFIRM", "true");
        command
    }

    /// The same with another kubectl.
    pub fn with_program(&self, program: &std::path::Path) -> Self {
        Kubectl { program: program.to_string_lossy().into_owned(), ..self.clone() }
    }

    /// A kubectl command.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(&self.program);
        command.args(arguments);
        command
    }

    /// What a kubectl command prints; an error if it fails.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("run kubectl: is it installed?")?;
        ensure!(output.status.success(), "kubectl {arguments:?} failed:\n{}", text(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a kubectl command that must fail prints.
    pub fn fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("run kubectl: is it installed?")?;
        ensure!(!output.status.success(), "kubectl {arguments:?} did not fail:\n{}", text(&output));
        Ok(text(&output))
    }

    /// What a kubectl command prints that reads a manifest.
    pub fn with(&self, arguments: &[&str], manifest: &str) -> anyhow::Result<String> {
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
}

/// Everything that a program printed.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
