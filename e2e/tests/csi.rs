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
spec:
  attachRequired: false
  podInfoOnMount: true
  requiresRepublish: true
  tokenRequests: [{{audience: vault, expirationSeconds: 600}}]
  volumeLifecycleModes: [Persistent, Ephemeral]
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
    let published = || {
        let of_pod = |it: &String| it.starts_with("publish csi-") && it.contains("colour=green");
        driver.calls().into_iter().filter(of_pod).collect::<Vec<_>>()
    };
    let told = published().join("\n");
    assert!(told.contains("ephemeral=true"), "{told}");
    // As the driver asks: with a token of the pod's account, and again and again.
    assert!(told.contains("serviceAccount.tokens={\"vault\":{\"expirationTimestamp\":"), "{told}");
    eventually("the volume to be published again", LONG, || Ok((published().len() > 1).then_some(())))
        .unwrap();
    cluster.exec("inline", &["ls", "/data/file"]).unwrap();
    cluster.kubectl(&["delete", "pod", "inline"]).unwrap();
    eventually("the volume of the pod to be gone", LONG, || {
        Ok((fs::read_dir(driver.folder().join("volumes"))?.count() == 1).then_some(()))
    })
    .unwrap();
}

const DISKS: &str = "disks.test.keelson.io";
/// The names of volumes in statuses of nodes.
const DISK: &str = "kubernetes.io/csi/disks.test.keelson.io^disk";
const MORE: &str = "kubernetes.io/csi/disks.test.keelson.io^more";

/// A node that nobody runs, and a pod on it.
fn ghost(volume: &str) -> String {
    let node = "apiVersion: v1
kind: Node
metadata: {name: ghost, annotations: {volumes.kubernetes.io/controller-managed-attach-detach: 'true'}}
---
";
    let mount = "volumeMounts: [{name: v, mountPath: /data}]";
    let volumes = format!("volumes: [{{name: v, {volume}}}]");
    node.to_owned() + &Pod::new("two").spec("nodeName: ghost").spec(&volumes).container(mount).to_string()
}

fn disk(name: &str, attributes: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{namespace: default, name: {name}}}
  csi: {{driver: {DISKS}, volumeHandle: {name}, volumeAttributes: {{{attributes}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: \"\", volumeName: {name}, resources: {{requests: {{storage: 1Gi}}}}}}
---
"
    )
}

fn await_event(cluster: &Cluster, pod: &str, reason: &str, text: &str) {
    let about = format!("involvedObject.name={pod},reason={reason}");
    eventually(&format!("an event {reason} of {pod}: {text}"), LONG, || {
        let told = cluster.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &about,
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        Ok(told.contains(text).then_some(()))
    })
    .unwrap();
}

fn await_in_use(cluster: &Cluster, node: &str, volumes: &str) {
    eventually("the volumes in use of a node", LONG, || {
        let found = cluster.field(&["node", node], ".status.volumesInUse[*]")?;
        Ok((found == volumes).then_some(()))
    })
    .unwrap();
}

/// A volume that has become larger, while a pod uses it: what external-resizer says, the node does.
fn grow(cluster: &Cluster, driver: &Plugin) {
    let patch = |what: &[&str], patch: &str| {
        cluster.kubectl(&[&["patch"], what, &["--type=merge", "-p", patch]].concat()).unwrap();
    };
    patch(&["pv", "more"], r#"{"spec": {"capacity": {"storage": "2Gi"}}}"#);
    let pending = r#"{"status": {"allocatedResources": {"storage": "2Gi"},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}}"#;
    patch(&["pvc", "more", "--subresource=status"], pending);
    driver.await_call("expand 2147483648 more").unwrap();
    eventually("the claim to have grown", LONG, || {
        Ok((cluster.field(&["pvc", "more"], ".status.capacity.storage")? == "2Gi").then_some(()))
    })
    .unwrap();
    let left = ".status['conditions','allocatedResourceStatuses']";
    let left = cluster.field(&["pvc", "more"], left).unwrap();
    assert!(!left.contains("Resize"), "{left}");
    let text = "MountVolume.NodeExpandVolume succeeded for volume \"more\"";
    await_event(cluster, "four", "FileSystemResizeSuccessful", text);
}

#[test]
fn a_volume_is_attached_to_one_node_before_it_is_mounted_and_detached_when_that_has_let_it_go() {
    let cluster = Cluster::up().unwrap();
    let claimed = "persistentVolumeClaim: {claimName: disk}";
    // A driver that says nothing of itself attaches.
    let driver = Plugin::driver(&cluster, env!("CARGO_BIN_EXE_csi_driver"), DISKS, &["2"]).unwrap();
    driver.await_call("registered").unwrap();
    cluster.apply(&(disk("disk", "attached: demanded") + &pod("one", claimed))).unwrap();
    await_event(&cluster, "one", "FailedMount", "Volume not attached according to node status");
    let node = cluster.pod("one", ".spec.nodeName").unwrap();
    await_in_use(&cluster, &node, DISK);
    let of = |field: &str| {
        eventually("an attachment", LONG, || {
            let found = cluster.field(&["volumeattachments"], &format!(".items[0].spec.{field}"))?;
            Ok((!found.is_empty()).then_some(found))
        })
        .unwrap()
    };
    assert_eq!([of("attacher"), of("nodeName")], [DISKS, &node]);
    assert_eq!(of("source.persistentVolumeName"), "disk");
    assert!(driver.calls().iter().all(|call| !call.starts_with("stage")), "{:?}", driver.calls());

    let mut attacher = cluster.client().program(env!("CARGO_BIN_EXE_csi_attacher"));
    attacher.arg(driver.folder()).arg(DISKS);
    let _attacher = Plugin::start(attacher, driver.folder().to_owned()).unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    await_event(
        &cluster,
        "one",
        "SuccessfulAttachVolume",
        "AttachVolume.Attach succeeded for volume \"disk\"",
    );
    let attached = cluster.field(&["node", &node], ".status.volumesAttached[*].name").unwrap();
    assert_eq!(attached, DISK);

    // What is mounted is known to be so by the next run, too.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.apply(&(ghost(claimed) + "\n---\n" + &disk("broken", "fault: no room"))).unwrap();
    let exclusive = "Multi-Attach error for volume \"disk\" Volume is already used by pod(s) one";
    await_event(&cluster, "two", "FailedAttachVolume", exclusive);
    cluster.apply(&pod("three", "persistentVolumeClaim: {claimName: broken}")).unwrap();
    let why = "AttachVolume.Attach failed for volume \"broken\" : no room";
    await_event(&cluster, "three", "FailedAttachVolume", why);

    // A node has no more volumes than its driver says, also of those that are not attached yet.
    let four = pod("four", "persistentVolumeClaim: {claimName: more}");
    cluster.apply(&(disk("more", "attached: demanded") + &four)).unwrap();
    await_event(&cluster, "four", "FailedScheduling", "1 node(s) exceed max volume count");
    cluster.kubectl(&["delete", "pod", "three"]).unwrap();
    cluster.wait("four", "condition=Ready").unwrap();
    await_in_use(&cluster, &node, &format!("{DISK} {MORE}"));
    grow(&cluster, &driver);

    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
    driver.await_call("attach disk ghost").unwrap();
    await_in_use(&cluster, &node, MORE);
    let calls = driver.calls();
    let at = |call: &str| calls.iter().position(|it| it.starts_with(call)).unwrap();
    assert!(at(&format!("attach disk {node}")) < at("stage disk"), "{calls:?}");
    assert!(at("unstage disk") < at(&format!("detach disk {node}")), "{calls:?}");
    assert!(at(&format!("detach disk {node}")) < at("attach disk ghost"), "{calls:?}");

    // A node that is said to be gone for good is not asked.
    let used = format!("{{\"status\": {{\"volumesInUse\": [\"{DISK}\"]}}}}");
    cluster
        .kubectl(&["patch", "node", "ghost", "--subresource=status", "--type=merge", "-p", &used])
        .unwrap();
    cluster.kubectl(&["delete", "pod", "two", "--force", "--grace-period=0"]).unwrap();
    let taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    cluster.kubectl(&["taint", "node", "ghost", taint]).unwrap();
    driver.await_call("detach disk ghost").unwrap();
}
