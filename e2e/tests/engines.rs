//! Container runtimes: pods by containerd, and the embedded runtime for other clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use keelson_cri::v1;
use keelson_cri::v1::image_service_client::ImageServiceClient;
use keelson_cri::v1::runtime_service_client::RuntimeServiceClient;
use keelson_e2e::{BUSYBOX, Cluster, Containerd, Engine, LONG, Node, Pod, eventually};

/// A cluster with the embedded runtime.
fn embedded() -> Node {
    Node::up(Engine::Embedded, "").unwrap()
}

/// A cluster whose pods containerd runs, and that.
fn elsewhere() -> (Cluster, Containerd) {
    let Node { cluster, containerd } = Node::up(Engine::Containerd, "").unwrap();
    (cluster, containerd.unwrap())
}

fn ready(cluster: &Cluster) -> (String, String) {
    let condition = |field: &str| {
        let path = format!(".items[0].status.conditions[?(@.type==\"Ready\")].{field}");
        cluster.field(&["nodes"], &path).unwrap()
    };
    (condition("status"), condition("message"))
}

#[test]
fn containerd_runs_pods_with_all_that_they_can_have() {
    let (cluster, engine) = &elsewhere();
    assert!(!cluster.data_dir().join("run/cri.sock").exists(), "the embedded runtime was started");
    let version = cluster.field(&["nodes"], ".items[0].status.nodeInfo.containerRuntimeVersion").unwrap();
    assert!(version.starts_with("containerd://1."), "{version}");
    let manifest = format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: green}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: first, image: "{BUSYBOX}", command: [sh, -c, "echo made by init > /shared/index.html"], volumeMounts: [{{name: shared, mountPath: /shared}}]}}
  containers:
  - name: main
    image: {BUSYBOX}
    command: [sh, -c, "echo started; cat /settings/colour; echo; exec httpd -f -p 8080 -h /shared"]
    ports: [{{containerPort: 8080, hostPort: 18080}}]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
    livenessProbe: {{exec: {{command: [test, -e, /shared/index.html]}}, periodSeconds: 1, failureThreshold: 2}}
    volumeMounts: [{{name: shared, mountPath: /shared}}, {{name: settings, mountPath: /settings}}]
    resources: {{limits: {{memory: 64Mi}}}}
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: settings, configMap: {{name: settings}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait("web", "condition=Ready").unwrap();
    cluster.start(&Pod::new("client")).unwrap();
    let id = cluster.pod("web", ".status.containerStatuses[0].containerID").unwrap();
    let bare = id.strip_prefix("containerd://").unwrap();
    assert!(engine.ctr(&["tasks", "list"]).unwrap().contains(bare));
    // The pod network is the node's own: from pod to Service to pod, and a port of the node.
    let ip = cluster.pod("web", ".status.podIP").unwrap();
    let pods = cluster.field(&["nodes"], ".items[0].spec.podCIDR").unwrap();
    assert!(ip.starts_with(pods.strip_suffix("0/24").unwrap()), "{ip} is not of {pods}");
    let page = eventually("the Service to answer", LONG, || {
        Ok(cluster.exec("client", &["wget", "-qO-", "http://web"]).ok())
    });
    assert_eq!(page.unwrap(), "made by init\n");
    assert_eq!(cluster.http("GET", &format!("http://{ip}:8080/")).unwrap(), "made by init\n");
    assert_eq!(
        cluster.exec("client", &["wget", "-qO-", &format!("http://{ip}:8080")]).unwrap(),
        "made by init\n"
    );

    // Logs, exec with its exit code and standard input, attach's sibling port-forward is of the same kind.
    assert_eq!(cluster.kubectl(&["logs", "web"]).unwrap(), "started\ngreen\n");
    let failed = cluster.kubectl_fails(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    let failed = failed.unwrap();
    assert!(failed.contains("out") && failed.contains("err") && failed.contains("exit code 7"), "{failed}");
    let echoed = cluster.client().with(&["exec", "-i", "web", "--", "cat"], "through stdin").unwrap();
    // The client of the tests writes the first line.
    assert_eq!(echoed, "---\nthrough stdin");

    // A liveness probe that fails restarts the container.
    cluster.exec("web", &["sh", "-c", "mv /shared/index.html /shared/aside; sleep infinity"]).unwrap_err();
    eventually("the container to be started again", LONG, || {
        Ok((cluster.pod("web", ".status.containerStatuses[0].restartCount")? == "1").then_some(()))
    })
    .unwrap();
    cluster.exec("client", &["true"]).unwrap();
    assert_eq!(cluster.kubectl(&["logs", "--previous", "web"]).unwrap(), "started\ngreen\n");

    // Usage comes from the runtime.
    let node = cluster.field(&["nodes"], ".items[0].metadata.name").unwrap();
    let summary =
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let client = pods.iter().find(|pod| pod["podRef"]["name"] == "client").expect("the pod's usage");
    assert!(client["containers"][0]["memory"]["workingSetBytes"].as_u64().unwrap() > 0, "{client}");

    // What goes leaves nothing.
    cluster.kubectl(&["delete", "pod", "web", "client"]).unwrap();
    eventually("containerd to hold nothing", LONG, || {
        Ok(engine.ctr(&["containers", "list", "--quiet"])?.trim().is_empty().then_some(()))
    })
    .unwrap();
    assert_eq!(fs::read_dir(cluster.data_dir().join("network/pods")).map_or(0, Iterator::count), 0);
}

#[test]
fn no_runtime_runs_pods_beside_those_of_another_one() {
    let (cluster, engine) = &elsewhere();
    let settings = cluster.data_dir().join("kubelet.yaml");
    let elsewhere = fs::read_to_string(&settings).unwrap();
    let own = elsewhere.lines().filter(|line| !line.starts_with("containerRuntimeEndpoint"));
    let own = own.map(|line| format!("{line}\n")).collect::<String>();
    let refuses = |whose: &str| {
        let refused = cluster.continue_with(&[]).unwrap_err().to_string();
        assert!(refused.contains(whose) && refused.contains("keelson down --data-dir"), "{refused}");
    };
    cluster.start(&Pod::new("steady")).unwrap();
    cluster.kill().unwrap();
    fs::write(&settings, &own).unwrap();
    refuses(&format!("the container runtime at {}", engine.socket().display()));
    cluster.keelson_prints(&["down"]).unwrap();
    assert_eq!(engine.ctr(&["containers", "list", "--quiet"]).unwrap().trim(), "");
    cluster.continue_with(&[]).unwrap();
    assert!(!cluster.data_dir().join("engine.json").exists());
    cluster.wait("steady", "condition=Ready").unwrap();
    // And back.
    cluster.kill().unwrap();
    fs::write(&settings, &elsewhere).unwrap();
    refuses("the embedded container runtime");
    cluster.keelson_prints(&["down"]).unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.wait("steady", "condition=Ready").unwrap();
    let id = cluster.pod("steady", ".status.containerStatuses[0].containerID").unwrap();
    assert!(id.starts_with("containerd://"), "{id}");
}

#[test]
fn containers_outlive_containerd_and_the_node_says_that_it_is_down() {
    let (cluster, engine) = &mut elsewhere();
    cluster.start(&Pod::new("steady")).unwrap();
    let process = cluster.main_process("steady").unwrap();
    engine.kill().unwrap();
    eventually("the node to say that its runtime is down", LONG, || {
        let (status, message) = ready(cluster);
        Ok((status == "False" && message.contains("container runtime is down")).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.main_process("steady").unwrap(), process);
    engine.start_again().unwrap();
    eventually("the node to be ready again", LONG, || Ok((ready(cluster).0 == "True").then_some(())))
        .unwrap();
    assert_eq!(cluster.main_process("steady").unwrap(), process);
    assert_eq!(cluster.pod("steady", ".status.containerStatuses[0].restartCount").unwrap(), "0");
    assert_eq!(cluster.exec("steady", &["echo", "there"]).unwrap(), "there\n");
    // News come without events.
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the container to be started again", LONG, || {
        Ok((cluster.pod("steady", ".status.containerStatuses[0].restartCount")? == "1").then_some(()))
    })
    .unwrap();
}

/// What a command prints whose streams are at `url`, asked for over a WebSocket within a cluster's network: kubectl's
/// protocol, with a byte before each message that names the stream.
fn run_at(url: &str, holder: u32) -> String {
    let rest = url.strip_prefix("http://").unwrap().to_owned();
    let network = fs::File::open(format!("/proc/{holder}/ns/net")).unwrap();
    let talk = move || {
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
        )
        .unwrap();
        let mut all = Vec::new();
        // The server closes when the command has ended.
        let _ = stream.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    };
    std::thread::spawn(talk).join().unwrap()
}

#[tokio::test]
async fn any_client_of_the_interface_works_with_the_embedded_runtime() {
    let cluster = embedded();
    let socket = format!("unix:{}", cluster.data_dir().join("run/cri.sock").display());
    let mut runtime = RuntimeServiceClient::connect(socket.clone()).await.unwrap();
    let mut images = ImageServiceClient::connect(socket).await.unwrap();
    let version = runtime.version(v1::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("keelson", "v1"));
    let status = runtime.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    assert!(status.status.unwrap().conditions.iter().all(|condition| condition.status));
    assert!(status.info["info"].contains("keelson"));
    let handlers: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(handlers, ["", "keelson"]);

    let spec = v1::ImageSpec { image: BUSYBOX.to_owned(), ..v1::ImageSpec::default() };
    let request = v1::ImageStatusRequest { image: Some(spec.clone()), verbose: true };
    let found = images.image_status(request).await.unwrap().into_inner();
    assert!(found.info["info"].contains("chainIDs"));
    let listed = images.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert!(listed.contains(&found.image.unwrap()));
    let disk = images.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert!(disk.image_filesystems[0].used_bytes.unwrap().value > 0);
    let nowhere = v1::ImageSpec { image: "127.0.0.1:9/nothing:1".to_owned(), ..v1::ImageSpec::default() };
    let pull = v1::PullImageRequest { image: Some(nowhere), ..v1::PullImageRequest::default() };
    images.pull_image(pull).await.unwrap_err();

    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..Default::default() };
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "own".into(),
            uid: "own-uid".into(),
            namespace: "tool".into(),
            attempt: 0,
        }),
        hostname: "own".to_owned(),
        log_directory: cluster.folder().join("logs").display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        // Another client's pods are not the kubelet's to end.
        annotations: [("keelson.io/cgroup-root".to_owned(), "/tool".to_owned())].into(),
        ..Default::default()
    };
    let run = |handler: &str| v1::RunPodSandboxRequest {
        config: Some(sandbox.clone()),
        runtime_handler: handler.to_owned(),
    };
    let refused = runtime.run_pod_sandbox(run("kata")).await.unwrap_err();
    assert!(refused.message().contains("no runtime for \"kata\" is configured"), "{refused}");
    let pod = runtime.run_pod_sandbox(run("keelson")).await.unwrap().into_inner().pod_sandbox_id;
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(spec),
        command: ["sh", "-c", "trap 'echo told; exit 3' USR1; echo up; while true; do sleep 0.1; done"]
            .map(String::from)
            .into(),
        log_path: "main.log".to_owned(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        stop_signal: v1::Signal::Sigusr1 as i32,
        ..Default::default()
    };
    let create = v1::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox),
    };
    let id = runtime.create_container(create).await.unwrap().into_inner().container_id;
    runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }).await.unwrap();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let sync = v1::ExecSyncRequest { container_id: id.clone(), cmd: words("sh -c hostname"), timeout: 10 };
    let done = runtime.exec_sync(sync).await.unwrap().into_inner();
    assert_eq!((done.exit_code, &done.stdout[..]), (0, &b"own\n"[..]));
    let exec = v1::ExecRequest {
        container_id: id.clone(),
        cmd: words("echo streamed"),
        stdout: true,
        ..Default::default()
    };
    let url = runtime.exec(exec).await.unwrap().into_inner().url;
    let printed = run_at(&url, cluster.holder());
    assert!(printed.contains("streamed\n") && printed.contains("Success"), "{printed}");

    let parts = runtime.stream_containers(v1::StreamContainersRequest::default()).await.unwrap().into_inner();
    let mut parts = parts;
    let first = parts.message().await.unwrap().unwrap();
    assert!(first.containers.iter().any(|one| one.id == id) && parts.message().await.unwrap().is_none());
    let stats = v1::ContainerStatsRequest { container_id: id.clone() };
    let stats = runtime.container_stats(stats).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    let ask = v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let told = runtime.container_status(ask.clone()).await.unwrap().into_inner();
    assert!(told.info["info"].contains("runtimeSpec"));
    assert_eq!(told.status.unwrap().stop_signal(), v1::Signal::Sigusr1);

    runtime.stop_container(v1::StopContainerRequest { container_id: id.clone(), timeout: 30 }).await.unwrap();
    let ended = runtime.container_status(ask).await.unwrap().into_inner().status.unwrap();
    assert_eq!((ended.state(), ended.exit_code), (v1::ContainerState::ContainerExited, 3));
    let log = fs::read_to_string(cluster.folder().join("logs/main.log")).unwrap();
    assert!(log.contains("stdout F told"), "{log}");
    runtime.remove_container(v1::RemoveContainerRequest { container_id: id }).await.unwrap();
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() }).await.unwrap();
    let gone = v1::PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: false };
    assert_eq!(runtime.pod_sandbox_status(gone).await.unwrap_err().code(), tonic::Code::NotFound);
}

fn classes(cluster: &Cluster, handler: &str) {
    let manifest = format!(
        r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: other}}
handler: {handler}
overhead: {{podFixed: {{memory: 16Mi, cpu: 10m}}}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: absent}}
handler: kata
"#
    );
    cluster.apply(&manifest).unwrap();
    let classed = Pod::new("classed").spec("runtimeClassName: other");
    cluster.start(&classed.container("resources: {limits: {memory: 32Mi, cpu: 100m}}")).unwrap();
    cluster.apply(&Pod::new("waiting").spec("runtimeClassName: absent").to_string()).unwrap();
    assert_eq!(cluster.pod("classed", ".spec.overhead.memory").unwrap(), "16Mi");
    eventually("the event of a handler that is not there", LONG, || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=waiting"])?;
        let told = "no runtime for \"kata\" is configured";
        Ok((events.contains("FailedCreatePodSandBox") && events.contains(told)).then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.pod("waiting", ".status.phase").unwrap(), "Pending");
    cluster.kubectl(&["delete", "pod", "classed", "waiting"]).unwrap();
}

#[test]
fn a_runtime_class_selects_a_handler_of_the_embedded_runtime() {
    let cluster = embedded();
    classes(&cluster, "keelson");
    let names = cluster.field(&["nodes"], ".items[0].status.runtimeHandlers[*].name").unwrap();
    assert_eq!(names.trim(), "keelson");
}

#[test]
fn a_runtime_class_selects_a_handler_of_containerd() {
    let cluster = Node::up(Engine::Containerd, "").unwrap();
    classes(&cluster, "second");
    // Nothing of it is left in any hierarchy of control groups.
    cluster.reset().unwrap();
}

/// Filters of system calls, and kernel parameters that the node's owner allows, whichever runtime it is.
fn filters(cluster: &Cluster) {
    let profiles = cluster.data_dir().join("kubelet/seccomp");
    fs::create_dir_all(&profiles).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    fs::write(profiles.join("no-folders.json"), profile).unwrap();
    let pod = |name: &str, context: &str, sysctl: &str| {
        let sysctls = format!("securityContext: {{sysctls: [{{name: {sysctl}, value: \"77\"}}]}}");
        let pod = Pod::new(name).spec("restartPolicy: Never").spec(&sysctls);
        pod.container(&format!("securityContext: {{{context}}}")).to_string()
    };
    let local = |file: &str| format!("seccompProfile: {{type: Localhost, localhostProfile: {file}}}");
    let manifest = [
        pod("local", &local("no-folders.json"), "net.core.somaxconn"),
        pod("quiet", "", "net.core.somaxconn"),
        pod("open", "seccompProfile: {type: Unconfined}", "net.core.somaxconn"),
        pod("missing", &local("missing.json"), "net.core.somaxconn"),
        pod("forbidden", "", "net.ipv4.ip_forward"),
    ];
    cluster.apply(&manifest.concat()).unwrap();
    for name in ["local", "quiet", "open"] {
        cluster.wait(name, "condition=Ready").unwrap();
    }
    let refused = cluster.kubectl_fails(&["exec", "local", "--", "mkdir", "/tmp/folder"]).unwrap();
    assert!(refused.contains("Permission denied"), "{refused}");
    let filtered = |name: &str| cluster.exec(name, &["grep", "^Seccomp:", "/proc/1/status"]).unwrap();
    assert!(filtered("quiet").trim().ends_with('2') && filtered("open").trim().ends_with('0'));
    cluster.exec("quiet", &["mkdir", "/tmp/folder"]).unwrap();
    assert_eq!(cluster.exec("quiet", &["cat", "/proc/sys/net/core/somaxconn"]).unwrap(), "77\n");
    let reason = || cluster.pod("forbidden", ".status.reason");
    eventually("the parameter to be refused", LONG, || Ok((reason()? == "SysctlForbidden").then_some(())))
        .unwrap();
    eventually("the profile that is not there to be told", LONG, || {
        let waiting = ".status.containerStatuses[0].state.waiting";
        let told = cluster.pod("missing", &format!("{waiting}.message"))?;
        let reason = cluster.pod("missing", &format!("{waiting}.reason"))?;
        Ok((reason == "CreateContainerError" && told.contains("cannot load seccomp profile")).then_some(()))
    })
    .unwrap();
    cluster.kubectl(&["delete", "pods", "--all"]).unwrap();
}

const SETTINGS: &str = "seccompDefault: true\nallowedUnsafeSysctls: [\"net.core.*\"]\n";

#[test]
fn system_calls_are_filtered_as_the_node_says_by_the_embedded_runtime() {
    filters(&Node::up(Engine::Embedded, SETTINGS).unwrap());
}

#[test]
fn system_calls_are_filtered_as_the_node_says_by_containerd() {
    filters(&Node::up(Engine::Containerd, SETTINGS).unwrap());
}

#[test]
fn an_image_is_a_volume_for_reading_alone_and_goes_with_its_pod() {
    let cluster = embedded();
    let pod = |name: &str, image: &str, mount: &str| {
        let volume = format!("volumes: [{{name: v, image: {{reference: \"{image}\", pullPolicy: Never}}}}]");
        let mount = format!("volumeMounts: [{{name: v, mountPath: /data, {mount}}}]");
        Pod::new(name).spec(&volume).container(&mount).to_string()
    };
    let manifest = [
        pod("with", BUSYBOX, ""),
        pod("part", BUSYBOX, "subPath: bin"),
        pod("outside", BUSYBOX, "subPath: absent/part"),
        pod("without", "test.keelson.io/absent:1", ""),
    ];
    cluster.apply(&manifest.concat()).unwrap();
    cluster.wait("with", "condition=Ready").unwrap();
    cluster.wait("part", "condition=Ready").unwrap();
    let listed = cluster.exec("with", &["ls", "/data/bin"]).unwrap();
    assert!(listed.lines().any(|name| name == "busybox"), "{listed}");
    assert_eq!(cluster.exec("part", &["ls", "/data"]).unwrap(), listed);
    let refused = cluster.kubectl_fails(&["exec", "with", "--", "touch", "/data/new"]).unwrap();
    assert!(refused.contains("Read-only"), "{refused}");
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(cluster.exec("with", &["ls", "/data/bin"]).unwrap(), listed);
    for (name, told) in [("without", "ErrImageNeverPull"), ("outside", "image volume subpath")] {
        eventually(told, LONG, || {
            let about = format!("involvedObject.name={name}");
            let events = cluster.kubectl(&["get", "events", "--field-selector", &about])?;
            Ok(events.contains(told).then_some(()))
        })
        .unwrap();
    }
    cluster.kubectl(&["delete", "pods", "--all"]).unwrap();
    eventually("the image to be mounted no more", LONG, || {
        let mounts = cluster.on_the_host("cat", &["/proc/self/mountinfo"])?;
        Ok((!mounts.contains("/volumes/0/rootfs")).then_some(()))
    })
    .unwrap();
}

#[test]
fn root_of_a_pod_with_its_own_users_is_nobody_on_the_node() {
    let cluster = embedded();
    let pod = |name: &str, more: &str, context: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 0
  {more}
  containers:
  - name: main
    image: "{BUSYBOX}"
    command: [sh, -c, "echo mine > /data/file; echo said > /dev/stdout; sleep infinity"]
    workingDir: /work/made
    securityContext: {{{context}}}
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: settings, mountPath: /settings}}]
  volumes:
  - {{name: data, emptyDir: {{}}}}
  - {{name: settings, configMap: {{name: settings}}}}
---
"#
        )
    };
    let manifest = [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: green}\n---\n"
            .to_owned(),
        pod("first", "", ""),
        pod("second", "", "runAsUser: 1000, procMount: Unmasked").replace("echo mine > /data/file; ", ""),
        pod("shared", "shareProcessNamespace: true", ""),
    ];
    cluster.apply(&manifest.concat()).unwrap();
    cluster.wait("first", "condition=Ready").unwrap();
    cluster.wait("second", "condition=Ready").unwrap();
    cluster.wait("shared", "condition=Ready").unwrap();
    assert_eq!(cluster.exec("shared", &["stat", "-c", "%u", "/proc/1"]).unwrap(), "0\n");
    // The ids of the main process as the node sees them, and as the pod does.
    let owner = |name: &str| {
        let process = cluster.main_process(name).unwrap();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().to_owned();
        uid.split_whitespace().next().unwrap().parse::<u32>().unwrap()
    };
    let base = owner("first");
    assert!(base >= 65536 && base % 65536 == 0, "{base}");
    assert_eq!(cluster.exec("first", &["id", "-u"]).unwrap(), "0\n");
    let map = cluster.exec("first", &["cat", "/proc/self/uid_map"]).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &base.to_string(), "65536"]);
    // Files are the pod's own, in its root and in its volumes.
    for path in ["/data/file", "/bin/busybox", "/work/made", "/settings/colour"] {
        assert_eq!(cluster.exec("first", &["stat", "-L", "-c", "%u", path]).unwrap(), "0\n", "{path}");
    }
    cluster
        .exec("first", &["sh", "-c", "echo new > /bin/new && chown 7:7 /bin/new && mkdir /tmp/x"])
        .unwrap();
    assert_eq!(cluster.exec("first", &["stat", "-c", "%u %g", "/bin/new"]).unwrap(), "7 7\n");
    assert_eq!(cluster.kubectl(&["logs", "first"]).unwrap(), "said\n");
    assert_eq!(cluster.exec("first", &["hostname"]).unwrap(), "first\n");
    // Another pod has other ids, and commands in it have them too.
    let other = owner("second");
    assert!(other != base + 1000 && other % 65536 == 1000, "{other}");
    assert_eq!(cluster.exec("second", &["id", "-u"]).unwrap(), "1000\n");
    assert_eq!(cluster.kubectl(&["logs", "second"]).unwrap(), "said\n");
    // It is no root over what is the node's.
    cluster.kubectl_fails(&["exec", "first", "--", "sh", "-c", "echo 1 > /proc/sys/kernel/panic"]).unwrap();
    let features = ".items[0].status.runtimeHandlers[0].features.userNamespaces";
    assert_eq!(cluster.field(&["nodes"], features).unwrap(), "true");
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!((owner("first"), cluster.exec("first", &["id", "-u"]).unwrap()), (base, "0\n".to_owned()));
    cluster.kubectl(&["delete", "pods", "--all"]).unwrap();
}
