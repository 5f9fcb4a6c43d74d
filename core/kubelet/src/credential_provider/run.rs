//! (client) The run of a plugin: a question on its standard input, an answer on its standard output, within a time.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// A plugin has this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer is no longer.
const MAX_OUTPUT: usize = 1 << 20;
/// Of complaints so much is shown.
const MAX_COMPLAINT: usize = 1024;

/// Why a run brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("start it: {0}")]
    Start(io::Error),
    #[error("talk to it: {0}")]
    Talk(io::Error),
    #[error("context deadline exceeded")]
    Late,
    #[error("it writes more than {MAX_OUTPUT} bytes")]
    Long,
    #[error("{status}: {complaint}")]
    Failed { status: ExitStatus, complaint: String },
}

/// What a program writes, to its end; an error as soon as that is too much.
async fn read(from: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, RunError> {
    let mut text = Vec::new();
    if let Some(from) = from {
        let limit = u64::try_from(MAX_OUTPUT).unwrap_or(u64::MAX).saturating_add(1);
        from.take(limit).read_to_end(&mut text).await.map_err(RunError::Talk)?;
    }
    if text.len() > MAX_OUTPUT { Err(RunError::Long) } else { Ok(text) }
}

async fn talk(child: &mut Child, input: &[u8]) -> Result<Vec<u8>, RunError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // One that does not read the question has its answer all the same.
            stdin.write_all(input).await.ok();
        }
        Ok(())
    };
    let ((), output, complaint) = tokio::try_join!(feed, read(stdout), read(stderr))?;
    let status = child.wait().await.map_err(RunError::Talk)?;
    if status.success() {
        return Ok(output);
    }
    let complaint =
        String::from_utf8_lossy(&complaint[..complaint.len().min(MAX_COMPLAINT)]).trim().to_owned();
    Err(RunError::Failed { status, complaint })
}

/// Runs a program in the kubelet's environment and what is configured besides. One that does not end in time, or writes without an
/// end, is killed with all that it has started.
pub(super) async fn run<'a>(
    program: &Path,
    arguments: &[String],
    env: impl Iterator<Item = (&'a str, &'a str)>,
    input: &[u8],
) -> Result<Vec<u8>, RunError> {
    let mut command = Command::new(program);
    command.args(arguments).envs(env).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(RunError::Start)?;
    let done = tokio::time::timeout(PATIENCE, talk(&mut child, input)).await.unwrap_or(Err(RunError::Late));
    // Whoever was waited for has none.
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    if let (Err(_), Some(group)) = (&done, group)
        && let Err(error) = killpg(Pid::from_raw(group), Signal::SIGKILL)
    {
        tracing::warn!(program = %program.display(), %error, "a plugin is not killed");
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<String, RunError> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let env = [("OWN", "value")].into_iter();
        let output = run(Path::new("/bin/sh"), &arguments, env, b"question").await?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[tokio::test]
    async fn a_program_is_asked_and_answers_or_says_why_not() {
        assert_eq!(shell("cat; printf ' %s' $OWN").await.unwrap(), "question value");
        assert_eq!(shell("exec < /dev/null; echo unasked").await.unwrap(), "unasked\n");
        let failed = shell("echo secret; echo 'no way' >&2; exit 3").await.unwrap_err();
        assert_eq!(failed.to_string(), "exit status: 3: no way");
        let missing = run(Path::new("/nonexistent"), &[], std::iter::empty(), b"").await.unwrap_err();
        assert!(matches!(missing, RunError::Start(_)), "{missing}");
    }

    #[tokio::test]
    async fn who_writes_without_an_end_is_killed_with_its_children() {
        let file = std::env::temp_dir().join(format!("keelson-plugin-{}", uuid::Uuid::new_v4()));
        let script = format!("sleep 1000 & echo $! > {}; exec yes", file.display());
        assert!(matches!(shell(&script).await, Err(RunError::Long)));
        let child = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        // What is killed may stay as a zombie where nobody reaps orphans.
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[tokio::test]
    async fn who_does_not_end_in_time_is_killed() {
        tokio::time::pause();
        // Time passes when nothing else is to be done.
        assert!(matches!(shell("exec sleep 1000").await, Err(RunError::Late)));
    }
}
