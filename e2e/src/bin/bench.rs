//! Measures a cluster and prints a JSON line per measurement: `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`.
//!
//! ```text
//! cargo run --release -p keelson-e2e --bin bench              # as root
//! KUBELOAD=/path/to/kubeload cargo run --release ...          # and what kubeload measures, on the same cluster
//! ```
//!
//! The cluster is like the tests': in namespaces of its own, and removed afterwards.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use keelson_e2e::measure::{idle, megabytes, milliseconds, percentiles, size, tell};
use keelson_e2e::{BUSYBOX, Cluster, LONG, PATIENCE, binary, eventually};
use nix::sched::{CloneFlags, setns};
use serde_json::json;

/// How long requests are sent one after the other.
const REQUESTS: Duration = Duration::from_secs(5);
const OBJECTS: usize = 10_000;

fn main() -> anyhow::Result<()> {
    tell("size of the binary", megabytes(fs::metadata(binary()?)?.len()), "MB");
    let cluster = Cluster::namespaces()?;
    start(&cluster, "first start")?;
    cluster.continue_with(&[])?;
    idle(&cluster, "idle, no pods")?;
    pod_start(&cluster)?;
    let since = Instant::now();
    cluster.quickstart()?;
    tell("quickstart: apply to rolled out", milliseconds(since.elapsed()), "ms");
    idle(&cluster, "idle, quickstart")?;
    data_plane(&cluster)?;
    if let Some(program) = std::env::var_os("KUBELOAD") {
        load(&cluster, Path::new(&program))?;
    }
    cluster.kill()?;
    start(&cluster, "start after kill -9")?;
    tell("data on disk", megabytes(size(&cluster.data_dir().join("store"))?), "MB");
    Ok(())
}

/// Runs `up -d` and takes the time at which it prints each of its steps.
fn start(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let program = binary()?.to_string_lossy().into_owned();
    let since = Instant::now();
    let mut up = cluster
        .client()
        .program(&program)
        .args(["up", "-d"])
        .env("KEELSON_DATA_DIR", cluster.data_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    for line in BufReader::new(up.stdout.take().context("no output")?).lines() {
        let line = line?;
        for (step, title) in
            [("API server", "API ready"), ("Node", "Node Ready"), ("Operators", "operators ready")]
        {
            if line.contains(step) && !line.contains("Ready after") {
                tell(&format!("{name}: {title}"), milliseconds(since.elapsed()), "ms");
            }
        }
    }
    ensure!(up.wait()?.success(), "up failed");
    Ok(())
}

/// From a pod's creation to its first status with phase Running, one after the other.
fn pod_start(cluster: &Cluster) -> anyhow::Result<()> {
    let mut watch = cluster
        .client()
        .command(&["get", "pods", "-w", "-o", r#"jsonpath={.metadata.name} {.status.phase}{"\n"}"#])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
    let mut times = Vec::new();
    for number in 0..30 {
        let name = format!("start-{number}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "infinity"]}]}
        });
        let since = Instant::now();
        cluster.client().with(&["create", "-f", "-"], &pod.to_string())?;
        let wanted = format!("{name} Running");
        for line in lines.by_ref() {
            if line? == wanted {
                break;
            }
        }
        times.push(since.elapsed());
    }
    watch.kill()?;
    watch.wait()?;
    percentiles("pod: kubectl create to Running", times);
    cluster.kubectl(&["delete", "pods", "--all", PATIENCE])?;
    Ok(())
}

/// Requests on connections of their own, by a Service's address and by a pod's.
fn data_plane(cluster: &Cluster) -> anyhow::Result<()> {
    let service: SocketAddr =
        format!("{}:80", cluster.field(&["svc", "demo-web"], ".spec.clusterIP")?).parse()?;
    let pod = cluster.pods("app.kubernetes.io/name=demo-web")?.swap_remove(0);
    let direct: SocketAddr = format!("{}:8080", cluster.pod(&pod, ".status.podIP")?).parse()?;
    let namespace = File::open(format!("/proc/{}/ns/net", cluster.holder()))?;
    let requests = std::thread::spawn(move || -> anyhow::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        for (name, address) in [("a Service", service), ("a pod", direct)] {
            let mut times = Vec::new();
            let until = Instant::now() + REQUESTS;
            while Instant::now() < until {
                let since = Instant::now();
                let mut connection = TcpStream::connect(address)?;
                connection
                    .write_all(b"GET /healthz HTTP/1.1\r\nHost: demo-web\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                connection.read_to_string(&mut answer)?;
                ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                times.push(since.elapsed());
            }
            tell(
                &format!("requests to {name}, one after the other"),
                times.len() as f64 / REQUESTS.as_secs_f64(),
                "1/s",
            );
            percentiles(&format!("request to {name}"), times);
        }
        Ok(())
    });
    requests.join().map_err(|_panic| anyhow::anyhow!("the thread that sent requests panicked"))?
}

/// What kubeload measures; its own lines are shown as they are.
fn load(cluster: &Cluster, program: &Path) -> anyhow::Result<()> {
    let run = |arguments: &[&dyn Display]| -> anyhow::Result<()> {
        let mut words =
            vec!["--kubeconfig".to_owned(), cluster.data_dir().join("kubeconfig").display().to_string()];
        words.extend(arguments.iter().map(ToString::to_string));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let printed = cluster.on_the_host(&program.to_string_lossy(), &words)?;
        print!("{printed}");
        Ok(())
    };
    for namespace in ["load", "pods", "starts", "bursts"] {
        cluster.kubectl(&["create", "namespace", namespace])?;
    }
    eventually("the namespaces' accounts", LONG, || {
        Ok(cluster.kubectl(&["get", "serviceaccount", "default", "-n", "bursts"]).is_ok().then_some(()))
    })?;
    for clients in [1, 16, 64] {
        run(&[
            &"create",
            &"--kind",
            &"configmaps",
            &"--n",
            &4000,
            &"--c",
            &clients,
            &"--ns",
            &"load",
            &"--prefix",
            &format!("c{clients}"),
        ])?;
    }
    run(&[&"create", &"--kind", &"pods", &"--n", &OBJECTS, &"--c", &16, &"--ns", &"pods", &"--gate"])?;
    run(&[&"get", &"--kind", &"pods", &"--n", &50_000, &"--c", &16, &"--ns", &"pods", &"--mod", &OBJECTS])?;
    run(&[&"list", &"--kind", &"pods", &"--n", &20, &"--c", &1, &"--ns", &"pods"])?;
    run(&[&"update", &"--kind", &"pods", &"--n", &10_000, &"--c", &16, &"--ns", &"pods", &"--mod", &1000])?;
    run(&[&"podstart", &"--n", &30, &"--ns", &"starts", &"--image", &BUSYBOX])?;
    run(&[&"podstart", &"--n", &30, &"--ns", &"bursts", &"--image", &BUSYBOX, &"--burst"])?;
    Ok(())
}
