//! Clusters come, go, break and continue.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keelson_e2e::{BUSYBOX, Cluster, LONG, PATIENCE, eventually};

const WEB: &str = "app.kubernetes.io/name=demo-web";

/// Name, uid, restarts and container of every pod.
const INSTANCES: &str = r#"jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}{"\n"}{end}"#;

fn instances(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "pods", "-l", WEB, "--sort-by=.metadata.name", "-o", INSTANCES]).unwrap()
}

#[test]
fn up_says_what_it_does_and_down_up_and_reset_do_what_they_say() {
    let cluster = Cluster::namespaces().unwrap();
    let printed = cluster.continue_with(&[]).unwrap();
    for step in [
        "Machine",
        "API server",
        "Node",
        "Operators",
        "export KUBECONFIG=",
        "kubectl apply -k manifests/quickstart",
    ] {
        assert!(printed.contains(step), "{printed}");
    }
    cluster.quickstart().unwrap();
    for entry in fs::read_dir(cluster.data_dir()).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        let open = metadata.is_dir() && metadata.permissions().mode() & 0o077 != 0;
        assert!(!open, "{} is for root alone", entry.path().display());
    }
    let again = cluster.keelson_prints(&["up", "-d"]).unwrap();
    assert!(again.contains("is already running"), "{again}");

    let down = cluster.keelson_prints(&["down"]).unwrap();
    assert!(!down.is_empty());
    let id = fs::read_to_string(cluster.data_dir().join("cluster.json")).unwrap();
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    let id = id["id"].as_str().unwrap().to_owned();
    assert_eq!(processes_of(&id), 0, "down ends every process of a pod");

    cluster.continue_with(&[]).unwrap();
    cluster.kubectl(&["wait", "deploy/demo-web", "--for=condition=Available", PATIENCE]).unwrap();
    cluster.kubectl(&["rollout", "status", "deploy/demo-web", PATIENCE]).unwrap();

    cluster.reset().unwrap();
    assert!(!cluster.data_dir().exists(), "the data is gone");
    assert_eq!(processes_of(&id), 0);
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", cluster.holder())).unwrap();
    assert!(!mounts.contains(&*cluster.data_dir().to_string_lossy()), "{mounts}");
    let links = cluster.on_the_host("busybox", &["ip", "link"]).unwrap();
    assert_eq!(
        links.lines().filter(|line| line.contains("mtu")).count(),
        1,
        "only the loopback is left: {links}"
    );
}

/// How many processes are in the control groups of a cluster's pods.
fn processes_of(id: &str) -> usize {
    let group = format!("/keelson-{id}/");
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter(|it| fs::read_to_string(it.path().join("cgroup")).is_ok_and(|it| it.contains(&group)))
        .count()
}

/// Ends a thread also when the test fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn killed_it_continues_with_every_acknowledged_object_and_the_same_containers() {
    let cluster = Cluster::up().unwrap();
    cluster.quickstart().unwrap();
    let before = instances(&cluster);
    assert_eq!(before.lines().count(), 3, "{before}");
    let acknowledged = AtomicU64::new(0);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let next = acknowledged.load(Ordering::Relaxed) + 1;
                let name = format!("written-{next}");
                let created = cluster
                    .client()
                    .command(&["create", "configmap", &name, &format!("--from-literal=number={next}")])
                    .stderr(Stdio::null())
                    .output()
                    .unwrap();
                // One that was not answered may be there or not.
                if created.status.success() || cluster.kubectl(&["get", "configmap", &name]).is_ok() {
                    acknowledged.store(next, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..4 {
            let written = acknowledged.load(Ordering::Relaxed);
            eventually("something to be written", LONG, || {
                Ok((acknowledged.load(Ordering::Relaxed) > written + 2).then_some(()))
            })
            .unwrap();
            cluster.kill().unwrap();
            cluster.keelson_prints(&["up", "-d"]).unwrap();
        }
    });
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).unwrap();
    let names: std::collections::HashSet<&str> = names.lines().collect();
    for number in 1..=acknowledged.load(Ordering::Relaxed) {
        assert!(names.contains(format!("configmap/written-{number}").as_str()), "{number} is lost");
    }
    cluster.kubectl(&["rollout", "status", "deploy/demo-web", PATIENCE]).unwrap();
    assert_eq!(instances(&cluster), before, "no container was restarted");
    // The pods that outlived it are still looked after.
    cluster.kubectl(&["scale", "deploy/demo-web", "--replicas=1"]).unwrap();
    eventually("one pod to be left", LONG, || {
        let left = cluster.kubectl(&["get", "pods", "-l", WEB, "-o", "name"])?;
        Ok((left.lines().count() == 1).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_container_that_ends_while_nobody_looks_is_restarted_afterwards() {
    let cluster = Cluster::up().unwrap();
    cluster.kubectl(&["run", "sleeper", "--image", BUSYBOX, "--", "sleep", "infinity"]).unwrap();
    cluster.wait("sleeper", "condition=Ready").unwrap();
    let process = cluster.main_process("sleeper").unwrap();
    cluster.kill().unwrap();
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    cluster.keelson_prints(&["up", "-d"]).unwrap();
    cluster.wait("sleeper", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    let code = cluster.pod("sleeper", ".status.containerStatuses[0].lastState.terminated.exitCode").unwrap();
    assert_eq!(code, "137");
}

#[test]
fn two_clusters_stand_side_by_side_on_one_machine() {
    let first = Cluster::up().unwrap();
    // In the same network namespace, with a folder of its own.
    let folder = first.folder().join("second");
    let folder = folder.to_string_lossy().into_owned();
    first.keelson_prints(&["up", "-d", "--data-dir", &folder]).unwrap();
    let second = |arguments: &[&str]| {
        let config = format!("--kubeconfig={folder}/kubeconfig");
        first.kubectl(&[&[config.as_str()], arguments].concat()).unwrap()
    };
    let web = ["create", "deployment", "web", "--image", BUSYBOX, "--", "sleep", "infinity"];
    let archive = first.folder().join("busybox.tar");
    first.keelson_prints(&["image", "import", "--data-dir", &folder, &archive.to_string_lossy()]).unwrap();
    first.kubectl(&web).unwrap();
    second(&web);
    let available = ["wait", "deploy/web", "--for=condition=Available", PATIENCE];
    first.kubectl(&available).unwrap();
    second(&available);
    first.keelson_prints(&["reset", "--data-dir", &folder]).unwrap();
    // The first one does not notice.
    first.kubectl(&["rollout", "restart", "deploy/web"]).unwrap();
    first.kubectl(&["rollout", "status", "deploy/web", PATIENCE]).unwrap();
}

#[test]
fn what_is_missing_is_said_all_at_once_and_nothing_is_changed() {
    let cluster = Cluster::namespaces().unwrap();
    // A port that is taken, and a folder that cannot hold a cluster.
    let listener =
        cluster.client().program("busybox").args(["nc", "-l", "-p", "6443"]).stdin(Stdio::piped()).spawn();
    let mut listener = listener.unwrap();
    eventually("the port to be taken", LONG, || {
        Ok(cluster.on_the_host("cat", &["/proc/net/tcp", "/proc/net/tcp6"])?.contains(":192B ").then_some(()))
    })
    .unwrap();
    let refused = cluster.keelson(&["up", "-d", "--api-port", "6443", "--kubelet-port", "6443"]).unwrap();
    listener.kill().unwrap();
    listener.wait().unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(
        text.contains("6443") && text.contains("--api-port") && text.contains("--kubelet-port"),
        "{text}"
    );
    assert!(!cluster.data_dir().exists(), "nothing was changed");

    let folder = cluster.folder().join("readable");
    fs::create_dir(&folder).unwrap();
    let program = keelson_e2e::binary().unwrap().to_string_lossy().into_owned();
    let as_nobody = cluster
        .client()
        .program("setpriv")
        .args(["--reuid=65534", "--clear-groups", &program, "up", "-d", "--data-dir"])
        .arg(folder.join("data"))
        .output()
        .unwrap();
    assert!(!as_nobody.status.success());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&as_nobody.stdout),
        String::from_utf8_lossy(&as_nobody.stderr)
    );
    assert!(text.contains("root"), "{text}");
    assert!(!folder.join("data").exists());
}
