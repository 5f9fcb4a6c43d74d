//! Devices that plugins offer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use keelson_devices::pod_resources as api;
use keelson_devices::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use keelson_e2e::{BUSYBOX, Cluster, Engine, LONG, Node, Plugin, eventually};
use nix::sys::signal::{Signal, kill};

const NAME: &str = "test.keelson.io/null";
const OTHER: &str = "other.keelson.io/null";

/// A plugin that makes itself known, or one that is found by its socket for registration.
fn start(cluster: &Cluster, resource: &str, registration: Option<&Path>) -> Plugin {
    let name = resource.replace('/', "-");
    let folder = cluster.folder().join(&name);
    let socket = match registration {
        Some(_) => folder.join("plugin.sock"),
        None => cluster.data_dir().join("kubelet/device-plugins").join(format!("{name}.sock")),
    };
    let mut command = cluster.client().program(env!("CARGO_BIN_EXE_device_plugin"));
    command.arg(&folder).arg(socket).arg(resource).args(registration);
    Plugin::start(command, folder).unwrap()
}

/// Gives the plugin of a resource its devices.
fn offers(cluster: &Cluster, resource: &str, devices: &str) {
    let folder = cluster.folder().join(resource.replace('/', "-"));
    fs::create_dir_all(&folder).unwrap();
    // Written aside, so that the plugin never reads half of it.
    fs::write(folder.join("next"), devices).unwrap();
    fs::rename(folder.join("next"), folder.join("devices")).unwrap();
}

fn pod(name: &str, further: &str, devices: usize) -> String {
    let wants = |count: usize| format!("resources: {{limits: {{{NAME}: {count}}}}}");
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {further}
  terminationGracePeriodSeconds: 1
  initContainers: [{{name: init, image: \"{BUSYBOX}\", command: [sh, -c, 'test -c /dev/test-$TEST_DEVICES'], {}}}]
  containers: [{{name: main, image: \"{BUSYBOX}\", command: [sleep, infinity], {}}}]
---
",
        wants(1),
        wants(devices)
    )
}

fn node(cluster: &Cluster) -> String {
    cluster.field(&["nodes"], ".items[0].metadata.name").unwrap()
}

/// Waits until the node has so many devices, and so many that can be given.
fn counts(cluster: &Cluster, resource: &str, capacity: &str, allocatable: &str) {
    let key = resource.replace('.', "\\.");
    let node = node(cluster);
    let what = format!("{capacity} {resource}, {allocatable} of them allocatable");
    eventually(&what, LONG, || {
        let of = |kind: &str| cluster.field(&["node", &node], &format!(".status.{kind}.{key}"));
        Ok((of("capacity")? == capacity && of("allocatable")? == allocatable).then_some(()))
    })
    .unwrap();
}

/// Who has what, as a monitor on the node is told.
fn monitored(cluster: &Cluster) -> Vec<String> {
    let socket = cluster.data_dir().join("kubelet/pod-resources/kubelet.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://kubelet");
        let channel = channel.connect_with_connector(connector).await.unwrap();
        let mut client = PodResourcesListerClient::new(channel);
        let all = client.get_allocatable_resources(api::AllocatableResourcesRequest {}).await.unwrap();
        let mut ids: Vec<String> =
            all.into_inner().devices.into_iter().flat_map(|one| one.device_ids).collect();
        ids.sort();
        assert_eq!(ids, ["a", "b"]);
        let asks = |name: &str| api::GetPodResourcesRequest {
            pod_name: name.to_owned(),
            pod_namespace: "default".to_owned(),
        };
        let one = client.get(asks("one")).await.unwrap().into_inner().pod_resources.unwrap();
        assert_eq!(one.containers[0].devices[0].device_ids, ["b"]);
        let told = client.get(asks("bound")).await.unwrap_err();
        assert_eq!(told.message(), "pod bound in namespace default not found", "it has failed");
        let list = client.list(api::ListPodResourcesRequest {}).await.unwrap().into_inner();
        let mut found = Vec::new();
        for pod in list.pod_resources {
            for container in pod.containers {
                let devices = container.devices.into_iter().flat_map(|one| one.device_ids);
                found.extend(devices.map(|id| format!("{}/{} {id}", pod.name, container.name)));
            }
        }
        found.sort();
        // Who asks for much at once is held back.
        let many = (0..200).map(|_| {
            let mut client = client.clone();
            async move { client.list(api::ListPodResourcesRequest {}).await.err() }
        });
        let refused = futures::future::join_all(many).await.into_iter().flatten().next();
        assert_eq!(refused.unwrap().message(), "rejected by rate limit");
        found
    })
}

fn devices_of(cluster: &Cluster, pod: &str) -> String {
    cluster.wait(pod, "condition=Ready").unwrap();
    cluster.exec(pod, &["sh", "-c", "echo $TEST_DEVICES"]).unwrap().trim().to_owned()
}

#[test]
fn a_device_is_given_to_one_pod_at_a_time_also_after_a_restart_and_never_when_it_is_not_healthy() {
    is_given(Engine::Embedded);
}

#[test]
fn a_device_is_given_to_one_pod_in_containerd_at_a_time_also_after_a_restart() {
    is_given(Engine::Containerd);
}

fn is_given(engine: Engine) {
    let cluster = Node::up(engine, "").unwrap();
    offers(&cluster, NAME, "a Healthy\nb Healthy\n");
    let plugin = start(&cluster, NAME, None);
    counts(&cluster, NAME, "2", "2");

    cluster.apply(&pod("one", "", 1)).unwrap();
    assert_eq!(devices_of(&cluster, "one"), "b", "the plugin prefers the last one");
    cluster.exec("one", &["sh", "-c", "test -c /dev/test-b && echo words > /dev/test-b"]).unwrap();
    cluster.exec("one", &["grep", "allocate b", "/test-devices/calls"]).unwrap();
    let writes = cluster.exec("one", &["sh", "-c", "touch /test-devices/x 2>/dev/null || echo refused"]);
    assert_eq!(writes.unwrap().trim(), "refused");
    // One call for each container, of the same device.
    assert_eq!(
        (plugin.count("allocate b"), plugin.count("prepare b"), plugin.count("allocate a")),
        (2, 2, 0)
    );

    cluster.apply(&pod("two", "", 2)).unwrap();
    cluster.wait("two", "condition=PodScheduled=False").unwrap();
    let told = cluster.pod("two", ".status.conditions[?(@.type==\"PodScheduled\")].message").unwrap();
    assert!(told.contains(&format!("Insufficient {NAME}")), "{told}");
    cluster.kubectl(&["delete", "pod", "two"]).unwrap();

    cluster.kill().unwrap();
    cluster.configure("topologyManagerPolicy: single-numa-node\ntopologyManagerScope: pod\n").unwrap();
    cluster.continue_with(&[]).unwrap();
    // The socket was taken away, which tells the plugin to come back.
    counts(&cluster, NAME, "2", "2");
    assert_eq!((devices_of(&cluster, "one"), plugin.count("allocate b")), ("b".to_owned(), 2));
    // Past the scheduler a pod finds out from the node that there are too few.
    let bound = format!("nodeName: {}", node(&cluster));
    cluster.apply(&pod("bound", &bound, 2)).unwrap();
    cluster.wait("bound", "jsonpath={.status.reason}=UnexpectedAdmissionError").unwrap();
    let message = format!(
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for {NAME}. Requested: 1, Available: 0, which is unexpected"
    );
    assert_eq!(cluster.pod("bound", ".status.message").unwrap(), message);
    cluster.apply(&pod("three", "", 1)).unwrap();
    assert_eq!(devices_of(&cluster, "three"), "a");

    assert_eq!(monitored(&cluster), ["one/main b", "three/main a"]);
    // A container that starts anew has the same device, prepared again.
    kill(cluster.main_process("one").unwrap(), Signal::SIGKILL).unwrap();
    eventually("the container to begin anew", LONG, || {
        let count = cluster.pod("one", ".status.containerStatuses[0].restartCount")?;
        Ok((count == "1").then_some(()))
    })
    .unwrap();
    assert_eq!((devices_of(&cluster, "one"), plugin.count("prepare b")), ("b".to_owned(), 3));

    offers(&cluster, NAME, "a Healthy\nb Unhealthy\n");
    counts(&cluster, NAME, "2", "1");
    let status = ".status.containerStatuses[0].allocatedResourcesStatus[0]";
    eventually("the pod to say how its device fares", LONG, || {
        let health = cluster.pod("one", &format!("{status}.resources[0].health"))?;
        Ok((health == "Unhealthy").then_some(()))
    })
    .unwrap();
    let named = cluster.pod("one", &format!("{status}.name")).unwrap();
    assert_eq!((named.as_str(), cluster.pod("one", ".status.phase").unwrap().as_str()), (NAME, "Running"));
    // To the scheduler the pod with the device that is not healthy has the one that is.
    cluster.kubectl(&["delete", "pod", "three", "bound"]).unwrap();
    cluster.apply(&pod("four", "", 1)).unwrap();
    cluster.wait("four", "condition=PodScheduled=False").unwrap();
    offers(&cluster, NAME, "a Healthy\nb Healthy\n");
    assert_eq!(devices_of(&cluster, "four"), "a");
    // A machine that has no such memory node has nothing near to it.
    offers(&cluster, NAME, "a Healthy\nb Healthy\nfar Healthy 7\n");
    cluster.apply(&pod("far", "", 1)).unwrap();
    cluster.wait("far", "jsonpath={.status.reason}=TopologyAffinityError").unwrap();
    let message = "Pod was rejected: Resources cannot be allocated with Topology locality";
    assert_eq!(cluster.pod("far", ".status.message").unwrap(), message);
    cluster.kubectl(&["delete", "pod", "far"]).unwrap();
    offers(&cluster, NAME, "a Healthy\nb Healthy\n");

    killed_while_a_plugin_is_asked(&cluster, &plugin);
    found_by_its_socket(&cluster);
    // What a plugin that has gone offered is there, and of no use.
    drop(plugin);
    counts(&cluster, NAME, "2", "0");
}

/// What a plugin has not answered was not given; the pod waits for the plugin to come back.
fn killed_while_a_plugin_is_asked(cluster: &Cluster, plugin: &Plugin) {
    cluster.kubectl(&["delete", "pod", "four"]).unwrap();
    let hold = plugin.folder().join("hold");
    fs::write(&hold, "").unwrap();
    let asked = plugin.count("asked a");
    cluster.apply(&pod("held", "", 1)).unwrap();
    eventually("the plugin to be asked", LONG, || Ok((plugin.count("asked a") > asked).then_some(())))
        .unwrap();
    cluster.kill().unwrap();
    fs::remove_file(&hold).unwrap();
    let checkpoint = cluster.data_dir().join("kubelet/device-plugins/kubelet_internal_checkpoint");
    let written = fs::read_to_string(&checkpoint).unwrap();
    assert_eq!(written.matches("PodUID").count(), 2, "both containers of the pod that has one: {written}");
    cluster.continue_with(&[]).unwrap();
    assert_eq!((devices_of(cluster, "held"), devices_of(cluster, "one")), ("a".to_owned(), "b".to_owned()));
    assert_eq!(monitored(cluster), ["held/main a", "one/main b"]);
    cluster.kubectl(&["delete", "pod", "held"]).unwrap();
}

/// A plugin that the kubelet finds in the folder of all plugins.
fn found_by_its_socket(cluster: &Cluster) {
    let registration = cluster.data_dir().join("kubelet/plugins_registry/other.sock");
    offers(cluster, OTHER, "x Healthy\n");
    let plugin = start(cluster, OTHER, Some(&registration));
    counts(cluster, OTHER, "1", "1");
    // It says by a name too what its devices are; the folder of such names is the cluster's own from here on.
    let own = "mkdir -p /etc/cdi && mount -t tmpfs none /etc/cdi";
    cluster.on_the_host("sh", &["-c", own]).unwrap();
    let means = |edits: &str| {
        let text = format!(
            "cdiVersion: 0.7.0\nkind: test.keelson.io/named\ndevices: [{{name: x, containerEdits: {edits}}}]"
        );
        cluster.on_the_host("sh", &["-c", "echo \"$0\" > /etc/cdi/named.yaml", &text]).unwrap();
    };
    fs::write(plugin.folder().join("names"), "test.keelson.io/named=x").unwrap();
    let folder = plugin.folder().display();
    means(&format!(
        "{{env: [NAMED=x, TEST_DEVICES=x], deviceNodes: [{{path: /dev/named, hostPath: /dev/zero}}], \
         mounts: [{{hostPath: {folder}, containerPath: /named, options: [ro, rbind]}}], additionalGids: [4242]}}"
    ));
    cluster.apply(&pod("other", "", 1).replace(NAME, OTHER)).unwrap();
    assert_eq!(devices_of(cluster, "other"), "x");
    let looks = "echo $NAMED; head -c 1 /dev/named | wc -c; cat /named/names; echo; id -G | grep -o 4242; \
                 touch /named/y 2> /dev/null || echo refused";
    assert_eq!(
        cluster.exec("other", &["sh", "-c", looks]).unwrap(),
        "x\n1\ntest.keelson.io/named=x\n4242\nrefused\n"
    );
    cluster.kubectl(&["delete", "pod", "other"]).unwrap();
    // What nobody can do for a container is said, and it does not come up without.
    means("{env: [NAMED=x], hooks: [{hookName: createRuntime, path: /bin/true}]}");
    cluster.apply(&pod("hooked", "", 1).replace(NAME, OTHER)).unwrap();
    let why = "CDI device injection failed: hooks of CDI device test.keelson.io/named=x: not supported by";
    cluster.told("hooked", "Failed", why).unwrap();
    assert_eq!(cluster.pod("hooked", ".status.phase").unwrap(), "Pending");
    cluster.kubectl(&["delete", "pod", "hooked"]).unwrap();
    fs::remove_file(&registration).unwrap();
    counts(cluster, OTHER, "1", "0");
    drop(plugin);
}
