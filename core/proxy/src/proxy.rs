//! The one task: watch events change what is known of Services, and the kernel follows.
//!
//! Events that are there at once are one transaction. Nothing is written before all Services and EndpointSlices are known,
//! so that what an earlier run left serves until then. What the kernel has stays there when the task ends.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::changes::{Aftermath, Installed};
use crate::config::{self, Config, ConfigError, Node};
use crate::endpoint_slice::Slice;
use crate::front::Name;
use crate::kernel::{Kernel, KernelError};
use crate::rules;
use crate::service::{Refusal, Service};

pub(crate) mod cluster;

use self::cluster::{Cluster, Told, Update};

/// Headless Services have no address, and others may be somebody else's.
const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// How often is looked whether somebody has damaged our table.
const CHECK: Duration = Duration::from_secs(15);

/// The pause after a first failure, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// At most so many events become one transaction.
const BURST: usize = 4096;

/// The proxy could not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See there.
    #[error("the proxy's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A thread that talks to the kernel panicked.
    #[error("talk to the kernel")]
    Thread(#[from] tokio::task::JoinError),
    /// Watches go on for ever.
    #[error("the watches ended")]
    EndedEarly,
}

/// Keeps the kernel's Services equal to the cluster's until `shutdown`, in the calling thread's network namespace.
///
/// What the kernel refuses later on is logged and tried again.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let node = config.node()?;
    let mut proxy = Proxy::new(node, Kernel::open()?);
    let updates = futures::stream::select(services(&client), slices(&client, config.node_name.clone()));
    let mut updates = updates.ready_chunks(BURST);
    let mut check = tokio::time::interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let retry = proxy.retry;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            burst = updates.next() => {
                for update in burst.ok_or(Error::EndedEarly)? {
                    proxy.cluster.take(update);
                }
                proxy.follow().await?;
            }
            _ = check.tick() => proxy.check().await?,
            () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                proxy.install().await?;
            }
        }
    }
}

/// Removes a cluster's Services from the kernel; it is no error if there are none.
pub fn remove_all(cluster_id: &str) -> Result<(), Error> {
    let cluster_id = config::checked(cluster_id)?;
    Ok(Kernel::open()?.remove(&rules::table(&cluster_id))?)
}

struct Proxy {
    node: Node,
    cluster: Cluster,
    installed: Installed,
    /// Absent only while a thread has it.
    kernel: Option<Kernel>,
    /// Whether the table is in the kernel.
    begun: bool,
    failures: u32,
    /// When the table is made anew.
    retry: Option<Instant>,
}

impl Proxy {
    fn new(node: Node, kernel: Kernel) -> Self {
        Self {
            installed: Installed::new(node.clone()),
            node,
            cluster: Cluster::default(),
            kernel: Some(kernel),
            begun: false,
            failures: 0,
            retry: None,
        }
    }

    /// Brings the kernel to what is known now.
    async fn follow(&mut self) -> Result<(), Error> {
        if !self.cluster.is_complete() {
            return Ok(());
        }
        let mut batch_and_aftermath = Vec::new();
        loop {
            let dirty = self.cluster.take_dirty();
            if dirty.is_empty() {
                break;
            }
            let wanted = dirty.into_iter().map(|name| {
                let planned = self.cluster.plan(&name, &self.node);
                (name, planned)
            });
            let changes = self.installed.change(wanted.collect());
            for (name, front, other) in &changes.taken {
                tracing::warn!(service = %name, ?front, %other, "another Service has this address and port");
            }
            self.cluster.mark(changes.freed);
            batch_and_aftermath.push((changes.batch, changes.aftermath));
        }
        if !self.begun {
            return self.install().await;
        }
        if self.retry.is_some() {
            // The next try brings all of it.
            return Ok(());
        }
        for (batch, aftermath) in batch_and_aftermath {
            let table = self.installed.table().clone();
            let done = self.kernel(move |kernel| kernel.change(&table, batch, &aftermath)).await?;
            if let Err(error) = done {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the rules of Services are made anew"
                );
                return self.install().await;
            }
        }
        Ok(())
    }

    /// Makes the table anew. What is refused is tried again later.
    async fn install(&mut self) -> Result<(), Error> {
        let begun = std::time::Instant::now();
        let (table, sticky) = (self.installed.table().clone(), self.installed.sticky());
        let clients = self.kernel(move |kernel| kernel.clients(&table, &sticky)).await?;
        let clients = clients.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "clients do not come back to their endpoints");
            Vec::new()
        });
        let (batch, aftermath): (_, Aftermath) = self.installed.install(clients);
        let range = self.installed.range();
        match self.kernel(move |kernel| kernel.replace(batch, &aftermath, range)).await? {
            Ok(()) => {
                tracing::info!(services = self.cluster.len(), took = ?begun.elapsed(), "Services are in the kernel");
                (self.begun, self.failures, self.retry) = (true, 0, None);
            }
            Err(error) => {
                let pause = PAUSES[0].saturating_mul(1 << self.failures.min(10)).min(PAUSES[1]);
                self.failures += 1;
                // Counted as begun: from now on it is the retry that brings everything.
                (self.begun, self.retry) = (true, Some(Instant::now() + pause));
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    ?pause,
                    "Services are not in the kernel"
                );
            }
        }
        Ok(())
    }

    /// Makes the table anew if somebody has damaged it.
    async fn check(&mut self) -> Result<(), Error> {
        if !self.begun || self.retry.is_some() {
            return Ok(());
        }
        let (table, rules) = (self.installed.table().clone(), self.installed.rules());
        match self.kernel(move |kernel| kernel.is_whole(&table, rules)).await? {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::warn!("somebody has damaged the rules of Services; they are made anew");
                self.install().await
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the rules of Services could not be read");
                Ok(())
            }
        }
    }

    /// Does something that may take a while in a thread of its own.
    async fn kernel<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Kernel) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<Result<T, KernelError>, Error> {
        let Some(mut kernel) = self.kernel.take() else { return Err(Error::EndedEarly) };
        let (kernel, done) = tokio::task::spawn_blocking(move || {
            let done = job(&mut kernel);
            (kernel, done)
        })
        .await?;
        self.kernel = Some(kernel);
        Ok(done)
    }
}

fn services(client: &Client) -> impl Stream<Item = Update> + Send + 'static + Unpin + use<> {
    let read = |service: &core::Service| {
        let (kept, refused) = Service::read(service)?;
        let name = service.metadata.name.as_deref();
        let namespace = service.metadata.namespace.as_deref();
        if refused.contains(&Refusal::SourceRanges) {
            tracing::warn!(
                name,
                namespace,
                "loadBalancerSourceRanges are not supported: its load balancer's addresses do not answer"
            );
        }
        if refused.contains(&Refusal::Ipv6) {
            tracing::debug!(name, namespace, "addresses of IPv6 do not answer");
        }
        Some(kept)
    };
    told(Api::<core::Service>::all(client.clone()), "Service", read).map(Update::Service)
}

fn slices(client: &Client, node_name: String) -> impl Stream<Item = Update> + Send + 'static + Unpin + use<> {
    let read = move |slice: &discovery::EndpointSlice| Slice::read(slice, &node_name);
    told(Api::<discovery::EndpointSlice>::all(client.clone()), "EndpointSlice", read).map(Update::Slice)
}

/// A watch, of which only what `read` keeps is kept.
fn told<K, V>(
    api: Api<K>,
    kind: &'static str,
    read: impl Fn(&K) -> Option<V> + Send + 'static,
) -> impl Stream<Item = Told<V>> + Send + 'static + Unpin
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: Send + 'static,
{
    let events = watcher(api, watcher::Config::default().labels(OURS)).default_backoff();
    let told = events.filter_map(move |event| {
        let told = match event {
            Ok(Event::Init) => Some(Told::Begin),
            Ok(Event::InitApply(object)) => Name::of(&object).map(|name| Told::Listed(name, read(&object))),
            Ok(Event::InitDone) => Some(Told::End),
            Ok(Event::Apply(object)) => Name::of(&object).map(|name| Told::Is(name, read(&object))),
            Ok(Event::Delete(object)) => Name::of(&object).map(|name| Told::Is(name, None)),
            Err(error) => {
                tracing::warn!(kind, error = &error as &dyn std::error::Error, "a watch was interrupted");
                None
            }
        };
        futures::future::ready(told)
    });
    told.boxed()
}
