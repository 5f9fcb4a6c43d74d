//! Devices of ResourceClaims, from the class to the container.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use keelson_devices::pod_resources as api;
use keelson_devices::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use keelson_e2e::{BUSYBOX, Cluster, Engine, LONG, Node, Plugin, Pod, eventually};

const NAME: &str = "gpu.test.keelson.io";

/// A driver that offers that many devices of the node.
fn start(cluster: &Cluster, devices: &str) -> Plugin {
    let node = cluster.field(&["nodes"], ".items[0].metadata.name").unwrap();
    Plugin::driver(cluster, env!("CARGO_BIN_EXE_dra_driver"), NAME, &[&node, devices]).unwrap()
}

/// The claims of a pod's containers, as a monitor on the node is told: container, claim, driver, pool, device, names for the runtime.
fn monitored(cluster: &Cluster, pod: &str) -> Vec<[String; 6]> {
    let socket = cluster.data_dir().join("kubelet/pod-resources/kubelet.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://kubelet");
        let channel = channel.connect_with_connector(connector).await.unwrap();
        let asked =
            api::GetPodResourcesRequest { pod_name: pod.to_owned(), pod_namespace: "default".to_owned() };
        PodResourcesListerClient::new(channel).get(asked).await.unwrap().into_inner()
    });
    let mut lines = Vec::new();
    for container in found.pod_resources.unwrap().containers {
        for claim in container.dynamic_resources {
            for one in claim.claim_resources {
                let names: Vec<String> = one.cdi_devices.into_iter().map(|device| device.name).collect();
                let line = [one.driver_name, one.pool_name, one.device_name, names.join(",")];
                let [driver, pool, device, names] = line;
                lines.push([container.name.clone(), claim.claim_name.clone(), driver, pool, device, names]);
            }
        }
    }
    lines
}

const OBJECTS: &str = r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpus}
spec: {selectors: [{cel: {expression: 'device.driver == "gpu.test.keelson.io"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: fast}
spec:
  spec:
    devices:
      requests:
      - name: main
        exactly:
          deviceClassName: gpus
          selectors: [{cel: {expression: 'device.attributes["gpu.test.keelson.io"].model == "fast"'}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec:
  devices:
    requests:
    - {name: main, exactly: {deviceClassName: gpus}}
---
"#;

fn pod(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{{name: gpu, {claim}}}]
  containers:
  - name: main
    image: \"{BUSYBOX}\"
    command: [sleep, infinity]
    resources: {{claims: [{{name: gpu, request: main}}]}}
  - name: without
    image: \"{BUSYBOX}\"
    command: [sleep, infinity]
---
"
    )
}

fn env(cluster: &Cluster, pod: &str, container: &str) -> String {
    cluster.kubectl(&["exec", pod, "-c", container, "--", "env"]).unwrap()
}

fn rows(cluster: &Cluster, resource: &str) -> Vec<Vec<String>> {
    let table = cluster.kubectl(&["get", resource]).unwrap();
    table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The last row begins with the age, which is not compared.
fn row(cluster: &Cluster, resource: &str, name: &str) -> Vec<String> {
    let found = rows(cluster, resource).into_iter().find(|row| row[0] == name);
    let mut row = found.unwrap_or_else(|| panic!("there is no {name}: {:?}", rows(cluster, resource)));
    row.pop();
    row
}

#[test]
fn pods_get_devices_share_them_and_wait_for_them_also_over_a_restart() {
    get(Engine::Embedded);
}

#[test]
fn pods_in_containerd_which_knows_no_names_of_devices_get_them_share_them_and_wait_for_them() {
    get(Engine::Containerd);
}

fn get(engine: Engine) {
    let cluster = Node::up(engine, "").unwrap();
    cluster.apply(OBJECTS).unwrap();
    cluster.apply(&pod("one", "resourceClaimTemplateName: fast")).unwrap();
    // Without the driver nothing is there to be had.
    let told = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: \
                0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let waits = |pod: &str| {
        eventually(&format!("{pod} to wait for devices"), LONG, || {
            let path = ".status.conditions[?(@.type==\"PodScheduled\")].message";
            let condition = cluster.pod(pod, path)?;
            let about = format!("involvedObject.name={pod},reason=FailedScheduling");
            let path = "jsonpath={.items[*].message}";
            let events = cluster.kubectl(&["get", "events", "--field-selector", &about, "-o", path])?;
            Ok((condition == told && events.contains(told)).then_some(()))
        })
        .unwrap();
    };
    waits("one");
    let driver = start(&cluster, "2");
    driver.await_call("registered").unwrap();
    cluster.wait("one", "condition=Ready").unwrap();
    let claim = cluster.pod("one", ".status.resourceClaimStatuses[0].resourceClaimName").unwrap();
    assert!(claim.starts_with("one-gpu-"), "{claim}");
    let seen = env(&cluster, "one", "main");
    assert!(seen.contains("DEVICE_main=gpu-0\n") && seen.contains(&format!("CLAIM={claim}\n")), "{seen}");
    assert!(!env(&cluster, "one", "without").contains("DEVICE_main"), "a container has what it asks for");
    cluster.kubectl(&["exec", "one", "-c", "main", "--", "sh", "-c", "echo > /dev/gpu-0"]).unwrap();
    let node = cluster.pod("one", ".spec.nodeName").unwrap();
    let uid = cluster.field(&["resourceclaim", &claim], ".metadata.uid").unwrap();
    let name = format!("test.keelson.io/gpu={uid}-gpu-0");
    let line = ["main", &claim, NAME, &node, "gpu-0", &name].map(str::to_owned);
    assert_eq!(monitored(&cluster, "one"), [line]);
    tells_how_devices_fare(&cluster, &driver, &name);

    // What is left is shared by two pods, and is not enough for another claim.
    cluster
        .apply(&(pod("two", "resourceClaimName: shared") + &pod("three", "resourceClaimName: shared")))
        .unwrap();
    cluster.wait("two", "condition=Ready").unwrap();
    cluster.wait("three", "condition=Ready").unwrap();
    for name in ["two", "three"] {
        let seen = env(&cluster, name, "main");
        assert!(seen.contains("DEVICE_main=gpu-1\n") && seen.contains("CLAIM=shared\n"), "{seen}");
    }
    assert_eq!(driver.count("prepare shared"), 1);
    cluster.apply(&pod("four", "resourceClaimTemplateName: fast")).unwrap();
    waits("four");
    let header = &rows(&cluster, "resourceclaims")[0];
    assert_eq!(*header, ["NAME", "STATE", "AGE"]);
    assert_eq!(row(&cluster, "resourceclaims", &claim)[1..], ["allocated,reserved"]);
    assert_eq!(row(&cluster, "resourceclaims", "shared")[1..], ["allocated,reserved"]);
    let of_four = cluster.pod("four", ".status.resourceClaimStatuses[0].resourceClaimName").unwrap();
    assert_eq!(row(&cluster, "resourceclaims", &of_four)[1..], ["pending"]);
    let slice = format!("{node}-{NAME}");
    assert_eq!(rows(&cluster, "resourceslices")[0], ["NAME", "NODE", "DRIVER", "POOL", "AGE"]);
    assert_eq!(row(&cluster, "resourceslices", &slice)[1..], [node.as_str(), NAME, &node]);
    assert_eq!(rows(&cluster, "deviceclasses")[0], ["NAME", "AGE"]);

    // All is killed; what runs goes on, and what was prepared is known.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert!(env(&cluster, "one", "main").contains("DEVICE_main=gpu-0\n"));
    cluster.kubectl(&["delete", "pod", "three"]).unwrap();
    assert!(driver.count("unprepare shared") == 0, "another pod has it: {:?}", driver.calls());
    // A container that ends gets its devices again, although nobody prepares them anew.
    cluster.on_the_host("kill", &["-9", &cluster.main_process("two").unwrap().to_string()]).unwrap();
    eventually("the container to be there again", LONG, || {
        let restarts = cluster.pod("two", ".status.containerStatuses[?(@.name==\"main\")].restartCount")?;
        let ready = cluster.pod("two", ".status.containerStatuses[?(@.name==\"main\")].ready")?;
        Ok((restarts != "0" && ready == "true").then_some(()))
    })
    .unwrap();
    assert!(env(&cluster, "two", "main").contains("DEVICE_main=gpu-1\n"));
    assert_eq!(driver.count("prepare shared"), 1);

    // What is free goes to who waits.
    cluster.kubectl(&["delete", "pod", "one"]).unwrap();
    driver.await_call(&format!("unprepare {claim}")).unwrap();
    cluster.wait("four", "condition=Ready").unwrap();
    assert!(env(&cluster, "four", "main").contains("DEVICE_main=gpu-0\n"));
    eventually("the claim of the pod that is gone to be gone", LONG, || {
        Ok(rows(&cluster, "resourceclaims").iter().all(|row| row[0] != claim).then_some(()))
    })
    .unwrap();
    cluster.kubectl(&["delete", "pod", "two", "four"]).unwrap();
    driver.await_call("unprepare shared").unwrap();
    eventually("the shared claim to be free", LONG, || {
        let row = row(&cluster, "resourceclaims", "shared");
        let finalizers = cluster.field(&["resourceclaim", "shared"], ".metadata.finalizers")?;
        Ok((row[1] == "pending" && finalizers.is_empty()).then_some(()))
    })
    .unwrap();
    ends(&cluster, &driver);
    waits_for_the_network(&cluster, &driver);
    goes(&cluster, driver, &slice);
}

/// What a driver says of a device is in the status of the pod that has it.
fn tells_how_devices_fare(cluster: &Cluster, driver: &Plugin, device: &str) {
    let told = |wanted: &str, message: &str| {
        eventually(&format!("the pod to say {wanted} of its device"), LONG, || {
            let all = cluster
                .pod("one", ".status.containerStatuses[?(@.name==\"main\")].allocatedResourcesStatus")?;
            let mut one = serde_json::json!({"health": wanted, "resourceID": device});
            if !message.is_empty() {
                one["message"] = message.into();
            }
            let expected = serde_json::json!([{"name": "claim:gpu/main", "resources": [one]}]);
            let found: serde_json::Value = serde_json::from_str(&all)?;
            anyhow::ensure!(found == expected, "{found}");
            Ok(Some(()))
        })
        .unwrap();
    };
    told("Healthy", "");
    fs::write(driver.folder().join("health"), "gpu-0 it is too hot\n").unwrap();
    told("Unhealthy", "it is too hot");
    fs::remove_file(driver.folder().join("health")).unwrap();
    told("Healthy", "");
}

/// A pod that ends by itself frees its devices, before it is deleted.
fn ends(cluster: &Cluster, driver: &Plugin) {
    let short = pod("short", "resourceClaimTemplateName: fast").replace("[sleep, infinity]", "[\"true\"]");
    cluster.apply(&short.replace("spec:\n", "spec:\n  restartPolicy: Never\n")).unwrap();
    cluster.wait("short", "jsonpath={.status.phase}=Succeeded").unwrap();
    let claim = cluster.pod("short", ".status.resourceClaimStatuses[0].resourceClaimName").unwrap();
    driver.await_call(&format!("unprepare {claim}")).unwrap();
    eventually("the claim of the pod that is over to be gone", LONG, || {
        Ok(rows(cluster, "resourceclaims").iter().all(|row| row[0] != claim).then_some(()))
    })
    .unwrap();
}

/// Nothing is made ready for a pod that gets no network, and nothing of one that had it is started again, which is told by other
/// kubelets' words. Pods of the node's network are not concerned.
fn waits_for_the_network(cluster: &Node, driver: &Plugin) {
    let node = cluster.field(&["nodes"], ".items[0].metadata.name").unwrap();
    let tolerant = |name: &str| Pod::new(name).spec("tolerations: [{operator: Exists}]");
    cluster.start(&tolerant("steady")).unwrap();
    cluster.start(&tolerant("of-node").spec("hostNetwork: true")).unwrap();
    let restarts = |pod: &str, count: &str| {
        let field = format!("jsonpath={{.status.containerStatuses[0].restartCount}}={count}");
        cluster.wait(pod, &field).unwrap();
    };
    let broken = match cluster.engine() {
        // The folder is the cluster's own from here on.
        Engine::Embedded => {
            let own = "mkdir -p /etc/cni/net.d && mount -t tmpfs none /etc/cni/net.d";
            cluster.on_the_host("sh", &["-c", own]).unwrap();
            "/etc/cni/net.d/0.conflist".to_owned()
        }
        Engine::Containerd => cluster.data_dir().join("cni/net.d/0.conflist").display().to_string(),
    };
    cluster.on_the_host("sh", &["-c", "echo { > $0", &broken]).unwrap();
    cluster.kubectl(&["wait", "--for=condition=Ready=false", "--timeout=60s", "node", &node]).unwrap();
    for name in ["steady", "of-node"] {
        nix::sys::signal::kill(cluster.main_process(name).unwrap(), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    }
    restarts("of-node", "1");
    cluster.wait("steady", "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=137").unwrap();
    let tolerations = "spec:\n  tolerations: [{operator: Exists}]\n";
    cluster.apply(&pod("early", "resourceClaimTemplateName: fast").replace("spec:\n", tolerations)).unwrap();
    for pod in ["early", "steady"] {
        eventually("the pod to be told that there is no network", LONG, || {
            let about = format!("involvedObject.name={pod},reason=NetworkNotReady");
            let path = "jsonpath={.items[*].message}";
            let told = cluster.kubectl(&["get", "events", "--field-selector", &about, "-o", path])?;
            let text = "network is not ready: container runtime network not ready: NetworkReady=false \
                        reason:NetworkPluginNotReady message:";
            Ok(told.starts_with(text).then_some(()))
        })
        .unwrap();
    }
    let claim = cluster.pod("early", ".status.resourceClaimStatuses[0].resourceClaimName").unwrap();
    assert!(driver.count(&format!("prepare {claim}")) == 0, "{:?}", driver.calls());
    restarts("steady", "0");
    cluster.on_the_host("rm", &[&broken]).unwrap();
    cluster.wait("early", "condition=Ready").unwrap();
    driver.await_call(&format!("prepare {claim}")).unwrap();
    restarts("steady", "1");
    cluster.kubectl(&["delete", "pod", "early", "steady", "of-node"]).unwrap();
}

/// What a driver offered that is killed is taken back, although its sockets are where they were; it comes back with a new one.
fn goes(cluster: &Cluster, driver: Plugin, slice: &str) {
    drop(driver);
    assert!(Plugin::registration(cluster, NAME).exists());
    eventually("the slice of the driver that is gone to be gone", LONG, || {
        Ok(rows(cluster, "resourceslices").iter().all(|row| row[0] != slice).then_some(()))
    })
    .unwrap();
    let driver = start(cluster, "2");
    eventually("the driver to be back", LONG, || {
        Ok(rows(cluster, "resourceslices").iter().any(|row| row[0] == slice).then_some(()))
    })
    .unwrap();
    cluster.apply(&pod("late", "resourceClaimTemplateName: fast")).unwrap();
    cluster.wait("late", "condition=Ready").unwrap();
    cluster.kubectl(&["delete", "pod", "late"]).unwrap();
    drop(driver);
}
