//! (client) Hooks of a container: after its start and before its stop signal.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::http_get;
use crate::probe::run::Target;

/// Why a hook failed; for the log alone, since the words of a hook may hold secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The command ended with another code than 0.
    #[error(
        "Exec lifecycle hook ({command}) for Container {container:?} failed - error: command '{command}' exited with {code}: {output}, message: {output:?}"
    )]
    Exit {
        /// The words of the command.
        command: String,
        /// The container's name.
        container: String,
        /// The command's exit code.
        code: i32,
        /// What it said.
        output: String,
    },
    /// The command could not be run.
    #[error("Exec lifecycle hook ({command}) for Container {container:?} failed - error: {reason}")]
    Exec {
        /// The words of the command.
        command: String,
        /// The container's name.
        container: String,
        /// Why not.
        reason: String,
    },
    /// The request failed.
    #[error("HTTP lifecycle hook ({path}) for Container {container:?} failed - error: {reason}")]
    Http {
        /// Path of the request.
        path: String,
        /// The container's name.
        container: String,
        /// Why.
        reason: String,
    },
    /// A kind of hook that there is not.
    #[error("Invalid handler: {0}")]
    Handler(&'static str),
}

/// Runs a hook to its end, or for `limit`; without one an HTTP request has a minute.
pub(crate) async fn run(
    target: &Target,
    handler: &LifecycleHandler,
    limit: Option<Duration>,
) -> Result<(), HookError> {
    let container = target.container.name.clone();
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let words = format!("[{}]", command.join(" "));
        let answer = target.runtime.exec_sync(&target.instance, command, limit.unwrap_or_default()).await;
        return match answer {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => {
                let output = String::from_utf8_lossy(&answer.stderr).into_owned();
                Err(HookError::Exit { command: words, container, code: answer.exit_code, output })
            }
            Err(error) => Err(HookError::Exec { command: words, container, reason: error.text() }),
        };
    }
    if let Some(get) = &handler.http_get {
        let path = get.path.clone().unwrap_or_default();
        let failed =
            |reason: String| HookError::Http { path: path.clone(), container: container.clone(), reason };
        let request = target.request(get).map_err(|error| failed(error.to_string()))?;
        let limit = limit.unwrap_or(Duration::from_secs(60));
        // Whatever it answers, it was told.
        return http_get::get(&request, limit).await.map(drop).map_err(|error| failed(error.to_string()));
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(limit.map_or(wanted, |limit| wanted.min(limit))).await;
        return Ok(());
    }
    Err(HookError::Handler("tcpSocket hooks are not run, as the API says"))
}
