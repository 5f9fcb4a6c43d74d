//! Init containers: one after the other, before all others.

use keelson_e2e::{BUSYBOX, Pod};
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

fn init(first: &str, second: &str) -> String {
    let one = |name: &str, script: &str| {
        let script = Value::from(script);
        format!(
            "{{name: {name}, image: \"{BUSYBOX}\", command: [sh, -c, {script}], volumeMounts: [{{name: order, mountPath: /order}}]}}"
        )
    };
    format!("initContainers: [{}, {}]", one("init1", first), one("init2", second))
}

pub(crate) fn they_run_in_order_and_hold_the_others_back(subject: &Subject<'_>) {
    let pod = |name: &str, policy: &str, first: &str, second: &str| {
        let pod = Pod::new(name).spec("volumes: [{name: order, emptyDir: {}}]").spec(policy);
        let pod = pod.container("volumeMounts: [{name: order, mountPath: /order}]");
        pod.spec(&init(first, second))
    };
    let (say1, say2) = ("echo 1 >> /order/all", "echo 2 >> /order/all");
    let never = "restartPolicy: Never";
    subject.apply(&[
        pod("init-never", never, say1, say2).script("echo main >> /order/all; cat /order/all"),
        pod("init-always", "", say1, say2),
        pod("init-fails-never", never, "exit 3", "true"),
        pod("init-fails-always", "", "true", "exit 3"),
        pod("init-deleted", "", "exec sleep infinity", "true").metadata(HOLD).grace(1),
        pod(
            "init-second-try",
            "restartPolicy: OnFailure",
            "test -e /order/x || { touch /order/x; exit 1; }",
            say2,
        ),
    ]);

    let over = subject.until_phase("init-never", "Succeeded");
    assert_eq!(subject.cluster.kubectl(&["logs", "init-never"]).unwrap(), "1\n2\nmain\n");
    for name in ["init1", "init2"] {
        let status = container(&over, name);
        assert_eq!(end(&status["state"]), (0, "Completed"), "{status}");
        assert_eq!((&status["ready"], &status["restartCount"]), (&json!(true), &json!(0)), "{status}");
    }
    assert_eq!(condition(&over, "Initialized")["status"], "True");

    let runs = subject.until_phase("init-always", "Running");
    assert_eq!(condition(&runs, "Initialized")["status"], "True");
    assert!(["init1", "init2"].iter().all(|name| container(&runs, name)["ready"] == true), "{runs}");

    let failed = subject.until_phase("init-fails-never", "Failed");
    assert_eq!(end(&container(&failed, "init1")["state"]), (3, "Error"));
    for name in ["init2", "main"] {
        assert_eq!(container(&failed, name)["state"]["waiting"]["reason"], "PodInitializing", "{name}");
    }
    let initialized = condition(&failed, "Initialized");
    assert_eq!(
        (&initialized["status"], &initialized["reason"]),
        (&json!("False"), &json!("ContainersNotInitialized"))
    );
    assert_eq!(initialized["message"], "containers with incomplete status: [init1 init2]");

    // Tried again for ever; what comes after it does not start.
    let loops = |it: &Value| {
        let status = container(it, "init2");
        status["restartCount"].as_i64() >= Some(1)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let looping = subject.objects.until("init-fails-always", "the init container waits", loops).unwrap();
    assert_eq!(looping["status"]["phase"], "Pending");
    assert_eq!(end(&container(&looping, "init2")["lastState"]), (3, "Error"));
    assert_eq!(end(&container(&looping, "init1")["state"]), (0, "Completed"));
    assert_eq!(container(&looping, "main")["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&looping, "Initialized")["message"], "containers with incomplete status: [init2]");
    let table = subject.cluster.kubectl(&["get", "pod", "init-fails-always"]).unwrap();
    let shown = ["Init:CrashLoopBackOff", "Init:Error", "Init:1/2"];
    assert!(shown.iter().any(|shown| table.contains(shown)), "{table}");

    // A pod that is deleted before it is initialized never begins with the others.
    let runs = |it: &Value| container(it, "init1")["state"]["running"].is_object();
    subject.objects.until("init-deleted", "its init container runs", runs).unwrap();
    subject.delete("init-deleted");
    let deleted = subject.until_phase("init-deleted", "Failed");
    assert_eq!(end(&container(&deleted, "init1")["state"]), (137, "Error"));
    for name in ["init2", "main"] {
        let state = &container(&deleted, name)["state"];
        assert!(state["running"].is_null() && container(&deleted, name)["containerID"].is_null(), "{state}");
    }
    subject.release("init-deleted");

    let second = subject.until_phase("init-second-try", "Running");
    let status = container(&second, "init1");
    assert_eq!((end(&status["state"]), &status["restartCount"]), ((0, "Completed"), &json!(1)));
}
