//! `/metrics` and what is below it, `/healthz`, `/configz`, `/pods` and `/runningpods`.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, header};
use keelson_metrics::{Family, Format};
use serde_json::{Value, json};

use super::container_metrics::{self, Machine};
use super::failure::Failure;
use super::{Node, blocking, resource_metrics};
use crate::config::Config;
use crate::node::machine;
use crate::usage::group::{Detail, device};

fn format(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    Format::accepted(accept.unwrap_or_default())
}

fn text(format: Format, families: Vec<Family>) -> Response {
    let mut families: Vec<_> = families.into_iter().filter_map(Family::into_proto).collect();
    families.sort_by(|a, b| a.name().cmp(b.name()));
    ([(header::CONTENT_TYPE, format.content_type())], format.encode(&families)).into_response()
}

/// What the kubelet counts, and how full claimed volumes are.
pub(super) async fn metrics(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<Response, Failure> {
    let format = format(&headers);
    let mut families = node.metrics.registry.gather();
    families.extend(volumes(&node).await?.into_iter().filter_map(Family::into_proto));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(([(header::CONTENT_TYPE, format.content_type())], format.encode(&families)).into_response())
}

async fn volumes(node: &Node) -> Result<Vec<Family>, Failure> {
    let has_claim = |pod: &Arc<k8s_openapi::api::core::v1::Pod>| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.into_iter().any(|one| one.persistent_volume_claim.is_some() || one.ephemeral.is_some())
    };
    if !node.pods.all().iter().any(has_claim) {
        return Ok(Vec::new());
    }
    type Value = fn(&machine::FileSystem) -> u64;
    let table: [(&str, &str, Value); 6] = [
        ("capacity_bytes", "Capacity in bytes of the volume", |it| it.capacity),
        ("available_bytes", "Number of available bytes in the volume", |it| it.available),
        ("used_bytes", "Number of used bytes in the volume", machine::FileSystem::used),
        ("inodes", "Maximum number of inodes in the volume", |it| it.inodes),
        ("inodes_free", "Number of free inodes in the volume", |it| it.inodes_free),
        ("inodes_used", "Number of used inodes in the volume", |it| it.inodes.saturating_sub(it.inodes_free)),
    ];
    let snapshot = node.meter.look(Detail::Brief).await?;
    let of_pods = node.meter.claims.of_pods(&node.runtime, &snapshot.pods).await;
    let mut found = of_pods.concat();
    // Several pods may have the same claim.
    found.sort_by(|a, b| (&a.namespace, &a.claim).cmp(&(&b.namespace, &b.claim)));
    found.dedup_by(|a, b| (&a.namespace, &a.claim) == (&b.namespace, &b.claim));
    let family = |(name, help, value): (&str, &str, Value)| {
        let mut family = Family::gauge(&format!("kubelet_volume_stats_{name}"), help);
        for one in &found {
            let labels =
                [("namespace", one.namespace.as_str()), ("persistentvolumeclaim", one.claim.as_str())];
            family.push(labels, value(&one.file_system) as f64, None);
        }
        family
    };
    Ok(table.map(family).into())
}

/// Processor time and memory.
pub(super) async fn resources(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    let found = node.meter.look(Detail::Brief).await;
    if let Err(error) = &found {
        tracing::warn!(error = error as &dyn std::error::Error, "what is used is not known");
    }
    text(format(&headers), resource_metrics::families(found.ok().as_deref()))
}

/// Everything of control groups.
pub(super) async fn containers(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let snapshot = node.meter.look(Detail::Full).await?;
    let config = Arc::clone(&node.config);
    let machine = blocking(move || about_machine(&config)).await??;
    let layer = |pod: &crate::usage::PodFigures, container: &str| {
        node.pods.disk.of(&pod.model.uid)?.containers.get(container)?.layer
    };
    Ok(text(format(&headers), container_metrics::families(&snapshot, &machine, &layer)))
}

/// Blocks.
fn about_machine(config: &Config) -> Result<Machine, machine::MachineError> {
    let info = machine::system_info(config, String::new())?;
    let numbers = std::fs::metadata(&config.data_dir).ok().map(|found| found.dev());
    let numbers = numbers.map(|dev| format!("{}:{}", libc::major(dev), libc::minor(dev)));
    let disk = machine::file_system(&config.data_dir).ok();
    Ok(Machine {
        cpus: machine::cpus()?,
        ids: [info.boot_id, info.machine_id, info.system_uuid],
        disk: numbers.map(|numbers| device(&numbers)).zip(disk),
    })
}

/// The results of probes.
pub(super) async fn probes(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    let format = format(&headers);
    let text = node.metrics.probes.registry.expose(format);
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

/// This server answers; that is all that is checked.
pub(super) async fn health(Query(parameters): Query<Vec<(String, String)>>) -> &'static str {
    let verbose = parameters.iter().any(|(name, _)| name == "verbose");
    if verbose { "[+]ping ok\nhealthz check passed\n" } else { "ok" }
}

/// The settings in force.
pub(super) async fn settings(State(node): State<Arc<Node>>) -> Json<Value> {
    Json(json!({ "kubeletconfig": node.config.settings }))
}

fn list(items: Vec<Value>) -> Json<Value> {
    Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

/// The pods as the API has them.
pub(super) async fn pods(State(node): State<Arc<Node>>) -> Response {
    let pods = node.pods.all();
    let items: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })).into_response()
}

/// The pods as the runtime has them: those of which some container runs.
pub(super) async fn running_pods(State(node): State<Arc<Node>>) -> Json<Value> {
    let mut items = Vec::new();
    for (pod, observed) in node.pods.observed() {
        let running = observed.containers.iter().filter(|one| one.is_running());
        let containers: Vec<Value> =
            running.map(|one| json!({ "name": one.name, "image": one.image_ref, "resources": {} })).collect();
        if !containers.is_empty() {
            let of = &pod.metadata;
            items.push(json!({
                "metadata": { "name": of.name, "namespace": of.namespace, "uid": of.uid },
                "spec": { "containers": containers },
                "status": {},
            }));
        }
    }
    list(items)
}
