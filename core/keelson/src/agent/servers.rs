//! Which API servers there are, and which of them is asked.
//!
//! The list is what the cluster tells in the EndpointSlice of its Service `kubernetes`; it is kept in a file, so that a start
//! finds one when the first is gone. The address that the machine joined by comes last.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::certificate::write_private;
use crate::connection::{SERVERS, urls};

/// So many answers in a row that a server cannot serve, and another one is asked.
const DISTRUST: u32 = 3;

#[derive(Debug, Default)]
struct State {
    /// In the order in which they are told.
    all: Vec<String>,
    /// Which is asked first.
    preferred: usize,
    /// Ends the connections to a server.
    connections: HashMap<String, CancellationToken>,
    /// Answers in a row that the preferred server could not serve.
    failures: u32,
}

/// The servers.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The address that the machine joined by.
    first: String,
    file: Option<PathBuf>,
    state: Mutex<State>,
}

/// The told ones, and the one that was joined by as the last resort.
fn with(first: &str, mut told: Vec<String>) -> Vec<String> {
    if !told.iter().any(|one| one == first) {
        told.push(first.to_owned());
    }
    told
}

impl Servers {
    /// One alone, which is kept nowhere.
    pub(crate) fn only(first: &str) -> Arc<Self> {
        let state = State { all: vec![first.to_owned()], ..State::default() };
        Arc::new(Servers { first: first.to_owned(), file: None, state: Mutex::new(state) })
    }

    /// Those that a file knows, and the one that was joined by.
    pub(crate) fn open(file: PathBuf, first: &str) -> anyhow::Result<Arc<Self>> {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let told = text.lines().map(str::trim).filter(|line| line.starts_with("https://"));
        let all = with(first, told.map(str::to_owned).collect());
        // Not everybody begins with the same one.
        let preferred = rand::random_range(0..all.len());
        let state = Mutex::new(State { all, preferred, ..State::default() });
        Ok(Arc::new(Servers { first: first.to_owned(), file: Some(file), state }))
    }

    /// All of them, in the order in which they are to be tried.
    pub(crate) fn in_order(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut all = state.all.clone();
        let preferred = state.preferred.min(all.len().saturating_sub(1));
        all.rotate_left(preferred);
        all
    }

    /// A server has answered: it is asked from now on. What is given ends the connection to it.
    pub(crate) fn connected(&self, server: &str) -> CancellationToken {
        let mut state = self.state.lock();
        if let Some(at) = state.all.iter().position(|one| one == server) {
            state.preferred = at;
        }
        state.failures = 0;
        state.connections.entry(server.to_owned()).or_default().child_token()
    }

    /// Hears how a request ended: a server that answers again and again that it cannot serve is left for the next.
    pub(crate) fn judge(&self, could_serve: bool) {
        let mut state = self.state.lock();
        if could_serve {
            state.failures = 0;
            return;
        }
        state.failures += 1;
        if state.failures < DISTRUST || state.all.len() < 2 {
            return;
        }
        state.failures = 0;
        let at = state.preferred.min(state.all.len() - 1);
        state.preferred = (at + 1) % state.all.len();
        let left = state.all.get(at).cloned().unwrap_or_default();
        if let Some(connections) = state.connections.remove(&left) {
            connections.cancel();
        }
        tracing::warn!(server = left, "a server cannot serve: another one is asked");
    }

    /// Ends all connections: those that follow show another certificate.
    pub(crate) fn reconnect(&self) {
        for (_, connections) in self.state.lock().connections.drain() {
            connections.cancel();
        }
    }

    /// Takes over what the cluster tells. An empty list tells nothing.
    fn take(&self, told: Vec<String>) -> anyhow::Result<()> {
        if told.is_empty() {
            return Ok(());
        }
        let kept = told.join("\n");
        {
            let mut state = self.state.lock();
            let all = with(&self.first, told);
            if state.all == all {
                return Ok(());
            }
            let asked = state.all.get(state.preferred).cloned();
            state.preferred = asked.and_then(|asked| all.iter().position(|one| *one == asked)).unwrap_or(0);
            state.connections.retain(|server, connections| {
                let stays = all.contains(server);
                if !stays {
                    connections.cancel();
                }
                stays
            });
            tracing::info!(servers = ?all, "the servers of the cluster are others now");
            state.all = all;
        }
        match &self.file {
            Some(file) => write_private(file, format!("{kept}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Follows what the cluster tells.
    pub(crate) async fn follow(
        self: Arc<Self>,
        client: Client,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (namespace, name) = SERVERS;
        let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let changes = watcher(api, config).default_backoff().applied_objects();
        let mut changes = std::pin::pin!(changes);
        loop {
            let slice = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                next = changes.try_next() => match next {
                    Ok(Some(slice)) => slice,
                    Ok(None) => anyhow::bail!("nothing more is told of the servers"),
                    Err(error) => {
                        // It is tried again by itself.
                        tracing::debug!(%error, "the servers cannot be watched");
                        continue;
                    }
                }
            };
            self.take(urls(&slice))?;
        }
    }
}

/// Where the list is kept.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("servers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn what_the_cluster_tells_is_found_again_and_the_first_address_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let servers = Servers::open(file(dir.path()), "https://first:6443").unwrap();
        assert_eq!(servers.in_order(), ["https://first:6443"]);
        servers.take(own(&["https://10.0.0.1:6443", "https://10.0.0.2:6443"])).unwrap();
        servers.take(Vec::new()).unwrap();
        let again = Servers::open(file(dir.path()), "https://first:6443").unwrap();
        assert_eq!(
            again.state.lock().all,
            ["https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://first:6443"]
        );
    }

    #[test]
    fn connections_to_a_server_that_is_gone_end_and_those_to_others_stay() {
        let servers = Servers::only("https://a");
        servers.take(own(&["https://a", "https://b"])).unwrap();
        let (to_a, to_b) = (servers.connected("https://a"), servers.connected("https://b"));
        assert_eq!(servers.in_order(), ["https://b", "https://a"]);
        servers.take(own(&["https://b", "https://c"])).unwrap();
        // The address that was joined by stays as the last resort.
        assert!(!to_a.is_cancelled() && !to_b.is_cancelled());
        servers.take(own(&["https://c"])).unwrap();
        assert!(to_b.is_cancelled());
        let again = servers.connected("https://c");
        servers.reconnect();
        assert!(again.is_cancelled() && to_a.is_cancelled());
    }

    #[test]
    fn a_server_that_cannot_serve_is_left_and_one_failure_is_forgiven() {
        let servers = Servers::only("https://a");
        servers.take(own(&["https://a", "https://b"])).unwrap();
        let connection = servers.connected("https://a");
        for could_serve in [false, false, true, false, false] {
            servers.judge(could_serve);
        }
        assert_eq!(servers.in_order(), ["https://a", "https://b"]);
        assert!(!connection.is_cancelled());
        servers.judge(false);
        assert_eq!(servers.in_order(), ["https://b", "https://a"]);
        assert!(connection.is_cancelled());
    }
}
