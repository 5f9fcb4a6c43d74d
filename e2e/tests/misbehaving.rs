//! Pods that do their worst: the node and their neighbours stay well, and the pods can be deleted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use keelson_e2e::{Cluster, Engine, LONG, Node, PATIENCE, Pod, eventually};

/// Name, further fields of the pod and of its container, and what it does.
const ALL: [(&str, &str, &str, &str); 6] = [
    ("forks", "", "", "f() { f | f & }; f; exec sleep infinity"),
    ("eats", "", "resources: {limits: {memory: 32Mi}}", "exec tail /dev/zero"),
    (
        "fills",
        "volumes: [{name: v, emptyDir: {sizeLimit: 4Mi}}]",
        "volumeMounts: [{name: v, mountPath: /v}]",
        "dd if=/dev/zero of=/v/f bs=1M count=16; exec sleep infinity",
    ),
    ("floods", "", "", "exec yes flood"),
    ("ignores", "", "", "trap '' TERM INT; while :; do sleep 1; done"),
    (
        "scatters",
        "volumes: [{name: v, emptyDir: {}}]",
        "volumeMounts: [{name: v, mountPath: /v}]",
        "i=0; while [ $i -lt 5000 ]; do : > /v/$i; i=$((i+1)); done; exec sleep infinity",
    ),
];

const SETTINGS: &str =
    "podPidsLimit: 128\ncontainerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 2\ncontainerLogMonitorInterval: 3s\n";

#[test]
fn pods_that_do_their_worst_harm_neither_the_node_nor_their_neighbours() {
    do_their_worst(&Node::up(Engine::Embedded, SETTINGS).unwrap());
}

#[test]
fn in_containerd_they_do_no_harm_either() {
    do_their_worst(&Node::up(Engine::Containerd, SETTINGS).unwrap());
}

fn do_their_worst(cluster: &Cluster) {
    let probe = "livenessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1, timeoutSeconds: 30}";
    let asks = "resources: {requests: {cpu: 100m, memory: 16Mi}}";
    let calm = Pod::new("calm").grace(1).script("exec sleep infinity");
    cluster.start(&calm.container(asks).container(probe)).unwrap();
    for (name, of_pod, of_container, does) in ALL {
        let pod = Pod::new(name).metadata("labels: {app: bad}").grace(2).spec(of_pod);
        cluster.apply(&pod.script(does).container(of_container).to_string()).unwrap();
    }

    // Each meets its limit.
    let killed = "jsonpath={.status.containerStatuses[0].lastState.terminated.reason}=OOMKilled";
    cluster.wait("eats", killed).unwrap();
    cluster.wait("fills", "jsonpath={.status.reason}=Evicted").unwrap();
    let told = cluster.pod("fills", ".status.message").unwrap();
    assert!(told.starts_with("Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\""), "{told}");
    cluster.wait("ignores", "condition=Ready").unwrap();
    eventually("the thousands of files", LONG, || {
        let found = cluster.exec("scatters", &["ls", "/v/4999"]);
        Ok(found.is_ok().then_some(()))
    })
    .unwrap();
    let logs = cluster.data_dir().join("logs/pods");
    let of_flood = || {
        let folders = fs::read_dir(&logs)?.flatten();
        let folder = folders.map(|one| one.path()).find(|path| path.to_string_lossy().contains("_floods_"));
        let files = folder.map(|folder| fs::read_dir(folder.join("main"))).transpose()?.into_iter().flatten();
        anyhow::Ok(files.count())
    };
    eventually("the log to be cut", LONG, || Ok((of_flood()? > 1).then_some(()))).unwrap();

    // Nobody else notices.
    assert_eq!(cluster.exec("calm", &["echo", "well"]).unwrap().trim(), "well");
    assert_eq!(cluster.pod("calm", ".status.containerStatuses[0].restartCount").unwrap(), "0");
    let conditions = ".items[0].status.conditions[?(@.status==\"True\")].type";
    let conditions = cluster.field(&["nodes"], conditions).unwrap();
    assert!(conditions.contains("Ready") && !conditions.contains("Pressure"), "{conditions}");

    // And they go, with all that was theirs.
    cluster.kubectl(&["delete", "pod", "-l", "app=bad", PATIENCE]).unwrap();
    eventually("their logs to go", LONG, || {
        let left = fs::read_dir(&logs)?.flatten().map(|one| one.file_name().to_string_lossy().into_owned());
        let bad = left.filter(|name| ALL.iter().any(|(bad, ..)| name.contains(&format!("_{bad}_"))));
        Ok((bad.count() == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.pod("calm", ".status.containerStatuses[0].restartCount").unwrap(), "0");
}
