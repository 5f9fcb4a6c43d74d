//! Pods that the node runs by itself, of manifests in a folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use keelson_e2e::{BUSYBOX, Cluster, Engine, LONG, Node, eventually};

fn manifest(word: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, "echo {word}; exec sleep infinity"]
"#
    )
}

#[test]
fn a_manifest_in_a_folder_is_a_pod_that_the_api_only_shows() {
    shows(Engine::Embedded);
}

#[test]
fn a_manifest_in_a_folder_is_a_pod_in_containerd_that_the_api_only_shows() {
    shows(Engine::Containerd);
}

fn shows(engine: Engine) {
    let cluster = Node::on(Cluster::namespaces().unwrap(), engine).unwrap();
    let folder = cluster.folder().join("manifests");
    fs::create_dir_all(&folder).unwrap();

    // What this kubelet cannot follow is named, and nothing begins.
    cluster.configure("runOnce: true\n").unwrap();
    let refused = cluster.keelson(&["up", "--node-name", "Node-1"]).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown field `runOnce`"), "{refused:?}");

    cluster.configure(&format!("staticPodPath: {}\n", folder.display())).unwrap();
    cluster.continue_with(&["--node-name", "node-1"]).unwrap();
    fs::write(folder.join("web.yaml"), manifest("first")).unwrap();
    fs::write(folder.join("broken.yaml"), "apiVersion: v1\nkind: Pod\n").unwrap();
    let is_there = || Ok(cluster.pods("app=web")?.contains(&"web-node-1".to_owned()).then_some(()));
    eventually("the mirror", LONG, is_there).unwrap();
    cluster.wait("web-node-1", "condition=Ready").unwrap();
    assert_eq!(cluster.kubectl(&["logs", "web-node-1"]).unwrap().trim(), "first");
    assert_eq!(cluster.exec("web-node-1", &["echo", "well"]).unwrap().trim(), "well");
    let annotation = |name: &str| {
        cluster.pod("web-node-1", &format!(".metadata.annotations.kubernetes\\.io/config\\.{name}")).unwrap()
    };
    assert_eq!((annotation("source").as_str(), annotation("mirror")), ("file", annotation("hash")));
    let container = || cluster.pod("web-node-1", ".status.containerStatuses[0].containerID");
    let first = container().unwrap();

    // Who deletes the mirror does not end the pod.
    let mirror = cluster.pod("web-node-1", ".metadata.uid").unwrap();
    // (kubectl would wait for the end of one that is made again before it looks.)
    cluster.kubectl(&["delete", "pod", "web-node-1", "--wait=false"]).unwrap();
    eventually("another mirror", LONG, || {
        let uid = cluster.pod("web-node-1", ".metadata.uid").unwrap_or_default();
        let shown = container().unwrap_or_default();
        Ok((!uid.is_empty() && uid != mirror && shown == first).then_some(()))
    })
    .unwrap();

    // Nor does the end of the node's agent.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.wait("web-node-1", "condition=Ready").unwrap();
    assert_eq!(container().unwrap(), first);
    assert_eq!(cluster.pod("web-node-1", ".status.containerStatuses[0].restartCount").unwrap(), "0");

    // Another content is another pod; without the file there is none, also when it went while no kubelet looked.
    fs::write(folder.join("web.yaml"), manifest("second")).unwrap();
    eventually("the other pod", LONG, || {
        Ok((cluster.kubectl(&["logs", "web-node-1"]).unwrap_or_default().trim() == "second").then_some(()))
    })
    .unwrap();
    cluster.wait("web-node-1", "condition=Ready").unwrap();
    let process = cluster.main_process("web-node-1").unwrap();
    cluster.kill().unwrap();
    fs::remove_file(folder.join("web.yaml")).unwrap();
    cluster.continue_with(&[]).unwrap();
    eventually("the mirror to go", LONG, || Ok(cluster.pods("app=web")?.is_empty().then_some(()))).unwrap();
    eventually("the pod to end", LONG, || {
        Ok((!Path::new(&format!("/proc/{process}")).exists()).then_some(()))
    })
    .unwrap();
}
