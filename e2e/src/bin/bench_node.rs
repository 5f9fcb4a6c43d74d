//! Measures a node and prints a JSON line per measurement: `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`.
//!
//! ```text
//! cargo run --release -p keelson-e2e --bin bench_node                   # as root
//! cargo run --release -p keelson-e2e --bin bench_node -- containerd     # the same with Debian's containerd and runc
//! ```
//!
//! Pods are made through the API on one connection; the cluster is like the tests': in namespaces of its own, and removed
//! afterwards. Its profile is the default one, and control plane and node are one process.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use keelson_e2e::measure::{idle, milliseconds, percentiles, tell};
use keelson_e2e::{BUSYBOX, Cluster, Engine, Node};
use kube::api::{AttachParams, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

/// Pods one after the other, and commands.
const SINGLE: usize = 50;
/// Pods at once.
const MANY: usize = 100;
/// Of the single ones, those that stay beside them.
const KEPT: usize = 10;
const PODS: usize = MANY + KEPT;

fn main() -> anyhow::Result<()> {
    let engine = match std::env::args().nth(1).as_deref() {
        None => Engine::Embedded,
        Some("containerd") => Engine::Containerd,
        Some(other) => anyhow::bail!("{other:?} is no runtime that is measured: name none, or containerd"),
    };
    let cluster = Node::up(engine, "")?;
    let none = idle(&cluster, "no pods")?;
    inside(&cluster, |client| async move { one_by_one(&client).await })?;
    inside(&cluster, |client| async move { commands(&client).await })?;
    inside(&cluster, |client| async move { at_once(&client).await })?;
    let all = idle(&cluster, &format!("{PODS} pods"))?;
    let each = |more: f64, less: f64| ((more - less) / PODS as f64 * 1000.0).round() / 1000.0;
    tell("an idle pod, all its processes, PSS", each(all.megabytes, none.megabytes), "MB");
    tell("an idle pod, all its processes", each(all.processor, none.processor), "% of one core");
    inside(&cluster, |client| async move { end_all(&client).await })
}

/// Runs work in the cluster's network.
fn inside<F>(cluster: &Cluster, work: impl FnOnce(Client) -> F + Send + 'static) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let namespace = File::open(format!("/proc/{}/ns/net", cluster.holder()))?;
    let kubeconfig = cluster.data_dir().join("kubeconfig");
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            work(Client::try_from(config)?).await
        })
    });
    thread.join().map_err(|_panic| anyhow::anyhow!("a measuring thread panicked"))?
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "infinity"]}]}
    }))?)
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// From a pod's creation to its first status with phase Running, as a watch tells it, one after the other.
async fn one_by_one(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let begin = pods.list(&ListParams::default()).await?.metadata.resource_version.context("no version")?;
    let mut events = pods.watch(&WatchParams::default(), &begin).await?.boxed();
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let name = format!("one-{number}");
        let since = Instant::now();
        pods.create(&PostParams::default(), &pod(&name)?).await?;
        loop {
            let event = events.try_next().await?.context("the watch has ended")?;
            if let WatchEvent::Modified(pod) = &event
                && pod.metadata.name.as_ref() == Some(&name)
                && runs(pod)
            {
                break;
            }
        }
        times.push(since.elapsed());
        if number < SINGLE - KEPT {
            pods.delete(&name, &DeleteParams::default().grace_period(1)).await?;
        }
    }
    percentiles("a pod: create to Running, one at a time", times);
    // They take their places until they have ended.
    until_gone(&pods, &begin, SINGLE - KEPT).await
}

/// Waits until so many pods have gone since a version.
async fn until_gone(pods: &Api<Pod>, begin: &str, count: usize) -> anyhow::Result<()> {
    let mut events = pods.watch(&WatchParams::default(), begin).await?.boxed();
    let mut gone = 0;
    while gone < count {
        let event = events.try_next().await?.context("the watch has ended")?;
        gone += usize::from(matches!(event, WatchEvent::Deleted(_)));
    }
    Ok(())
}

/// From the request to end all pods until the last one is gone. Their command does not heed the signal to end, so that
/// each takes the second that it is given.
async fn end_all(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let begin = pods.list(&ListParams::default()).await?.metadata.resource_version.context("no version")?;
    let since = Instant::now();
    pods.delete_collection(&DeleteParams::default().grace_period(1), &ListParams::default()).await?;
    until_gone(&pods, &begin, PODS).await?;
    tell(&format!("{PODS} pods deleted, with a second each to end"), milliseconds(since.elapsed()), "ms");
    Ok(())
}

/// A command in a running container, from the request to its end.
async fn commands(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let name = format!("one-{}", SINGLE - 1);
    let mut times = Vec::new();
    for _ in 0..SINGLE {
        let since = Instant::now();
        let mut process = pods.exec(&name, ["echo", "well"], &AttachParams::default().stderr(false)).await?;
        let mut said = String::new();
        process.stdout().context("no output")?.read_to_string(&mut said).await?;
        process.join().await?;
        anyhow::ensure!(said.trim() == "well", "the command said {said:?}");
        times.push(since.elapsed());
    }
    percentiles("exec: request to end", times);
    Ok(())
}

/// From the first creation of many pods until the last one runs.
async fn at_once(client: &Client) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let begin = pods.list(&ListParams::default()).await?.metadata.resource_version.context("no version")?;
    let mut events = pods.watch(&WatchParams::default(), &begin).await?.boxed();
    let since = Instant::now();
    let create = |number: usize| {
        let pods = pods.clone();
        async move {
            let wanted = pod(&format!("many-{number}"))?;
            pods.create(&PostParams::default(), &wanted).await?;
            anyhow::Ok(())
        }
    };
    futures::stream::iter((0..MANY).map(create)).buffer_unordered(16).try_collect::<Vec<()>>().await?;
    tell(&format!("{MANY} pods created"), milliseconds(since.elapsed()), "ms");
    let mut running = std::collections::BTreeMap::<String, Duration>::new();
    while running.len() < MANY {
        let event = events.try_next().await?.context("the watch has ended")?;
        if let WatchEvent::Modified(pod) = event
            && runs(&pod)
            && let Some(name) = pod.metadata.name.filter(|name| name.starts_with("many-"))
        {
            running.entry(name).or_insert_with(|| since.elapsed());
        }
    }
    tell(&format!("{MANY} pods at once: all Running"), milliseconds(since.elapsed()), "ms");
    Ok(())
}
