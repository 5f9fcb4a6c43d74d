//! (client) Hooks of a container: after its start and before its stop signal.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::http_get::{self, GetError};
use crate::pod::PodModel;
use crate::probe::run::Target;

/// Why a hook failed, in the words of other kubelets. They may hold secrets: events, which others read than who reads pods, do not
/// have them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The command ended with another code than 0.
    #[error(
        "Exec lifecycle hook ({}) for {place} failed - error: command '{}' exited with {code}: {stderr}, message: {output:?}",
        words(command),
        command.join(" ")
    )]
    Exit {
        /// The command.
        command: Vec<String>,
        /// Where.
        place: Place,
        /// The command's exit code.
        code: i32,
        /// What it complained of.
        stderr: String,
        /// All that it said.
        output: String,
    },
    /// The command could not be run.
    #[error("Exec lifecycle hook ({}) for {place} failed - error: {reason}, message: \"\"", words(command))]
    Exec {
        /// The command.
        command: Vec<String>,
        /// Where.
        place: Place,
        /// Why not.
        reason: String,
    },
    /// The request failed.
    #[error("HTTP lifecycle hook ({path}) for {place} failed - error: {reason}")]
    Http {
        /// Path of the request.
        path: String,
        /// Where.
        place: Place,
        /// Why.
        reason: String,
    },
    /// A kind of hook that there is not.
    #[error("Cannot run handler: invalid handler: {0}")]
    Handler(&'static str),
}

/// Bytes of what a command said that are told.
const SAID: usize = 4096;

/// Where a hook runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    container: String,
    /// `NAME_NAMESPACE(UID)`
    pod: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Container {:?} in Pod {:?}", self.container, self.pod)
    }
}

impl Place {
    /// In a container of a pod.
    pub(crate) fn new(pod: &PodModel, container: &str) -> Self {
        let pod = format!("{}_{}({})", pod.name, pod.namespace, pod.uid);
        Place { container: container.to_owned(), pod }
    }
}

/// The beginning of what a command said: it gets into the pod's status.
fn beginning(said: &[u8]) -> String {
    String::from_utf8_lossy(&said[..said.len().min(SAID)]).into_owned()
}

/// A command as Go prints a list.
fn words(command: &[String]) -> String {
    format!("[{}]", command.join(" "))
}

/// What is to be said of a hook that did its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Well,
    /// HTTPS was asked for and HTTP was spoken, so that it was asked by that: the host and the port.
    Fallback(String),
}

/// Asks by HTTPS or HTTP; by HTTP, without credentials, if that is what the other side speaks.
async fn http(request: &http_get::Request, limit: Duration) -> Result<Told, GetError> {
    let end = tokio::time::Instant::now() + limit;
    // Whatever it answers, it was told.
    let error = match http_get::get(request, limit).await {
        Ok(_) => return Ok(Told::Well),
        Err(error @ GetError::Plain { .. }) => error,
        Err(error) => return Err(error),
    };
    let mut plain = http_get::Request { secure: false, ..request.clone() };
    plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    let rest = end.saturating_duration_since(tokio::time::Instant::now());
    let told = Told::Fallback(http_get::authority(&request.host, request.port));
    http_get::get(&plain, rest).await.map(|_| told).map_err(|_| error)
}

/// Runs a hook to its end, or for `limit`; without one an HTTP request has a minute.
pub(crate) async fn run(
    target: &Target,
    place: Place,
    handler: &LifecycleHandler,
    limit: Option<Duration>,
) -> Result<Told, HookError> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let asked = target.runtime.exec_sync(&target.instance, command.clone(), limit.unwrap_or_default());
        return match asked.await {
            Ok(answer) if answer.exit_code == 0 => Ok(Told::Well),
            Ok(answer) => {
                let output = beginning(&[answer.stdout, answer.stderr.clone()].concat());
                let (code, stderr) = (answer.exit_code, beginning(&answer.stderr));
                Err(HookError::Exit { command, place, code, stderr, output })
            }
            Err(error) => Err(HookError::Exec { command, place, reason: error.text() }),
        };
    }
    if let Some(get) = &handler.http_get {
        let path = get.path.clone().unwrap_or_default();
        let failed = |reason: String| HookError::Http { path: path.clone(), place: place.clone(), reason };
        let request = target.request(get).map_err(|error| failed(error.to_string()))?;
        let limit = limit.unwrap_or(Duration::from_secs(60));
        return http(&request, limit).await.map_err(|error| failed(error.to_string()));
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(limit.map_or(wanted, |limit| wanted.min(limit))).await;
        return Ok(Told::Well);
    }
    Err(HookError::Handler("tcpSocket hooks are not run, as the API says"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_says_much_fills_no_status() {
        assert_eq!(beginning(b"no"), "no");
        assert_eq!(beginning(&[b'x'; SAID + 1]).len(), SAID);
    }

    #[tokio::test]
    async fn who_speaks_http_is_asked_by_that_and_not_shown_credentials() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answer in ["400 Bad Request", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let count = stream.read(&mut buffer).await.unwrap();
                heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
                let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heard
        });
        let headers = [("Authorization", "secret"), ("X-Own", "y")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let (host, path) = ("127.0.0.1".to_owned(), "/hook".to_owned());
        let request = http_get::Request { secure: true, host, port, path, headers };
        let told = http(&request, Duration::from_secs(60)).await.unwrap();
        assert_eq!(told, Told::Fallback(format!("127.0.0.1:{port}")));
        let heard = served.await.unwrap();
        assert!(heard[1].starts_with("GET /hook HTTP/1.1") && heard[1].contains("y"), "{heard:?}");
        assert!(!heard[1].contains("secret"), "{heard:?}");
    }

    #[test]
    fn what_a_command_said_is_told_as_elsewhere() {
        let place = Place { container: "c".to_owned(), pod: "p_n(u)".to_owned() };
        let command = ["sh", "-c", "x"].map(str::to_owned).to_vec();
        let error =
            HookError::Exit { command, place, code: 3, stderr: "no".to_owned(), output: "a\nno".to_owned() };
        let text = r#"Exec lifecycle hook ([sh -c x]) for Container "c" in Pod "p_n(u)" failed - error: command 'sh -c x' exited with 3: no, message: "a\nno""#;
        assert_eq!(error.to_string(), text);
    }
}
