//! Clients that write, read, list and watch through all servers at once, and note what they are told.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use keelson_e2e::{LONG, Servers, eventually};
use keelson_store::simulation::history::{Action, Operation};
use kube::api::{ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};

use super::record::{Acknowledged, Listed, NAMESPACE, Record, Watched, check_nothing_is_lost};

const WORKERS: usize = 8;
const KEYS: u64 = 6;
const VALUE: &str = "value";
/// Some values are larger than others.
const LARGE: usize = 20_000;
const PADDING: &str = "padding";
/// After which time nothing is known of a request.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    /// A clock that only knows what was before what.
    clock: AtomicU64,
    written: AtomicU64,
    unknown: AtomicU64,
    read: AtomicU64,
    epoch: AtomicU64,
    /// In which epoch each worker is.
    workers: [AtomicU64; WORKERS],
    stop: AtomicBool,
    /// The newest revision that was acknowledged, when nobody writes any more.
    end: OnceLock<u64>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether a watcher has come to the end of all.
    fn has_seen_all(&self, watched: &Watched) -> bool {
        self.end.get().is_some_and(|end| watched.last() >= *end)
    }
}

/// Running clients.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Clients {
    /// Starts them on the network of the servers.
    pub(crate) fn start(servers: &Servers) -> Self {
        let shared = Arc::new(Shared::default());
        let namespace = File::open(servers.network_namespace()).unwrap();
        let kubeconfigs: Vec<_> = servers
            .running()
            .iter()
            .map(|number| Kubeconfig::read_from(servers.kubeconfig(*number)).unwrap())
            .collect();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            // One that was installed already is the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(of_thread, kubeconfigs));
        });
        Clients { shared, thread }
    }

    /// How many writes were acknowledged.
    pub(crate) fn written(&self) -> u64 {
        assert!(!self.thread.is_finished(), "the clients have failed");
        self.shared.written.load(Ordering::SeqCst)
    }

    /// From now on, clients use other keys.
    pub(crate) fn next_epoch(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Checks the registers that nobody uses any more.
    pub(crate) fn check_what_is_over(&self) {
        let oldest = self.shared.workers.iter().map(|it| it.load(Ordering::SeqCst)).min().unwrap();
        self.shared.record.lock().unwrap().check_registers_before(oldest).unwrap();
    }

    /// Whatever was acknowledged until now is there, or something newer in its place, as one of the servers shows it.
    pub(crate) fn check_what_is_there(&self, servers: &Servers, asked: usize) {
        let acknowledged = self.shared.record.lock().unwrap().newest_acknowledged();
        let each = r#"jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}"#;
        let list = ["get", "configmaps", "--namespace", NAMESPACE, "-o", each];
        let found = eventually("the server to answer", LONG, || servers.client(asked).run(&list).map(Some));
        let found = found.unwrap();
        let found: BTreeMap<&str, u64> = found
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, revision)| (name, revision.parse().unwrap()))
            .collect();
        check_nothing_is_lost(&acknowledged, &found).unwrap();
    }

    pub(crate) fn summary(&self) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let shared = &self.shared;
        format!(
            "{} writes, {} of unknown outcome, {} reads",
            of(&shared.written),
            of(&shared.unknown),
            of(&shared.read)
        )
    }

    /// Ends them and checks all that they were told.
    pub(crate) fn stop_and_check(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        let record = std::mem::take(&mut *self.shared.record.lock().unwrap());
        record.check().unwrap();
    }
}

async fn run(shared: Arc<Shared>, kubeconfigs: Vec<Kubeconfig>) {
    let mut apis: Vec<Api<ConfigMap>> = Vec::new();
    for kubeconfig in kubeconfigs {
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = Some(PATIENCE);
        apis.push(Api::namespaced(Client::try_from(config).unwrap(), NAMESPACE));
    }
    let apis = Arc::new(apis);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..WORKERS {
        tasks.spawn(work(Arc::clone(&shared), Arc::clone(&apis), number));
    }
    let mut watchers = tokio::task::JoinSet::new();
    for api in apis.iter() {
        watchers.spawn(watch(Arc::clone(&shared), api.clone()));
        tasks.spawn(list(Arc::clone(&shared), api.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let newest = shared.record.lock().unwrap().acknowledged.last_key_value().map_or(0, |(newest, _)| *newest);
    shared.end.set(newest).unwrap();
    let all = async {
        while let Some(ended) = watchers.join_next().await {
            ended.unwrap();
        }
    };
    assert!(tokio::time::timeout(LONG, all).await.is_ok(), "a watch does not come to revision {newest}");
}

/// What became of a request.
enum Answer<T> {
    Done(T),
    /// It did nothing.
    Refused,
    Unknown,
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Answer<T> {
    match tokio::time::timeout(PATIENCE, request).await {
        Err(_) => Answer::Unknown,
        Ok(Ok(done)) => Answer::Done(done),
        // What the store says of a write: that it was not made, or that this is not known.
        Ok(Err(kube::Error::Api(status))) if status.code != 504 && status.code != 500 => Answer::Refused,
        // Nothing was sent where there is no connection.
        Ok(Err(error)) if format!("{error:?}").contains("Connect,") => Answer::Refused,
        Ok(Err(_)) => Answer::Unknown,
    }
}

fn value(map: &ConfigMap) -> u64 {
    map.data.as_ref().unwrap()[VALUE].parse().unwrap()
}

fn revision(map: &ConfigMap) -> u64 {
    map.resource_version().unwrap().parse().unwrap()
}

fn register(key: &str, value: u64, version: Option<String>) -> ConfigMap {
    let padding = if value.is_multiple_of(16) { LARGE } else { 100 };
    let data = [(VALUE, value.to_string()), (PADDING, "x".repeat(padding))];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(key.to_owned()),
            resource_version: version,
            ..ObjectMeta::default()
        },
        data: Some(data.map(|(name, value)| (name.to_owned(), value)).into()),
        ..ConfigMap::default()
    }
}

/// Reads and writes registers through one server after the other.
async fn work(shared: Arc<Shared>, apis: Arc<Vec<Api<ConfigMap>>>, number: usize) {
    let mut turn = number as u64;
    while !shared.stopped() {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        shared.workers[number].store(epoch, Ordering::SeqCst);
        // Some order in which each meets each.
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = turn >> 33;
        let api = &apis[usize::try_from(random % apis.len() as u64).unwrap()];
        let key = format!("r-{epoch}-{}", random / 8 % KEYS);
        let found = read(&shared, api, epoch, &key).await;
        let Some(found) = found else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let new = shared.now();
        match (random / 64 % 4, found) {
            (0, _) => {}
            (_, None) => {
                let register = register(&key, new, None);
                write(&shared, epoch, &key, Action::Swap(None, new), async {
                    api.create(&PostParams::default(), &register).await
                })
                .await;
            }
            (1, Some(_)) => {
                let register = register(&key, new, None);
                write(&shared, epoch, &key, Action::Write(new), async {
                    api.replace(&key, &PostParams::default(), &register).await
                })
                .await;
            }
            (_, Some(found)) => {
                let old = value(&found);
                let register = register(&key, new, found.resource_version());
                write(&shared, epoch, &key, Action::Swap(Some(old), new), async {
                    api.replace(&key, &PostParams::default(), &register).await
                })
                .await;
            }
        }
    }
    shared.workers[number].store(u64::MAX, Ordering::SeqCst);
}

/// Reads a register; `None` if it could not be read.
async fn read(shared: &Shared, api: &Api<ConfigMap>, epoch: u64, key: &str) -> Option<Option<ConfigMap>> {
    let begun = shared.now();
    match answer(api.get_opt(key)).await {
        Answer::Done(found) => {
            let action = Action::Read(found.as_ref().map(value));
            note(shared, epoch, key, Operation { begun, ended: Some(shared.now()), action });
            shared.read.fetch_add(1, Ordering::SeqCst);
            Some(found)
        }
        Answer::Refused | Answer::Unknown => None,
    }
}

fn note(shared: &Shared, epoch: u64, key: &str, operation: Operation) {
    shared.record.lock().unwrap().operations.entry((epoch, key.to_owned())).or_default().push(operation);
}

async fn write(
    shared: &Shared,
    epoch: u64,
    key: &str,
    action: Action,
    request: impl Future<Output = kube::Result<ConfigMap>>,
) {
    let begun = shared.now();
    match answer(request).await {
        Answer::Done(made) => {
            let ended = shared.now();
            note(shared, epoch, key, Operation { begun, ended: Some(ended), action });
            let write = Acknowledged { key: key.to_owned(), value: value(&made), ended };
            shared.record.lock().unwrap().acknowledge(revision(&made), write).unwrap();
            shared.written.fetch_add(1, Ordering::SeqCst);
        }
        Answer::Refused => {}
        Answer::Unknown => {
            note(shared, epoch, key, Operation { begun, ended: None, action });
            shared.unknown.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Lists all registers again and again.
async fn list(shared: Arc<Shared>, api: Api<ConfigMap>) {
    while !shared.stopped() {
        let begun = shared.now();
        // The revision of a list is that of the whole, however little of it is asked for.
        if let Answer::Done(found) = answer(api.list_metadata(&ListParams::default().limit(1))).await {
            let revision = found.metadata.resource_version.unwrap().parse().unwrap();
            let list = Listed { begun, ended: shared.now(), revision };
            shared.record.lock().unwrap().lists.push(list);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Watches through one server; where it is interrupted, it goes on from what it saw last, as far as it is let.
async fn watch(shared: Arc<Shared>, api: Api<ConfigMap>) {
    let mut watched: Option<Watched> = None;
    while !watched.as_ref().is_some_and(|it| shared.has_seen_all(it)) {
        let Some(from) = watched.as_ref().map(Watched::last) else {
            match answer(api.list_metadata(&ListParams::default().limit(1))).await {
                Answer::Done(found) => {
                    let after = found.metadata.resource_version.unwrap().parse().unwrap();
                    watched = Some(Watched { after, events: Vec::new() });
                }
                Answer::Refused | Answer::Unknown => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            continue;
        };
        let params = WatchParams::default().timeout(20);
        let Answer::Done(stream) = answer(api.watch(&params, &from.to_string())).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        while let Ok(Some(Ok(event))) = tokio::time::timeout(PATIENCE, stream.next()).await {
            match event {
                WatchEvent::Added(map) | WatchEvent::Modified(map) => {
                    if map.name_any().starts_with("r-") {
                        let event = (revision(&map), map.name_any(), value(&map));
                        watched.as_mut().unwrap().events.push(event);
                    }
                }
                WatchEvent::Deleted(map) => panic!("nobody deletes {}", map.name_any()),
                WatchEvent::Bookmark(_) => {}
                // What it would miss is gone: it begins anew.
                WatchEvent::Error(_) => {
                    shared.record.lock().unwrap().watched.extend(watched.take());
                    break;
                }
            }
            if watched.as_ref().is_none_or(|it| shared.has_seen_all(it)) {
                break;
            }
        }
    }
    shared.record.lock().unwrap().watched.extend(watched);
}
