//! (client) Making a probe once; hooks of containers use the same ways.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, ExecAction, GRPCAction, HTTPGetAction, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::Finding;
use crate::environment;
use crate::http_get::{self, Request};
use crate::runtime_client::RuntimeClient;

/// As much of a command's output or of an answer's body is shown.
const MAX_OUTPUT: usize = 10 << 10;

/// What is probed.
#[derive(Clone)]
pub(crate) struct Target {
    /// The runtime.
    pub(crate) runtime: RuntimeClient,
    /// The instance.
    pub(crate) instance: String,
    /// Its container, whose named ports are meant.
    pub(crate) container: Container,
    /// The pod's address.
    pub(crate) ip: Option<IpAddr>,
}

/// Why something cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// The container has no port of this name.
    #[error("couldn't find port: {name:?}")]
    Port {
        /// The port's name.
        name: String,
    },
    /// No port number.
    #[error("invalid port number: {number}")]
    Number {
        /// What was given.
        number: i32,
    },
    /// The pod has no address.
    #[error("the pod has no address")]
    Address,
}

fn port(container: &Container, port: &IntOrString) -> Result<u16, TargetError> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|one| one.name.as_deref() == Some(name));
            match (named, name.parse::<i32>()) {
                (Some(found), _) => found.container_port,
                (None, Ok(number)) => number,
                (None, Err(_)) => return Err(TargetError::Port { name: name.clone() }),
            }
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or(TargetError::Number { number })
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_OUTPUT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// (pure) The command of a probe, with the variables that the container's definition gives a value.
fn command(exec: &ExecAction, container: &Container) -> Vec<String> {
    let value = |one: &EnvVar| (one.name.clone(), one.value.clone().unwrap_or_default());
    let env: Vec<(String, String)> = container.env.iter().flatten().map(value).collect();
    exec.command.iter().flatten().map(|word| environment::expand(word, &env)).collect()
}

impl Target {
    fn host(&self, own: Option<&String>) -> Result<String, TargetError> {
        match own.filter(|host| !host.is_empty()) {
            Some(host) => Ok(host.clone()),
            None => self.ip.map(|ip| ip.to_string()).ok_or(TargetError::Address),
        }
    }

    /// The request of an HTTP probe or hook.
    pub(crate) fn request(&self, get: &HTTPGetAction) -> Result<Request, TargetError> {
        let headers = get.http_headers.iter().flatten();
        Ok(Request {
            secure: get.scheme.as_deref() == Some("HTTPS"),
            host: self.host(get.host.as_ref())?,
            port: port(&self.container, &get.port)?,
            path: get.path.clone().unwrap_or_default(),
            headers: headers.map(|one| (one.name.clone(), one.value.clone())).collect(),
        })
    }

    async fn http(&self, get: &HTTPGetAction, limit: Duration) -> Finding {
        let request = match self.request(get) {
            Ok(request) => request,
            Err(error) => return Finding::Error(error.to_string()),
        };
        match http_get::get(&request, limit).await {
            Ok(answer) if (200..300).contains(&answer.status) => Finding::Success,
            Ok(answer) if (300..400).contains(&answer.status) => {
                Finding::Warning(format!("Probe terminated redirects, Response body: {}", cut(&answer.body)))
            }
            Ok(answer) => Finding::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
            Err(error) => Finding::Failure(error.to_string()),
        }
    }

    async fn tcp(&self, socket: &TCPSocketAction, limit: Duration) -> Finding {
        let port = port(&self.container, &socket.port);
        let (host, port) = match self.host(socket.host.as_ref()).and_then(|host| Ok((host, port?))) {
            Ok(found) => found,
            Err(error) => return Finding::Error(error.to_string()),
        };
        let address = http_get::authority(&host, port);
        match tokio::time::timeout(limit, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Finding::Success,
            Ok(Err(error)) => Finding::Failure(http_get::dial_error(&address, &error)),
            Err(_) => Finding::Failure(format!("dial tcp {address}: i/o timeout")),
        }
    }

    async fn exec(&self, exec: &ExecAction, limit: Duration) -> Finding {
        let command = command(exec, &self.container);
        match self.runtime.exec_sync(&self.instance, command.clone(), limit).await {
            Ok(answer) => {
                let mut output = answer.stdout.to_vec();
                output.extend_from_slice(&answer.stderr);
                let text = cut(&String::from_utf8_lossy(&output));
                match answer.exit_code {
                    0 => Finding::Success,
                    _ => Finding::Failure(text),
                }
            }
            Err(error) if error.status.code() == tonic::Code::DeadlineExceeded => {
                let command = command.join(" ");
                Finding::Failure(format!(
                    "command timed out: {command:?} timed out after {}s",
                    limit.as_secs()
                ))
            }
            Err(error) => Finding::Error(error.text()),
        }
    }

    async fn grpc(&self, action: &GRPCAction, limit: Duration) -> Finding {
        let (Some(ip), Ok(port)) = (self.ip, u16::try_from(action.port)) else {
            return Finding::Error(TargetError::Address.to_string());
        };
        let address = http_get::authority(&ip.to_string(), port);
        super::grpc::check(&address, action.service.as_deref().unwrap_or(""), limit).await
    }

    /// Makes the probe once, within its time limit.
    pub(crate) async fn probe(&self, probe: &Probe) -> Finding {
        let limit =
            Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        if let Some(exec) = &probe.exec {
            self.exec(exec, limit).await
        } else if let Some(get) = &probe.http_get {
            self.http(get, limit).await
        } else if let Some(socket) = &probe.tcp_socket {
            self.tcp(socket, limit).await
        } else if let Some(action) = &probe.grpc {
            self.grpc(action, limit).await
        } else {
            Finding::Error("missing probe handler".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_the_variables_that_the_container_defines() {
        let container = serde_json::json!({ "name": "a", "env": [{ "name": "PORT", "value": "1" },
            { "name": "PORT", "value": "80" }, { "name": "FROM", "valueFrom": {} }] });
        let container: Container = serde_json::from_value(container).unwrap();
        let words = ["probe", "$(PORT)", "$$(PORT)", "$(FROM)", "$(OTHER)"].map(str::to_owned).to_vec();
        let exec = ExecAction { command: Some(words) };
        assert_eq!(command(&exec, &container), ["probe", "80", "$(PORT)", "", "$(OTHER)"]);
    }

    #[test]
    fn a_port_is_a_number_or_the_name_of_one_of_the_container() {
        let container =
            serde_json::json!({ "name": "a", "ports": [{ "name": "web", "containerPort": 8080 }] });
        let container: Container = serde_json::from_value(container).unwrap();
        let name = |name: &str| IntOrString::String(name.to_owned());
        assert_eq!(port(&container, &name("web")), Ok(8080));
        assert_eq!(port(&container, &name("81")), Ok(81));
        assert_eq!(port(&container, &name("db")), Err(TargetError::Port { name: "db".to_owned() }));
        assert_eq!(port(&container, &IntOrString::Int(0)), Err(TargetError::Number { number: 0 }));
    }
}
