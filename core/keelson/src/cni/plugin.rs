//! The program that a container runtime executes as a CNI plugin: it hands what it is asked to the running node.
//!
//! The kind `loopback`, which runtimes ask for beside every network, does its work itself.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Asked, MAX_REQUEST, TYPE, code, refuse};

/// The type, and the program's name, of the plugin for pods' own loopback interfaces.
pub(crate) const LOOPBACK: &str = "loopback";
/// Versions of the specification whose results are understood here.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The node connects a pod within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which plugin this program is run as, if it is: its name says so, and its environment what is wanted.
pub(crate) fn wanted(program: Option<OsString>) -> Option<&'static str> {
    std::env::var_os("CNI_COMMAND")?;
    let program = program?;
    let name = Path::new(&program).file_name()?;
    [TYPE, LOOPBACK].into_iter().find(|kind| name == *kind)
}

/// Does what is wanted, and prints the answer.
pub(crate) fn main(kind: &str) -> ExitCode {
    let (version, answer) = match asked() {
        Ok(asked) => {
            let version = super::version(&asked.configuration).to_owned();
            (version, if kind == LOOPBACK { loopback(&asked) } else { hand_on(asked) })
        }
        Err(refusal) => ("1.0.0".to_owned(), Err(refusal)),
    };
    let (text, code) = match answer {
        Ok(Value::Null) => return ExitCode::SUCCESS,
        Ok(value) => (value, ExitCode::SUCCESS),
        Err(refusal) => (
            json!({ "cniVersion": version, "code": refusal.code, "msg": refusal.message }),
            ExitCode::FAILURE,
        ),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn asked() -> Result<Asked, super::Refusal> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let command = variable("CNI_COMMAND");
    let mut text = Vec::new();
    // Asked for its version alone it may get no configuration.
    let read = std::io::stdin().take(MAX_REQUEST).read_to_end(&mut text);
    read.map_err(|error| refuse(code::DECODING, format!("read the configuration: {error}")))?;
    let configuration = match serde_json::from_slice(&text) {
        Ok(configuration) => configuration,
        Err(_) if command == "VERSION" => Value::Null,
        Err(error) => return Err(refuse(code::DECODING, format!("understand the configuration: {error}"))),
    };
    Ok(Asked {
        command,
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        interface: variable("CNI_IFNAME"),
        arguments: variable("CNI_ARGS"),
        configuration,
    })
}

fn versions(asked: &Asked) -> Value {
    json!({ "cniVersion": super::version(&asked.configuration), "supportedVersions": VERSIONS })
}

fn loopback(asked: &Asked) -> Answer {
    match asked.command.as_str() {
        "VERSION" => Ok(versions(asked)),
        "ADD" => {
            let failed = |error: &dyn std::error::Error| {
                refuse(code::PLUGIN, format!("set the loopback interface up: {error}"))
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| failed(&error))?;
            let up = runtime.block_on(keelson_network::loopback_up(Path::new(&asked.netns)));
            up.map_err(|error| failed(&error))?;
            let version = super::version(&asked.configuration);
            let mut result = super::result(version, &asked.netns, &[std::net::Ipv4Addr::LOCALHOST.into()]);
            result["interfaces"][0]["name"] = "lo".into();
            result["ips"][0]["address"] = "127.0.0.1/8".into();
            result["routes"] = json!([]);
            Ok(result)
        }
        // It goes with the namespace.
        "DEL" | "CHECK" => Ok(Value::Null),
        other => Err(refuse(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {other:?} is not supported"))),
    }
}

fn hand_on(asked: Asked) -> Answer {
    if asked.command == "VERSION" {
        return Ok(versions(&asked));
    }
    let Some(socket) = asked.configuration["socket"].as_str().map(str::to_owned) else {
        return Err(refuse(code::DECODING, "the configuration names no socket"));
    };
    let failed = |error: std::io::Error| {
        refuse(code::TRY_AGAIN, format!("the node agent does not answer at {socket}: {error}"))
    };
    let mut connection = UnixStream::connect(&socket).map_err(failed)?;
    connection.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let text = serde_json::to_vec(&asked).map_err(|error| failed(error.into()))?;
    connection.write_all(&text).map_err(failed)?;
    connection.shutdown(Shutdown::Write).map_err(failed)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|error| failed(error.into()))?
}
