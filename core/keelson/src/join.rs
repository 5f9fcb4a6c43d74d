//! What a control-plane member is, and how another becomes one.
//!
//! The record is `server.json` in the data folder: what was decided when the cluster was made, or told by the server that
//! was joined.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use http::{Request, header};
use ipnet::Ipv4Net;
use keelson_apiserver::control_plane::{Admission, JoinRequest, PREFIX};
use keelson_apiserver::pki::{Pki, Renewed};
use keelson_apiserver::server::reachable;
use keelson_store::raft_store::{MEMBER_DNS_NAME, PeerTls, Peers, is_member};
use serde::{Deserialize, Serialize};

use crate::cli::ServerOptions;
use crate::cluster::Profile;
use crate::connection;
use crate::facts::Facts;

/// Where the members of the store reach each other: etcd's port for it.
const PEER_PORT: u16 = 2380;

/// What every server of a cluster is told alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    #[serde(flatten)]
    pub(crate) facts: Facts,
    /// Which operators there are; where there are none, nothing may be expected of them.
    pub(crate) profile: Profile,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// This server's name among the members.
    name: String,
    settings: Settings,
    /// Which operators were installed.
    installed: Option<Profile>,
    /// Whether it belongs to a cluster that was there before.
    joined: bool,
}

/// What this server is.
pub(crate) struct Member {
    path: PathBuf,
    record: Record,
    /// The way to the other members; none for a server that nobody elsewhere reaches.
    pub(crate) peers: Option<Peers>,
    /// At which address it is reached.
    pub(crate) address: IpAddr,
}

impl Member {
    /// Finds out what the server of a folder is. A new one makes a cluster, or joins the one it is pointed to.
    pub(crate) async fn prepare(options: &ServerOptions) -> anyhow::Result<Self> {
        let dir = &options.data.data_dir;
        let path = dir.join("server.json");
        let address = options.advertise_address.unwrap_or_else(|| reachable(options.bind));
        let recorded = read(&path)?;
        let name = match (&options.name, &recorded) {
            (Some(name), _) => name.clone(),
            (None, Some(record)) => record.name.clone(),
            (None, None) => crate::machine::host_name()?,
        };
        let takes_part = is_member(&dir.join("store")).context("read which member of the store this is")?;
        let admitted = match (&options.server, &recorded) {
            // It is one already, or it was one before there were several.
            (_, _) if takes_part => None,
            (Some(url), _) => Some(ask(options, url, &name, address).await?),
            (None, Some(record)) if record.joined => bail!(
                "this server has not become a member of its cluster yet: give --server and --token once more"
            ),
            (None, _) => None,
        };
        let settings = match (&admitted, recorded.as_ref()) {
            (Some(admission), _) => serde_json::from_value(admission.settings.clone())
                .context("the server that was joined told other settings than this version knows")?,
            (None, Some(record)) => record.settings.clone(),
            (None, None) => {
                let id = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
                let (pods, services) =
                    (options.cluster_cidr.unwrap_or(PODS), options.service_cidr.unwrap_or(SERVICES));
                let profile = options.profile.unwrap_or(Profile::Default);
                Settings { facts: Facts::new(&id, pods, services), profile }
            }
        };
        let joined = admitted.is_some() || recorded.as_ref().is_some_and(|record| record.joined);
        let profile = match options.profile {
            Some(profile) if joined && profile != settings.profile => bail!(
                "--profile is {}, and the cluster was made with {}: leave it out",
                profile.name(),
                settings.profile.name()
            ),
            profile => profile.unwrap_or(settings.profile),
        };
        let settings = Settings { profile, ..settings };
        agree("--service-cidr", options.service_cidr, settings.facts.service_cidr)?;
        agree("--cluster-cidr", options.cluster_cidr, settings.facts.cluster_cidr)?;
        let record = Record {
            name,
            settings,
            installed: recorded.as_ref().and_then(|record| record.installed),
            joined,
        };
        if recorded.as_ref() != Some(&record) {
            write(&path, &record)?;
        }
        if let Some(admission) = &admitted {
            admission.keys.take(&dir.join("pki")).context("take over the keys of the cluster")?;
        }
        let join = admitted.map(|admission| admission.peers).unwrap_or_default();
        let peers = peers(options, &record.name, address, join)?;
        Ok(Member { path, record, peers, address })
    }

    /// What every server of the cluster is told alike.
    pub(crate) fn settings(&self) -> &Settings {
        &self.record.settings
    }

    /// Whether it did not join others.
    pub(crate) fn begins(&self) -> bool {
        !self.record.joined
    }

    /// Which operators are to be installed, if they have not been.
    pub(crate) fn to_install(&self) -> Option<Profile> {
        let wanted = self.record.settings.profile;
        (!self.record.joined && self.record.installed != Some(wanted)).then_some(wanted)
    }

    /// Notes that they have been installed.
    pub(crate) fn installed(&mut self, profile: Profile) -> anyhow::Result<()> {
        self.record.installed = Some(profile);
        write(&self.path, &self.record)
    }
}

const SERVICES: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16);
const PODS: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 42, 0, 0), 16);

fn agree(flag: &str, given: Option<Ipv4Net>, known: Ipv4Net) -> anyhow::Result<()> {
    match given {
        Some(given) if given != known => {
            bail!("{flag} is {given}, and the cluster was made with {known}: leave it out")
        }
        Some(_) | None => Ok(()),
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Record>> {
    match fs::read(path) {
        Ok(text) => {
            let record = serde_json::from_slice(&text);
            record.map(Some).with_context(|| format!("{} is not what it should be", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn write(path: &Path, record: &Record) -> anyhow::Result<()> {
    let partial = path.with_extension("json.new");
    let text = serde_json::to_string_pretty(record)?;
    let written = fs::write(&partial, text).and_then(|()| fs::File::open(&partial)?.sync_all());
    written.and_then(|()| fs::rename(&partial, path)).with_context(|| format!("write {}", path.display()))
}

/// Asks a server of the cluster to be let in.
async fn ask(options: &ServerOptions, url: &str, name: &str, address: IpAddr) -> anyhow::Result<Admission> {
    ensure!(
        !address.is_loopback(),
        "other servers cannot reach {address}: give --bind with an address of this machine that they reach, or \
         --bind 0.0.0.0:{} with --advertise-address",
        options.bind.port()
    );
    let token = options.token.as_deref().context(
        "--server needs --token: make one with `keelson token create --role server` where a server runs",
    )?;
    let token = connection::token_of(token)?;
    let client = kube::Client::try_from(connection::with_token(url, &token).await?)?;
    let asked = JoinRequest { name: name.to_owned(), api_port: options.bind.port() };
    let request = Request::post(format!("{PREFIX}join"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&asked)?)?;
    let answer = client.request::<Admission>(request).await;
    match answer {
        Ok(admission) => Ok(admission),
        Err(kube::Error::Api(status)) if status.code == 401 => bail!(
            "the server at {url} does not know the token {}: it has expired, or was deleted. Make another one with \
             `keelson token create --role server`",
            token.bootstrap.id
        ),
        Err(kube::Error::Api(status)) if status.code == 403 => bail!(
            "the token {} is not for servers: make one with `keelson token create --role server`",
            token.bootstrap.id
        ),
        Err(kube::Error::Api(status)) => bail!("{url} does not let this server in: {}", status.message),
        Err(error) => Err(error).with_context(|| format!("ask {url} to be let in")),
    }
}

/// The way to the other members. One that nobody elsewhere reaches has none, unless it is asked for.
fn peers(
    options: &ServerOptions,
    name: &str,
    address: IpAddr,
    join: Vec<String>,
) -> anyhow::Result<Option<Peers>> {
    let listen = match options.peer_listen {
        Some(listen) => listen,
        None if address.is_loopback() && join.is_empty() => return Ok(None),
        None => SocketAddr::new(options.bind.ip(), PEER_PORT),
    };
    let pki = Arc::new(Pki::open(options.data.data_dir.join("pki"))?.members()?);
    let certificate = Renewed::peer(&pki, "member", &[name.to_owned(), MEMBER_DNS_NAME.to_owned()])?;
    let tls = PeerTls { authority: pki.authority().into(), certificate };
    let reached = if listen.ip().is_unspecified() { address } else { listen.ip() };
    Ok(Some(Peers {
        name: name.to_owned(),
        addresses: vec![SocketAddr::new(reached, listen.port()).to_string()],
        listen,
        source: None,
        tls,
        join,
        promote: true,
    }))
}
