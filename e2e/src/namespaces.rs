//! Network and mount namespaces of their own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

/// Ends what is still in the network namespace when it is no longer needed.
const SWEEP: &str = r"
for file in $(find -L /proc/[0-9]*/ns/net -samefile /proc/self/ns/net 2>/dev/null); do
  process=${file#/proc/}; process=${process%%/*}
  [ $process = $$ ] || kill -9 $process
done 2>/dev/null";

/// Namespaces, held by a process that does nothing else. They go with the value and all that runs in them, and also if the
/// test's process is gone without a word.
pub(crate) struct Namespaces {
    /// It ends when its input does.
    holder: Child,
}

impl Namespaces {
    /// New ones with a loopback interface, in which a script has run; its `$0` is the argument.
    pub(crate) fn new(script: &str, argument: &Path) -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "namespaces need root: run the tests as root");
        let script = format!(
            "set -e; trap '' HUP INT TERM\nip link set lo up\n{script}\necho ready\nset +e; cat > /dev/null\n{SWEEP}"
        );
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let mut namespaces = Namespaces { holder };
        let mut output = namespaces.holder.stdout.take().context("the holder has no output")?;
        let mut ready = [0; 6];
        output.read_exact(&mut ready).context("make namespaces: is iproute2 installed?")?;
        Ok(namespaces)
    }

    /// The process that holds them.
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    /// The words that lead a program into them.
    pub(crate) fn prefix(&self) -> Vec<String> {
        ["nsenter", "--net", "--mount", "--target", &self.id().to_string()].map(str::to_owned).to_vec()
    }

    /// A program in them.
    pub(crate) fn program(&self, program: &str) -> Command {
        let words = self.prefix();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// A path of their file system, as it is reached from outside.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The network namespace.
    pub(crate) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.id()))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends what is left, and then itself.
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_runs_in_namespaces_ends_with_them() {
        let namespaces = Namespaces::new("", Path::new("/")).unwrap();
        let mut left = namespaces.program("sleep").arg("infinity").spawn().unwrap();
        let inside = |left: &Child| std::fs::read_link(format!("/proc/{}/ns/net", left.id())).unwrap();
        let network = std::fs::read_link(namespaces.network()).unwrap();
        while inside(&left) != network {
            std::thread::yield_now();
        }
        drop(namespaces);
        assert!(!left.wait().unwrap().success());
    }

    #[test]
    fn a_script_that_fails_leaves_nothing() {
        assert!(Namespaces::new("false", Path::new("/")).is_err());
    }
}
