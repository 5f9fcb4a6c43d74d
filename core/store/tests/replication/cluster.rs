//! Members of one store in one process.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keelson_store::raft_store::{
    Config, MEMBER_DNS_NAME, PeerCertificate, PeerTls, Peers, Timing, certified,
};
use keelson_store::{
    Change, Event, EventKind, Key, Observer, OpenError, Precondition, RaftStore, Revision, Role, Snapshot,
    Store, Value, Write,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::sign::CertifiedKey;

use super::proxy::Proxy;

/// What is told to one who follows: it must have no gap and end up as the state.
#[derive(Default)]
pub(crate) struct Follower(Mutex<(u64, BTreeMap<String, u64>)>);

impl Observer for Follower {
    fn restored(&self, snapshot: &Snapshot) {
        *self.0.lock().unwrap() = (snapshot.revision().get(), state(snapshot));
    }

    fn applied(&self, events: &[Event]) {
        let mut seen = self.0.lock().unwrap();
        for event in events {
            assert_eq!(event.revision.get(), seen.0 + 1, "a gap");
            seen.0 += 1;
            match event.kind {
                EventKind::Created | EventKind::Updated => {
                    seen.1.insert(event.key.to_string(), event.revision.get());
                }
                EventKind::Deleted => assert!(seen.1.remove(event.key.as_str()).is_some()),
            }
        }
    }

    fn compacted(&self, _: Revision) {}
}

/// Tells two.
struct Both(Arc<Follower>, Arc<dyn Observer>);

impl Observer for Both {
    fn restored(&self, snapshot: &Snapshot) {
        self.0.restored(snapshot);
        self.1.restored(snapshot);
    }

    fn applied(&self, events: &[Event]) {
        self.0.applied(events);
        self.1.applied(events);
    }

    fn compacted(&self, revision: Revision) {
        self.0.compacted(revision);
        self.1.compacted(revision);
    }
}

pub(crate) fn state(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    snapshot.range("/", None).map(|(key, entry)| (key.to_string(), entry.modified.get())).collect()
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(format!("/{name}")).unwrap()
}

pub(crate) fn put_if(name: &str, precondition: Precondition, value: &[u8]) -> Write {
    Write { key: key(name), precondition, change: Change::Put(Value::plain(value.to_vec())) }
}

pub(crate) fn put(name: &str, value: &[u8]) -> Write {
    put_if(name, Precondition::Any, value)
}

/// Waits until something holds; says whether it did.
pub(crate) async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) -> bool {
    for _ in 0..600 {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// An authority of members.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn shown(&self, name: &str) -> Arc<Certificate> {
        Arc::new(Certificate(Mutex::new(self.sign(name, Life::Good))))
    }

    fn sign(&self, name: &str, life: Life) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned(), MEMBER_DNS_NAME.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        if life == Life::Over {
            params.not_after = (std::time::SystemTime::now() - Duration::from_secs(1)).into();
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Arc::new(certified(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap())
    }
}

/// Whether a certificate can be used.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Life {
    Good,
    Over,
}

/// One that can be replaced.
pub(crate) struct Certificate(Mutex<Arc<CertifiedKey>>);

impl PeerCertificate for Certificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }
}

pub(crate) struct Node {
    dir: tempfile::TempDir,
    config: Config,
    shown: Arc<Certificate>,
    proxy: Proxy,
    running: Option<(Arc<RaftStore>, Arc<Follower>)>,
}

impl Node {
    pub(crate) fn store(&self) -> &Arc<RaftStore> {
        &self.running.as_ref().unwrap().0
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) struct Cluster {
    authority: Authority,
    nodes: BTreeMap<String, Node>,
    certificates: BTreeMap<String, Arc<Certificate>>,
    /// The middle of its members' addresses.
    network: (u8, u8),
}

/// Addresses that neither another cluster of this process uses nor another process, so that no port that was found to be
/// free is taken by the time that it is listened at.
fn network() -> (u8, u8) {
    static CLUSTERS: AtomicU8 = AtomicU8::new(0);
    let process = 1 + (std::process::id() % 250) as u8;
    (process, CLUSTERS.fetch_add(1, Ordering::Relaxed))
}

impl Cluster {
    pub(crate) async fn of_one(adapt: impl Fn(&mut Config)) -> Cluster {
        // `RUST_LOG` shows what goes on; another test of this process may have been first.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let (nodes, certificates) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Cluster { authority: Authority::new(), nodes, certificates, network: network() };
        cluster.prepare("a").await;
        cluster.adapt("a", adapt);
        cluster.start("a").await;
        cluster
    }

    pub(crate) async fn of_three() -> Cluster {
        Cluster::of_three_with(|_| ()).await
    }

    pub(crate) async fn of_three_with(adapt: impl Fn(&mut Config)) -> Cluster {
        let mut cluster = Cluster::of_one(&adapt).await;
        for name in ["b", "c"] {
            cluster.prepare(name).await;
            cluster.adapt(name, &adapt);
            cluster.start(name).await;
            cluster.until_voter(name).await;
        }
        cluster
    }

    pub(crate) fn adapt(&mut self, name: &str, adapt: impl Fn(&mut Config)) {
        adapt(&mut self.nodes.get_mut(name).unwrap().config);
    }

    /// A folder, an address and a certificate for a member; it joins those that are there.
    pub(crate) async fn prepare(&mut self, name: &str) {
        // Each member has an address of its own, so that one can tell who connects.
        let number = 10 + u8::try_from(self.nodes.len()).unwrap();
        let ip = IpAddr::from([127, self.network.0, self.network.1, number]);
        let listen = std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let proxy = Proxy::to(listen).await;
        let shown = self.certificates.remove(name).unwrap_or_else(|| self.authority.shown(name));
        let certificate = Arc::clone(&shown) as Arc<dyn PeerCertificate>;
        let tls = PeerTls { authority: self.authority.certificate.clone().into(), certificate };
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path());
        config.timing = Timing { request_timeout: Duration::from_secs(8), ..Timing::default() };
        config.peers = Some(Peers {
            name: name.to_owned(),
            addresses: vec![proxy.address.to_string()],
            listen,
            source: Some(ip),
            tls,
            join: self.nodes.values().map(|node| node.proxy.address.to_string()).collect(),
            promote: true,
        });
        self.nodes.insert(name.to_owned(), Node { dir, config, shown, proxy, running: None });
    }

    pub(crate) fn certificate_of(&mut self, name: &str, other: &str) {
        self.certificates.insert(name.to_owned(), self.authority.shown(other));
    }

    pub(crate) fn foreign_certificate_of(&mut self, name: &str) {
        self.certificates.insert(name.to_owned(), Authority::new().shown(name));
    }

    /// What a member shows from here on, while it runs.
    pub(crate) fn show(&self, name: &str, life: Life) {
        *self.nodes[name].shown.0.lock().unwrap() = self.authority.sign(name, life);
    }

    pub(crate) async fn add(&mut self, name: &str) {
        self.try_add(name).await.unwrap();
    }

    pub(crate) async fn try_add(&mut self, name: &str) -> Result<(), OpenError> {
        self.prepare(name).await;
        self.try_start(name).await
    }

    pub(crate) async fn start(&mut self, name: &str) {
        self.try_start(name).await.unwrap();
    }

    pub(crate) async fn try_start(&mut self, name: &str) -> Result<(), OpenError> {
        let config = self.nodes[name].config.clone();
        self.open(name, config, None).await
    }

    /// Starts a member again, which tells another observer too.
    pub(crate) async fn restart(&mut self, name: &str, observer: Arc<dyn Observer>) {
        self.kill(name);
        let config = self.nodes[name].config.clone();
        self.open(name, config, Some(observer)).await.unwrap();
    }

    pub(crate) async fn without_peers(&mut self, name: &str) {
        self.try_without_peers(name).await.unwrap();
    }

    pub(crate) async fn try_without_peers(&mut self, name: &str) -> Result<(), OpenError> {
        let config = Config { peers: None, ..self.nodes[name].config.clone() };
        self.open(name, config, None).await
    }

    async fn open(
        &mut self,
        name: &str,
        config: Config,
        other: Option<Arc<dyn Observer>>,
    ) -> Result<(), OpenError> {
        // One that was killed lets go of its folder and its address when its tasks have ended.
        let mut attempts = 100;
        loop {
            let follower = Arc::new(Follower::default());
            let observer: Arc<dyn Observer> = match &other {
                None => follower.clone(),
                Some(other) => Arc::new(Both(follower.clone(), Arc::clone(other))),
            };
            match RaftStore::open(config.clone(), observer).await {
                Ok(store) => {
                    self.nodes.get_mut(name).unwrap().running = Some((store, follower));
                    return Ok(());
                }
                Err(OpenError::Locked { .. } | OpenError::Listen { .. }) if attempts > 0 => {
                    attempts -= 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends a member without a farewell.
    pub(crate) fn kill(&mut self, name: &str) {
        self.nodes.get_mut(name).unwrap().running = None;
    }

    pub(crate) fn wipe(&mut self, name: &str) {
        for entry in std::fs::read_dir(self.nodes[name].dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
        }
        let join = self.nodes.iter().filter(|(other, _)| *other != name);
        let join = join.map(|(_, node)| node.proxy.address.to_string()).collect();
        self.nodes.get_mut(name).unwrap().config.peers.as_mut().unwrap().join = join;
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[name]
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.running.is_some())
    }

    pub(crate) fn running(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.running.is_some()).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn stopped(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.running.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// Cuts a member off from the others, in both directions.
    pub(crate) fn isolate(&self, name: &str) {
        let source = self.nodes[name].proxy.source();
        for (other, node) in &self.nodes {
            if other == name {
                node.proxy.refuse_all();
            } else {
                node.proxy.refuse(source);
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.nodes.values().for_each(|node| node.proxy.open());
    }

    /// The name of the member that all who run follow.
    pub(crate) async fn leader(&self) -> String {
        let found = Mutex::new(None);
        let agreed = until(|| async {
            let leaders: Vec<_> = self.nodes().map(|node| node.store().members().leader()).collect();
            let first = leaders[0];
            let name = self
                .running()
                .into_iter()
                .find(|name| Some(self.nodes[name].store().members().me()) == first);
            *found.lock().unwrap() = name.clone();
            name.is_some() && leaders.iter().all(|leader| *leader == first)
        });
        assert!(agreed.await, "no leader");
        found.into_inner().unwrap().unwrap()
    }

    /// Hands the lead to a member, if it has not got it.
    pub(crate) async fn lead(&self, name: &str) {
        let leads = until(|| async {
            let leader = self.leader().await;
            let id = self.node(name).store().members().me();
            // Another one may be faster.
            leader == name || self.node(&leader).store().members().transfer_leadership(id).await.is_ok()
        });
        assert!(leads.await, "{name} never came to lead");
    }

    pub(crate) async fn until_voter(&self, name: &str) {
        let is_voter = || async {
            let members = self.nodes[name].store().members();
            let me = members.me();
            let all = members.list().await.unwrap_or_default();
            all.iter().any(|member| member.id == me && member.role == Role::Voter)
        };
        assert!(until(is_voter).await, "{name} never came to vote");
    }

    pub(crate) async fn write_everywhere(&self, prefix: &str, count: usize) {
        for (name, node) in &self.nodes {
            let Some((store, _)) = &node.running else { continue };
            let writes =
                (0..count).map(|number| store.write(put(&format!("{prefix}/{name}/{number}"), &[b'x'; 300])));
            for made in futures::future::join_all(writes).await {
                made.unwrap();
            }
        }
    }

    /// All who run have the same state, and those who follow them have seen it.
    pub(crate) async fn agree(&self) {
        let mut states = Vec::new();
        for node in self.nodes() {
            node.store().barrier().await.unwrap();
        }
        for node in self.nodes() {
            let snapshot = node.store().snapshot();
            let seen = node.running.as_ref().unwrap().1.0.lock().unwrap();
            assert_eq!(*seen, (snapshot.revision().get(), state(&snapshot)));
            states.push(seen.clone());
        }
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
    }

    /// Writes one value after the other until it is stopped.
    pub(crate) fn keep_writing(&self, prefix: &str) -> Writer {
        let stores: Vec<_> = self.nodes().map(|node| Arc::clone(node.store())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, prefix) = (Arc::clone(&stop), prefix.to_owned());
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                let name = format!("{prefix}/{number}");
                if stores[number % stores.len()].write(put(&name, b"x")).await.is_ok() {
                    acknowledged.push(name);
                }
            }
            acknowledged
        });
        Writer { stop, task }
    }
}

/// A file system of its own, which is gone with the value.
pub(crate) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` where the test may not mount.
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        nix::mount::mount(Some("none"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options))
            .inspect_err(|error| eprintln!("skipped: a tmpfs cannot be mounted here: {error}"))
            .ok()
            .map(|()| SmallDisk(at.to_owned()))
    }

    pub(crate) fn resize(&self, options: &str) {
        let flags = nix::mount::MsFlags::MS_REMOUNT;
        nix::mount::mount(Some("none"), &self.0, None::<&str>, flags, Some(options)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Writer {
    /// Ends it; says which keys were acknowledged.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
