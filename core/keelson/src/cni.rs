//! The pod network as a CNI plugin, for container runtimes that are not ours.
//!
//! ```text
//! containerd --exec, CNI 1.0--> DATA/cni/bin/keelson (this program) --DATA/run/cni.sock--> the running node --> pod network
//! ```
//!
//! - `plugin`: the program that the runtime executes; it knows nothing but the socket
//! - here: the node's side, and the two folders that the runtime's configuration has to name

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use keelson_runtime::network::{PodIdentity, PodNetwork as _, PortMapping, Protocol};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cluster::Folder;
use crate::pod_network::NodeNetwork;

pub(crate) mod plugin;

/// The plugin's type, and the name of its program.
const TYPE: &str = "keelson";
/// What is asked is no longer.
const MAX_REQUEST: u64 = 1 << 20;
/// Pods that are connected at once.
const AT_ONCE: usize = 64;
/// Who asks has said everything by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Error codes of the CNI specification.
mod code {
    pub(super) const INVALID_ENVIRONMENT: u32 = 4;
    pub(super) const DECODING: u32 = 6;
    pub(super) const TRY_AGAIN: u32 = 11;
    pub(super) const PLUGIN: u32 = 100;
}

/// What the plugin was asked: its environment, and the configuration from its standard input.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    command: String,
    container_id: String,
    netns: String,
    interface: String,
    arguments: String,
    configuration: Value,
}

/// Why it could not be done.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    code: u32,
    message: String,
}

/// What the plugin prints.
type Answer = Result<Value, Refusal>;

fn refuse(code: u32, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// A folder's CNI configurations, plugins, and the socket behind these.
pub(crate) struct Places {
    configurations: PathBuf,
    programs: PathBuf,
    socket: PathBuf,
}

impl Places {
    pub(crate) fn new(folder: &Folder) -> Self {
        Places {
            configurations: folder.join("cni/net.d"),
            programs: folder.join("cni/bin"),
            socket: folder.join("run/cni.sock"),
        }
    }

    /// Writes the configuration and puts the plugins there.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        for folder in [&self.configurations, &self.programs] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let program = std::env::current_exe().context("find this program's file")?;
        // The second one is asked for by runtimes for every pod.
        for name in [TYPE, plugin::LOOPBACK] {
            let path = self.programs.join(name);
            let aside = self.programs.join(format!(".{name}"));
            let linked = remove(&aside).and_then(|()| symlink(&program, &aside));
            linked
                .and_then(|()| fs::rename(&aside, &path))
                .with_context(|| format!("link {}", path.display()))?;
        }
        let path = self.configurations.join("10-keelson.conflist");
        let aside = self.configurations.join(".10-keelson.conflist");
        let text = serde_json::to_vec_pretty(&configuration(&self.socket))?;
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    fn listen(&self) -> anyhow::Result<UnixListener> {
        let failed = || format!("listen on {}", self.socket.display());
        remove(&self.socket).with_context(failed)?;
        // Its folder is root's alone.
        let listener = UnixListener::bind(&self.socket).with_context(failed)?;
        fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o600)).with_context(failed)?;
        Ok(listener)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn configuration(socket: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "keelson",
        "disableCheck": true,
        "plugins": [{ "type": TYPE, "socket": socket, "capabilities": { "portMappings": true } }],
    })
}

/// Answers the plugins until `stop`.
pub(crate) async fn serve(
    places: Arc<Places>,
    network: Arc<NodeNetwork>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    places.prepare()?;
    let listener = places.listen()?;
    let (places_left, tasks) = (Arc::new(Semaphore::new(AT_ONCE)), tokio_util::task::TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (connection, _) = accepted.context("accept a CNI plugin")?;
        let place = Arc::clone(&places_left).acquire_owned().await.context("count CNI plugins")?;
        let network = Arc::clone(&network);
        tasks.spawn(async move {
            if let Err(error) = attend(connection, &network).await {
                tracing::warn!(error = format!("{error:#}"), "a CNI plugin was not answered");
            }
            drop(place);
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn attend(mut connection: UnixStream, network: &NodeNetwork) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let mut said = (&mut connection).take(MAX_REQUEST);
    let reading = said.read_to_end(&mut text);
    tokio::time::timeout(PATIENCE, reading).await.context("nothing is asked")?.context("read")?;
    let answer = match serde_json::from_slice::<Asked>(&text) {
        Ok(asked) => act(&asked, network).await,
        Err(error) => Err(refuse(code::DECODING, format!("not understood: {error}"))),
    };
    if let Err(refusal) = &answer {
        tracing::warn!(
            code = refusal.code,
            error = refusal.message,
            "a pod's network is not as it was asked"
        );
    }
    connection.write_all(&serde_json::to_vec(&answer)?).await.context("answer")
}

async fn act(asked: &Asked, network: &NodeNetwork) -> Answer {
    let pod = identity(asked);
    let failed = |error: keelson_runtime::network::NetworkError| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text.push_str(&format!(": {inner}"));
            source = inner.source();
        }
        refuse(code::PLUGIN, text)
    };
    match asked.command.as_str() {
        "ADD" => {
            if asked.interface != "eth0" {
                let text = format!("pods' interfaces are named eth0, not {:?}", asked.interface);
                return Err(refuse(code::INVALID_ENVIRONMENT, text));
            }
            let ports = ports(&asked.configuration)?;
            let addresses = network.add(Path::new(&asked.netns), &pod, &ports).await.map_err(failed)?;
            Ok(result(version(&asked.configuration), &asked.netns, &addresses))
        }
        "DEL" => network.del(None, &pod, &[]).await.map(|()| Value::Null).map_err(failed),
        other => Err(refuse(code::INVALID_ENVIRONMENT, format!("CNI_COMMAND {other:?} is not supported"))),
    }
}

fn version(configuration: &Value) -> &str {
    configuration["cniVersion"].as_str().unwrap_or("1.0.0")
}

/// Whose network it is, from `KEY=VALUE;KEY=VALUE`.
fn identity(asked: &Asked) -> PodIdentity {
    let argument = |name: &str| {
        let mut pairs = asked.arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    PodIdentity {
        id: asked.container_id.clone(),
        namespace: argument("K8S_POD_NAMESPACE"),
        name: argument("K8S_POD_NAME"),
        uid: argument("K8S_POD_UID"),
    }
}

/// Go's reader does not mind the case of names, so that containerd before 2.0 writes them as it likes.
#[derive(Deserialize)]
struct Mapping {
    #[serde(default, rename = "hostPort", alias = "HostPort")]
    host_port: u16,
    #[serde(rename = "containerPort", alias = "ContainerPort")]
    container_port: u16,
    #[serde(default, alias = "Protocol")]
    protocol: String,
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    host_ip: String,
}

fn ports(configuration: &Value) -> Result<Vec<PortMapping>, Refusal> {
    let Some(told) = configuration.pointer("/runtimeConfig/portMappings") else { return Ok(Vec::new()) };
    let told: Vec<Mapping> = serde_json::from_value(told.clone())
        .map_err(|error| refuse(code::DECODING, format!("runtimeConfig.portMappings: {error}")))?;
    let mapping = |one: Mapping| PortMapping {
        protocol: match one.protocol.to_ascii_lowercase().as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        container_port: one.container_port,
        host_port: one.host_port,
        host_ip: one.host_ip.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified()),
    };
    Ok(told.into_iter().map(mapping).collect())
}

/// The result of ADD in the form of that version of the specification.
fn result(version: &str, netns: &str, addresses: &[IpAddr]) -> Value {
    let ips = addresses.iter().map(|address| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut ip = json!({ "address": format!("{address}/{length}"), "interface": 0 });
        if version.starts_with("0.") {
            ip["version"] = if address.is_ipv4() { "4".into() } else { "6".into() };
        }
        ip
    });
    json!({
        "cniVersion": version,
        "interfaces": [{ "name": "eth0", "sandbox": netns }],
        "ips": ips.collect::<Vec<_>>(),
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_and_for_which_ports_is_understood_as_runtimes_say_it() {
        let asked = Asked {
            command: "ADD".to_owned(),
            container_id: "c0".to_owned(),
            netns: "/run/netns/x".to_owned(),
            interface: "eth0".to_owned(),
            arguments: "IgnoreUnknown=1;K8S_POD_NAMESPACE=n;K8S_POD_NAME=p;K8S_POD_UID=u".to_owned(),
            configuration: json!({ "runtimeConfig": { "portMappings": [
                { "hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1" },
                { "HostPort": 8081, "ContainerPort": 81, "Protocol": "tcp", "HostIP": "" } ] } }),
        };
        let whose = identity(&asked);
        assert_eq!((whose.namespace.as_str(), whose.name.as_str(), whose.uid.as_str()), ("n", "p", "u"));
        let ports = ports(&asked.configuration).unwrap();
        assert_eq!((ports[0].protocol, ports[0].host_ip), (Protocol::Udp, "127.0.0.1".parse().ok()));
        assert_eq!((ports[1].host_port, ports[1].container_port, ports[1].host_ip), (8081, 81, None));
    }

    #[test]
    fn older_versions_of_the_specification_want_to_know_the_family() {
        let address = ["10.42.0.5".parse().unwrap()];
        let old = result("0.3.1", "/n", &address);
        assert_eq!(
            (&old["ips"][0]["version"], &old["ips"][0]["address"]),
            (&json!("4"), &json!("10.42.0.5/32"))
        );
        assert!(result("1.0.0", "/n", &address)["ips"][0].get("version").is_none());
    }
}
