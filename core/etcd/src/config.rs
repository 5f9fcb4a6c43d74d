//! Where etcd is and how it is used.

use std::path::PathBuf;
use std::time::Duration;

/// Where etcd is and how it is used.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its members: `https://HOST:PORT`, or `http://HOST:PORT` without TLS.
    pub servers: Vec<String>,
    /// The authorities of its certificates, PEM. The system's if none are given.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM. The files are read for every connection, so that they may be renewed.
    pub key_file: Option<PathBuf>,
    /// What everything lies below in etcd.
    pub prefix: String,
    /// What all keys of the store begin with, for which `prefix` stands in etcd.
    pub root: String,
    /// How many recent states stay readable.
    pub history: usize,
    /// How long the start waits for etcd.
    pub start_timeout: Duration,
    /// How long a write or a read may take before it fails.
    pub request_timeout: Duration,
    /// How long a health check of those who use the store may wait for it.
    pub health_timeout: Duration,
    /// How long a check of whether they are ready may.
    pub readiness_timeout: Duration,
    /// How often what is older than that is compacted away; zero leaves that to others.
    pub compaction_interval: Duration,
    /// How often the size of the database is asked for; zero never.
    pub size_interval: Duration,
}

impl Config {
    /// The defaults for some members.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Config {
            servers: servers.into_iter().map(Into::into).collect(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            prefix: "/registry".to_owned(),
            root: "/registry".to_owned(),
            history: 256,
            start_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(10),
            health_timeout: Duration::from_secs(2),
            readiness_timeout: Duration::from_secs(2),
            compaction_interval: Duration::from_secs(300),
            size_interval: Duration::from_secs(30),
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No member is named.
    #[error("no server of etcd is named")]
    NoServer,
    /// A member's address is not one.
    #[error("{server:?} is no address of an etcd server: give https://HOST:PORT")]
    Server {
        /// What was given.
        server: String,
    },
    /// A file of TLS cannot be used.
    #[error("read {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a certificate without a key, or a key without a certificate.
    #[error("a certificate for etcd and its key go together")]
    Pair,
    /// Files of TLS are given, and a server is reached without.
    #[error("{server} is reached without TLS, for which files are given: give https://HOST:PORT")]
    Plain {
        /// Which server.
        server: String,
    },
    /// No member answers, or none lets this client in.
    #[error("cannot reach etcd at {servers}: {reason}")]
    Unreachable {
        /// Who was asked.
        servers: String,
        /// What the last one said.
        reason: String,
    },
    /// The prefix holds something else.
    #[error(
        "{key} in etcd was not written by Keelson: give the data of this cluster a prefix of its own with --etcd-prefix"
    )]
    Foreign {
        /// A key whose value is not understood.
        key: String,
    },
}
