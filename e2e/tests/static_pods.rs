//! Pods that the node runs by itself, of manifests in a folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use keelson_e2e::{BUSYBOX, Cluster, LONG, eventually};

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
    let cluster = Cluster::namespaces().unwrap();
    let folder = cluster.folder().join("manifests");
    fs::create_dir_all(&folder).unwrap();
    let settings = cluster.folder().join("kubelet.yaml");
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let settings_path = settings.to_string_lossy().into_owned();
    let up = ["--node-name", "Node-1", "--kubelet-config", &settings_path];

    // What this kubelet cannot follow is named, and nothing begins.
    fs::write(&settings, format!("{head}runOnce: true\n")).unwrap();
    let refused = cluster.keelson(&[&["up"][..], &up].concat()).unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown field `runOnce`"), "{refused:?}");

    fs::write(&settings, format!("{head}staticPodPath: {}\n", folder.display())).unwrap();
    cluster.continue_with(&["--node-name", "node-1", "--kubelet-config", &settings_path]).unwrap();
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
    cluster.continue_with(&["--kubelet-config", &settings_path]).unwrap();
    cluster.wait("web-node-1", "condition=Ready").unwrap();
    assert_eq!(container().unwrap(), first);
    assert_eq!(cluster.pod("web-node-1", ".status.containerStatuses[0].restartCount").unwrap(), "0");

    // Another content is another pod; without the file there is none.
    fs::write(folder.join("web.yaml"), manifest("second")).unwrap();
    eventually("the other pod", LONG, || {
        Ok((cluster.kubectl(&["logs", "web-node-1"]).unwrap_or_default().trim() == "second").then_some(()))
    })
    .unwrap();
    fs::remove_file(folder.join("web.yaml")).unwrap();
    eventually("the mirror to go", LONG, || Ok(cluster.pods("app=web")?.is_empty().then_some(()))).unwrap();
}
