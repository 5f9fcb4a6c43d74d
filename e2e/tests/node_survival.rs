//! A node whose Keelson is killed, and goes on: what becomes of pods meanwhile, in both runtimes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use keelson_e2e::{BUSYBOX, Engine, LONG, Node, Objects, Pod, WallClock, eventually};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

/// A pod that notes in a folder of the host, mounted at `/all`, each time that its container begins.
fn noting(folder: &Path, name: &str, then: &str) -> Pod {
    let pod = Pod::new(name).script(&format!("echo main >> /all/{name}; {then}"));
    pod.spec(&format!("volumes: [{{name: all, hostPath: {{path: \"{}\"}}}}]", folder.display()))
        .container("volumeMounts: [{name: all, mountPath: /all}]")
}

const FOR_EVER: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

fn init(name: &str, pod: &str, script: &str, more: &str) -> String {
    let script = Value::from(format!("echo {name} >> /all/{pod}; {script}"));
    format!(
        "{{name: {name}, image: \"{BUSYBOX}\", command: [sh, -c, {script}], volumeMounts: [{{name: all, mountPath: /all}}], {more}}}"
    )
}

fn main_container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn is_ready(pod: &Value) -> bool {
    main_container(pod)["ready"] == true
}

/// Killed and begun again, with another look at its objects.
fn again(node: &Node, meanwhile: impl FnOnce()) -> Objects {
    node.kill().unwrap();
    meanwhile();
    node.continue_with(&[]).unwrap();
    Objects::of(node).unwrap()
}

/// Kills what holds a pod's namespaces: whatever of it is in no control group of its containers.
fn kill_sandbox(uid: &str, containers: &[String]) {
    let mut killed = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let group = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        let of_pod = group.contains(uid) || group.contains(&uid.replace('-', "_"));
        if of_pod && !containers.iter().any(|id| group.contains(id)) {
            let pid = process.file_name().to_string_lossy().parse().unwrap();
            // Others end with the one that is killed first.
            match kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL) {
                Err(nix::errno::Errno::ESRCH) => {}
                done => done.unwrap(),
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "nothing holds the namespaces of {uid}");
}

fn survives(engine: Engine) {
    // A runtime of its own has a clock that does not jump along, and what it says of a container's end may make a back-off a long one.
    let node = Node::up(engine, "crashLoopBackOff: {maxContainerRestartPeriod: 10s}\n").unwrap();
    let folder: PathBuf = node.folder().join("noted");
    fs::create_dir(&folder).unwrap();
    let noted = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    // A container that is ready has begun, and may not have noted it yet.
    let until_noted = |name: &str, wanted: &str| {
        eventually(&format!("{name} to note {wanted:?}"), LONG, || {
            let found = noted(name);
            anyhow::ensure!(found == wanted, "{found:?}");
            Ok(Some(()))
        })
        .unwrap();
    };
    let before = node.interfaces().unwrap();

    // Killed as they come up: each container begins once.
    let coming: Vec<String> = (0..4).map(|number| format!("coming-{number}")).collect();
    let pods: String = coming.iter().map(|name| noting(&folder, name, FOR_EVER).to_string()).collect();
    node.apply(&pods).unwrap();
    let objects = again(&node, || {});
    for name in &coming {
        objects.until(name, "it is ready", is_ready).unwrap();
        assert_eq!(main_container(&objects.pod(name).unwrap())["restartCount"], 0, "{name}");
        until_noted(name, "main\n");
    }
    drop(objects);

    let probes = "readinessProbe: {exec: {command: [test, \"!\", -e, /tmp/busy]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}";
    let live = "livenessProbe: {exec: {command: [test, \"!\", -e, /tmp/ill]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1, terminationGracePeriodSeconds: 1}";
    let side = init("side", "whole", FOR_EVER, "restartPolicy: Always");
    let first = init("first", "whole", "true", "");
    let waits = "while ! test -e /all/go; do sleep 0.1; done";
    let slow = init("slow", "begins", waits, "");
    let pods = [
        noting(&folder, "stays", FOR_EVER).container(probes).container(live).grace(5),
        noting(&folder, "whole", FOR_EVER).spec(&format!("initContainers: [{first}, {side}]")).grace(5),
        noting(&folder, "begins", FOR_EVER).spec(&format!("initContainers: [{slow}]")),
        noting(&folder, "dies", "exec sleep infinity"),
        noting(&folder, "ends", &format!("{waits}; echo done; exit 7")).spec("restartPolicy: Never"),
        noting(&folder, "is-deleted", "trap '' TERM; while true; do sleep 0.1; done").grace(600),
        noting(&folder, "is-forced", "trap '' TERM; while true; do sleep 0.1; done").grace(600),
    ];
    node.apply(&pods.iter().map(Pod::to_string).collect::<String>()).unwrap();
    let objects = Objects::of(&node).unwrap();
    for name in ["stays", "whole", "dies", "ends", "is-deleted", "is-forced"] {
        objects.until(name, "it is ready", is_ready).unwrap();
    }
    until_noted("begins", "slow\n");
    for name in ["stays", "dies", "ends", "is-deleted", "is-forced"] {
        until_noted(name, "main\n");
    }
    let until_whole = || {
        eventually("each container of the whole one to begin", LONG, || {
            let found = noted("whole");
            let mut names: Vec<&str> = found.lines().collect();
            names.sort_unstable();
            anyhow::ensure!(names == ["first", "main", "side"], "{found:?}");
            Ok(Some(()))
        })
        .unwrap();
    };
    until_whole();
    let id = |name: &str, objects: &Objects| {
        let pod = objects.pod(name).unwrap();
        main_container(&pod)["containerID"].as_str().unwrap_or_default().to_owned()
    };
    let ids = ["stays", "whole"].map(|name| id(name, &objects));
    let all = objects.get("/api/v1/namespaces/default/pods").unwrap();
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let uids: Vec<String> = all["items"].as_array().unwrap().iter().map(uid).collect();
    eventually("traces of the pods to be seen", LONG, || Ok((!node.traces(&uids)?.is_empty()).then_some(())))
        .unwrap();
    let victim = node.main_process("dies").unwrap();
    drop(objects);

    node.kubectl(&["delete", "pod", "is-deleted", "--wait=false"]).unwrap();
    node.kubectl(&["delete", "pod", "is-forced", "--force", "--grace-period=0"]).unwrap();
    let objects = again(&node, || {
        kill(victim, Signal::SIGKILL).unwrap();
        fs::write(folder.join("go"), "").unwrap();
    });

    // What ran goes on, and its probes with it.
    objects.until("stays", "it is ready", is_ready).unwrap();
    node.exec("stays", &["touch", "/tmp/busy"]).unwrap();
    objects.until("stays", "it is not ready", |it| !is_ready(it)).unwrap();
    node.exec("stays", &["rm", "/tmp/busy"]).unwrap();
    objects.until("stays", "it is ready again", is_ready).unwrap();
    objects.until("begins", "its init container was seen to end", is_ready).unwrap();
    until_noted("begins", "slow\nmain\n");
    assert_eq!(noted("stays"), "main\n", "it began once");
    until_whole();
    assert_eq!(["stays", "whole"].map(|name| id(name, &objects)), ids);

    // What ended meanwhile is seen to have ended.
    let restarted = |it: &Value| main_container(it)["restartCount"] == 1 && is_ready(it);
    let pod = objects.until("dies", "it is started again", restarted).unwrap();
    assert_eq!(main_container(&pod)["lastState"]["terminated"]["exitCode"], 137);
    until_noted("dies", "main\nmain\n");
    let pod = objects.until_is("ends", "/status/phase", "Failed").unwrap();
    assert_eq!(main_container(&pod)["state"]["terminated"]["exitCode"], 7);
    assert_eq!(
        (noted("ends").as_str(), node.kubectl(&["logs", "ends"]).unwrap().as_str()),
        ("main\n", "done\n")
    );

    // What was to go still goes.
    objects.until_gone("is-forced").unwrap();
    assert_eq!(objects.pod("is-deleted").unwrap()["metadata"]["deletionGracePeriodSeconds"], 600);
    node.kubectl(&["delete", "pod", "is-deleted", "--grace-period=1", "--wait=false"]).unwrap();
    objects.until_gone("is-deleted").unwrap();

    // Probes still end who is ill; killed once more in the middle of it, it is not started twice.
    node.exec("stays", &["touch", "/tmp/ill"]).unwrap();
    objects.until_told("stays", "Killing: Container main failed liveness probe").unwrap();
    drop(objects);
    let objects = again(&node, || {});
    objects.until("stays", "it was started again", restarted).unwrap();
    until_noted("stays", "main\nmain\n");

    // A pod whose sandbox dies begins anew, with its init containers, in another one.
    let pod = objects.pod("whole").unwrap();
    let statuses = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].as_array());
    let ids = statuses.into_iter().flatten().flatten().filter_map(|one| one["containerID"].as_str());
    let ids: Vec<String> = ids.filter_map(|id| id.split_once("://")).map(|(_, id)| id.to_owned()).collect();
    kill_sandbox(&uid(&pod), &ids);
    objects
        .until_told("whole", "SandboxChanged: Pod sandbox changed, it will be killed and re-created.")
        .unwrap();
    let anew = |it: &Value| main_container(it)["restartCount"] == 1 && is_ready(it);
    let pod = objects.until("whole", "it began anew", anew).unwrap();
    assert_eq!(pod["status"]["initContainerStatuses"][0]["restartCount"], 1);
    let whole = eventually("the whole one to begin anew", LONG, || {
        let whole: Vec<String> = noted("whole").lines().map(str::to_owned).collect();
        anyhow::ensure!(whole.len() >= 6, "{whole:?}");
        Ok(Some(whole))
    });
    let whole = whole.unwrap();
    assert_eq!((whole.len(), whole[3].as_str()), (6, "first"), "{whole:?}");

    // Nobody began once more in the meantime.
    for name in &coming {
        assert_eq!(noted(name), "main\n", "{name}");
    }
    for (name, wanted) in
        [("stays", "main\nmain\n"), ("dies", "main\nmain\n"), ("begins", "slow\nmain\n"), ("ends", "main\n")]
    {
        assert_eq!(noted(name), wanted, "{name}");
    }

    // Nothing is left of what is gone.
    let uids: Vec<String> = objects.get("/api/v1/namespaces/default/pods").unwrap()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(uid)
        .chain(uids)
        .collect();
    node.kubectl(&["delete", "pods", "--all", "--timeout=120s"]).unwrap();
    eventually("all traces of the pods to be gone", LONG, || {
        let left = node.traces(&uids)?;
        anyhow::ensure!(left.is_empty(), "{left:#?}");
        let links = node.interfaces()?;
        anyhow::ensure!(links <= before, "{links} interfaces");
        if let Some(engine) = &node.containerd {
            let (tasks, containers) = (engine.ctr(&["tasks", "list"])?, engine.ctr(&["containers", "list"])?);
            anyhow::ensure!(
                tasks.lines().count() <= 1 && containers.lines().count() <= 1,
                "{tasks}{containers}"
            );
        }
        Ok(Some(()))
    })
    .unwrap();
    drop(objects);
    the_clock_jumps(&node);
}

const DAY: i64 = 24 * 60 * 60;

/// The machine's clock is set a day ahead and back again: who runs goes on, and what is waited for is not waited for longer.
fn the_clock_jumps(node: &Node) {
    let clock = WallClock::of(node.process().unwrap()).unwrap();
    let objects = Objects::of(node).unwrap();
    let probe = "Probe: {exec: {command: [\"true\"]}, periodSeconds: 1, timeoutSeconds: 30}";
    let token = "volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 3600}}]}}]";
    let steady = |name: &str| {
        let pod = Pod::new(name).script(FOR_EVER).grace(1).spec("activeDeadlineSeconds: 3600").spec(token);
        let pod = pod.container("volumeMounts: [{name: t, mountPath: /t}]");
        pod.container(&format!("liveness{probe}")).container(&format!("readiness{probe}"))
    };
    let crashing = Pod::new("crashing").script("exit 1").to_string();
    node.apply(&(steady("before").to_string() + &crashing)).unwrap();
    objects.until("before", "it is ready", is_ready).unwrap();
    let restarts = || main_container(&objects.pod("crashing").unwrap())["restartCount"].as_i64().unwrap();
    let name = objects.pod("before").unwrap()["spec"]["nodeName"].as_str().unwrap().to_owned();
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
    // How far the node is ahead of the machine.
    let hours = || {
        let lease = objects.get(&lease)?;
        let renewed: Timestamp = lease["spec"]["renewTime"].as_str().unwrap_or_default().parse()?;
        anyhow::Ok(renewed.duration_since(Timestamp::now()).as_hours())
    };
    let token = || node.exec("before", &["cat", "/t/token"]);
    let mut last = token().unwrap();

    for (offset, new) in [(DAY, "ahead"), (0, "back")] {
        let before = restarts();
        clock.set_off(offset).unwrap();
        eventually("the node to say so at the new time", LONG, || {
            Ok(((hours()? > 12) == (offset > 0)).then_some(()))
        })
        .unwrap();
        // By the clock the token has ended, or is not good yet.
        last = eventually("another token", LONG, || token().map(|it| (it != last).then_some(it))).unwrap();
        // New pods come up, and old ones are begun again when their time has come.
        node.apply(&steady(new).to_string()).unwrap();
        objects.until(new, "it is ready", is_ready).unwrap();
        eventually("the one that ends to be begun again", LONG, || Ok((restarts() > before).then_some(())))
            .unwrap();
    }
    for name in ["before", "ahead", "back"] {
        let pod = objects.pod(name).unwrap();
        assert!(is_ready(&pod) && pod["status"]["phase"] == "Running", "{name}: {}", pod["status"]);
        assert_eq!(main_container(&pod)["restartCount"], 0, "{name}");
        let told = objects.events(name).unwrap();
        let bad = ["Killing", "Unhealthy", "DeadlineExceeded", "NodeNotReady", "Evicted"];
        assert!(!told.iter().any(|it| bad.iter().any(|reason| it.starts_with(reason))), "{name}: {told:#?}");
    }
    let told = node.kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].reason}"]).unwrap();
    assert!(!told.contains("NodeNotReady") && !told.contains("TaintManagerEviction"), "{told}");
    node.kubectl(&["delete", "pods", "--all", "--timeout=120s"]).unwrap();
}

#[test]
fn pods_of_the_embedded_runtime_outlive_their_kubelet() {
    survives(Engine::Embedded);
}

#[test]
fn pods_of_containerd_outlive_their_kubelet() {
    survives(Engine::Containerd);
}
