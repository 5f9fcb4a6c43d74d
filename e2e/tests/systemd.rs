//! Control groups that systemd makes: a node on a machine whose init is the real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use keelson_e2e::{Cluster, Containerd, LONG, Pod, ROOM, eventually};

const SETTINGS: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                        evictionHard: {memory.available: 100Mi}\ncgroupDriver: ";

fn settings(cluster: &Cluster, driver: &str) -> String {
    let path = cluster.folder().join("systemd.yaml");
    fs::write(&path, format!("{SETTINGS}{driver}\n")).unwrap();
    path.to_string_lossy().into_owned()
}

fn pod(name: &str, resources: &str, script: &str) -> String {
    let resources = format!("resources: {{{resources}}}");
    Pod::new(name).spec("restartPolicy: Never").script(script).container(&resources).to_string()
}

/// The groups of a pod's main process by hierarchy, as the machine of the tests sees them.
fn groups(cluster: &Cluster, pod: &str) -> Vec<(String, String)> {
    let process = cluster.main_process(pod).unwrap();
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1).map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap())
    };
    text.lines().map(line).collect()
}

/// A file of the group of a pod's container, or of the group above it, of version 1 or 2.
fn file(cluster: &Cluster, pod: &str, controller: &str, above: &str, names: [&str; 2]) -> String {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let of = |(all, _): &(String, String)| unified || all.split(',').any(|one| one == controller);
    let (_, group) = groups(cluster, pod).into_iter().find(of).unwrap();
    let (controller, name) = if unified { ("", names[1]) } else { (controller, names[0]) };
    let path = format!("/sys/fs/cgroup/{controller}{group}/{above}{name}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

fn memory(cluster: &Cluster, pod: &str, above: &str) -> u64 {
    let names = ["memory.limit_in_bytes", "memory.max"];
    file(cluster, pod, "memory", above, names).parse::<u64>().unwrap() >> 20
}

/// A property of a unit, as systemd says.
fn property(cluster: &Cluster, unit: &str, name: &str) -> String {
    let told = cluster.on_the_host("systemctl", &["show", "--value", "--property", name, unit]).unwrap();
    told.trim().to_owned()
}

fn memory_property() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "MemoryMax" } else { "MemoryLimit" }
}

fn scope(cluster: &Cluster, pod: &str) -> String {
    let id = cluster.pod(pod, ".status.containerStatuses[0].containerID").unwrap();
    format!("keelson-{}.scope", id.rsplit('/').next().unwrap())
}

/// Paths below the groups of the machine, in any hierarchy, that have this in their names.
fn left(cluster: &Cluster, part: &str) -> String {
    let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let roots = roots.chain([Path::new("/sys/fs/cgroup").to_owned()]);
    let roots: Vec<_> = roots.map(|root| root.join(cluster.groups())).filter(|root| root.is_dir()).collect();
    assert!(!roots.is_empty());
    let mut find = std::process::Command::new("find");
    let found = find.args(roots).args(["-name", &format!("*{part}*")]).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

/// systemd forgets a unit soon after its end.
fn no_unit(cluster: &Cluster, part: &str) {
    eventually("the units to be forgotten", LONG, || {
        let list = ["list-units", "--all", "--plain", "--no-legend"];
        Ok((!cluster.on_the_host("systemctl", &list)?.contains(part)).then_some(()))
    })
    .unwrap();
}

#[test]
fn pods_are_in_slices_and_containers_in_scopes() {
    let cluster = Cluster::namespaces_with_systemd().unwrap();
    let wrong = cluster.keelson(&["up", "--kubelet-config", &settings(&cluster, "runc")]).unwrap();
    let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && told.contains("expected `cgroupfs` or `systemd`"), "{told}");
    let settings = settings(&cluster, "systemd");
    let again = ["--kubelet-config", settings.as_str()];
    cluster.continue_with(&again).unwrap();
    cluster.apply(&pod("sure", "limits: {memory: 48Mi, cpu: 500m}", "exec sleep infinity")).unwrap();
    let some = "requests: {memory: 16Mi, cpu: 100m}, limits: {memory: 64Mi}";
    cluster.apply(&pod("some", some, "exec sleep infinity")).unwrap();
    cluster.apply(&pod("free", "", "exec sleep infinity")).unwrap();
    for name in ["sure", "some", "free"] {
        cluster.wait(name, "condition=Ready").unwrap();
    }

    // Everywhere, also where systemd itself looks.
    for (name, class) in [("sure", ""), ("some", "-burstable"), ("free", "-besteffort")] {
        let uid = cluster.pod(name, ".metadata.uid").unwrap().replace('-', "_");
        let end = format!("-kubepods{class}-pod{uid}.slice/{}", scope(&cluster, name));
        for (hierarchy, group) in groups(&cluster, name) {
            assert!(group.ends_with(&end), "{name}: {hierarchy}: {group} is not ..{end}");
            assert!(group.starts_with(&format!("/{}/keelson_", cluster.groups())), "{group}");
        }
        let slice = property(&cluster, &scope(&cluster, name), "Slice");
        assert!(slice.ends_with(&format!("-kubepods{class}-pod{uid}.slice")), "{slice}");
    }
    // The kernel has what was asked for, and systemd knows it.
    assert_eq!((memory(&cluster, "sure", ""), memory(&cluster, "sure", "../")), (48, 48));
    assert_eq!((memory(&cluster, "some", ""), memory(&cluster, "some", "../")), (64, 64));
    let of_scope = |pod: &str, name: &str| property(&cluster, &scope(&cluster, pod), name);
    assert_eq!(of_scope("sure", memory_property()), (48 << 20).to_string());
    assert_eq!(of_scope("sure", "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(
        (of_scope("sure", "Delegate"), of_scope("sure", "DevicePolicy")),
        ("yes".into(), "strict".into())
    );
    let slice = of_scope("sure", "Slice");
    assert_eq!(property(&cluster, &slice, memory_property()), (48 << 20).to_string());
    assert_eq!(property(&cluster, &slice, "TasksMax"), "4096");
    let quota = file(&cluster, "sure", "cpu", "", ["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(quota.split(' ').next(), Some("50000"));

    // What looks at groups finds them.
    let node = cluster.field(&["nodes"], ".items[0].metadata.name").unwrap();
    let url = format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor");
    let metrics = cluster.kubectl(&["get", "--raw", &url]).unwrap();
    for name in ["sure", "some", "free"] {
        let scope = scope(&cluster, name);
        let is_its =
            |line: &&str| line.starts_with("container_memory_working_set_bytes") && line.contains(&scope);
        let line = metrics.lines().find(is_its).unwrap_or_else(|| panic!("{metrics}"));
        assert!(line.contains(&format!("pod=\"{name}\"")), "{line}");
        let of_network = |line: &&str| {
            line.starts_with("container_network_receive_bytes_total")
                && line.contains(&format!("pod=\"{name}\""))
        };
        let interfaces: Vec<_> = metrics.lines().filter(of_network).collect();
        assert!(interfaces.len() == 1 && interfaces[0].contains("interface=\"eth0\""), "{interfaces:?}");
    }
    // What holds a scope open is none of the pod's processes: those are its own one, and the one of its sandbox.
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(file(&cluster, "sure", "pids", "../", ["pids.current", "pids.current"]), "2");
    }
    let url = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary = cluster.kubectl(&["get", "--raw", &url]).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let mut pods = summary["pods"].as_array().unwrap().iter();
    let sure = pods.find(|pod| pod["podRef"]["name"] == "sure").unwrap();
    assert_eq!(sure["process_stats"]["process_count"], 2, "{sure}");
    // What is executed in a container is in its scope.
    cluster.exec("sure", &["sh", "-c", "sleep 1234 > /dev/null 2>&1 &"]).unwrap();
    let find = "for it in /proc/[0-9]*; do \
                [ \"$(cat $it/comm)\" != sleep ] || ! grep -qz 1234 $it/cmdline || cat $it/cgroup; done 2>/dev/null; true";
    let inside = eventually("the command to run", LONG, || {
        let groups = cluster.on_the_host("sh", &["-c", find])?;
        Ok((!groups.is_empty()).then_some(groups))
    })
    .unwrap();
    let scope_of_it = scope(&cluster, "sure");
    assert!(inside.lines().all(|line| line.ends_with(&scope_of_it)), "{inside}");

    // Who runs out of memory is known for it, though the scope goes with its last process.
    for number in 0..5 {
        let hungry = format!("hungry-{number}");
        cluster.apply(&pod(&hungry, "limits: {memory: 24Mi}", "exec tail /dev/zero")).unwrap();
        cluster.wait(&hungry, "jsonpath={.status.phase}=Failed").unwrap();
        let reason = cluster.pod(&hungry, ".status.containerStatuses[0].state.terminated.reason").unwrap();
        assert_eq!(reason, "OOMKilled");
        cluster.kubectl(&["delete", "pod", &hungry]).unwrap();
    }

    // Neither Keelson's end nor systemd's restart ends them.
    let before = ["sure", "some", "free"].map(|name| cluster.main_process(name).unwrap());
    cluster.kill_inside().unwrap();
    cluster.on_the_host("systemctl", &["daemon-reexec"]).unwrap();
    // As of a pod whose sandbox was still to come.
    let stranger = slice.rsplit_once("-pod").unwrap().0.to_owned() + "-pod11aa_22bb.slice";
    cluster.on_the_host("systemctl", &["start", &stranger]).unwrap();
    cluster.continue_with(&again).unwrap();
    no_unit(&cluster, "pod11aa_22bb");
    cluster
        .kubectl(&["wait", "pod", "sure", "some", "free", "--for=condition=Ready", "--timeout=120s"])
        .unwrap();
    assert_eq!(["sure", "some", "free"].map(|name| cluster.main_process(name).unwrap()), before);
    // With the connection that there was.
    cluster.on_the_host("systemctl", &["daemon-reexec"]).unwrap();
    cluster.apply(&pod("late", "limits: {memory: 32Mi}", "exec sleep infinity")).unwrap();
    cluster.wait("late", "condition=Ready").unwrap();
    assert_eq!((memory(&cluster, "late", ""), memory(&cluster, "late", "../")), (32, 32));

    // A resize reaches the kernel and systemd, and systemd takes nothing of it back.
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"100m","memory":"32Mi"},"limits":{"memory":"96Mi"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "some", "--subresource", "resize", "-p", patch]).unwrap();
    eventually("the pod to have more", LONG, || {
        Ok(((memory(&cluster, "some", ""), memory(&cluster, "some", "../")) == (96, 96)).then_some(()))
    })
    .unwrap();
    eventually("systemd to know it", LONG, || {
        let all = [scope(&cluster, "some"), property(&cluster, &scope(&cluster, "some"), "Slice")];
        let told = all.map(|unit| property(&cluster, &unit, memory_property()));
        Ok(told.iter().all(|told| *told == (96 << 20).to_string()).then_some(()))
    })
    .unwrap();
    cluster.on_the_host("systemctl", &["daemon-reload"]).unwrap();
    assert_eq!((memory(&cluster, "some", ""), memory(&cluster, "sure", "")), (96, 48));
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let devices = file(&cluster, "sure", "devices", "", ["devices.list", ""]);
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"), "{devices}");
    }

    // Nothing is left of a pod, and nothing of a cluster.
    let uid = cluster.pod("some", ".metadata.uid").unwrap().replace('-', "_");
    cluster.kubectl(&["delete", "pod", "some", "free", "late"]).unwrap();
    eventually("the pod's groups to be gone", LONG, || Ok(left(&cluster, &uid).is_empty().then_some(())))
        .unwrap();
    no_unit(&cluster, &uid);
    let printed = cluster.reset().unwrap();
    assert_eq!(left(&cluster, "keelson_"), "", "{printed}");
    no_unit(&cluster, "kubepods");
}

/// A cluster whose pods containerd runs. The cluster goes first: it ends its pods there, and its machine ends containerd.
struct Elsewhere {
    cluster: Cluster,
    _engine: Containerd,
}

#[test]
fn pods_of_containerd_are_in_slices_and_their_containers_in_its_scopes() {
    let cluster = Cluster::namespaces_with_systemd().unwrap();
    let engine = Containerd::start_with_systemd(&cluster, ROOM).unwrap();
    let Elsewhere { cluster, .. } = &Elsewhere { cluster, _engine: engine };
    cluster.continue_with(&[]).unwrap();
    cluster.apply(&pod("sure", "limits: {memory: 48Mi, cpu: 500m}", "exec sleep infinity")).unwrap();
    let some = "requests: {memory: 16Mi, cpu: 100m}, limits: {memory: 64Mi}";
    cluster.apply(&pod("some", some, "exec sleep infinity")).unwrap();
    let metrics = || {
        let node = cluster.field(&["nodes"], ".items[0].metadata.name")?;
        cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor")])
    };
    for (name, class) in [("sure", ""), ("some", "-burstable")] {
        cluster.wait(name, "condition=Ready").unwrap();
        let uid = cluster.pod(name, ".metadata.uid").unwrap().replace('-', "_");
        let id = cluster.pod(name, ".status.containerStatuses[0].containerID").unwrap();
        let scope = format!("cri-containerd-{}.scope", id.strip_prefix("containerd://").unwrap());
        let end = format!("-kubepods{class}-pod{uid}.slice/{scope}");
        let memory_group = |(all, group): &(String, String)| {
            (all.is_empty() || all.split(',').any(|one| one == "memory")).then(|| group.clone())
        };
        let group = groups(cluster, name).iter().find_map(memory_group).unwrap();
        assert!(group.ends_with(&end), "{name}: {group} is not ..{end}");
        assert!(property(cluster, &scope, "Slice").ends_with(&format!("-kubepods{class}-pod{uid}.slice")));
        let metrics = metrics().unwrap();
        let is_its =
            |line: &&str| line.starts_with("container_memory_working_set_bytes") && line.contains(&scope);
        let line = metrics.lines().find(is_its).unwrap_or_else(|| panic!("{metrics}"));
        assert!(line.contains(&format!("pod=\"{name}\"")), "{line}");
    }
    assert_eq!((memory(cluster, "sure", ""), memory(cluster, "sure", "../")), (48, 48));
    assert_eq!((memory(cluster, "some", ""), memory(cluster, "some", "../")), (64, 64));

    // Neither Keelson's end nor systemd's restart ends them, and a resize reaches the kernel.
    let before = ["sure", "some"].map(|name| cluster.main_process(name).unwrap());
    cluster.kill_inside().unwrap();
    cluster.on_the_host("systemctl", &["daemon-reexec"]).unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.kubectl(&["wait", "pod", "sure", "some", "--for=condition=Ready", "--timeout=120s"]).unwrap();
    assert_eq!(["sure", "some"].map(|name| cluster.main_process(name).unwrap()), before);
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"100m","memory":"32Mi"},"limits":{"memory":"96Mi"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "some", "--subresource", "resize", "-p", patch]).unwrap();
    eventually("the pod to have more", LONG, || {
        Ok(((memory(cluster, "some", ""), memory(cluster, "some", "../")) == (96, 96)).then_some(()))
    })
    .unwrap();

    // Nothing is left of a pod, and nothing of a cluster.
    let uid = cluster.pod("some", ".metadata.uid").unwrap().replace('-', "_");
    cluster.kubectl(&["delete", "pod", "some"]).unwrap();
    eventually("the pod's groups to be gone", LONG, || Ok(left(cluster, &uid).is_empty().then_some(())))
        .unwrap();
    no_unit(cluster, &uid);
    let printed = cluster.reset().unwrap();
    assert_eq!(left(cluster, "keelson_"), "", "{printed}");
    no_unit(cluster, "kubepods");
}

/// The example of settings in the README, but for those that need a login manager.
fn example() -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let begin = readme.find("apiVersion: kubelet.config.k8s.io/v1beta1\n").unwrap();
    let text = readme[begin..].split("```").next().unwrap();
    text.lines().filter(|line| !line.starts_with("shutdown")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_settings_that_the_readme_shows_go_together() {
    let cluster = Cluster::namespaces_with_systemd().unwrap();
    let settings = cluster.folder().join("example.yaml");
    fs::write(&settings, example()).unwrap();
    let settings = settings.to_string_lossy().into_owned();
    cluster.continue_with(&["--kubelet-config", &settings]).unwrap();
    cluster.apply(&pod("sure", "limits: {memory: 48Mi, cpu: 1}", "exec sleep infinity")).unwrap();
    cluster.wait("sure", "condition=Ready").unwrap();
    // Whole processors of its own, but not the one that is left to the machine.
    let own = file(&cluster, "sure", "cpuset", "", ["cpuset.cpus", "cpuset.cpus.effective"]);
    assert_eq!(own.split(',').flat_map(|part| part.split('-')).filter(|one| *one == "0").count(), 0, "{own}");
    let allocatable =
        |field: &str| cluster.field(&["nodes"], &format!(".items[0].status.{field}")).unwrap().parse::<u64>();
    assert_eq!(allocatable("allocatable.pods"), Ok(250));
    cluster.reset().unwrap();
    assert_eq!(left(&cluster, "kubepods"), "");
}

#[test]
fn without_systemd_the_driver_is_refused() {
    let cluster = Cluster::namespaces().unwrap();
    cluster.on_the_host("mount", &["-t", "tmpfs", "own", "/run"]).unwrap();
    let refused = cluster.keelson(&["up", "--kubelet-config", &settings(&cluster, "systemd")]).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    assert!(
        told.contains("/run/systemd/system is not there") && told.contains("cgroupDriver: cgroupfs"),
        "{told}"
    );
}
