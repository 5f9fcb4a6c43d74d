//! Measures a cluster and prints a JSON line per measurement: `{"measurement":NAME,"value":NUMBER,"unit":UNIT}`.
//!
//! ```text
//! cargo run --release -p keelson-e2e --bin bench              # as root
//! KUBELOAD=/path/to/kubeload cargo run --release ...          # and what kubeload measures, on the same cluster
//! ```
//!
//! The cluster is like the tests': in namespaces of its own, and removed afterwards.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use keelson_e2e::{BUSYBOX, Cluster, LONG, PATIENCE, binary, eventually};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long an idle cluster is watched.
const IDLE: Duration = Duration::from_secs(30);
/// How long requests are sent one after the other.
const REQUESTS: Duration = Duration::from_secs(5);
const OBJECTS: usize = 10_000;

fn tell(measurement: &str, value: impl Into<Value>, unit: &str) {
    println!("{}", json!({"measurement": measurement, "value": value.into(), "unit": unit}));
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn main() -> anyhow::Result<()> {
    tell("size of the binary", megabytes(fs::metadata(binary()?)?.len()), "MB");
    let cluster = Cluster::namespaces()?;
    start(&cluster, "first start")?;
    cluster.continue_with(&[])?;
    memory_and_processor(&cluster, "idle, no pods")?;
    pod_start(&cluster)?;
    let since = Instant::now();
    cluster.quickstart()?;
    tell("quickstart: apply to rolled out", milliseconds(since.elapsed()), "ms");
    memory_and_processor(&cluster, "idle, quickstart")?;
    data_plane(&cluster)?;
    if let Some(program) = std::env::var_os("KUBELOAD") {
        load(&cluster, Path::new(&program))?;
    }
    cluster.kill()?;
    start(&cluster, "start after kill -9")?;
    tell("data on disk", megabytes(size(&cluster.data_dir().join("store"))?), "MB");
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e5).round() / 10.0
}

fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
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

/// Processes of a cluster: its own, and those in its pods' control groups.
fn processes(cluster: &Cluster) -> anyhow::Result<HashMap<&'static str, Vec<Pid>>> {
    let record: Value = serde_json::from_slice(&fs::read(cluster.data_dir().join("cluster.json"))?)?;
    let group = format!("/keelson-{}/", record["id"].as_str().context("no id")?);
    let own = cluster.process()?;
    let pods = cluster.data_dir().join("runtime/pods");
    let mut found: HashMap<&'static str, Vec<Pid>> = HashMap::from([("keelson", vec![own])]);
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse().ok()) else {
            continue;
        };
        let in_a_pod = fs::read_to_string(path.join("cgroup")).is_ok_and(|it| it.contains(&group));
        if in_a_pod {
            found.entry("containers").or_default().push(Pid::from_raw(pid));
        } else if fs::read_link(path.join("cwd")).is_ok_and(|folder| folder.starts_with(&pods)) {
            // A pod's process works in the pod's folder; it is in no pod's group.
            found.entry("pod processes").or_default().push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Resident and proportional memory in kilobytes.
fn memory(process: Pid) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0)
    };
    (field("Rss:"), field("Pss:"))
}

/// Processor time that a process has used, in clock ticks of 10 ms.
fn ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|it| it.parse().ok()).unwrap_or(0);
    number(11) + number(12)
}

fn memory_and_processor(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    // What starting left to do is done by then.
    std::thread::sleep(Duration::from_secs(10));
    let processes = processes(cluster)?;
    let sum = || -> u64 { processes.values().flatten().map(|pid| ticks(*pid)).sum() };
    let before = sum();
    std::thread::sleep(IDLE);
    let used = (sum() - before) as f64 * 0.01 / IDLE.as_secs_f64() * 100.0;
    tell(&format!("{name}: processor"), (used * 100.0).round() / 100.0, "% of one core");
    let (mut all_resident, mut all_proportional) = (0, 0);
    let mut kinds: Vec<_> = processes.iter().collect();
    kinds.sort();
    for (kind, members) in kinds {
        let (mut resident, mut proportional) = (0, 0);
        for process in members {
            let (rss, pss) = memory(*process);
            resident += rss;
            proportional += pss;
        }
        tell(&format!("{name}: {} x {kind}, RSS", members.len()), megabytes(resident * 1024), "MB");
        all_resident += resident;
        all_proportional += proportional;
    }
    tell(&format!("{name}: all processes, RSS"), megabytes(all_resident * 1024), "MB");
    tell(&format!("{name}: all processes, PSS"), megabytes(all_proportional * 1024), "MB");
    Ok(())
}

/// Smallest, middle and 99th percentile.
fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| {
        times.get(((times.len() - 1) as f64 * share).round() as usize).copied().unwrap_or_default()
    };
    for (title, share) in [("p50", 0.5), ("p99", 0.99)] {
        tell(&format!("{name}, {title} of {}", times.len()), milliseconds(at(share)), "ms");
    }
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
