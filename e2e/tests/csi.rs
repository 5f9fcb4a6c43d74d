//! Volumes of storage drivers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use keelson_e2e::{Cluster, Engine, LONG, LoopDevice, LoopDevices, Node, Plugin, Pod, eventually};

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
    let resize = |size: &str| {
        let pending = format!(
            r#"{{"status": {{"allocatedResources": {{"storage": "{size}"}},
            "allocatedResourceStatuses": {{"storage": "NodeResizePending"}},
            "conditions": [{{"type": "FileSystemResizePending", "status": "True"}}]}}}}"#
        );
        patch(&["pvc", "more", "--subresource=status"], &pending);
        patch(&["pv", "more"], &format!(r#"{{"spec": {{"capacity": {{"storage": "{size}"}}}}}}"#));
    };
    // A driver that cannot do it while the volume is used is not asked for that again.
    let busy = driver.folder().join("busy-more");
    fs::write(&busy, "").unwrap();
    resize("2Gi");
    eventually("the claim to say why it has not grown", LONG, || {
        let error =
            cluster.field(&["pvc", "more"], ".status.conditions[?(@.type==\"NodeResizeError\")].message")?;
        Ok(error.contains("the volume is in use").then_some(()))
    })
    .unwrap();
    fs::remove_file(&busy).unwrap();
    resize("3Gi");
    driver.await_call("expand 3221225472 more").unwrap();
    assert_eq!(driver.count("expand 2147483648 more"), 1, "{:?}", driver.calls());
    eventually("the claim to have grown", LONG, || {
        Ok((cluster.field(&["pvc", "more"], ".status.capacity.storage")? == "3Gi").then_some(()))
    })
    .unwrap();
    let left = ".status['conditions','allocatedResourceStatuses']";
    let left = cluster.field(&["pvc", "more"], left).unwrap();
    assert!(!left.contains("Resize"), "{left}");
    let text = "MountVolume.NodeExpandVolume succeeded for volume \"more\"";
    await_event(cluster, "four", "FileSystemResizeSuccessful", text);
}

/// Somebody deletes the Node under its kubelet and makes it again: when it is ready, it says which volumes it uses.
fn made_anew(cluster: &Cluster, node: &str, volumes: &[&str]) {
    cluster.kubectl(&["delete", "node", node]).unwrap();
    cluster.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n")).unwrap();
    let uid = cluster.field(&["node", node], ".metadata.uid").unwrap();
    let said = eventually("the new node to be ready", LONG, || {
        let said = cluster.field(&["node", node], ".status['conditions','volumesInUse']")?;
        Ok(said.contains("KubeletReady").then_some(said))
    })
    .unwrap();
    assert!(volumes.iter().all(|volume| said.contains(volume)), "{said}");
    eventually("the new node to have its drivers and its lease", LONG, || {
        let owner = ".metadata.ownerReferences[0].uid";
        let drivers = cluster.field(&["csinode", node], ".spec.drivers[0].name")?;
        let owners = [
            cluster.field(&["csinode", node], owner)?,
            cluster.field(&["lease", "--namespace=kube-node-lease", node], owner)?,
        ];
        Ok((drivers == DISKS && owners.iter().all(|owner| *owner == uid)).then_some(()))
    })
    .unwrap();
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
    made_anew(&cluster, &node, &[DISK, MORE]);

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
    attached_device(&cluster, &driver, &node);
}

/// A device has to be attached before it is staged, too, and is given back before it is detached.
fn attached_device(cluster: &Cluster, driver: &Plugin, node: &str) {
    let _loops = LoopDevices::below(driver.folder().join("devices"));
    let source =
        format!("csi: {{driver: {DISKS}, volumeHandle: raw, volumeAttributes: {{attached: demanded}}}}");
    let objects = raw("raw", "raw", &source) + &raw_claim("raw");
    cluster.apply(&(objects + &user_of("five", &claim("raw")).to_string())).unwrap();
    cluster.wait("five", "condition=Ready").unwrap();
    write(cluster, "five", "kept").unwrap();
    assert!(fs::read(driver.folder().join("devices/raw")).unwrap().starts_with(b"kept"));
    cluster.kubectl(&["delete", "pod", "five"]).unwrap();
    driver.await_call(&format!("detach raw {node}")).unwrap();
    let calls = driver.calls();
    let at = |call: &str| calls.iter().position(|it| it.starts_with(call)).unwrap();
    let order = [&format!("attach raw {node}"), "stage raw", "publish raw", "unpublish raw", "unstage raw"];
    assert!(order.map(at).is_sorted(), "{calls:?}");
    assert!(at("unstage raw") < at(&format!("detach raw {node}")), "{calls:?}");
    await_no_devices(cluster, driver);
}

/// A block device behind a claim of the same name.
fn raw(name: &str, claim: &str, source: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Mi}}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: \"\"
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{namespace: default, name: {claim}}}
  {source}
---
"
    )
}

fn raw_claim(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: \"\", volumeName: {name}, resources: {{requests: {{storage: 1Mi}}}}}}
---
"
    )
}

fn raw_disk(name: &str) -> String {
    raw(name, name, &format!("csi: {{driver: {NAME}, volumeHandle: {name}}}")) + &raw_claim(name)
}

const DEVICE: &str = "volumeDevices: [{name: v, devicePath: /dev/raw}]";

/// A pod that has a block device at `/dev/raw`.
fn user_of(name: &str, volume: &str) -> Pod {
    Pod::new(name).spec(&format!("volumes: [{{name: v, {volume}}}]")).container(DEVICE)
}

fn claim(name: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {name}}}")
}

fn write(cluster: &Cluster, pod: &str, text: &str) -> anyhow::Result<String> {
    let script = format!("printf '{text}' | dd of=/dev/raw conv=notrunc,fsync");
    cluster.exec(pod, &["sh", "-c", &script])
}

fn read(cluster: &Cluster, pod: &str, bytes: usize) -> String {
    cluster.exec(pod, &["sh", "-c", &format!("dd if=/dev/raw bs={bytes} count=1 2>/dev/null")]).unwrap()
}

/// What is below a folder, by paths.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
        }
    }
    found
}

/// No device is staged, published or linked, and the driver has none.
fn await_no_devices(cluster: &Cluster, driver: &Plugin) {
    let devices = cluster.data_dir().join("kubelet/plugins/kubernetes.io/csi/volumeDevices");
    eventually("all devices to be given back", LONG, || {
        let mounts = cluster.on_the_host("cat", &["/proc/self/mountinfo"])?;
        let mut left: Vec<PathBuf> = below(&devices);
        left.retain(|path| !path.ends_with("staging") && !path.ends_with("publish"));
        let images: Vec<PathBuf> = below(&driver.folder().join("devices"));
        let loops = images.iter().map(|image| LoopDevice::all(image)).collect::<Result<Vec<_>, _>>()?;
        let is_clean = !mounts.contains("volumeDevices") && left.is_empty() && loops.concat().is_empty();
        if !is_clean {
            anyhow::bail!("{left:?}, {loops:?}");
        }
        Ok(Some(()))
    })
    .unwrap();
}

fn block_driver(cluster: &Cluster) -> Plugin {
    let driver = start(cluster);
    driver.await_call("registered").unwrap();
    driver
}

#[test]
fn a_block_device_goes_to_the_containers_that_name_it_and_is_given_back_also_after_a_restart() {
    let node = Node::up(Engine::Embedded, "").unwrap();
    let cluster: &Cluster = &node;
    let driver = block_driver(cluster);
    let _loops = LoopDevices::below(driver.folder().join("devices"));

    // A run of this node that is killed when the driver has staged the device and not published it.
    let hold = driver.folder().join("hold-raw");
    fs::write(&hold, "").unwrap();
    let first = format!(
        "initContainers: [{{name: first, image: \"{}\", command: [sh, -c, 'printf \"made by init\" | dd of=/dev/raw'], {DEVICE}}}]",
        keelson_e2e::BUSYBOX
    );
    let one = user_of("one", &claim("raw")).spec(&first).spec("securityContext: {fsGroup: 2000}").grace(1);
    cluster.apply(&(objects() + &raw_disk("raw") + &one.to_string())).unwrap();
    driver.await_call("publish raw").unwrap();
    cluster.kill().unwrap();
    fs::remove_file(&hold).unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    assert_eq!(read(cluster, "one", 12), "made by init");
    write(cluster, "one", "kept by main").unwrap();
    let image = driver.folder().join("devices/raw");
    assert!(fs::read(&image).unwrap().starts_with(b"kept by main"));
    let uid = cluster.pod("one", ".metadata.uid").unwrap();
    let kubelet = cluster.data_dir().join("kubelet");
    let published = kubelet.join("plugins/kubernetes.io/csi/volumeDevices/publish/raw").join(&uid);
    let link = kubelet.join("pods").join(&uid).join("volumeDevices/kubernetes.io~csi/raw");
    assert_eq!(fs::read_link(&link).unwrap(), published);
    // Nothing of it is told that is for file systems alone.
    assert!(driver.calls().iter().all(|call| !call.contains("raw csi.storage")), "{:?}", driver.calls());

    // Another pod has it for reading.
    let two = "persistentVolumeClaim: {claimName: raw, readOnly: true}";
    cluster.apply(&user_of("two", two).to_string()).unwrap();
    cluster.wait("two", "condition=Ready").unwrap();
    assert_eq!(read(cluster, "two", 12), "kept by main");
    let refused = write(cluster, "two", "no").unwrap_err().to_string();
    assert!(refused.contains("Operation not permitted"), "{refused}");

    // What runs goes on, and the claims of others are known.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    // Deleted in order, it is gone when all was given back that it had.
    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
    assert!(driver.count("unpublish raw") > 0, "{:?}", driver.calls());
    assert_eq!(read(cluster, "two", 12), "kept by main");
    assert_eq!(driver.count("unstage raw"), 0, "another pod has it: {:?}", driver.calls());
    cluster.kubectl(&["delete", "pod", "two"]).unwrap();
    await_no_devices(cluster, &driver);

    misused(cluster);
    grown(cluster, &driver);
    gone(cluster, driver);
}

/// What is asked for does not fit the volume.
fn misused(cluster: &Cluster) {
    let mounts = pod("mounts", &claim("raw"));
    cluster.apply(&mounts).unwrap();
    let why =
        "failed to process volumes=[v]: volume v has volumeMode Block, but is specified in volumeMounts";
    await_event(cluster, "mounts", "FailedMount", why);
    let files = disk("files", "").replace(DISKS, NAME);
    cluster.apply(&(files + &user_of("maps", &claim("files")).to_string())).unwrap();
    let why = "volume v has volumeMode Filesystem, but is specified in volumeDevices";
    await_event(cluster, "maps", "FailedMount", why);
    // Not everything that a volume on this node names is a device.
    let local = "local: {path: /proc}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: Exists}]}]}}";
    let folder = raw("folder", "folder", local) + &raw_claim("folder");
    cluster.apply(&(folder + &user_of("folder", &claim("folder")).to_string())).unwrap();
    let why = "MapVolume.SetUpDevice failed for volume \"v\" : /proc is not a block device";
    await_event(cluster, "folder", "FailedMapVolume", why);
    // A class of folders has no devices.
    let own = raw_claim("own-folder")
        .replace("storageClassName: \"\", volumeName: own-folder", "storageClassName: local");
    cluster.apply(&(own + &user_of("local", &claim("own-folder")).to_string())).unwrap();
    let why = "volumeMode Block is not supported";
    await_event(cluster, "own-folder", "ProvisioningFailed", why);
    cluster.kubectl(&["delete", "pod", "mounts", "maps", "folder", "local"]).unwrap();
}

/// A device of a claim that was made for its pod, which becomes larger.
fn grown(cluster: &Cluster, driver: &Plugin) {
    let template = "ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: '', volumeName: own, resources: {requests: {storage: 1Mi}}}}}";
    let volume = raw("own", "three-v", &format!("csi: {{driver: {NAME}, volumeHandle: own}}"));
    cluster.apply(&(volume + &user_of("three", template).to_string())).unwrap();
    cluster.wait("three", "condition=Ready").unwrap();
    let size = || cluster.exec("three", &["sh", "-c", "dd if=/dev/raw bs=64k 2>/dev/null | wc -c"]);
    assert_eq!(size().unwrap().trim(), "1048576");
    let patch = |what: &[&str], patch: &str| {
        cluster.kubectl(&[&["patch"], what, &["--type=merge", "-p", patch]].concat()).unwrap();
    };
    patch(&["pv", "own"], r#"{"spec": {"capacity": {"storage": "2Mi"}}}"#);
    let pending = r#"{"status": {"allocatedResources": {"storage": "2Mi"},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"}}}"#;
    patch(&["pvc", "three-v", "--subresource=status"], pending);
    driver.await_call("expand 2097152 own").unwrap();
    eventually("the claim to have grown", LONG, || {
        Ok((cluster.field(&["pvc", "three-v"], ".status.capacity.storage")? == "2Mi").then_some(()))
    })
    .unwrap();
    assert_eq!(size().unwrap().trim(), "2097152");
    cluster.kubectl(&["delete", "pod", "three"]).unwrap();
    await_no_devices(cluster, driver);
}

/// Pods that end while their device is on its way, and while the driver is not there.
fn gone(cluster: &Cluster, driver: Plugin) {
    let hold = driver.folder().join("hold-late");
    fs::write(&hold, "").unwrap();
    cluster.apply(&(raw_disk("late") + &user_of("late", &claim("late")).grace(1).to_string())).unwrap();
    driver.await_call("publish late").unwrap();
    cluster.kubectl(&["delete", "pod", "late", "--wait=false"]).unwrap();
    fs::remove_file(&hold).unwrap();
    cluster.kubectl(&["wait", "--for=delete", "pod/late", "--timeout=90s"]).unwrap();
    await_no_devices(cluster, &driver);

    cluster.apply(&user_of("four", &claim("raw")).grace(1).to_string()).unwrap();
    cluster.wait("four", "condition=Ready").unwrap();
    let before = driver.count("unstage raw");
    drop(driver);
    cluster.kubectl(&["delete", "pod", "four", "--wait=false"]).unwrap();
    eventually("the container to have ended", LONG, || {
        let state = cluster.pod("four", ".status.containerStatuses[0].state")?;
        Ok(state.contains("terminated").then_some(()))
    })
    .unwrap();
    assert!(cluster.pod("four", ".metadata.name").is_ok(), "a pod is gone whose device is still there");
    let driver = block_driver(cluster);
    cluster.kubectl(&["wait", "--for=delete", "pod/four", "--timeout=90s"]).unwrap();
    await_no_devices(cluster, &driver);
    assert!(driver.count("unstage raw") > before);
}

#[test]
fn a_block_device_of_a_node_is_not_taken_for_another_that_comes_to_have_its_number() {
    let node = Node::up(Engine::Embedded, "").unwrap();
    let cluster: &Cluster = &node;
    let folder = cluster.folder().join("disks");
    let _loops = LoopDevices::below(folder.clone());
    fs::create_dir_all(&folder).unwrap();
    let [disk, other] = ["disk", "other"].map(|name| {
        let path = folder.join(name);
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        path
    });
    let device = LoopDevice::of(&disk).unwrap();
    let local = format!(
        "local: {{path: {}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/os, operator: Exists}}]}}]}}}}",
        device.path().display()
    );
    let all = raw("disk", "disk", &local) + &raw_claim("disk") + &user_of("one", &claim("disk")).to_string();
    cluster.apply(&all).unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    write(cluster, "one", "kept").unwrap();
    assert!(fs::read(&disk).unwrap().starts_with(b"kept"));
    // While a pod has the device it stays what it is.
    LoopDevice::detach_all(&disk).unwrap();
    assert_eq!(read(cluster, "one", 4), "kept");
    cluster.kill().unwrap();
    eventually("the device to be free", LONG, || Ok(LoopDevice::all(&disk)?.is_empty().then_some(())))
        .unwrap();
    if !device.attach(&other).unwrap() {
        eprintln!("somebody else has the number");
    }
    cluster.continue_with(&[]).unwrap();
    await_event(cluster, "one", "FailedMapVolume", "it has been replaced");
    // Its container would go on writing to the other one.
    eventually("the pod to have failed", LONG, || {
        let is_failed = cluster.pod("one", ".status.phase")? == "Failed";
        let state = cluster.pod("one", ".status.containerStatuses[0].state")?;
        Ok((is_failed && state.contains("terminated")).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.pod("one", ".status.reason").unwrap(), "DeviceReplaced");
    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
}

#[test]
fn containerd_gives_pods_the_volumes_and_the_block_devices_of_drivers() {
    let node = Node::up(Engine::Containerd, "").unwrap();
    let cluster: &Cluster = &node;
    let driver = block_driver(cluster);
    let _loops = LoopDevices::below(driver.folder().join("devices"));
    let both = format!("volumes: [{{name: v, {}}}, {{name: f, {}}}]", claim("raw"), claim("claim"));
    let one = Pod::new("one")
        .spec(&both)
        .container(DEVICE)
        .container("volumeMounts: [{name: f, mountPath: /data}]");
    let reader = user_of("two", "persistentVolumeClaim: {claimName: raw, readOnly: true}");
    cluster.apply(&(objects() + &raw_disk("raw") + &one.to_string() + &reader.to_string())).unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    cluster.exec("one", &["sh", "-c", "echo kept > /data/file"]).unwrap();
    assert_eq!(fs::read_to_string(driver.folder().join("volumes/one/file")).unwrap(), "kept\n");
    write(cluster, "one", "kept").unwrap();
    assert!(fs::read(driver.folder().join("devices/raw")).unwrap().starts_with(b"kept"));
    cluster.wait("two", "condition=Ready").unwrap();
    assert_eq!(read(cluster, "two", 4), "kept");
    let refused = write(cluster, "two", "no").unwrap_err().to_string();
    assert!(refused.contains("Operation not permitted"), "{refused}");
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(read(cluster, "one", 4), "kept");
    cluster.kubectl(&["delete", "pod", "one", "two"]).unwrap();
    driver.await_call("unstage one").unwrap();
    await_no_devices(cluster, &driver);
}
