//! etcd: a member as a process on a machine, and a lean client of it.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::uri::PathAndQuery;
use keelson_e2e::Servers;
use nix::unistd::Pid;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// etcd's own defaults.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(100);
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(1000);
/// Of the database; that of Keelson is made the same.
pub(crate) const QUOTA_BYTES: u64 = 8 << 30;

/// A member that runs. It ends with its value.
pub(crate) struct Member(Child);

pub(crate) fn url(servers: &Servers, number: usize) -> String {
    format!("http://{}:2379", servers.address(number))
}

fn peer(servers: &Servers, number: usize) -> String {
    format!("http://{}:2380", servers.address(number))
}

/// Where a member keeps its data, as its machine sees it.
fn folder(servers: &Servers, number: usize) -> PathBuf {
    servers.folder(number).join("etcd")
}

/// The same as seen from outside.
pub(crate) fn folder_in(servers: &Servers, number: usize) -> PathBuf {
    servers.folder_in(number).join("etcd")
}

/// The first words of etcd's account of its version.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = std::process::Command::new("etcd").arg("--version").output();
    let output = output.context("run etcd: install Debian's etcd-server")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// What `etcdctl` says of the cluster that a member is one of.
pub(crate) fn control(servers: &Servers, asked: &[usize], arguments: &[&str]) -> anyhow::Result<Value> {
    let endpoints: Vec<String> = asked.iter().map(|number| url(servers, *number)).collect();
    let mut command = servers.on_the_network("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(","), "--write-out", "json"]);
    let output = command.args(arguments).output().context("run etcdctl: install Debian's etcd-client")?;
    ensure!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The number of the member that leads, as those that are asked agree.
pub(crate) fn leader(servers: &Servers, asked: &[usize]) -> anyhow::Result<Option<usize>> {
    let status = control(servers, asked, &["endpoint", "status"])?;
    let leads = |status: &Value| status["header"]["member_id"] == status["leader"];
    let found = status.as_array().into_iter().flatten().find(|it| leads(&it["Status"]));
    let url_found = found.and_then(|it| it["Endpoint"].as_str());
    Ok(asked.iter().copied().find(|number| url_found == Some(url(servers, *number).as_str())))
}

/// Tells a cluster of a member that will come as a learner; says its id.
pub(crate) fn add_learner(servers: &Servers, asked: &[usize], number: usize) -> anyhow::Result<u64> {
    let peer = format!("--peer-urls={}", peer(servers, number));
    let added = control(servers, asked, &["member", "add", &Servers::name(number), "--learner", &peer])?;
    added["member"]["ID"].as_u64().context("etcdctl says no id of the new member")
}

/// Tries to make a learner a voter, which is refused as long as it lacks much; says whether it is one.
pub(crate) fn promote(servers: &Servers, asked: &[usize], id: u64) -> anyhow::Result<Option<()>> {
    // Whether it did so is seen in the list.
    let _ = control(servers, asked, &["member", "promote", &format!("{id:x}")]);
    let list = control(servers, asked, &["member", "list"])?;
    let member = list["members"].as_array().into_iter().flatten().find(|it| it["ID"].as_u64() == Some(id));
    Ok(member.is_some_and(|it| it["isLearner"] != true).then_some(()))
}

impl Member {
    /// Starts the member of a machine: one of `count` that become a cluster together, or one that has been added to it.
    pub(crate) fn start(servers: &Servers, number: usize, count: usize, state: &str) -> anyhow::Result<Self> {
        let (client, own) = (url(servers, number), peer(servers, number));
        let cluster: Vec<String> =
            (0..count).map(|number| format!("{}={}", Servers::name(number), peer(servers, number))).collect();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(servers.folder_in(number).join("etcd.log"))
            .context("open the log of etcd")?;
        let mut command = servers.on(number, "etcd");
        command
            .args(["--name", &Servers::name(number), "--log-level", "warn", "--logger", "zap", "--data-dir"])
            .arg(folder(servers, number))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &own, "--initial-advertise-peer-urls", &own])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", state])
            .args(["--heartbeat-interval", &HEARTBEAT.as_millis().to_string()])
            .args(["--election-timeout", &ELECTION_TIMEOUT.as_millis().to_string()])
            .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Ok(Member(process.context("run etcd: install Debian's etcd-server")?))
    }

    pub(crate) fn process(&self) -> anyhow::Result<Pid> {
        // nsenter has become etcd.
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bool, tag = "9")]
    count_only: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

/// An answer of which nothing matters but that it came.
#[derive(Clone, PartialEq, prost::Message)]
struct Done {}

/// A connection to a member. Its clones share it.
#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

fn key(number: u64) -> Bytes {
    // As long as those of the API's ConfigMaps.
    format!("/registry/configmaps/bench/c-{number:010}").into()
}

impl Client {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        Ok(Client(Grpc::new(endpoint.connect().await.context("connect to etcd")?)))
    }

    async fn ask<Q, A>(&mut self, path: &'static str, question: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + Clone + 'static,
    {
        self.0.ready().await?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(tonic::Request::new(question), path, codec).await?.into_inner())
    }

    pub(crate) async fn put(&mut self, number: u64, value: Bytes) -> anyhow::Result<()> {
        let put = PutRequest { key: key(number), value };
        self.ask::<_, Done>("/etcdserverpb.KV/Put", put).await.map(drop)
    }

    /// Whether there is a key, as a majority of the members confirms.
    pub(crate) async fn has(&mut self, number: u64) -> anyhow::Result<bool> {
        let range = RangeRequest { key: key(number), count_only: true };
        Ok(self.ask::<_, RangeResponse>("/etcdserverpb.KV/Range", range).await?.count == 1)
    }
}
