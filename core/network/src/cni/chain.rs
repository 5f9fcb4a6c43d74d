//! Executing a chain of plugins, by the CNI specification 1.1 (sections 2 to 4).

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::configuration::NetworkList;
use crate::link::POD_INTERFACE;
use crate::pod::{Pod, PortMapping};

/// How long one plugin may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A plugin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// There is no such program.
    #[error("CNI plugin {plugin:?} is in none of {folders:?}")]
    Missing {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// It could not be run.
    #[error("run CNI plugin {plugin}")]
    Run {
        /// Its type.
        plugin: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("CNI plugin {plugin} did not end within {} seconds", PATIENCE.as_secs())]
    Late {
        /// Its type.
        plugin: String,
    },
    /// It said no.
    #[error("CNI plugin {plugin} failed to {command}: {message}")]
    Failed {
        /// Its type.
        plugin: String,
        /// ADD, DEL, CHECK, STATUS or GC.
        command: &'static str,
        /// Its own words.
        message: String,
    },
    /// It succeeded without a result that can be understood.
    #[error("understand the answer of CNI plugin {plugin}")]
    Answer {
        /// Its type.
        plugin: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// It gave the pod no address.
    #[error("the CNI plugins of {network} gave the pod no address")]
    NoAddress {
        /// The network's name.
        network: String,
    },
}

/// What a plugin is told beside its configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attachment<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) netns: Option<&'a Path>,
    pub(crate) host_ports: &'a [PortMapping],
}

/// The plugins of a network.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    pub(crate) list: &'a NetworkList,
    pub(crate) folders: &'a [PathBuf],
}

impl Chain<'_> {
    /// Connects; answers the last plugin's result. On failure nothing is undone: that is [`Chain::del`].
    pub(crate) async fn add(&self, attachment: Attachment<'_>) -> Result<Value, ChainError> {
        let mut previous: Option<Value> = None;
        for plugin in self.list.plugins() {
            let input = self.input(plugin, attachment.host_ports, previous.as_ref());
            let output = self.execute("ADD", plugin, Some(attachment), &input).await?;
            let result = serde_json::from_slice(&output)
                .map_err(|source| ChainError::Answer { plugin: kind(plugin), source })?;
            previous = Some(result);
        }
        Ok(previous.unwrap_or(Value::Null))
    }

    /// Disconnects, in the opposite order; the plugins take what is gone already.
    pub(crate) async fn del(
        &self,
        attachment: Attachment<'_>,
        result: Option<&Value>,
    ) -> Result<(), ChainError> {
        for plugin in self.list.plugins().iter().rev() {
            let known = result.filter(|_| self.list.at_least(0, 4));
            let input = self.input(plugin, attachment.host_ports, known);
            self.execute("DEL", plugin, Some(attachment), &input).await?;
        }
        Ok(())
    }

    /// Whether all is as it was made; networks may switch this off.
    pub(crate) async fn check(&self, attachment: Attachment<'_>, result: &Value) -> Result<(), ChainError> {
        if !self.list.at_least(0, 4) || self.list.switch("disableCheck") {
            return Ok(());
        }
        for plugin in self.list.plugins() {
            let input = self.input(plugin, attachment.host_ports, Some(result));
            self.execute("CHECK", plugin, Some(attachment), &input).await?;
        }
        Ok(())
    }

    /// Whether the plugins can connect pods now. Before version 1.1 only their presence tells.
    pub(crate) async fn status(&self) -> Result<(), ChainError> {
        for plugin in self.list.plugins() {
            self.program(&kind(plugin))?;
            if self.list.at_least(1, 1) {
                let input = self.input(plugin, &[], None);
                self.execute("STATUS", plugin, None, &input).await?;
            }
        }
        Ok(())
    }

    /// Lets plugins of version 1.1 forget what belongs to none of these containers.
    pub(crate) async fn gc(&self, living: &[&str]) -> Result<(), ChainError> {
        if !self.list.at_least(1, 1) || self.list.switch("disableGC") {
            return Ok(());
        }
        let valid: Vec<_> =
            living.iter().map(|id| json!({ "containerID": id, "ifname": POD_INTERFACE })).collect();
        for plugin in self.list.plugins() {
            let mut input = self.input(plugin, &[], None);
            input["cni.dev/valid-attachments"] = json!(valid);
            self.execute("GC", plugin, None, &input).await?;
        }
        Ok(())
    }

    /// A plugin's configuration with the network's name and version, and what it declares that it can do with.
    fn input(&self, plugin: &Value, host_ports: &[PortMapping], previous: Option<&Value>) -> Value {
        let mut fields: Map<String, Value> = plugin.as_object().cloned().unwrap_or_default();
        let can = |fields: &Map<String, Value>, name: &str| {
            fields.get("capabilities").is_some_and(|all| all[name] == json!(true))
        };
        if can(&fields, "portMappings") && !host_ports.is_empty() {
            fields.insert("runtimeConfig".to_owned(), json!({ "portMappings": host_ports }));
        }
        fields.remove("capabilities");
        fields.insert("name".to_owned(), json!(self.list.name()));
        fields.insert("cniVersion".to_owned(), json!(self.list.version()));
        if let Some(previous) = previous {
            fields.insert("prevResult".to_owned(), previous.clone());
        }
        Value::Object(fields)
    }

    async fn execute(
        &self,
        command: &'static str,
        plugin: &Value,
        attachment: Option<Attachment<'_>>,
        input: &Value,
    ) -> Result<Vec<u8>, ChainError> {
        let plugin = kind(plugin);
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.to_string_lossy()).collect();
        let mut process = Command::new(self.program(&plugin)?);
        process.env("CNI_COMMAND", command).env("CNI_PATH", folders.join(":"));
        if let Some(Attachment { pod, netns, .. }) = attachment {
            let arguments = [
                ("IgnoreUnknown", "1"),
                ("K8S_POD_NAMESPACE", &pod.namespace),
                ("K8S_POD_NAME", &pod.name),
                ("K8S_POD_INFRA_CONTAINER_ID", &pod.container_id),
                ("K8S_POD_UID", &pod.uid),
            ];
            let arguments: Vec<_> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
            process
                .env("CNI_CONTAINERID", &pod.container_id)
                .env("CNI_NETNS", netns.unwrap_or(Path::new("")))
                .env("CNI_IFNAME", POD_INTERFACE)
                .env("CNI_ARGS", arguments.join(";"));
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let failed = |source| ChainError::Run { plugin: plugin.clone(), source };
        let run = async {
            let mut child = process.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that does not read its configuration says why in its answer.
                stdin.write_all(input.to_string().as_bytes()).await.ok();
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, run)
            .await
            .map_err(|_| ChainError::Late { plugin: plugin.clone() })?
            .map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let message = complaint(&output.stdout, &output.stderr);
        Err(ChainError::Failed { plugin: plugin.clone(), command, message })
    }

    fn program(&self, plugin: &str) -> Result<PathBuf, ChainError> {
        let missing = || ChainError::Missing { plugin: plugin.to_owned(), folders: self.folders.to_vec() };
        if plugin.contains('/') {
            return Err(missing());
        }
        self.folders.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file()).ok_or_else(missing)
    }
}

fn kind(plugin: &Value) -> String {
    plugin["type"].as_str().unwrap_or_default().to_owned()
}

/// What a failed plugin says: an error object, or whatever it wrote.
fn complaint(stdout: &[u8], stderr: &[u8]) -> String {
    let error: Value = serde_json::from_slice(stdout).unwrap_or_default();
    let mut text = match error["msg"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(if stderr.is_empty() { stdout } else { stderr }).trim().to_owned(),
    };
    if let Some(details) = error["details"].as_str().filter(|details| !details.is_empty()) {
        text = format!("{text} ({details})");
    }
    text.chars().take(1024).collect()
}

/// The addresses of a result, in its order, with the first one's gateway.
pub(crate) fn addresses(result: &Value) -> (Vec<IpAddr>, Option<IpAddr>) {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |one: &Value| one["address"].as_str()?.split('/').next()?.parse().ok();
    // Results before 0.3 name families.
    let old = ["ip4", "ip6"]
        .iter()
        .filter_map(|family| result[family]["ip"].as_str()?.split('/').next()?.parse().ok());
    let gateway = ips.first().and_then(|one| one["gateway"].as_str()?.parse().ok());
    (ips.iter().filter_map(address).chain(old).collect(), gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_every_version_of_a_result() {
        let result = json!({ "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1" }, { "address": "fd00::5/64" }] });
        let gateway = "10.1.0.1".parse().unwrap();
        assert_eq!(
            addresses(&result),
            (vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()], Some(gateway))
        );
        let old = json!({ "ip4": { "ip": "10.1.0.5/16" } });
        assert_eq!(addresses(&old), (vec!["10.1.0.5".parse().unwrap()], None));
        assert_eq!(addresses(&Value::Null), (Vec::new(), None));
    }

    #[test]
    fn only_plugins_that_can_map_ports_are_told_of_them() {
        let list = NetworkList(json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [] }));
        let chain = Chain { list: &list, folders: &[] };
        let ports = [PortMapping {
            protocol: crate::pod::Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: None,
        }];
        let able = json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true });
        assert_eq!(
            chain.input(&able, &ports, Some(&json!({ "ips": [] }))),
            json!({
                "cniVersion": "1.0.0", "name": "net", "type": "portmap", "snat": true, "prevResult": { "ips": [] },
                "runtimeConfig": { "portMappings": [{ "protocol": "udp", "containerPort": 53, "hostPort": 5353 }] },
            })
        );
        let other = json!({ "type": "bridge" });
        assert_eq!(
            chain.input(&other, &ports, None),
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge" })
        );
    }

    #[test]
    fn a_plugin_complains_in_its_own_words() {
        assert_eq!(complaint(br#"{"code":7,"msg":"no","details":"why"}"#, b"noise"), "no (why)");
        assert_eq!(complaint(b"", b"trouble\n"), "trouble");
    }
}
