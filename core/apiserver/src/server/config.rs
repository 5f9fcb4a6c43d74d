//! How the server runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Limits, ServingOptions};
use crate::admission::service_allocation::repair;
use crate::audit::AuditOptions;
use crate::authentication::AuthenticationOptions;
use crate::authorization::options::AuthorizationOptions;

/// How the server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder below which certificates and the store lie.
    pub data_dir: PathBuf,
    /// How the store is kept; where it counts is `metrics`, unless it has a place of its own.
    pub store: keelson_store::raft_store::Config,
    /// Which snapshots of the store are saved of themselves, if any.
    pub snapshots: Option<crate::snapshots::schedule::Options>,
    /// How long past states can be asked for, at least, and at most twice as long; zero sets no end.
    pub compaction_interval: Duration,
    /// How many bytes the events that are kept for watches may take, about.
    pub history_bytes: u64,
    /// The etcd that keeps the state instead, if one does.
    pub etcd: Option<keelson_etcd::Config>,
    /// Where to listen.
    pub bind: SocketAddr,
    /// The address at which pods and nodes reach this server; that of `bind` if none is given.
    pub advertise: Option<IpAddr>,
    /// The certificates to serve with, if not the server's own.
    pub serving: ServingOptions,
    /// Names and addresses of the serving certificate, beside the usual ones.
    pub names: Vec<String>,
    /// What every server of the cluster must be told alike; one that joins is given it.
    pub settings: serde_json::Value,
    /// The addresses of Services.
    pub service_cidr: ipnet::Ipv4Net,
    /// How long a range of such addresses that is to go stays, so that every server has seen it.
    pub service_cidr_grace: Duration,
    /// The version that is told, such as `v1.36.0`.
    pub git_version: String,
    /// What is encrypted in the store, and how.
    pub encryption: crate::encryption::Config,
    /// How long an Event is kept after its last change.
    pub event_ttl: Duration,
    /// Which admission plugins run, and how.
    pub admission: crate::admission::Config,
    /// How much the server takes on at once, and how long it waits.
    pub limits: Limits,
    /// Where the server counts; others may add to it.
    pub metrics: keelson_metrics::Registry,
    /// How callers are known.
    pub authentication: AuthenticationOptions,
    /// What is recorded of requests, and where.
    pub audit: AuditOptions,
    /// Which authorizers decide.
    pub authorization: AuthorizationOptions,
}

impl Config {
    /// A server with everything below `data_dir` that listens on `bind`; Services get addresses of 10.96.0.0/16.
    pub fn new(data_dir: PathBuf, bind: SocketAddr) -> Self {
        Config {
            store: keelson_store::raft_store::Config::new(data_dir.join("store")),
            snapshots: None,
            compaction_interval: Duration::from_secs(300),
            history_bytes: 64 << 20,
            etcd: None,
            data_dir,
            bind,
            advertise: None,
            serving: ServingOptions::default(),
            names: Vec::new(),
            settings: serde_json::Value::Null,
            service_cidr: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            service_cidr_grace: repair::GRACE,
            git_version: "v1.36.0".to_owned(),
            encryption: crate::encryption::Config::default(),
            event_ttl: Duration::from_secs(3600),
            limits: Limits::default(),
            metrics: keelson_metrics::Registry::default(),
            admission: crate::admission::Config::default(),
            audit: AuditOptions::default(),
            authentication: AuthenticationOptions::default(),
            authorization: AuthorizationOptions::default(),
        }
    }
}
