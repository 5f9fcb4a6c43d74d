//! Volumes of storage drivers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use keelson_e2e::{Cluster, LONG, Plugin, Pod, eventually};

const NAME: &str = "folders.test.keelson.io";

fn start(cluster: &Cluster) -> Plugin {
    Plugin::driver(cluster, env!("CARGO_BIN_EXE_csi_driver"), NAME, &[]).unwrap()
}

fn pod(name: &str, volume: &str) -> String {
    let mount = "volumeMounts: [{name: v, mountPath: /data}]";
    Pod::new(name).spec(&format!("volumes: [{{name: v, {volume}}}]")).container(mount).to_string()
}

fn objects() -> String {
    format!(
        "apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {{name: {NAME}}}
spec: {{attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Persistent, Ephemeral]}}
---
apiVersion: v1
kind: Secret
metadata: {{name: key}}
stringData: {{password: open}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: pv}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  persistentVolumeReclaimPolicy: Retain
  csi:
    driver: {NAME}
    volumeHandle: one
    volumeAttributes: {{password: open}}
    nodeStageSecretRef: {{name: key, namespace: default}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: claim}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: \"\", resources: {{requests: {{storage: 1Gi}}}}}}
---
"
    )
}

#[test]
fn a_drivers_volume_is_staged_once_published_to_each_pod_and_taken_back_also_after_a_restart() {
    let cluster = Cluster::up().unwrap();
    let claimed = "persistentVolumeClaim: {claimName: claim}";
    cluster.apply(&(objects() + &pod("one", claimed))).unwrap();
    // Without the driver the pod waits and says so.
    eventually("an event of the missing driver", LONG, || {
        let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        Ok(events.contains(&format!("driver name {NAME} not found")).then_some(()))
    })
    .unwrap();
    let driver = start(&cluster);
    driver.await_call("registered").unwrap();
    let node = cluster.pod("one", ".spec.nodeName").unwrap();
    let entry = cluster.field(&["csinode", &node], ".spec.drivers[0]").unwrap();
    assert!(entry.contains(NAME) && entry.contains("test-node") && entry.contains("\"count\":7"), "{entry}");
    let labels = cluster.field(&["node", &node], ".metadata.labels").unwrap();
    assert!(labels.contains(&format!("\"topology.{NAME}/rack\":\"r1\"")), "{labels}");
    cluster.wait("one", "condition=Ready").unwrap();
    cluster.exec("one", &["sh", "-c", "echo kept > /data/file"]).unwrap();
    assert_eq!(fs::read_to_string(driver.folder().join("volumes/one/file")).unwrap(), "kept\n");
    let told = driver.calls().join("\n");
    assert!(told.contains("csi.storage.k8s.io/pod.name=one") && told.contains("ephemeral=false"), "{told}");

    // Both sides are killed; what runs goes on, and what is taken back is what was recorded.
    cluster.kill().unwrap();
    drop(driver);
    cluster.continue_with(&[]).unwrap();
    assert_eq!(cluster.exec("one", &["cat", "/data/file"]).unwrap(), "kept\n");
    let driver = start(&cluster);
    cluster.apply(&pod("two", claimed)).unwrap();
    cluster.wait("two", "condition=Ready").unwrap();
    assert_eq!(cluster.exec("two", &["cat", "/data/file"]).unwrap(), "kept\n");
    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
    driver.await_call("unpublish one").unwrap();
    assert!(driver.count("unstage one") == 0, "another pod has it: {:?}", driver.calls());
    assert_eq!(cluster.exec("two", &["cat", "/data/file"]).unwrap(), "kept\n");
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.kubectl(&["delete", "pod", "two"]).unwrap();
    driver.await_call("unstage one").unwrap();
    let staged = cluster.data_dir().join("kubelet/plugins/kubernetes.io/csi").join(NAME);
    eventually("mounts and records to be gone", LONG, || {
        let mounts = cluster.on_the_host("cat", &["/proc/self/mountinfo"])?;
        let is_mounted = mounts.contains("kubernetes.io/csi") || mounts.contains("kubernetes.io~csi");
        Ok((!is_mounted && fs::read_dir(&staged)?.count() == 0).then_some(()))
    })
    .unwrap();

    inline(&cluster, &driver);
}

/// A volume that lives in its pod, without a claim.
fn inline(cluster: &Cluster, driver: &Plugin) {
    let volume = format!("csi: {{driver: {NAME}, volumeAttributes: {{colour: green}}}}");
    cluster.apply(&pod("inline", &volume)).unwrap();
    cluster.wait("inline", "condition=Ready").unwrap();
    cluster.exec("inline", &["touch", "/data/file"]).unwrap();
    let told = driver.calls().join("\n");
    assert!(
        told.lines().any(|it| it.starts_with("publish csi-")
            && it.contains("colour=green")
            && it.contains("ephemeral=true")),
        "{told}"
    );
    cluster.kubectl(&["delete", "pod", "inline"]).unwrap();
    eventually("the volume of the pod to be gone", LONG, || {
        Ok((fs::read_dir(driver.folder().join("volumes"))?.count() == 1).then_some(()))
    })
    .unwrap();
}
