//! What a node shares out, and what becomes of pods that take more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use keelson_e2e::{BUSYBOX, Cluster, Engine, LONG, Node, PATIENCE, Topic, eventually};
use serde_json::json;

/// Huge pages are the machine's: while one test has set some aside, another does not measure how much memory there is.
static HUGE_PAGES: Mutex<()> = Mutex::new(());

fn huge_pages_alone() -> MutexGuard<'static, ()> {
    HUGE_PAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pod of containers with what each asks for and does, as JSON or YAML in one line.
fn pod(name: &str, further: &str, containers: &[(&str, &str, &str)]) -> String {
    let container = |(name, further, command): &(&str, &str, &str)| {
        format!("  - {{name: {name}, image: \"{BUSYBOX}\", {further} command: [sh, -c, \"{command}\"]}}\n")
    };
    let containers: String = containers.iter().map(container).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  {further}\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n{containers}"
    )
}

/// Waits until a pod was evicted, and answers why.
fn evicted(cluster: &Cluster, name: &str) -> String {
    cluster.wait(name, "jsonpath={.status.reason}=Evicted").unwrap();
    assert_eq!(cluster.pod(name, ".status.phase").unwrap(), "Failed");
    let message = cluster.pod(name, ".status.message").unwrap();
    eventually("the eviction to be told", LONG, || {
        let selector = format!("involvedObject.name={name},reason=Evicted,type=Warning");
        let told = cluster.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        Ok((told == message).then_some(()))
    })
    .unwrap();
    message
}

/// One after another on the same node: the last one fills its disk.
const TOPICS: [(&str, Topic); 3] =
    [("local storage", local_storage), ("admission", admission), ("full disk", full_disk)];

#[test]
fn pods_that_take_more_than_they_may_or_do_not_fit_end_and_others_stay() {
    shared_out(Engine::Embedded);
}

#[test]
fn pods_in_containerd_that_take_more_than_they_may_or_do_not_fit_end_and_others_stay() {
    shared_out(Engine::Containerd);
}

/// Whatever comes, the machine has its memory back.
struct HugePages {
    _alone: MutexGuard<'static, ()>,
}

impl Drop for HugePages {
    fn drop(&mut self) {
        huge_pages(0);
    }
}

fn shared_out(engine: Engine) {
    let alone = HugePages { _alone: huge_pages_alone() };
    // Unless the kernel has not as many to give.
    let has_pages = huge_pages(4) == 4;
    let node = Node::up(engine, "").unwrap();
    let huge: &[(&str, Topic)] = &[("huge pages", huge_pages_of_pods)];
    node.shows(if has_pages { huge } else { &[] });
    drop(alone);
    node.shows(&TOPICS);
}

/// A pod that writes more than it may is evicted, and its neighbour is not.
fn local_storage(cluster: &Node) {
    let limit = |size: &str| format!("resources: {{limits: {{ephemeral-storage: {size}}}}},");
    let write = |path: &str| format!("dd if=/dev/zero of={path} bs=1M count=20; sleep infinity");
    let (small, large, sleep) = (limit("10Mi"), limit("100Mi"), "sleep infinity");
    let cache = "volumes: [{name: cache, emptyDir: {sizeLimit: 10Mi}}]";
    let mount = "volumeMounts: [{name: cache, mountPath: /cache}],";
    cluster.apply(&pod("neighbour", cache, &[("a", &format!("{mount} {large}"), sleep)])).unwrap();
    cluster.apply(&pod("volume", cache, &[("a", mount, &write("/cache/file"))])).unwrap();
    cluster.apply(&pod("whole", "", &[("a", &small, &write("/file"))])).unwrap();
    cluster.apply(&pod("part", "", &[("a", &small, &write("/file")), ("b", &large, sleep)])).unwrap();
    assert_eq!(evicted(cluster, "volume"), "Usage of EmptyDir volume \"cache\" exceeds the limit \"10Mi\". ");
    assert_eq!(
        evicted(cluster, "whole"),
        "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
    );
    assert_eq!(evicted(cluster, "part"), "Container a exceeded its local ephemeral storage limit \"10Mi\". ");
    assert_eq!(cluster.pod("neighbour", ".status.phase").unwrap(), "Running");
}

/// What is said of settings with which a node does not start.
fn refused_settings(node: &Node, settings: &str) -> String {
    node.configure(settings).unwrap();
    let refused = node.keelson(&["up", "-d"]).unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    std::fs::read_to_string(node.data_dir().join("log/keelson.log")).unwrap()
}

fn node_name(cluster: &Cluster) -> String {
    cluster.field(&["nodes"], ".items[0].metadata.name").unwrap()
}

fn node_condition(cluster: &Cluster, kind: &str, status: &str) {
    let what = format!("--for=condition={kind}={status}");
    cluster.kubectl(&["wait", "node", &node_name(cluster), &what, "--timeout=120s"]).unwrap();
}

/// Waits until an event of a reason is told of the node whose message has a text.
fn node_event(cluster: &Cluster, reason: &str, text: &str) {
    eventually(&format!("{reason} {text:?}"), LONG, || {
        let about = format!("involvedObject.kind=Node,reason={reason}");
        let messages = "jsonpath={.items[*].message}";
        let told = cluster.kubectl(&["get", "events", "-A", "--field-selector", &about, "-o", messages])?;
        Ok(told.contains(text).then_some(()))
    })
    .unwrap();
}

fn memory_mebibytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

/// A control group of the machine, in all hierarchies; it goes with what is below it.
struct Group(String);

impl Group {
    /// The name of one that is yet to be made.
    fn named(cluster: &Cluster, end: &str) -> Self {
        Group(format!("e2e-{}{end}", cluster.holder()))
    }

    fn folders(&self) -> Vec<std::path::PathBuf> {
        let mount = std::path::Path::new("/sys/fs/cgroup");
        if mount.join("cgroup.controllers").exists() {
            return vec![mount.join(&self.0)];
        }
        let hierarchies = std::fs::read_dir(mount).unwrap().flatten();
        let real = hierarchies.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir()));
        real.map(|one| one.path().join(&self.0)).collect()
    }

    fn make(&self) {
        self.folders().iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
    }

    /// What the file of version 1 or 2 holds, of the group or of one below.
    fn holds(&self, below: &str, names: [&str; 2]) -> String {
        let paths =
            self.folders().into_iter().flat_map(|folder| names.map(|name| folder.join(below).join(name)));
        let mut texts = paths.filter_map(|path| std::fs::read_to_string(path).ok());
        texts.next().unwrap_or_else(|| panic!("{}/{below} has none of {names:?}", self.0)).trim().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.folders() {
            let _ = std::process::Command::new("find")
                .args([folder.as_os_str(), "-depth".as_ref(), "-type".as_ref(), "d".as_ref()])
                .args(["-exec", "rmdir", "{}", ";"])
                .output();
        }
    }
}

/// On a node that has evicted a pod for want of memory.
fn the_kubelet_says_what_it_does(cluster: &Cluster) {
    let ask = |path: &str| {
        let url = format!("/api/v1/nodes/{}/proxy/{path}", node_name(cluster));
        cluster.kubectl(&["get", "--raw", &url]).unwrap()
    };
    let metrics = ask("metrics");
    let count = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let evicted = metrics.lines().filter(|line| line.starts_with("kubelet_evictions{"));
    assert!(evicted.clone().any(|line| line.contains("emory.available\"}")), "{metrics}");
    for name in [
        "kubelet_pleg_relist_duration_seconds_count",
        "kubelet_pleg_last_seen_seconds",
        "kubelet_pod_start_sli_duration_seconds_count",
        "kubelet_pod_worker_start_duration_seconds_count",
        "kubelet_pod_worker_duration_seconds_count{operation_type=\"create\"}",
        "kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"\"}",
    ] {
        assert!(count(name) > 0.0, "{name}");
    }
    let status = ask("statusz");
    assert!(
        status.starts_with("\nkubelet statusz\nWarning: ") && status.contains("\nPaths: /attach "),
        "{status}"
    );
    let flags = ask("flagz");
    let enforced = "\nenforce-node-allocatable=[pods,system-reserved]\n";
    assert!(flags.starts_with("\nkubelet flagz\nWarning: ") && flags.contains(enforced), "{flags}");
}

#[test]
fn when_pods_use_up_their_memory_the_one_furthest_above_its_request_is_evicted() {
    used_up_memory(Engine::Embedded);
}

#[test]
fn when_pods_in_containerd_use_up_their_memory_the_one_furthest_above_its_request_is_evicted() {
    used_up_memory(Engine::Containerd);
}

fn used_up_memory(engine: Engine) {
    let _alone = huge_pages_alone();
    let kept = memory_mebibytes() - 600;
    let cluster = Node::on(Cluster::namespaces().unwrap(), engine).unwrap();
    let groups = (Group::named(&cluster, ""), Group::named(&cluster, "-pods"));
    // What was declared last goes first, and the groups go after the cluster.
    let cluster = cluster;
    let (group, root) = (&groups.0, &groups.1);
    let settings = format!(
        "cgroupRoot: /{}\nsystemReserved: {{memory: {kept}Mi, cpu: 100m, pid: '5000'}}\nsystemReservedCgroup: /{}\n\
         enforceNodeAllocatable: [pods, system-reserved]\n",
        root.0, group.0
    );
    let told = refused_settings(&cluster, &settings);
    assert!(told.contains(&format!("invalid configuration: cgroup [\"{}\"]", root.0)), "{told}");
    root.make();
    let told = refused_settings(&cluster, &settings);
    let missing = format!("Failed to enforce System Reserved Cgroup Limits on \"/{0}\": ", group.0);
    assert!(told.contains(&missing) && told.contains(&format!("cgroup [\"{}\"]", group.0)), "{told}");
    group.make();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(group.holds("", ["memory.limit_in_bytes", "memory.max"]), (kept << 20).to_string());
    assert_eq!(group.holds("", ["pids.max", "pids.max"]), "5000");
    assert!(["102", "4"].contains(&group.holds("", ["cpu.shares", "cpu.weight"]).as_str()));
    eventually("both to be told", LONG, || {
        let node = format!("involvedObject.name={}", node_name(&cluster));
        let messages = "jsonpath={.items[*].message}";
        let told = cluster.kubectl(&["get", "events", "--field-selector", &node, "-o", messages])?;
        let enforced = format!("Updated limits on system reserved cgroup /{}", group.0);
        Ok((told.contains(&enforced) && told.contains(&missing)).then_some(()))
    })
    .unwrap();
    let node = node_name(&cluster);
    let allocatable = cluster.field(&["node", &node], ".status.allocatable.memory").unwrap();
    let allocatable: u64 = allocatable.trim_end_matches("Ki").parse().unwrap();
    assert!((499..=501).contains(&(allocatable >> 10)), "{allocatable}");
    let asks = "resources: {requests: {memory: 100Mi}},";
    cluster.apply(&pod("calm", "", &[("main", asks, "sleep infinity")])).unwrap();
    cluster.wait("calm", "condition=Ready").unwrap();
    let uid = cluster.pod("calm", ".metadata.uid").unwrap();
    let below = format!("kubepods/burstable/pod{uid}");
    assert!(!root.holds(&below, ["cpu.shares", "cpu.weight"]).is_empty());
    // What is over has no control group any more, and hides nobody who has one.
    cluster.apply(&pod("over", "", &[("main", "", "true")])).unwrap();
    cluster.wait("over", "jsonpath={.status.phase}=Succeeded").unwrap();
    let memory = "volumes: [{name: memory, emptyDir: {medium: Memory}}]";
    let mount = "volumeMounts: [{name: memory, mountPath: /memory}],";
    let fill = "dd if=/dev/zero of=/memory/file bs=1M count=520; sleep infinity";
    cluster.apply(&pod("hog", memory, &[("main", mount, fill)])).unwrap();
    let message = evicted(&cluster, "hog");
    let low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: ";
    assert!(message.starts_with(low), "{message}");
    assert!(message.contains("Container main was using "), "{message}");
    assert!(message.ends_with(", request is 0, has larger consumption of memory. "), "{message}");
    let target = ".status.conditions[?(@.type==\"DisruptionTarget\")].reason";
    assert_eq!(cluster.pod("hog", target).unwrap(), "TerminationByKubelet");
    assert_eq!(cluster.pod("calm", ".status.phase").unwrap(), "Running");
    the_kubelet_says_what_it_does(&cluster);
    node_condition(&cluster, "MemoryPressure", "True");
    // It asks for nothing, and so has no place on a node that is short.
    cluster.apply(&pod("late", &format!("nodeName: {node}"), &[("main", "", "sleep infinity")])).unwrap();
    cluster.wait("late", "jsonpath={.status.phase}=Failed").unwrap();
    let message = cluster.pod("late", ".status.message").unwrap();
    assert_eq!(message, "Pod was rejected: The node had condition: [MemoryPressure]. ");
    // Nothing of the cluster is left in the machine's group.
    cluster.reset().unwrap();
    let left = root.folders().into_iter().find(|folder| folder.join("kubepods").exists());
    assert!(left.is_none() && root.folders().iter().any(|folder| folder.exists()), "{left:?}");
}

/// A full disk costs unused images first, and then a pod.
fn full_disk(cluster: &Node) {
    let node = node_name(cluster);
    let unused = |tag: u32| format!("test.keelson.io/unused:{tag}");
    let import = |tag: u32| {
        cluster.import(&unused(tag), &json!({"Labels": {"tag": tag.to_string()}}), &[]).unwrap();
        assert!(cluster.images().unwrap().contains(&unused(tag)));
    };
    import(1);
    let plain = |name: &str| pod(name, &format!("nodeName: {node}"), &[("main", "", "sleep infinity")]);
    // Its priority is that of what no node can do without.
    let critical =
        plain("critical").replace("nodeName", "priorityClassName: system-node-critical\n  nodeName");
    cluster.apply(&critical.replace("critical}", "critical, namespace: kube-system}")).unwrap();
    cluster.apply(&plain("plain")).unwrap();
    cluster.wait("plain", "condition=Ready").unwrap();
    let only_unused_went = |tag: u32| {
        let listed = cluster.images().unwrap();
        let sandboxes = cluster.engine() == Engine::Embedded || listed.contains("test.keelson.io/pause:1");
        assert!(!listed.contains(&unused(tag)) && listed.contains(BUSYBOX) && sandboxes, "{listed}");
    };
    // More than may be is taken of the disk.
    let collecting = "imageGCHighThresholdPercent: 1\nimageGCLowThresholdPercent: 0\nimageMinimumGCAge: 0s\n";
    cluster.again(&format!("evictionHard: {{memory.available: 100Mi}}\n{collecting}")).unwrap();
    node_event(
        cluster,
        "FreeDiskSpaceFailed",
        "Failed to garbage collect required amount of images. Attempted to free ",
    );
    only_unused_went(1);
    import(2);
    // From now on the disk is too full; what runs has been taken before.
    cluster.again("evictionHard: {imagefs.available: \"99.9%\"}\nimageMinimumGCAge: 0s\n").unwrap();
    let message = evicted(cluster, "plain");
    let low = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(message.starts_with(low), "{message}");
    node_condition(cluster, "DiskPressure", "True");
    only_unused_went(2);
    let phase = cluster.field(&["pod", "critical", "--namespace=kube-system"], ".status.phase").unwrap();
    assert_eq!(phase, "Running");
    node_event(cluster, "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage");
    cluster.apply(&plain("late")).unwrap();
    cluster.wait("late", "jsonpath={.status.phase}=Failed").unwrap();
    let message = cluster.pod("late", ".status.message").unwrap();
    assert_eq!(message, "Pod was rejected: The node had condition: [DiskPressure]. ");
}

/// A pod that does not fit on its node is refused, and a critical one makes room.
fn admission(cluster: &Node) {
    let node = node_name(cluster);
    let here = |name: &str, further: &str, container: &str| {
        let further = format!("nodeName: {node}{further}");
        pod(name, &further, &[("main", container, "sleep infinity")])
    };
    let refused = |name: &str, reason: &str| {
        cluster.wait(name, "jsonpath={.status.phase}=Failed").unwrap();
        assert_eq!(cluster.pod(name, ".status.reason").unwrap(), reason);
        cluster.pod(name, ".status.message").unwrap()
    };
    let cpu = |cpu: &str| format!("resources: {{requests: {{cpu: {cpu}}}}},");
    cluster.apply(&here("large", "", &cpu("640"))).unwrap();
    let message = refused("large", "OutOfcpu");
    let short = "Pod was rejected: Node didn't have enough resource: cpu, requested: 640000, used: ";
    assert!(message.starts_with(short), "{message}");
    cluster.apply(&here("elsewhere", "\n  nodeSelector: {disk: ssd}", "")).unwrap();
    let text =
        "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(refused("elsewhere", "NodeAffinity"), text);
    let port = "ports: [{containerPort: 80, hostPort: 8099}],";
    cluster.apply(&here("first", "", port)).unwrap();
    cluster.wait("first", "condition=Ready").unwrap();
    cluster.apply(&here("second", "", port)).unwrap();
    assert!(refused("second", "NodePorts").contains("didn't have free ports"));
    cluster.kubectl(&["label", "node", &node, "disk=ssd"]).unwrap();
    cluster.apply(&here("here", "\n  nodeSelector: {disk: ssd}", "")).unwrap();
    cluster.wait("here", "condition=Ready").unwrap();
    let all = cluster.field(&["node", &node], ".status.allocatable.cpu").unwrap();
    let most = format!("{}m", all.parse::<u32>().unwrap() * 1000 - 300);
    cluster.apply(&here("filler", "", &cpu(&most))).unwrap();
    cluster.wait("filler", "condition=Ready").unwrap();
    let critical = here("critical", "\n  priorityClassName: system-node-critical", &cpu(&most));
    cluster.apply(&critical.replace("critical}", "critical, namespace: kube-system}")).unwrap();
    let message = refused("filler", "Preempting");
    assert_eq!(message, "Preempted in order to admit critical pod");
    let ready = ["wait", "pod", "critical", "-n", "kube-system", "--for=condition=Ready", "--timeout=120s"];
    cluster.kubectl(&ready).unwrap();
    // Whoever has a place keeps it.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.kubectl(&ready).unwrap();
    cluster.apply(&here("late", "", &cpu(&most))).unwrap();
    refused("late", "OutOfcpu");
    assert_eq!(cluster.pod("first", ".status.phase").unwrap(), "Running");
    cluster.kubectl(&["delete", "pod", "critical", "-n", "kube-system", PATIENCE]).unwrap();
}

/// What a container sees of its own limits: the quota of its processors, in thousandths, and its memory, in MiB.
fn limits_within(cluster: &Cluster, pod: &str) -> anyhow::Result<(u64, u64)> {
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (cpu, memory) = if unified {
        ("cpu.max", "memory.max")
    } else {
        ("cpu/cpu.cfs_quota_us", "memory/memory.limit_in_bytes")
    };
    let number = |file: &str| -> anyhow::Result<u64> {
        let text = cluster.exec(pod, &["cat", &format!("/sys/fs/cgroup/{file}")])?;
        Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
    };
    Ok((number(cpu)? / 100, number(memory)? >> 20))
}

#[test]
fn a_pod_that_runs_is_given_more_or_less_when_there_is_room() {
    given_more_or_less(&Node::up(Engine::Embedded, "").unwrap());
}

#[test]
fn a_pod_in_containerd_is_given_more_or_less_when_there_is_room() {
    given_more_or_less(&Node::up(Engine::Containerd, "").unwrap());
}

fn given_more_or_less(cluster: &Cluster) {
    let node = node_name(cluster);
    let resources = |requests: &str, limits: &str| {
        format!("resources: {{requests: {{{requests}}}, limits: {{{limits}}}}},")
    };
    let elastic = resources("cpu: 100m, memory: 32Mi", "cpu: 200m, memory: 64Mi");
    cluster.apply(&pod("elastic", "", &[("main", &elastic, "sleep infinity")])).unwrap();
    let policy = "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}],";
    let anew = format!("{policy} {}", resources("memory: 32Mi", "memory: 64Mi"));
    let manifest = pod("anew", "", &[("main", &anew, "sleep infinity")]);
    cluster.apply(&manifest.replace("restartPolicy: Never", "restartPolicy: Always")).unwrap();
    for name in ["elastic", "anew"] {
        cluster.wait(name, "condition=Ready").unwrap();
    }
    assert_eq!(limits_within(cluster, "elastic").unwrap(), (200, 64));
    let resize = |name: &str, resources: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"main","resources":{resources}}}]}}}}"#);
        cluster.kubectl(&["patch", "pod", name, "--subresource", "resize", "-p", &patch]).unwrap();
    };
    let see = |name: &str, expected: (u64, u64)| {
        eventually(&format!("{name} to have {expected:?}"), LONG, || {
            Ok((limits_within(cluster, name)? == expected).then_some(()))
        })
        .unwrap();
    };
    let allocated = || cluster.pod("elastic", ".status.containerStatuses[0].allocatedResources.cpu").unwrap();
    let condition = |kind: &str, field: &str| {
        cluster.pod("elastic", &format!(".status.conditions[?(@.type==\"{kind}\")].{field}")).unwrap()
    };
    // Up, and down again.
    for (cpu, memory, limit) in
        [("300m", "128Mi", (500, 128)), ("100m", "48Mi", (150, 48)), ("300m", "96Mi", (500, 96))]
    {
        resize(
            "elastic",
            &format!(
                r#"{{"requests":{{"cpu":"{cpu}"}},"limits":{{"cpu":"{}m","memory":"{memory}"}}}}"#,
                limit.0
            ),
        );
        see("elastic", limit);
        cluster
            .wait(
                "elastic",
                &format!("jsonpath={{.status.containerStatuses[0].resources.limits.memory}}={memory}"),
            )
            .unwrap();
        assert_eq!(allocated(), cpu);
        eventually("the resize to be over", LONG, || {
            Ok(condition("PodResizeInProgress", "status").is_empty().then_some(()))
        })
        .unwrap();
        let generation = cluster.pod("elastic", ".metadata.generation").unwrap();
        let summary = format!(
            r#"{{"containers":[{{"name":"main","resources":{{"limits":{{"cpu":"{}m","memory":"{memory}"}},"requests":{{"cpu":"{cpu}","memory":"32Mi"}}}}}}],"generation":{generation}}}"#,
            limit.0
        );
        cluster.told("elastic", "ResizeStarted", &format!("Pod resize started: {summary}")).unwrap();
        cluster.told("elastic", "ResizeCompleted", &format!("Pod resize completed: {summary}")).unwrap();
    }
    assert_eq!(cluster.pod("elastic", ".status.containerStatuses[0].restartCount").unwrap(), "0");
    let generation = cluster.pod("elastic", ".metadata.generation").unwrap();
    cluster.wait("elastic", &format!("jsonpath={{.status.observedGeneration}}={generation}")).unwrap();
    // None of it is swap.
    let swap = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
    if std::path::Path::new(swap).exists() {
        assert_eq!(cluster.exec("elastic", &["cat", swap]).unwrap().trim(), (96 << 20).to_string());
    }
    // By beginning anew.
    resize("anew", r#"{"limits":{"memory":"96Mi"}}"#);
    cluster.wait("anew", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    cluster.wait("anew", "condition=Ready").unwrap();
    eventually("the new instance to have its limit", LONG, || {
        let within = cluster.exec("anew", &["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
        let within = within.or_else(|_| cluster.exec("anew", &["cat", "/sys/fs/cgroup/memory.max"]))?;
        Ok((within.trim() == (96 << 20).to_string()).then_some(()))
    })
    .unwrap();
    // Never on this node.
    resize("elastic", r#"{"requests":{"cpu":"640"},"limits":{"cpu":"640"}}"#);
    cluster
        .wait("elastic", "jsonpath={.status.conditions[?(@.type==\"PodResizePending\")].reason}=Infeasible")
        .unwrap();
    let message = condition("PodResizePending", "message");
    assert!(
        message.starts_with("Node didn't have enough capacity: cpu, requested: 640000, capacity: "),
        "{message}"
    );
    cluster.told("elastic", "ResizeInfeasible", &format!(r#""error":"{message}"}}"#)).unwrap();
    assert_eq!((allocated().as_str(), limits_within(cluster, "elastic").unwrap()), ("300m", (500, 96)));
    // Not now; and a kubelet that is started again knows what it has given.
    let all = cluster.field(&["node", &node], ".status.allocatable.cpu").unwrap();
    let most = format!("resources: {{requests: {{cpu: {}m}}}},", all.parse::<u32>().unwrap() * 1000 - 400);
    cluster
        .apply(&pod("filler", &format!("nodeName: {node}"), &[("main", &most, "sleep infinity")]))
        .unwrap();
    cluster.wait("filler", "condition=Ready").unwrap();
    resize("elastic", r#"{"requests":{"cpu":"1"},"limits":{"cpu":"1"}}"#);
    let deferred = "jsonpath={.status.conditions[?(@.type==\"PodResizePending\")].reason}=Deferred";
    cluster.wait("elastic", deferred).unwrap();
    cluster.told("elastic", "ResizeDeferred", "Pod resize Deferred: {").unwrap();
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    cluster.wait("elastic", deferred).unwrap();
    assert_eq!((allocated().as_str(), limits_within(cluster, "elastic").unwrap()), ("300m", (500, 96)));
    cluster.kubectl(&["delete", "pod", "filler", "--timeout=120s"]).unwrap();
    see("elastic", (1000, 96));
    eventually("nothing to be pending", LONG, || {
        Ok(condition("PodResizePending", "status").is_empty().then_some(()))
    })
    .unwrap();
    assert_eq!(cluster.pod("elastic", ".status.containerStatuses[0].restartCount").unwrap(), "0");
    a_pod_is_limited_as_a_whole(cluster);
}

/// Reserves so many huge pages of 2 MiB, and answers how many there are.
fn huge_pages(count: u64) -> u64 {
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let _ = std::fs::write(file, count.to_string());
    std::fs::read_to_string(file).ok().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// They are shared out and mounted, and not given twice.
fn huge_pages_of_pods(cluster: &Node) {
    let node = node_name(cluster);
    assert_eq!(cluster.field(&["node", &node], ".status.allocatable.hugepages-2Mi").unwrap(), "8Mi");
    let volume = |medium: &str| format!("volumes: [{{name: v, emptyDir: {{medium: {medium}}}}}]");
    let asks = |size: &str| {
        format!(
            "resources: {{limits: {{cpu: 10m, memory: 32Mi, hugepages-2Mi: {size}}}}}, volumeMounts: [{{name: v, mountPath: /huge}}],"
        )
    };
    cluster.apply(&pod("one", &volume("HugePages"), &[("main", &asks("6Mi"), "sleep infinity")])).unwrap();
    // Without control groups for huge pages the runtime starts no container with some, and says so; the volume is there.
    let is_mounted = |name: &str| {
        let folder =
            format!("pods/{}/volumes/kubernetes.io~empty-dir/v", cluster.pod(name, ".metadata.uid").unwrap());
        eventually("huge pages to be mounted", LONG, || {
            let mounts = cluster.on_the_host("cat", &["/proc/self/mountinfo"])?;
            let mount = mounts.lines().find(|line| line.contains(&folder)).map(str::to_owned);
            Ok(mount)
        })
        .unwrap()
    };
    let mounted = is_mounted("one");
    assert!(mounted.contains(" hugetlbfs ") && mounted.contains("pagesize=2M"), "{mounted}");
    let bound = format!("nodeName: {node}\n  {}", volume("HugePages-2Mi"));
    cluster.apply(&pod("two", &bound, &[("main", &asks("4Mi"), "sleep infinity")])).unwrap();
    cluster.wait("two", "jsonpath={.status.reason}=OutOfhugepages-2Mi").unwrap();
    cluster.kubectl(&["delete", "pod", "one", "two"]).unwrap();
    cluster.apply(&pod("three", &bound, &[("main", &asks("4Mi"), "sleep infinity")])).unwrap();
    is_mounted("three");
    let wrong = volume("HugePages-1Gi");
    cluster.apply(&pod("four", &wrong, &[("main", &asks("4Mi"), "sleep infinity")])).unwrap();
    eventually("an event of the medium", LONG, || {
        let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        Ok(events
            .contains("medium \"HugePages-1Gi\": hugePage storage requested, but there is no")
            .then_some(()))
    })
    .unwrap();
}

#[test]
fn a_guaranteed_pod_has_whole_processors_for_itself() {
    whole_processors(Engine::Embedded);
}

#[test]
fn a_guaranteed_pod_in_containerd_has_whole_processors_for_itself() {
    whole_processors(Engine::Containerd);
}

fn whole_processors(engine: Engine) {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let last: u32 = online.trim().rsplit(['-', ',']).next().unwrap().parse().unwrap();
    if last == 0 || !std::path::Path::new("/sys/fs/cgroup/cpuset").exists() {
        // There is none to give, or its file is another.
        return;
    }
    // The hard threshold for memory is what is kept of it.
    let settings = "cpuManagerPolicy: static\nreservedSystemCPUs: \"0\"\ntopologyManagerPolicy: restricted\n\
        cpuManagerPolicyOptions: {prefer-align-cpus-by-uncorecache: \"true\"}\n\
        memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 0, limits: {memory: 100Mi}}]\n";
    let cluster: &Cluster = &Node::up(engine, settings).unwrap();
    let allocatable = cluster.field(&["node", &node_name(cluster)], ".status.allocatable.cpu").unwrap();
    assert_eq!(allocatable, last.to_string());
    let cpus = |name: &str| -> anyhow::Result<String> {
        Ok(cluster.exec(name, &["cat", "/sys/fs/cgroup/cpuset/cpuset.cpus"])?.trim().to_owned())
    };
    cluster.apply(&pod("shares", "", &[("main", "", "sleep infinity")])).unwrap();
    cluster.wait("shares", "condition=Ready").unwrap();
    assert_eq!(cpus("shares").unwrap(), online.trim());
    let limits = "resources: {limits: {cpu: 1, memory: 32Mi}},";
    let before = format!(
        "initContainers: [{{name: before, image: \"{BUSYBOX}\", {limits} command: [sh, -c, cat /sys/fs/cgroup/cpuset/cpuset.cpus]}}]"
    );
    cluster.apply(&pod("alone", &before, &[("main", limits, "sleep infinity")])).unwrap();
    cluster.wait("alone", "condition=Ready").unwrap();
    let own = cpus("alone").unwrap();
    let had = cluster.kubectl(&["logs", "alone", "-c", "before"]).unwrap();
    assert_eq!(had.trim(), own, "an init container has its own, and hands it on");
    let mems = cluster.exec("alone", &["cat", "/sys/fs/cgroup/cpuset/cpuset.mems"]).unwrap();
    assert_eq!(mems.trim(), "0", "it has memory at one node, the first");
    let promised = std::fs::read_to_string(cluster.data_dir().join("kubelet/memory_manager_state")).unwrap();
    assert!(promised.contains(r#""type":"memory","size":33554432,"taken":{"0":33554432}"#), "{promised}");
    assert!(own.parse::<u32>().unwrap() > 0, "{own}");
    let moved = |expected: &dyn Fn(&str) -> bool| {
        eventually("who shares to be moved", LONG, || Ok(expected(&cpus("shares")?).then_some(()))).unwrap();
    };
    moved(&|now| now != online.trim() && !now.split([',', '-']).any(|cpu| cpu == own));
    // It keeps them when the kubelet is started again.
    cluster.kill().unwrap();
    cluster.continue_with(&[]).unwrap();
    assert_eq!(cpus("alone").unwrap(), own);
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"memory":"48Mi"},"limits":{"memory":"48Mi"}}}]}}"#;
    cluster.kubectl(&["patch", "pod", "alone", "--subresource", "resize", "-p", patch]).unwrap();
    cluster
        .wait("alone", "jsonpath={.status.conditions[?(@.type==\"PodResizePending\")].reason}=Infeasible")
        .unwrap();
    cluster.kubectl(&["delete", "pod", "alone", "--timeout=120s"]).unwrap();
    moved(&|now| now == online.trim());
}

/// In a cluster that is there: a pod that is limited as a whole.
fn a_pod_is_limited_as_a_whole(cluster: &Cluster) {
    let whole = "resources: {limits: {cpu: 500m, memory: 64Mi}}";
    let own = "resources: {requests: {memory: 16Mi}, limits: {memory: 32Mi}},";
    let containers = [("main", "", "sleep infinity"), ("side", own, "sleep infinity")];
    cluster.apply(&pod("whole", whole, &containers)).unwrap();
    cluster.wait("whole", "condition=Ready").unwrap();
    let of = |path: &str| cluster.pod("whole", path).unwrap();
    assert_eq!(of(".spec.resources.requests.cpu"), "500m");
    // The containers ask for some memory together, and that is less than the limit.
    assert_eq!(
        (of(".spec.resources.requests.memory"), of(".status.qosClass")),
        ("16Mi".into(), "Burstable".into())
    );
    let limit = |container: &str| {
        let script =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        let read = ["exec", "whole", "-c", container, "--", "sh", "-c", script];
        cluster.kubectl(&read).unwrap().trim().parse::<u64>().unwrap() >> 20
    };
    assert_eq!((limit("main"), limit("side")), (64, 32), "who has no limit has the pod's");
    assert_eq!(of(".status.resources.limits.memory"), "64Mi");
    // As it runs it gets more, and who has no limit of its own with it.
    let resize = |patch| ["patch", "pod", "whole", "--subresource", "resize", "-p", patch];
    let more =
        r#"{"spec":{"resources":{"requests":{"cpu":"200m"},"limits":{"cpu":"400m","memory":"96Mi"}}}}"#;
    cluster.kubectl(&resize(more)).unwrap();
    eventually("the pod to have what it asks for as a whole", LONG, || {
        Ok((of(".status.resources.limits.memory") == "96Mi" && limit("main") == 96).then_some(()))
    })
    .unwrap();
    assert_eq!((of(".status.allocatedResources.cpu"), limit("side")), ("200m".into(), 32));
    assert_eq!(of(".status.containerStatuses[*].restartCount"), "0 0");
    let told =
        cluster.kubectl_fails(&resize(r#"{"spec":{"resources":{"limits":{"memory":null}}}}"#)).unwrap();
    assert!(told.contains("spec.resources.limits: Forbidden: resource limits cannot be removed"), "{told}");
}
