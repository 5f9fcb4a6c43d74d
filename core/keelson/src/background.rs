//! A command that goes on in the background once it has shown that it runs.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::cluster::Folder;
use crate::progress::Progress;

/// A log that has grown larger is begun anew at the next start, the old one kept beside it.
const LOG_LIMIT: u64 = 16 << 20;
/// Ends the lines that the process in the background has for the one in the foreground.
const READY: &str = "\u{4}";

/// Starts the same command in the background and shows what it prints until it is ready.
pub(crate) fn detach(folder: &Folder, what: &str) -> anyhow::Result<()> {
    // Before a fault is known nothing is made: then the log has nowhere to go, and says nothing.
    let log = if folder.path().exists() { Stdio::from(log_file(folder)?) } else { Stdio::inherit() };
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--in-background");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start the process in the background")?;
    let output = child.stdout.take().context("the process in the background has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what the process in the background prints")?;
        if line == READY {
            return Ok(());
        }
        println!("{line}");
    }
    // It has said why.
    let status = child.wait().context("wait for the process in the background")?;
    bail!("{what} did not start ({status}); the log, if it came so far, is {}", folder.log().display())
}

fn log_file(folder: &Folder) -> anyhow::Result<File> {
    let path = folder.log();
    let open = || {
        fs::create_dir_all(folder.join("log"))?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
        OpenOptions::new().create(true).append(true).open(&path)
    };
    open().with_context(|| format!("open {}", path.display()))
}

/// From here on what is logged goes into the folder's log.
pub(crate) fn log_to(folder: &Folder) -> anyhow::Result<()> {
    nix::unistd::dup2_stderr(log_file(folder)?.as_fd()).context("redirect the log")
}

/// Tells the one in the foreground that it runs.
pub(crate) fn ready(progress: &Progress) {
    progress.line(READY);
}

/// The same, and lets it go: nothing more is printed.
pub(crate) fn let_go(progress: &Progress) -> anyhow::Result<()> {
    ready(progress);
    let null = OpenOptions::new().write(true).open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdout(null.as_fd()).context("let go of the terminal")
}
