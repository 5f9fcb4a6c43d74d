//! Which containers begin again, and when.

use keelson_e2e::{BUSYBOX, Pod};
use serde_json::{Value, json};

use crate::{Subject, condition, container, end};

const STATE: &str = "volumes: [{name: state, emptyDir: {}}]";
const MOUNT: &str = "volumeMounts: [{name: state, mountPath: /state}]";

/// Ends with the code at first, and goes on as it says afterwards.
fn once(code: u8, then: &str) -> String {
    format!("test -e /state/tried || {{ touch /state/tried; exit {code}; }}; {then}")
}

pub(crate) fn policies_of_pods_and_of_containers_decide_who_begins_again(subject: &Subject<'_>) {
    let pod = |name: &str, policy: &str, script: &str| {
        let policy = format!("restartPolicy: {policy}");
        Pod::new(name).spec(STATE).container(MOUNT).spec(&policy).script(script)
    };
    let rule = |action: &str, code: u8| {
        format!("restartPolicyRules: [{{action: {action}, exitCodes: {{operator: In, values: [{code}]}}}}]")
    };
    let begins = format!(
        "initContainers: [{{name: first, image: \"{BUSYBOX}\", command: [sh, -c, \"echo x >> /state/begun\"], {MOUNT}}}]"
    );
    subject.apply(&[
        pod("never-good", "Never", "exit 0"),
        pod("never-bad", "Never", "exit 7"),
        pod("on-failure-good", "OnFailure", "exit 0"),
        pod("on-failure-bad", "OnFailure", &once(1, "exit 0")),
        pod("always-good", "Always", &once(0, "exec sleep infinity")),
        pod("own-always", "Never", &once(1, "exec sleep infinity")).container("restartPolicy: Always"),
        pod("own-never", "Always", "exit 3").container("restartPolicy: Never"),
        pod("own-on-failure", "Always", &once(1, "exit 0")).container("restartPolicy: OnFailure"),
        pod("rule-holds", "Never", &once(42, "exit 0"))
            .container("restartPolicy: Never")
            .container(&rule("Restart", 42)),
        pod("rule-does-not-hold", "Never", &once(43, "exit 0"))
            .container("restartPolicy: Never")
            .container(&rule("Restart", 42)),
        pod("rule-of-all", "Never", &once(42, "cat /state/begun; exec sleep infinity"))
            .container("restartPolicy: Never")
            .container(&rule("RestartAllContainers", 42))
            .spec(&begins),
    ]);
    for (name, phase, restarts, code) in [
        ("never-good", "Succeeded", 0, 0),
        ("never-bad", "Failed", 0, 7),
        ("on-failure-good", "Succeeded", 0, 0),
        ("on-failure-bad", "Succeeded", 1, 0),
        ("own-never", "Failed", 0, 3),
        ("own-on-failure", "Succeeded", 1, 0),
        ("rule-holds", "Succeeded", 1, 0),
        ("rule-does-not-hold", "Failed", 0, 43),
    ] {
        let over = subject.until_phase(name, phase);
        let main = container(&over, "main");
        let reason = if code == 0 { "Completed" } else { "Error" };
        assert_eq!(
            (end(&main["state"]), &main["restartCount"]),
            ((code, reason), &json!(restarts)),
            "{name}"
        );
        assert_eq!(main["ready"], false);
        let ready = condition(&over, "Ready");
        let reason = if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" };
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!(reason)), "{name}");
    }
    for (name, code) in [("always-good", 0), ("own-always", 1)] {
        let again = |it: &Value| {
            let main = container(it, "main");
            main["restartCount"] == 1 && main["state"]["running"].is_object()
        };
        let runs = subject.objects.until(name, "it runs again", again).unwrap();
        assert_eq!(end(&container(&runs, "main")["lastState"]).0, code, "{name}");
        assert_eq!(runs["status"]["phase"], "Running");
    }
    assert_eq!(subject.until_says(&["rule-of-all"], "x\nx\n"), "x\nx\n");
}

pub(crate) fn a_container_that_ends_again_and_again_waits_longer_and_longer(subject: &Subject<'_>) {
    subject.apply(&[Pod::new("crashes").script("echo tried; exit 5")]);
    // How long it waits, while it does.
    let wait = |it: &Value| {
        let waiting = &container(it, "main")["state"]["waiting"];
        let message = waiting["message"].as_str().filter(|_| waiting["reason"] == "CrashLoopBackOff")?;
        let rest = message.strip_prefix("back-off ")?;
        let (wait, rest) = rest.split_once(" restarting failed container=main pod=crashes_default(")?;
        assert!(rest.ends_with(')'), "{message}");
        Some(wait.to_owned())
    };
    let first = subject.objects.until("crashes", "it waits", |it| wait(it).is_some()).unwrap();
    assert_eq!(first["status"]["phase"], "Running");
    assert_eq!(end(&container(&first, "main")["lastState"]), (5, "Error"));
    let ready = condition(&first, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ContainersNotReady")));
    assert_eq!(ready["message"], "containers with unready status: [main]");
    let uid = first["metadata"]["uid"].as_str().unwrap();
    let told = format!("BackOff: Back-off restarting failed container main in pod crashes_default({uid})");
    subject.objects.until_told("crashes", &told).unwrap();
    // What it says each time is its own; between its start and its word it has said nothing.
    assert_eq!(subject.until_says(&["crashes"], "tried"), "tried\n");
    // As long as the node's settings say at the most.
    let longest = |it: &Value| {
        let wait = wait(it);
        assert!(wait.as_deref().is_none_or(|wait| ["10s", "15s"].contains(&wait)), "{wait:?}");
        wait.as_deref() == Some("15s")
    };
    let last = subject.objects.until("crashes", "it waits longest", longest).unwrap();
    let restarts = |it: &Value| container(it, "main")["restartCount"].as_i64();
    assert!(restarts(&last) >= restarts(&first).max(Some(2)));
}
