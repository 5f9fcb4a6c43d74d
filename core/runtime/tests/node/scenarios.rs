//! What must hold of real pods.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use keelson_cri::v1;

use super::harness::{Node, Registry, registry};

type Scenario = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        const ALL: &[(&str, Scenario)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

scenarios![
    a_container_runs_with_its_own_namespaces_and_its_output_is_logged,
    a_container_that_writes_past_its_memory_limit_is_oom_killed,
    a_program_that_is_not_there_is_a_start_error,
    a_container_outlives_the_runtime_and_its_exit_is_seen_afterwards,
    a_dead_pod_process_takes_its_containers_along,
    the_filter_refuses_mounts_with_and_without_new_privileges,
    a_command_with_a_terminal_has_one,
    users_and_groups_are_those_of_the_image_and_the_pod,
    a_stopped_container_gets_the_signal_of_its_image_first,
    containers_of_a_shared_pid_namespace_see_each_other,
    what_writes_on_after_its_command_has_ended_holds_nobody_up,
    the_binary_itself_is_an_image,
    events_tell_of_every_change,
    creating_takes_milliseconds,
    exec_streams_over_a_websocket,
    an_attached_terminal_takes_input_and_a_size,
    an_image_is_pulled_with_credentials_and_exported_again,
    a_mirror_serves_what_has_a_digest_and_sees_no_credentials_of_the_registry,
    volumes_are_mounted_and_a_privileged_container_has_the_devices_of_the_node,
    a_pod_with_its_own_users_has_volumes_in_volumes_and_images_and_leaves_the_nodes_mounts_alone,
    limits_change_while_a_container_runs,
    a_port_is_forwarded_into_the_network_of_the_pod,
];

/// Runs the scenarios one after another; answers how many failed.
pub(crate) async fn run(filter: Option<&str>) -> usize {
    let mut failed = 0;
    for (name, scenario) in ALL.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))) {
        let started = Instant::now();
        let result = AssertUnwindSafe(scenario()).catch_unwind().await;
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", started.elapsed().as_millis());
        failed += usize::from(result.is_err());
    }
    failed
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

async fn a_container_runs_with_its_own_namespaces_and_its_output_is_logged() {
    let mut node = Node::start().await;
    let pod = node.sandbox("web").await;
    let status = node
        .runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false })
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    assert_eq!(status.network.unwrap().ip, "192.0.2.7");
    let id = node.launch(&pod, node.shell("one", "echo out; echo err >&2; exec sleep 1000")).await;
    let exec = node.exec(&id, "echo $$; cat /shown /proc/1/comm; ls /hidden; cat /etc/resolv.conf; echo $HOSTNAME $HOME $FROM_IMAGE").await;
    let out = text(&exec.stdout);
    assert!(out.contains("yes\nsleep\n"), "{out}");
    assert!(out.contains("nameserver 10.96.0.10\nweb /root yes"), "{out}");
    assert!(text(&exec.stderr).contains("No such file"), "{exec:?}");
    let exec = node.exec(&id, "ls -d /proc/[0-9]*; exit 7").await;
    assert_eq!(exec.exit_code, 7);
    assert!(exec.stdout.len() < 100, "sees other processes: {}", text(&exec.stdout));
    let exec = node.exec(&id, "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes").await;
    assert!(text(&exec.stderr).contains("Read-only"), "{exec:?}");
    let exec = node.exec(&id, "mknod /disk b 254 0 && dd if=/disk of=/dev/null count=1").await;
    assert!(text(&exec.stderr).contains("Operation not permitted"), "{exec:?}");
    let stats = node
        .runtime
        .container_stats(v1::ContainerStatsRequest { container_id: id.clone() })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    let log = node.log("web", "one");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    node.finish().await;
}

async fn a_container_that_writes_past_its_memory_limit_is_oom_killed() {
    let mut node = Node::start().await;
    let pod = node.sandbox("hog").await;
    let mut config = node.shell("hog", "dd if=/dev/zero of=/dev/null bs=64M count=1");
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        oom_score_adj: -997,
        ..Default::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources);
    config.command =
        vec!["sh".into(), "-c".into(), "exec dd if=/dev/zero of=/dev/null bs=64M count=1".into()];
    let id = node.launch(&pod, config).await;
    let status = node.ended(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137), "{status:?}");
    node.finish().await;
}

async fn a_program_that_is_not_there_is_a_start_error() {
    let mut node = Node::start().await;
    let pod = node.sandbox("typo").await;
    let mut config = node.shell("typo", "");
    config.command = vec!["nothing-like-this".to_owned()];
    let id = node.create(&pod, config).await;
    let error = node.start_container(&id).await.unwrap_err();
    assert!(error.message().contains("executable file not found in $PATH"), "{error}");
    let status = node.status(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("StartError", 128));
    node.finish().await;
}

async fn a_container_outlives_the_runtime_and_its_exit_is_seen_afterwards() {
    let mut node = Node::start().await;
    let pod = node.sandbox("stay").await;
    let id = node.launch(&pod, node.shell("stay", "sleep 1000")).await;
    let brief = node.launch(&pod, node.shell("brief", "sleep 0.3; exit 5")).await;
    let before = node.status(&id).await;
    node.restart().await;
    let after = node.status(&id).await;
    assert_eq!(after.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(before.started_at, after.started_at);
    assert_eq!(node.ended(&brief).await.exit_code, 5);
    assert_eq!(text(&node.exec(&id, "echo alive").await.stdout), "alive");
    node.finish().await;
}

async fn a_dead_pod_process_takes_its_containers_along() {
    let mut node = Node::start().await;
    let pod = node.sandbox("dead").await;
    let id = node.launch(&pod, node.shell("dead", "sleep 1000")).await;
    let folder = node.config.root.join("pods").join(&pod);
    let pause: i32 = std::fs::read_to_string(folder.join("pause.json")).unwrap().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pause}/stat")).unwrap();
    let parent: i32 = stat.split(' ').nth(3).unwrap().parse().unwrap();
    let cmdline = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap();
    assert!(cmdline.starts_with("keelson-pod default/dead"), "{cmdline}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(parent), nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("Unknown", 255));
    let request = v1::ListPodSandboxRequest::default();
    let pods = node.runtime.list_pod_sandbox(request).await.unwrap().into_inner().items;
    assert_eq!(pods[0].state(), v1::PodSandboxState::SandboxNotready);
    node.finish().await;
}

async fn the_filter_refuses_mounts_with_and_without_new_privileges() {
    let mut node = Node::start().await;
    let pod = node.sandbox("filter").await;
    for (name, no_new_privs) in [("with", false), ("without", true)] {
        let mut config = node.shell(name, "sleep 1000");
        security(&mut config).no_new_privs = no_new_privs;
        security(&mut config).run_as_user = Some(v1::Int64Value { value: 1000 });
        let id = node.launch(&pod, config).await;
        let exec = node.exec(&id, "cat /proc/self/status; unshare -U true").await;
        let out = text(&exec.stdout);
        assert!(out.contains("Seccomp:\t2"), "{out}");
        assert!(out.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privs))), "{out}");
        assert!(out.contains("CapEff:\t0000000000000000"), "{out}");
        assert!(text(&exec.stderr).contains("Operation not permitted"), "{exec:?}");
    }
    let mut config = node.shell("local", "true");
    security(&mut config).seccomp = Some(v1::SecurityProfile { profile_type: 2, localhost_ref: "x".into() });
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(config),
        sandbox_config: None,
    };
    let error = node.runtime.create_container(request).await.unwrap_err();
    assert!(error.message().contains("cannot load seccomp profile"), "{error}");
    node.finish().await;
}

async fn a_command_with_a_terminal_has_one() {
    let mut node = Node::start().await;
    let pod = node.sandbox("tty").await;
    let mut config = node.shell("tty", "tty; stty size; read line; echo got $line");
    (config.tty, config.stdin) = (true, true);
    let id = node.launch(&pod, config).await;
    let stop = v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !node.log("tty", "tty").contains("/dev/") {
        assert!(Instant::now() < deadline, "{}", node.log("tty", "tty"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.runtime.stop_container(stop).await.unwrap();
    assert_eq!(node.ended(&id).await.exit_code, 137);
    node.finish().await;
}

async fn users_and_groups_are_those_of_the_image_and_the_pod() {
    let mut node = Node::start().await;
    let pod = node.sandbox("user").await;
    let mut config = node.shell("user", "id; touch /x || echo read-only");
    let context = security(&mut config);
    context.run_as_username = "web".to_owned();
    context.supplemental_groups = vec![2000];
    context.readonly_rootfs = true;
    let id = node.launch(&pod, config).await;
    node.ended(&id).await;
    let log = node.log("user", "user");
    assert!(log.contains("uid=101(web) gid=102"), "{log}");
    assert!(log.contains("300(extra)") && log.contains("2000"), "{log}");
    assert!(log.contains("read-only"), "{log}");
    node.finish().await;
}

async fn a_stopped_container_gets_the_signal_of_its_image_first() {
    let mut node = Node::start().await;
    let pod = node.sandbox("stop").await;
    let id =
        node.launch(&pod, node.shell("stop", "trap 'exit 9' USR1; while true; do sleep 0.02; done")).await;
    node.exec(&id, "true").await;
    node.runtime
        .stop_container(v1::StopContainerRequest { container_id: id.clone(), timeout: 5 })
        .await
        .unwrap();
    assert_eq!(node.status(&id).await.exit_code, 9);
    let request = v1::RemoveContainerRequest { container_id: id.clone() };
    node.runtime.remove_container(request.clone()).await.unwrap();
    node.runtime.remove_container(request).await.unwrap();
    node.finish().await;
}

async fn containers_of_a_shared_pid_namespace_see_each_other() {
    let mut node = Node::start().await;
    let mut config = node.sandbox_config("shared");
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..Default::default() };
    let security_context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security_context.namespace_options = Some(options.clone());
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let pod = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let mut config = node.shell(name, "exec sleep 1000");
        security(&mut config).namespace_options = Some(options.clone());
        ids.push(node.launch(&pod, config).await);
    }
    let out = text(&node.exec(&ids[0], "ps").await.stdout);
    assert!(out.contains("pause") && out.matches("sleep 1000").count() == 2, "{out}");
    node.finish().await;
}

async fn what_writes_on_after_its_command_has_ended_holds_nobody_up() {
    let mut node = Node::start().await;
    let mut config = node.sandbox_config("flood");
    let options = v1::NamespaceOption { pid: v1::NamespaceMode::Pod as i32, ..Default::default() };
    let security_context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security_context.namespace_options = Some(options.clone());
    let request = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let pod = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let mut main = node.shell("main", "exec sleep 1000");
    security(&mut main).namespace_options = Some(options.clone());
    let id = node.launch(&pod, main).await;
    assert_eq!(node.exec(&id, "yes & yes >&2 &").await.exit_code, 0);
    assert_eq!(text(&node.exec(&id, "echo well").await.stdout), "well");
    let mut short = node.shell("short", "yes & exit 7");
    security(&mut short).namespace_options = Some(options);
    let short = node.launch(&pod, short).await;
    assert_eq!(node.ended(&short).await.exit_code, 7);
    assert_eq!(text(&node.exec(&id, "echo still").await.stdout), "still");
    node.finish().await;
}

async fn the_binary_itself_is_an_image() {
    let mut node = Node::start().await;
    let request = v1::ImageStatusRequest {
        image: Some(v1::ImageSpec { image: "keelson.io/keelson:test".to_owned(), ..Default::default() }),
        verbose: false,
    };
    let image = node.images.image_status(request).await.unwrap().into_inner().image.unwrap();
    assert_eq!(image.uid.unwrap().value, 65532);
    let pod = node.sandbox("itself").await;
    let mut config = node.shell("itself", "");
    config.image = Some(v1::ImageSpec { image: image.id, ..Default::default() });
    config.command = Vec::new();
    config.args = vec!["--list".to_owned()];
    let id = node.launch(&pod, config).await;
    let status = node.ended(&id).await;
    assert_eq!(status.exit_code, 0, "{} {status:?}", node.log("itself", "itself"));
    node.finish().await;
}

async fn events_tell_of_every_change() {
    let mut node = Node::start().await;
    let mut events = node.runtime.get_container_events(v1::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = node.sandbox("events").await;
    let id = node.launch(&pod, node.shell("events", "exit 3")).await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let event = tokio::time::timeout(Duration::from_secs(5), events.message()).await;
        let event = event.expect("an event within five seconds").unwrap().unwrap();
        seen.push((event.container_id == id, event.container_event_type()));
        if event.container_event_type() == v1::ContainerEventType::ContainerStoppedEvent {
            assert_eq!(event.containers_statuses[0].exit_code, 3);
        }
    }
    use v1::ContainerEventType as Type;
    let expected = [
        (false, Type::ContainerCreatedEvent),
        (false, Type::ContainerStartedEvent),
        (true, Type::ContainerCreatedEvent),
    ];
    assert_eq!(seen[..3], expected);
    drop(events);
    node.finish().await;
}

async fn creating_takes_milliseconds() {
    let mut node = Node::start().await;
    let mut times = Vec::new();
    for number in 0..10 {
        let name = format!("fast{number}");
        let begin = Instant::now();
        let pod = node.sandbox(&name).await;
        let sandbox = begin.elapsed();
        let id = node.create(&pod, node.shell(&name, "sleep 1000")).await;
        let create = begin.elapsed();
        node.start_container(&id).await.unwrap();
        let start = begin.elapsed();
        node.exec(&id, "true").await;
        times.push((sandbox, create - sandbox, start - create, begin.elapsed() - start));
    }
    println!("sandbox, create, start, exec: {times:.1?}");
    node.finish().await;
}

async fn exec_streams_over_a_websocket() {
    use futures::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut node = Node::start().await;
    let pod = node.sandbox("ws").await;
    let id = node.launch(&pod, node.shell("ws", "sleep 1000")).await;
    let request = v1::ExecRequest {
        container_id: id,
        cmd: ["sh", "-c", "cat; echo bye >&2; exit 4"].map(ToOwned::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
        ..v1::ExecRequest::default()
    };
    let url = node.runtime.exec(request).await.unwrap().into_inner().url;
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let open = || {
        let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io".parse().unwrap());
        request
    };
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(open(), stream).await.unwrap();
    socket.send(Message::Binary(b"\x00hello".to_vec().into())).await.unwrap();
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let mut channels = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        channels.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
    }
    assert_eq!(text(&channels[&1]), "hello");
    assert_eq!(text(&channels[&2]), "bye");
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "4");
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    assert!(tokio_tungstenite::client_async(open(), stream).await.is_err(), "a token is good once");
    node.finish().await;
}

async fn an_attached_terminal_takes_input_and_a_size() {
    use futures::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut node = Node::start().await;
    let pod = node.sandbox("att").await;
    let mut config = node.shell("att", "read line; stty size; echo got $line; exit 6");
    (config.tty, config.stdin) = (true, true);
    let id = node.launch(&pod, config).await;
    let request = v1::AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        tty: true,
        ..v1::AttachRequest::default()
    };
    let url = node.runtime.attach(request).await.unwrap().into_inner().url;
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse().unwrap());
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::Binary(b"\x04{\"Width\":132,\"Height\":43}".to_vec().into())).await.unwrap();
    socket.send(Message::Binary(b"\x00hello\n".to_vec().into())).await.unwrap();
    let mut out = Vec::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        if bytes[0] == 1 {
            out.extend_from_slice(&bytes[1..]);
        }
    }
    let out = text(&out);
    assert!(out.contains("43 132") && out.contains("got hello"), "{out}");
    assert_eq!(node.ended(&id).await.exit_code, 6);
    node.finish().await;
}

async fn an_image_is_pulled_with_credentials_and_exported_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut node = Node::start().await;
    let Registry { address, blobs: asked, .. } = registry(&node.folder.join("busybox.tar"), true).await;
    let pull = |name: &str, auth: Option<v1::AuthConfig>| v1::PullImageRequest {
        image: Some(v1::ImageSpec { image: format!("{address}/{name}"), ..Default::default() }),
        auth,
        sandbox_config: None,
    };
    let auth = Some(v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() });
    let error = node.images.pull_image(pull("team/app", None)).await.unwrap_err();
    assert!(error.message().contains("pull access denied"), "{error}");
    let error = node.images.pull_image(pull("team/app:none", auth.clone())).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound, "{error}");
    // Three at once bring it once, and what broke off is continued.
    let mut clients = [node.images.clone(), node.images.clone(), node.images.clone()];
    let pulls = clients.iter_mut().map(|client| client.pull_image(pull("team/app", auth.clone())));
    let ids = futures::future::try_join_all(pulls).await.unwrap();
    let id = ids[0].get_ref().image_ref.clone();
    let asked = asked.lock().unwrap().clone();
    // The configuration is there already.
    assert_eq!(asked.iter().filter(|(_, range)| range.is_empty()).count(), 2, "{asked:?}");
    let (large, range) = asked.iter().find(|(_, range)| !range.is_empty()).unwrap();
    assert_eq!(asked.iter().filter(|(name, _)| name == large).count(), 2, "{asked:?}");
    assert!(range != "bytes=0-", "{asked:?}");
    let request = v1::ImageStatusRequest {
        image: Some(v1::ImageSpec { image: format!("{address}/team/app:latest"), ..Default::default() }),
        verbose: false,
    };
    let image = node.images.image_status(request.clone()).await.unwrap().into_inner().image.unwrap();
    assert_eq!(image.id, id);
    assert!(image.repo_digests.iter().any(|name| name.contains("/team/app@sha256:")), "{image:?}");

    let store = keelson_runtime::image::ImageStore::open(node.config.root.join("images")).unwrap();
    let file = node.folder.join("exported.tar");
    store.export(&id, std::fs::File::create(&file).unwrap()).unwrap();
    let remove =
        v1::RemoveImageRequest { image: Some(v1::ImageSpec { image: id.clone(), ..Default::default() }) };
    node.images.remove_image(remove).await.unwrap();
    assert!(node.images.image_status(request).await.unwrap().into_inner().image.is_none());
    let imported = store.import(&file, Some("example.org/again:1")).unwrap();
    assert_eq!(imported[0].id, id);
    node.finish().await;
}

async fn a_mirror_serves_what_has_a_digest_and_sees_no_credentials_of_the_registry() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut node = Node::start().await;
    let archive = node.folder.join("busybox.tar");
    let (registry, mirror) = (registry(&archive, true).await, registry(&archive, false).await);
    let hosts = node.folder.join("certs.d").join(registry.address.to_string());
    std::fs::create_dir_all(&hosts).unwrap();
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", mirror.address);
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    let image = format!("{}/team/app", registry.address);
    let auth = v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec { image, ..Default::default() }),
        auth: Some(auth),
        sandbox_config: None,
    };
    node.images.pull_image(request).await.unwrap();
    let of = |asked: &Registry| asked.requests.lock().unwrap().clone();
    let (of_registry, of_mirror) = (of(&registry), of(&mirror));
    // What the tag stands for, the registry says; all else comes from the mirror, which is told whose it is.
    assert!(of_registry.iter().any(|(uri, _)| uri.path().ends_with("/manifests/latest")), "{of_registry:?}");
    assert!(registry.blobs.lock().unwrap().is_empty());
    let asked: Vec<_> = of_mirror.iter().filter(|(uri, _)| uri.path() != "/v2/").collect();
    let namespace = format!("ns={}", registry.address);
    assert!(asked.iter().any(|(uri, _)| uri.path().contains("/manifests/sha256:")), "{asked:?}");
    assert!(!asked.iter().any(|(uri, _)| uri.path().ends_with("/latest")), "{asked:?}");
    assert!(asked.iter().all(|(uri, _)| uri.query() == Some(namespace.as_str())), "{asked:?}");
    assert!(of_mirror.iter().all(|(_, with_credentials)| !with_credentials), "{of_mirror:?}");
    node.finish().await;
}

async fn volumes_are_mounted_and_a_privileged_container_has_the_devices_of_the_node() {
    let mut node = Node::start().await;
    let volume = node.folder.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let mount = |container_path: &str, host_path: &std::path::Path, readonly: bool| v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        readonly,
        ..Default::default()
    };
    let pod = node.sandbox("vol").await;
    let mut config = node.shell("vol", "sleep 1000");
    config.mounts = vec![
        mount("/data/deep/file", &volume.join("file"), true),
        mount("/data", &volume, false),
        mount("/etc/hosts", &volume.join("file"), true),
    ];
    let id = node.launch(&pod, config).await;
    let exec =
        node.exec(&id, "cat /etc/hosts /data/deep/file; touch /data/new && echo x > /data/deep/file").await;
    assert_eq!(text(&exec.stdout), "contentcontent", "{exec:?}");
    assert!(text(&exec.stderr).contains("Read-only"), "{exec:?}");
    assert!(volume.join("new").exists());

    let mut sandbox = node.sandbox_config("host");
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node as i32,
        pid: v1::NamespaceMode::Node as i32,
        ipc: v1::NamespaceMode::Node as i32,
        ..Default::default()
    };
    sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options =
        Some(options.clone());
    let request = v1::RunPodSandboxRequest { config: Some(sandbox), ..Default::default() };
    let pod = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let mut config = node.shell("host", "sleep 1000");
    security(&mut config).namespace_options = Some(options);
    security(&mut config).privileged = true;
    let id = node.launch(&pod, config).await;
    let exec = node
        .exec(&id, "cat /proc/self/status; ls /dev/kmsg; mount -t tmpfs x /mnt || mount -t tmpfs x /srv")
        .await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find(|line| line.starts_with("CapBnd:")).unwrap();
    let out = text(&exec.stdout);
    assert!(out.contains(bounding) && out.contains("Seccomp:\t0") && out.contains("/dev/kmsg"), "{exec:?}");
    let net = text(&node.exec(&id, "ls -l /proc/self/ns/net").await.stdout);
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(net.ends_with(host.to_str().unwrap()), "{net}");

    let pause = std::fs::read_to_string(node.config.root.join("pods").join(&pod).join("pause.json")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pause}/stat")).unwrap();
    let parent = stat.split(' ').nth(3).unwrap();
    let memory = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let wanted = |line: &&str| line.starts_with("Pss:") || line.starts_with("Private_Dirty:");
        text.lines().filter(wanted).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    println!("memory of pod process and pause: {:?} {:?}", memory(parent), memory(&pause));
    node.finish().await;
}

async fn a_pod_with_its_own_users_has_volumes_in_volumes_and_images_and_leaves_the_nodes_mounts_alone() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::os::unix::fs::MetadataExt as _;
    let mut node = Node::start().await;
    // A file system of the node in another one that is shared, as "/" mostly is.
    let shared = node.folder.join("shared");
    let inner = shared.join("inner");
    let tmpfs = |path: &std::path::Path| {
        std::fs::create_dir(path).unwrap();
        mount(Some("test"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    };
    tmpfs(&shared);
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    tmpfs(&inner);
    std::fs::write(inner.join("file"), "content").unwrap();
    let small = node.folder.join("small");
    std::fs::create_dir(&small).unwrap();
    std::fs::write(small.join("file"), "small").unwrap();

    let ids = v1::IdMapping { host_id: 1 << 20, container_id: 0, length: 65536 };
    let options = v1::NamespaceOption {
        pid: v1::NamespaceMode::Container as i32,
        userns_options: Some(v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: vec![ids],
            gids: vec![ids],
        }),
        ..Default::default()
    };
    let mut sandbox = node.sandbox_config("users");
    sandbox.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options =
        Some(options.clone());
    let request = v1::RunPodSandboxRequest { config: Some(sandbox), ..Default::default() };
    let pod = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let volume = |container_path: &str, host_path: &std::path::Path| v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Default::default()
    };
    let mut config = node.shell("users", "sleep 1000");
    security(&mut config).namespace_options = Some(options.clone());
    config.working_dir = "/data/made/below".to_owned();
    config.mounts = vec![
        volume("/data/place/deep", &small),
        volume("/data/place/file", &small.join("file")),
        v1::Mount {
            propagation: v1::MountPropagation::PropagationHostToContainer as i32,
            ..volume("/data", &shared)
        },
        v1::Mount {
            container_path: "/image".to_owned(),
            image: Some(v1::ImageSpec { image: "busybox:test".to_owned(), ..Default::default() }),
            ..Default::default()
        },
    ];
    let id = node.launch(&pod, config.clone()).await;
    let exec = node
        .exec(
            &id,
            "cat /data/inner/file /data/place/deep/file /data/place/file /image/shown; pwd; touch new; id -u",
        )
        .await;
    assert_eq!(text(&exec.stdout), "contentsmallsmallyes\n/data/made/below\n0", "{exec:?}");
    let exec = node.exec(&id, "ls -ldn /image/bin/busybox /data /data/made /data/made/below/new | while read a b u g r; do echo $u $g; done").await;
    assert_eq!(text(&exec.stdout), "0 0\n0 0\n0 0\n0 0", "{exec:?}");
    let exec = node.exec(&id, "touch /image/new").await;
    assert!(text(&exec.stderr).contains("Read-only"), "{exec:?}");
    // To the node they are its root's, as all that is in the volume.
    assert_eq!(shared.join("made/below/new").metadata().unwrap().uid(), 0);
    assert_eq!(shared.join("place/deep").metadata().unwrap().uid(), 0);
    // What is mounted there later is seen.
    tmpfs(&shared.join("later"));
    std::fs::write(shared.join("later/file"), "later").unwrap();
    assert_eq!(text(&node.exec(&id, "cat /data/later/file").await.stdout), "later");

    config.mounts[2].propagation = v1::MountPropagation::PropagationBidirectional as i32;
    config.metadata.as_mut().unwrap().name = "both".to_owned();
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(config.clone()),
        sandbox_config: None,
    };
    let refused = node.runtime.create_container(request).await.unwrap_err();
    assert!(refused.message().contains("bidirectional mount propagation"), "{refused}");

    node.runtime.remove_container(v1::RemoveContainerRequest { container_id: id }).await.unwrap();
    assert_eq!(std::fs::read_to_string(inner.join("file")).unwrap(), "content");
    // The same of a volume that hears of nothing.
    config.mounts[2].propagation = v1::MountPropagation::PropagationPrivate as i32;
    config.metadata.as_mut().unwrap().name = "private".to_owned();
    let id = node.launch(&pod, config).await;
    assert_eq!(text(&node.exec(&id, "cat /data/inner/file").await.stdout), "content");
    node.runtime.remove_container(v1::RemoveContainerRequest { container_id: id }).await.unwrap();
    assert_eq!(std::fs::read_to_string(inner.join("file")).unwrap(), "content");
    for path in [shared.join("later"), inner, shared] {
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
    }
    node.finish().await;
}

async fn limits_change_while_a_container_runs() {
    let mut node = Node::start().await;
    let pod = node.sandbox("limit").await;
    let id = node.launch(&pod, node.shell("limit", "sleep 1000")).await;
    let linux = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 128,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux.clone()),
        ..Default::default()
    };
    node.runtime.update_container_resources(request).await.unwrap();
    let group = format!("{}/burstable/podlimit/{id}", node.config.cgroup_root);
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        let limit = format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes");
        assert_eq!(std::fs::read_to_string(limit).unwrap().trim(), (64 << 20).to_string());
        let shares = format!("/sys/fs/cgroup/cpu{group}/cpu.shares");
        assert_eq!(std::fs::read_to_string(shares).unwrap().trim(), "128");
    }
    let status = node.status(&id).await;
    assert_eq!(status.resources.unwrap().linux.unwrap(), linux);
    node.finish().await;
}

async fn a_port_is_forwarded_into_the_network_of_the_pod() {
    use futures::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut node = Node::start().await;
    let pod = node.sandbox("fwd").await;
    let id = node.launch(&pod, node.shell("fwd", "nc -l -p 8080 -e cat; sleep 1000")).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !text(&node.exec(&id, "cat /proc/net/tcp /proc/net/tcp6").await.stdout).contains(":1F90") {
        assert!(Instant::now() < deadline, "nothing listens");
    }
    let request = v1::PortForwardRequest { pod_sandbox_id: pod, port: vec![8080] };
    let url = node.runtime.port_forward(request).await.unwrap().into_inner().url;
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse().unwrap());
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::Binary(b"\x00ping".to_vec().into())).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match tokio::time::timeout(Duration::from_secs(5), socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(bytes))) => seen.push(bytes.to_vec()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [vec![0, 0x90, 0x1f], vec![1, 0x90, 0x1f], b"\x00ping".to_vec()]);
    node.finish().await;
}
