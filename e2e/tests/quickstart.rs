//! What a new user sees: one command makes a cluster, and a production-shaped workload runs in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;

use keelson_e2e::{BUSYBOX, Cluster, LONG, eventually};
use nix::unistd::Pid;

const WEB: &str = "app.kubernetes.io/name=demo-web";

fn status(process: Pid, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The folder of a process's control group of one controller, for either version.
fn control_group(process: Pid, controller: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let path = |line: &str| line.splitn(3, ':').nth(2).unwrap().to_owned();
    let v1 =
        groups.lines().find(|line| line.split(':').nth(1).unwrap().split(',').any(|it| it == controller));
    match v1 {
        Some(line) => format!("/sys/fs/cgroup/{controller}{}", path(line)),
        None => {
            format!("/sys/fs/cgroup{}", path(groups.lines().find(|line| line.starts_with("0::")).unwrap()))
        }
    }
}

fn read_either(folder: &str, v1: &str, v2: &str) -> String {
    let text = fs::read_to_string(format!("{folder}/{v1}"));
    text.or_else(|_| fs::read_to_string(format!("{folder}/{v2}"))).unwrap().trim().to_owned()
}

#[test]
fn the_quickstart_runs_as_isolated_limited_unprivileged_containers() {
    let cluster = Cluster::up().unwrap();
    cluster.quickstart().unwrap();
    let pods = cluster.pods(WEB).unwrap();
    assert_eq!(pods.len(), 3, "{pods:?}");
    let addresses: BTreeSet<String> =
        pods.iter().map(|pod| cluster.pod(pod, ".status.podIP").unwrap()).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    let main: Vec<Pid> = pods.iter().map(|pod| cluster.main_process(pod).unwrap()).collect();
    for kind in ["pid", "mnt", "ipc", "uts", "net"] {
        let namespace = |it: &str| fs::read_link(format!("/proc/{it}/ns/{kind}")).unwrap();
        let mut different: BTreeSet<_> = main.iter().map(|pid| namespace(&pid.to_string())).collect();
        different.insert(namespace("self"));
        assert_eq!(different.len(), 4, "each pod has its own {kind} namespace: {different:?}");
    }
    for (pod, process) in pods.iter().zip(&main) {
        assert_eq!(status(*process, "Uid"), "65532 65532 65532 65532");
        assert_eq!(status(*process, "NoNewPrivs"), "1");
        assert_eq!(status(*process, "CapEff"), "0000000000000000");
        assert_eq!(status(*process, "CapBnd"), "0000000000000000");
        let memory = control_group(*process, "memory");
        assert_eq!(read_either(&memory, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
        let quota = read_either(&control_group(*process, "cpu"), "cpu.cfs_quota_us", "cpu.max");
        assert_eq!(quota.split(' ').next(), Some("50000"));
        // One pause process holds the pod's namespaces.
        let uid = cluster.pod(pod, ".metadata.uid").unwrap();
        let network = fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
        let members = fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|entry| {
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|it| it == network)
                && fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|it| it.contains(&uid))
        });
        assert_eq!(members.count(), 2, "the web server and the pause process of {pod}");
    }
    let table = cluster.kubectl(&["get", "pods", "-o", "wide"]).unwrap();
    assert_eq!(table.lines().filter(|line| line.contains("1/1     Running   0")).count(), 3, "{table}");
    let budget = cluster.field(&["pdb", "demo-web"], ".status.disruptionsAllowed").unwrap();
    assert_eq!(budget, "1");
}

#[test]
fn the_memory_limit_is_enforced_by_the_kernel() {
    let cluster = Cluster::up().unwrap();
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  restartPolicy: Never
  containers:
  - name: greedy
    image: {BUSYBOX}
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=200M count=1"]
    resources: {{limits: {{memory: 32Mi}}}}
"#
        ))
        .unwrap();
    cluster.wait("greedy", "jsonpath={.status.phase}=Failed").unwrap();
    let ended = ".status.containerStatuses[0].state.terminated";
    assert_eq!(cluster.pod("greedy", &format!("{ended}.reason")).unwrap(), "OOMKilled");
    assert_eq!(cluster.pod("greedy", &format!("{ended}.exitCode")).unwrap(), "137");
    assert_eq!(cluster.pod("greedy", ".status.qosClass").unwrap(), "Burstable");
}

#[test]
fn a_service_answers_by_address_and_by_name_and_spreads_connections() {
    let cluster = Cluster::up().unwrap();
    let _resolver = cluster.resolver([192, 0, 2, 7].into()).unwrap();
    cluster.quickstart().unwrap();
    cluster.kubectl(&["run", "client", "--image", BUSYBOX, "--", "sleep", "infinity"]).unwrap();
    cluster.wait("client", "condition=Ready").unwrap();
    let address = cluster.field(&["svc", "demo-web"], ".spec.clusterIP").unwrap();
    let host = |page: String| page.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let url = format!("http://{address}/");
    let pods: BTreeSet<String> = cluster.pods(WEB).unwrap().into_iter().collect();

    let mut answered = BTreeSet::new();
    eventually("all three pods to answer the host", LONG, || {
        answered.insert(host(cluster.http("GET", &url)?));
        Ok((answered == pods).then_some(()))
    })
    .unwrap();
    let mut answered = BTreeSet::new();
    eventually("all three pods to answer a pod", LONG, || {
        answered.insert(host(cluster.exec("client", &["wget", "-q", "-O", "-", &url])?));
        Ok((answered == pods).then_some(()))
    })
    .unwrap();

    for name in ["demo-web", "demo-web.default", "demo-web.default.svc.cluster.local"] {
        let page = cluster.exec("client", &["wget", "-q", "-O", "-", &format!("http://{name}/")]).unwrap();
        assert!(page.contains("greeting: Hello from Keelson"), "{page}");
        assert!(page.contains(&format!("header host: {name}")), "{page}");
    }
    let configuration = cluster.exec("client", &["cat", "/etc/resolv.conf"]).unwrap();
    let dns =
        cluster.kubectl(&["get", "svc", "kube-dns", "-n", "kube-system", "-o", "jsonpath={.spec.clusterIP}"]);
    assert!(configuration.contains(&format!("nameserver {}", dns.unwrap())), "{configuration}");
    assert!(
        configuration.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{configuration}"
    );
    let outside = cluster.exec("client", &["nslookup", "-type=a", "outside.example."]).unwrap();
    assert!(outside.contains("192.0.2.7"), "{outside}");
    let missing = cluster.kubectl_fails(&[
        "exec",
        "client",
        "--",
        "nslookup",
        "-type=a",
        "missing.default.svc.cluster.local.",
    ]);
    assert!(missing.unwrap().contains("NXDOMAIN"));
}
