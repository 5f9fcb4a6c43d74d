//! What a cluster's objects say, asked for often.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{Cluster, LONG, eventually};

/// Reads objects of the default namespace through one `kubectl proxy`, so that many may be looked at again and again.
pub struct Objects {
    proxy: Child,
    socket: PathBuf,
}

impl Objects {
    /// Starts the proxy.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let socket = cluster.folder().join("proxy.sock");
        let socket_option = format!("--unix-socket={}", socket.display());
        let mut command = cluster.client().command(&["proxy", &socket_option]);
        let proxy =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("run kubectl proxy")?;
        let objects = Objects { proxy, socket };
        eventually("the proxy to answer", LONG, || Ok(objects.get("/version").ok()))?;
        Ok(objects)
    }

    /// The object, or the list, at a path.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == "200", "{path}: {body}");
        Ok(serde_json::from_str(body)?)
    }

    /// A pod.
    pub fn pod(&self, name: &str) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/namespaces/default/pods/{name}"))
    }

    /// Reason and message of the events about a pod, as `REASON: MESSAGE`.
    pub fn events(&self, pod: &str) -> anyhow::Result<Vec<String>> {
        let about = format!("involvedObject.name={pod}").replace('=', "%3D");
        let list = self.get(&format!("/api/v1/namespaces/default/events?fieldSelector={about}"))?;
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let events = list["items"].as_array().into_iter().flatten();
        Ok(events.map(|event| format!("{}: {}", text(event, "reason"), text(event, "message"))).collect())
    }

    /// The pod, as soon as it is as wanted; if it never is, what it was last.
    pub fn until(&self, pod: &str, what: &str, mut is: impl FnMut(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = eventually(&format!("pod {pod}: {what}"), LONG, || {
            last = self.pod(pod)?;
            Ok(is(&last).then(|| last.clone()))
        });
        found.map_err(|error| {
            error.context(format!("{:#}, {:#?}", last["status"], self.events(pod).unwrap_or_default()))
        })
    }

    /// The pod, as soon as the field that a JSON pointer names has this value.
    pub fn until_is(&self, pod: &str, pointer: &str, wanted: impl Into<Value>) -> anyhow::Result<Value> {
        let wanted = wanted.into();
        self.until(pod, &format!("{pointer} is {wanted}"), |it| it.pointer(pointer) == Some(&wanted))
    }

    /// Waits for an event about a pod that begins with this, as `REASON: MESSAGE`.
    pub fn until_told(&self, pod: &str, start: &str) -> anyhow::Result<String> {
        let mut last = Vec::new();
        let found = eventually(&format!("pod {pod}: event {start:?}"), LONG, || {
            last = self.events(pod)?;
            Ok(last.iter().find(|event| event.starts_with(start)).cloned())
        });
        found.map_err(|error| error.context(format!("{last:#?}")))
    }

    /// Waits until there is no such pod any more.
    pub fn until_gone(&self, pod: &str) -> anyhow::Result<()> {
        let path = "/api/v1/namespaces/default/pods";
        eventually(&format!("pod {pod} to be gone"), LONG, || {
            let all = self.get(path)?;
            let Some(all) = all["items"].as_array() else { bail!("no list of pods") };
            Ok((!all.iter().any(|one| one["metadata"]["name"] == pod)).then_some(()))
        })
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
