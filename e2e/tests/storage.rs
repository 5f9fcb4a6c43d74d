//! Persistent volumes: claims, the default class, and what outlives pods and Keelson.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use keelson_e2e::{Cluster, Engine, LONG, Node, Pod, eventually};

fn claim(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}{more}}}
---
"
    )
}

fn pod(name: &str, security: &str, volume: &str) -> String {
    let pod = Pod::new(name).spec(&format!("securityContext: {{{security}}}"));
    let pod = pod.spec(&format!("volumes: [{{name: v, {volume}}}]"));
    pod.container("volumeMounts: [{name: v, mountPath: /data}]").to_string()
}

fn of_claim(name: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {name}}}")
}

/// Waits until a field of an object says so.
fn says(cluster: &Cluster, object: &[&str], path: &str, wanted: &str) {
    eventually(&format!("{object:?} {path} to be {wanted}"), LONG, || {
        Ok(cluster.field(object, path).is_ok_and(|text| text == wanted).then_some(()))
    })
    .unwrap();
}

fn gone(cluster: &Cluster, object: &[&str]) {
    eventually(&format!("{object:?} to be gone"), LONG, || {
        let output = cluster.kubectl(&[&["get"], object, &["--ignore-not-found", "-o", "name"]].concat())?;
        Ok(output.is_empty().then_some(()))
    })
    .unwrap();
}

fn folder_of(cluster: &Cluster, volume: &str) -> PathBuf {
    PathBuf::from(cluster.field(&["pv", volume], ".spec.local.path").unwrap())
}

fn told(cluster: &Cluster, object: &str, reason: &str) {
    eventually(&format!("an event {reason} of {object}"), LONG, || {
        let selector = format!("involvedObject.name={object}");
        let events = cluster.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            "jsonpath={.items[*].reason}",
        ])?;
        Ok(events.split(' ').any(|it| it == reason).then_some(()))
    })
    .unwrap();
}

#[test]
fn what_a_pod_writes_outlives_it_and_the_end_of_keelson_and_goes_with_its_claim() {
    outlives(Engine::Embedded);
}

#[test]
fn what_a_pod_in_containerd_writes_outlives_it_and_the_end_of_keelson_and_goes_with_its_claim() {
    outlives(Engine::Containerd);
}

fn outlives(engine: Engine) {
    let cluster = Node::up(engine, "").unwrap();
    let classes = cluster.kubectl(&["get", "storageclass"]).unwrap();
    assert!(classes.contains("local (default)") && classes.contains("WaitForFirstConsumer"), "{classes}");
    cluster.apply(&claim("data", "")).unwrap();
    assert_eq!(cluster.field(&["pvc", "data"], ".spec.storageClassName").unwrap(), "local");
    told(&cluster, "data", "WaitForFirstConsumer");
    assert_eq!(cluster.field(&["pvc", "data"], ".status.phase").unwrap(), "Pending");

    cluster.apply(&pod("one", "runAsUser: 1000, runAsGroup: 1000", &of_claim("data"))).unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    cluster.exec("one", &["sh", "-c", "echo kept > /data/file"]).unwrap();
    let volume = cluster.field(&["pvc", "data"], ".spec.volumeName").unwrap();
    let table = cluster.kubectl(&["get", "pv"]).unwrap();
    for part in [volume.as_str(), "1Gi", "RWO", "Delete", "Bound", "default/data", "local"] {
        assert!(table.contains(part), "{part} is missing: {table}");
    }
    let folder = folder_of(&cluster, &volume);
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "kept\n");

    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(cluster.exec("one", &["cat", "/data/file"]).unwrap(), "kept\n");
    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
    cluster.apply(&pod("two", "", &of_claim("data"))).unwrap();
    cluster.wait("two", "condition=Ready").unwrap();
    assert_eq!(cluster.exec("two", &["cat", "/data/file"]).unwrap(), "kept\n");

    // The claim waits for its pod, also over a restart.
    cluster.kubectl(&["delete", "pvc", "data", "--wait=false"]).unwrap();
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(cluster.exec("two", &["cat", "/data/file"]).unwrap(), "kept\n");
    assert!(!cluster.field(&["pvc", "data"], ".metadata.deletionTimestamp").unwrap().is_empty());
    cluster.kubectl(&["delete", "pod", "two"]).unwrap();
    gone(&cluster, &["pvc", "data"]);
    gone(&cluster, &["pv", &volume]);
    assert!(!folder.exists(), "the folder goes before its volume");

    retained(&cluster);
    ephemeral(&cluster);
    made_by_people(&cluster);
}

/// A volume with the policy Retain leaves its folder.
fn retained(cluster: &Cluster) {
    cluster.apply(&(claim("treasure", "") + &pod("three", "", &of_claim("treasure")))).unwrap();
    cluster.wait("three", "condition=Ready").unwrap();
    cluster.exec("three", &["sh", "-c", "echo gold > /data/chest"]).unwrap();
    let volume = cluster.field(&["pvc", "treasure"], ".spec.volumeName").unwrap();
    let retain = r#"{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}"#;
    cluster.kubectl(&["patch", "pv", &volume, "-p", retain]).unwrap();
    cluster.kubectl(&["delete", "pod/three", "pvc/treasure"]).unwrap();
    says(cluster, &["pv", &volume], ".status.phase", "Released");
    let chest = folder_of(cluster, &volume).join("chest");
    cluster.kubectl(&["delete", "pv", &volume]).unwrap();
    assert_eq!(fs::read_to_string(chest).unwrap(), "gold\n");
}

/// A generic ephemeral volume comes and goes with its pod.
fn ephemeral(cluster: &Cluster) {
    let spec = "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}";
    let volume =
        format!("ephemeral: {{volumeClaimTemplate: {{metadata: {{labels: {{of: pod}}}}, spec: {spec}}}}}");
    cluster.apply(&pod("short", "fsGroup: 2000", &volume)).unwrap();
    cluster.wait("short", "condition=Ready").unwrap();
    assert_eq!(cluster.exec("short", &["stat", "-c", "%g", "/data"]).unwrap(), "2000\n");
    assert_eq!(cluster.field(&["pvc", "short-v"], ".metadata.labels.of").unwrap(), "pod");
    let volume = cluster.field(&["pvc", "short-v"], ".spec.volumeName").unwrap();
    let folder = folder_of(cluster, &volume);
    assert!(folder.exists());
    cluster.kubectl(&["delete", "pod", "short"]).unwrap();
    gone(cluster, &["pvc", "short-v"]);
    gone(cluster, &["pv", &volume]);
    assert!(!folder.exists());
}

fn volume(name: &str, source: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec: {{capacity: {{storage: 2Gi}}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, {source}{more}}}
---
"
    )
}

fn file(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Volumes that people make are bound by what claims ask for.
fn made_by_people(cluster: &Cluster) {
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap();
    let (host, disk) = (cluster.folder().join("host"), cluster.folder().join("disk"));
    file(&host.join("file"), "of the host\n");
    file(&disk.join("file"), "of the disk\n");
    let here = |node: &str| {
        let expression = format!("{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}");
        format!(", nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{expression}]}}]}}}}")
    };
    let class = "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: disks}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
";
    let local = |path: &Path| format!("storageClassName: disks, local: {{path: {}}}", path.display());
    let manifests = [
        class.to_owned(),
        volume("by-host", &format!("hostPath: {{path: {}}}", host.display()), ""),
        volume("elsewhere", &local(&disk), &here("nowhere")),
        volume("by-disk", &local(&disk), &here(&node)),
        claim("hosts", ", storageClassName: \"\""),
        claim("disks", ", storageClassName: disks"),
        claim("too-much", ", storageClassName: \"\", volumeName: by-host"),
    ];
    cluster.apply(&manifests.concat()).unwrap();
    says(cluster, &["pvc", "hosts"], ".spec.volumeName", "by-host");
    told(cluster, "too-much", "FailedBinding");
    cluster
        .apply(
            &(pod("on-host", "", &of_claim("hosts")) + &pod("on-disk", "fsGroup: 3000", &of_claim("disks"))),
        )
        .unwrap();
    cluster.wait("on-host", "condition=Ready").unwrap();
    cluster.wait("on-disk", "condition=Ready").unwrap();
    assert_eq!(cluster.exec("on-host", &["cat", "/data/file"]).unwrap(), "of the host\n");
    assert_eq!(cluster.exec("on-disk", &["cat", "/data/file"]).unwrap(), "of the disk\n");
    assert_eq!(cluster.exec("on-disk", &["stat", "-c", "%g", "/data/file"]).unwrap(), "3000\n");
    assert_eq!(cluster.field(&["pvc", "disks"], ".spec.volumeName").unwrap(), "by-disk");
    assert_eq!(cluster.field(&["pv", "elsewhere"], ".status.phase").unwrap(), "Available");
    cluster.kubectl(&["delete", "pod/on-disk", "pvc/disks"]).unwrap();
    says(cluster, &["pv", "by-disk"], ".status.phase", "Released");
    assert!(disk.join("file").exists());
}
