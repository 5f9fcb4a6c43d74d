//! Init containers that go on running beside the others.

use std::fs;

use keelson_e2e::{BUSYBOX, Pod};
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

/// An entry of the list of init containers, with the folder `/all`.
fn init(name: &str, script: &str, more: &str) -> String {
    let script = Value::from(script);
    format!(
        "{{name: {name}, image: \"{BUSYBOX}\", command: [sh, -c, {script}], volumeMounts: [{{name: all, mountPath: /all}}], {more}}}"
    )
}

const SIDECAR: &str = "restartPolicy: Always";

fn lives(name: &str, before: &str) -> String {
    format!(
        "trap 'echo {name} ends >> /all/order; exit 0' TERM; echo {name} >> /all/order; {before}; while true; do sleep 0.1; done"
    )
}

pub(crate) fn they_start_before_and_end_after_the_others(subject: &Subject<'_>) {
    let folder = subject.cluster.folder().join("order");
    fs::create_dir(&folder).unwrap();
    let probe = "startupProbe: {exec: {command: [test, -e, /all/up]}, periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 30}";
    let hook = "lifecycle: {preStop: {exec: {command: [sh, -c, \"echo hook of second >> /all/hooks\"]}}}";
    let inits = [
        init("init1", "echo init1 >> /all/order", ""),
        init(
            "first",
            &lives("first", "sleep 2; echo first is up >> /all/order; touch /all/up"),
            &format!("{SIDECAR}, {probe}"),
        ),
        init("init2", "echo init2 >> /all/order", ""),
        init("second", &lives("second", "true"), &format!("{SIDECAR}, {hook}")),
        init("init3", "echo init3 >> /all/order", ""),
    ];
    let pod = Pod::new("sidecars").metadata(HOLD).grace(120).script(&lives("main", "true"));
    let pod = pod.spec(&format!("volumes: [{{name: all, hostPath: {{path: \"{}\"}}}}]", folder.display()));
    let pod = pod.container("volumeMounts: [{name: all, mountPath: /all}]");
    subject.apply(&[pod.spec(&format!("initContainers: [{}]", inits.join(", ")))]);
    let ready = subject
        .objects
        .until("sidecars", "it is ready", |it| condition(it, "Ready")["status"] == "True")
        .unwrap();
    for name in ["first", "second"] {
        let status = container(&ready, name);
        assert_eq!((&status["ready"], &status["started"]), (&json!(true), &json!(true)), "{status}");
        assert!(status["state"]["running"].is_object(), "{status}");
    }
    let order = |wanted: &str| {
        keelson_e2e::eventually("the order of containers", keelson_e2e::LONG, || {
            let found = fs::read_to_string(folder.join("order"))?;
            anyhow::ensure!(found == wanted, "{found}");
            Ok(Some(()))
        })
        .unwrap();
    };
    // `second` is not waited for until it has said that it is there: that it runs is all there is to know.
    let began = fs::read_to_string(folder.join("order")).unwrap();
    assert!(began.starts_with("init1\nfirst\nfirst is up\ninit2\n"), "{began}");
    keelson_e2e::eventually("everybody to have begun", keelson_e2e::LONG, || {
        Ok((fs::read_to_string(folder.join("order"))?.lines().count() == 7).then_some(()))
    })
    .unwrap();
    fs::write(folder.join("order"), "").unwrap();
    subject.delete("sidecars");
    order("main ends\nsecond ends\nfirst ends\n");
    let ended = |it: &Value| {
        ["main", "first", "second"].iter().all(|name| container(it, name)["state"]["terminated"].is_object())
    };
    let ended = subject.objects.until("sidecars", "all of it has ended", ended).unwrap();
    for name in ["main", "first", "second"] {
        assert_eq!(end(&container(&ended, name)["state"]), (0, "Completed"), "{name}");
    }
    assert_eq!(fs::read_to_string(folder.join("hooks")).unwrap(), "hook of second\n");
    subject.release("sidecars");
}

pub(crate) fn they_are_started_again_and_end_with_a_job(subject: &Subject<'_>) {
    let volume = "volumes: [{name: all, emptyDir: {}}]";
    let once = "test -e /all/once || { touch /all/once; exit 5; }; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let fails = "test -e /all/once && touch /all/again; touch /all/once; sleep 1; exit 4";
    let pod = |name: &str, policy: &str, init: String| {
        Pod::new(name).spec(volume).spec(policy).spec(&format!("initContainers: [{init}]"))
    };
    let never = "restartPolicy: Never";
    let waits = "while ! test -e /all/again; do sleep 0.1; done";
    let with = |pod: Pod| pod.container("volumeMounts: [{name: all, mountPath: /all}]");
    subject.apply(&[
        pod("sidecar-again", "", init("side", once, SIDECAR)),
        with(pod(
            "sidecar-job",
            never,
            init("side", &once.replace("while", "touch /all/again; while"), SIDECAR),
        ))
        .script(waits)
        .grace(60),
        with(pod("sidecar-fails", never, init("side", fails, SIDECAR))).script(&format!("{waits}; exit 6")),
        // What a sidecar's probe says counts for the pod.
        pod(
            "sidecar-unready",
            "",
            init(
                "side",
                "exec sleep infinity",
                &format!("{SIDECAR}, readinessProbe: {{exec: {{command: [test, -e, /all/ready]}}, periodSeconds: 1, timeoutSeconds: 30}}"),
            ),
        )
        .container("volumeMounts: [{name: all, mountPath: /all}]"),
        // A failing startup probe of a sidecar: it is started again, and nobody after it begins.
        pod(
            "sidecar-unstarted",
            "",
            init(
                "side",
                "exec sleep infinity",
                &format!("{SIDECAR}, startupProbe: {{exec: {{command: [\"false\"]}}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1, terminationGracePeriodSeconds: 1}}"),
            ),
        ),
    ]);
    let unready = |it: &Value| it["status"]["phase"] == "Running" && container(it, "main")["ready"] == true;
    let pod = subject.objects.until("sidecar-unready", "it runs", unready).unwrap();
    let ready = condition(&pod, "Ready");
    assert_eq!(
        (&ready["status"], &ready["message"]),
        (&json!("False"), &json!("containers with unready status: [side]"))
    );
    subject.cluster.exec("sidecar-unready", &["touch", "/all/ready"]).unwrap();
    let ready = |it: &Value| condition(it, "Ready")["status"] == "True";
    subject.objects.until("sidecar-unready", "its sidecar is ready", ready).unwrap();

    let again = |it: &Value| {
        let side = container(it, "side");
        side["restartCount"] == 1
            && side["state"]["running"].is_object()
            && it["status"]["phase"] == "Running"
    };
    let pod = subject.objects.until("sidecar-again", "its sidecar runs again", again).unwrap();
    assert_eq!(end(&container(&pod, "side")["lastState"]), (5, "Error"));
    assert_eq!(container(&pod, "main")["restartCount"], 0);

    let over = subject.until_phase("sidecar-job", "Succeeded");
    assert_eq!(
        (end(&container(&over, "main")["state"]), end(&container(&over, "side")["state"])),
        ((0, "Completed"), (0, "Completed"))
    );
    assert_eq!(
        container(&over, "side")["restartCount"],
        1,
        "sidecars are started again whatever the pod's policy"
    );

    let over = subject.until_phase("sidecar-fails", "Failed");
    assert_eq!(end(&container(&over, "main")["state"]), (6, "Error"));
    assert!(container(&over, "side")["restartCount"].as_i64() >= Some(1), "{over}");

    let unstarted = |it: &Value| container(it, "side")["restartCount"].as_i64() >= Some(1);
    let pod = subject.objects.until("sidecar-unstarted", "its sidecar is started again", unstarted).unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(container(&pod, "main")["state"]["waiting"]["reason"], "PodInitializing");
    subject.objects.until_told("sidecar-unstarted", "Unhealthy: Startup probe failed:").unwrap();
    subject
        .objects
        .until_told("sidecar-unstarted", "Killing: Init container side failed startup probe")
        .unwrap();
}
