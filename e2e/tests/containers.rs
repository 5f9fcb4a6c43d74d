//! Containers that end, flood and fork, and what becomes of their pods and neighbours.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::{BUSYBOX, Cluster, LONG, Pod, eventually};

#[test]
fn a_pod_runs_on_by_the_restart_rules_of_its_containers() {
    let cluster = Cluster::up().unwrap();
    let pod = Pod::new("ruled")
        .spec("restartPolicy: Never")
        .spec("volumes: [{name: kept, emptyDir: {}}]")
        .script("if [ -e /kept/once ]; then sleep infinity; fi; touch /kept/once; exit 42")
        .container("restartPolicy: Never")
        .container("restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]")
        .container("volumeMounts: [{name: kept, mountPath: /kept}]");
    cluster.apply(&pod.to_string()).unwrap();
    cluster.wait("ruled", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    cluster.wait("ruled", "condition=Ready").unwrap();
    assert_eq!(cluster.pod("ruled", ".status.phase").unwrap(), "Running");
}

#[test]
fn what_a_command_leaves_behind_harms_neither_its_pod_nor_others() {
    let cluster = Cluster::up().unwrap();
    let pod = |name: &str, field: &str| {
        let asks = "resources: {requests: {cpu: 100m}}";
        Pod::new(name).grace(1).spec(field).script("sleep infinity").container(asks)
    };
    cluster.start(&pod("wild", "shareProcessNamespace: true")).unwrap();
    cluster.start(&pod("calm", "resources: {limits: {memory: 48Mi, cpu: 500m}}")).unwrap();
    // Its output is nobody's any more.
    cluster.exec("wild", &["sh", "-c", "yes &"]).unwrap();
    assert_eq!(cluster.exec("wild", &["echo", "well"]).unwrap().trim(), "well");

    // The limits of the pod as a whole, and the weight of its class.
    let pid = cluster.main_process("calm").unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let find = |controller: &str, file: &str| {
        let line = groups
            .lines()
            .find(|line| line.split(':').nth(1).is_some_and(|all| all.split(',').any(|it| it == controller)));
        let path = line.unwrap().splitn(3, ':').nth(2).unwrap();
        // The holder of the cluster has control group namespaces of its own; the path from here is that of the machine.
        let pod = path.rsplit_once('/').unwrap().0;
        let folder = format!("/sys/fs/cgroup/{controller}{pod}");
        std::fs::read_to_string(format!("{folder}/{file}")).unwrap().trim().to_owned()
    };
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert_eq!(find("memory", "memory.limit_in_bytes"), (48 << 20).to_string());
        assert_eq!(find("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(find("pids", "pids.max"), "4096");
        eventually("the class to weigh what its pods ask for", LONG, || {
            let shares: u64 = find("cpu", "../cpu.shares").parse()?;
            Ok((shares > 2 && shares != 1024).then_some(()))
        })
        .unwrap();
    }

    // A fork bomb is held by the limit of processes, and goes with its pod.
    cluster.exec("wild", &["sh", "-c", "bomb() { bomb | bomb & }; bomb > /dev/null 2>&1"]).unwrap();
    assert_eq!(cluster.exec("calm", &["echo", "calm"]).unwrap().trim(), "calm");
    cluster.kubectl(&["delete", "pod", "wild", "--timeout=120s"]).unwrap();
    assert_eq!(cluster.exec("calm", &["echo", "still"]).unwrap().trim(), "still");
}

#[test]
fn the_end_of_one_container_begins_the_whole_pod_anew() {
    let cluster = Cluster::up().unwrap();
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: team}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  initContainers:
  - {{name: init, image: "{BUSYBOX}", command: [sh, -c, "echo x >> /kept/inits"], volumeMounts: [{{name: kept, mountPath: /kept}}]}}
  containers:
  - {{name: worker, image: "{BUSYBOX}", command: [sh, -c, "exec sleep infinity"]}}
  - name: watcher
    image: {BUSYBOX}
    command: [sh, -c, "[ $(wc -l < /kept/inits) -ge 2 ] || exit 42; exec sleep infinity"]
    restartPolicy: Never
    restartPolicyRules: [{{action: RestartAllContainers, exitCodes: {{operator: In, values: [42]}}}}]
    volumeMounts: [{{name: kept, mountPath: /kept}}]
  volumes: [{{name: kept, emptyDir: {{}}}}]
"#
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait("team", "jsonpath={.status.containerStatuses[1].restartCount}=1").unwrap();
    cluster.wait("team", "condition=Ready").unwrap();
    let counts = cluster.pod("team", ".status.containerStatuses[*].restartCount").unwrap();
    assert_eq!(counts, "1 1");
    assert_eq!(cluster.pod("team", ".status.initContainerStatuses[0].restartCount").unwrap(), "1");
    let condition = ".status.conditions[?(@.type==\"AllContainersRestarting\")].status";
    assert_eq!(cluster.pod("team", condition).unwrap(), "False");
    assert_eq!(cluster.pod("team", ".status.phase").unwrap(), "Running");
}
