//! Flags of the store on etcd; named as kube-apiserver's.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use keelson_etcd::Config;

use crate::api_server_options::duration;

/// What keeps the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The server itself, in its data folder.
    Keelson,
    /// An etcd cluster.
    Etcd,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store on etcd")]
pub(crate) struct EtcdOptions {
    /// What keeps the cluster's state.
    #[arg(long = "store", value_enum, default_value_t = Kind::Keelson)]
    pub(crate) kind: Kind,
    /// The members of the etcd cluster: `https://HOST:PORT`, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "URLS")]
    pub(crate) etcd_servers: Vec<String>,
    /// The authorities of their certificates, PEM; the system's if none are given.
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// The certificate to show them, PEM. It is read for every connection, so that it may be renewed.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What everything lies below in etcd.
    #[arg(long, value_name = "PREFIX", default_value = "/registry")]
    pub(crate) etcd_prefix: String,
    /// How often etcd is asked for the size of its database; 0 never.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = period)]
    pub(crate) etcd_db_metric_poll_interval: SignedDuration,
    /// How long a check of health waits for etcd.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) etcd_healthcheck_timeout: SignedDuration,
    /// How long a check of readiness waits for etcd.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) etcd_readycheck_timeout: SignedDuration,
}

/// A duration, or 0 without a unit.
fn period(text: &str) -> Result<SignedDuration, jiff::Error> {
    if text == "0" { Ok(SignedDuration::ZERO) } else { text.parse() }
}

impl EtcdOptions {
    /// Whether etcd keeps the state.
    pub(crate) fn is_chosen(&self) -> bool {
        self.kind == Kind::Etcd
    }

    /// The store on etcd, if that is what the flags say. It is compacted as often as past states are given up.
    pub(crate) fn config(&self, compaction_interval: Duration) -> anyhow::Result<Option<Config>> {
        if self.kind == Kind::Keelson {
            anyhow::ensure!(
                self.etcd_servers.is_empty(),
                "--etcd-servers is given, and the state is kept by Keelson itself: add --store=etcd"
            );
            return Ok(None);
        }
        anyhow::ensure!(!self.etcd_servers.is_empty(), "--store=etcd needs --etcd-servers=https://HOST:PORT");
        Ok(Some(Config {
            ca_file: self.etcd_cafile.clone(),
            cert_file: self.etcd_certfile.clone(),
            key_file: self.etcd_keyfile.clone(),
            prefix: self.etcd_prefix.clone(),
            // What history is served, the watch cache keeps.
            history: 0,
            health_timeout: duration("--etcd-healthcheck-timeout", self.etcd_healthcheck_timeout)?,
            readiness_timeout: duration("--etcd-readycheck-timeout", self.etcd_readycheck_timeout)?,
            compaction_interval,
            size_interval: duration("--etcd-db-metric-poll-interval", self.etcd_db_metric_poll_interval)?,
            ..Config::new(self.etcd_servers.iter())
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        etcd: EtcdOptions,
    }

    fn config(flags: &[&str]) -> anyhow::Result<Option<Config>> {
        Flags::try_parse_from([&["keelson"], flags].concat())?.etcd.config(Duration::from_secs(300))
    }

    #[test]
    fn the_state_is_kept_by_the_server_itself_unless_etcd_is_chosen_and_named() {
        assert!(config(&[]).unwrap().is_none());
        let error = config(&["--etcd-servers=https://a:2379"]).unwrap_err();
        assert!(error.to_string().ends_with("add --store=etcd"), "{error}");
        let error = config(&["--store=etcd"]).unwrap_err();
        assert!(error.to_string().contains("needs --etcd-servers"), "{error}");
        assert!(config(&["--store=etcd", "--etcd-servers=https://a:2379", "--etcd-certfile=x"]).is_err());
    }

    #[test]
    fn upstreams_flags_say_where_etcd_is() {
        let flags = ["--store=etcd", "--etcd-servers=https://a:2379,https://b:2379", "--etcd-prefix=/one"];
        let found = config(&[&flags[..], &["--etcd-db-metric-poll-interval=0"]].concat()).unwrap().unwrap();
        assert_eq!(found.servers, ["https://a:2379", "https://b:2379"]);
        assert_eq!((found.prefix.as_str(), found.size_interval), ("/one", Duration::ZERO));
        assert_eq!(found.health_timeout, Duration::from_secs(2));
    }
}
