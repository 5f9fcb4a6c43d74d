//! Metrics of what is stored and watched, read from the cache when somebody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_api::GroupResource;
use keelson_metrics::{RegistryError, Source};

use crate::aggregation::Aggregation;
use crate::cache::{ListCounts, WatchCache};

#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    value as f64
}

/// Reads something of every resource's cache.
fn each(
    cache: &Arc<WatchCache>,
    labels: impl Fn(&GroupResource) -> Vec<String> + Send + Sync + 'static,
    read: impl Fn(&crate::cache::ResourceCache) -> u64 + Send + Sync + 'static,
) -> impl Fn() -> Vec<(Vec<String>, f64)> + Send + Sync + 'static {
    let cache = Arc::clone(cache);
    move || cache.all().into_iter().map(|(name, found)| (labels(&name), number(read(&found)))).collect()
}

fn group_and_resource(name: &GroupResource) -> Vec<String> {
    vec![name.group.clone(), name.resource.clone()]
}

/// Adds the metrics of the cache.
pub fn register(registry: &keelson_metrics::Registry, cache: &Arc<WatchCache>) -> Result<(), RegistryError> {
    registry.add(Source::gauge(
        "apiserver_storage_objects",
        "Number of stored objects at the time of last check split by kind.",
        &["resource"],
        each(cache, |name| vec![name.to_string()], |found| found.len() as u64),
    )?)?;
    registry.add(Source::gauge(
        "apiserver_resource_objects",
        "Number of stored objects at the time of last check split by kind.",
        &["group", "resource"],
        each(cache, group_and_resource, |found| found.len() as u64),
    )?)?;
    registry.add(Source::gauge(
        "apiserver_watch_cache_resource_version",
        "Current resource version of watch cache broken by resource type.",
        &["group", "resource"],
        each(cache, group_and_resource, crate::cache::ResourceCache::newest),
    )?)?;
    registry.add(Source::gauge(
        "apiserver_watch_cache_capacity",
        "Total capacity of watch cache broken by resource type.",
        &["group", "resource"],
        each(cache, group_and_resource, |_| crate::cache::RING as u64),
    )?)?;
    registry.add(Source::counter(
        "apiserver_watch_cache_events_received_total",
        "Counter of events received in watch cache broken by resource type.",
        &["group", "resource"],
        each(cache, group_and_resource, crate::cache::ResourceCache::received),
    )?)?;
    let count = |name, help, read: fn(&ListCounts) -> &AtomicU64| {
        let read = move |found: &crate::cache::ResourceCache| read(&found.lists).load(Ordering::Relaxed);
        let labels = &["group", "resource"];
        registry.add(Source::counter(name, help, labels, each(cache, group_and_resource, read))?)
    };
    count("apiserver_cache_list_total", "Number of LIST requests served from watch cache", |it| &it.lists)?;
    count(
        "apiserver_cache_list_fetched_objects_total",
        "Number of objects read from watch cache in the course of serving a LIST request",
        |it| &it.fetched,
    )?;
    count(
        "apiserver_cache_list_returned_objects_total",
        "Number of objects returned for a LIST request from watch cache",
        |it| &it.returned,
    )
}

/// Adds the metrics of extension API servers.
pub fn register_extensions(
    registry: &keelson_metrics::Registry,
    aggregation: &Arc<Aggregation>,
) -> Result<(), RegistryError> {
    let aggregation = Arc::clone(aggregation);
    registry.add(Source::gauge(
        "aggregator_unavailable_apiservice",
        "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
        &["name"],
        move || {
            let all = aggregation.extensions().into_iter();
            all.map(|it| (vec![it.name.clone()], f64::from(u8::from(!it.seen.load().available)))).collect()
        },
    )?)
}

/// Adds `apiserver_storage_size_bytes`: what the store's folder holds.
pub fn register_size(
    registry: &keelson_metrics::Registry,
    dir: std::path::PathBuf,
) -> Result<(), RegistryError> {
    storage_size(registry, "keelson-0", move || allocated(&dir).ok())
}

/// Adds the same of a database elsewhere.
pub fn register_database_size(
    registry: &keelson_metrics::Registry,
    read: impl Fn() -> Option<u64> + Send + Sync + 'static,
) -> Result<(), RegistryError> {
    storage_size(registry, "etcd-0", read)
}

fn storage_size(
    registry: &keelson_metrics::Registry,
    id: &'static str,
    read: impl Fn() -> Option<u64> + Send + Sync + 'static,
) -> Result<(), RegistryError> {
    registry.add(Source::gauge(
        "apiserver_storage_size_bytes",
        "Size of the storage database file physically allocated in bytes.",
        &["storage_cluster_id"],
        move || read().map(|bytes| (vec![id.to_owned()], number(bytes))).into_iter().collect(),
    )?)
}

/// The bytes that a folder's files take on their disk.
fn allocated(dir: &std::path::Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { allocated(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}
