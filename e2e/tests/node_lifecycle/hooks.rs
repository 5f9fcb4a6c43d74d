//! Hooks after the start of containers, and before their end.

use std::fs;

use keelson_e2e::Pod;
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

/// Ends well when it is asked to, once it has said so.
const TRAPPED: &str = "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done";

pub(crate) fn they_run_after_the_start_and_before_the_end(subject: &Subject<'_>) {
    // Tells which paths it was asked for.
    let server = Pod::new("hooked-server").script("exec httpd -f -vv -p 8080 -h /home");
    let listens = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 30}";
    subject.apply(&[server.container(listens)]);
    let ready = |it: &Value| condition(it, "Ready")["status"] == "True";
    let server = subject.objects.until("hooked-server", "it listens", ready).unwrap();
    let ip = server["status"]["podIP"].as_str().unwrap();
    let folder = subject.cluster.folder().join("hooks");
    fs::create_dir(&folder).unwrap();
    let volume = format!("volumes: [{{name: v, hostPath: {{path: \"{}\"}}}}]", folder.display());
    let pod = |name: &str, lifecycle: &str| {
        let pod = Pod::new(name)
            .metadata(HOLD)
            .grace(30)
            .spec(&volume)
            .container(&format!("lifecycle: {{{lifecycle}}}"));
        pod.container("volumeMounts: [{name: v, mountPath: /v}]").script(TRAPPED)
    };
    let get = |path: &str| {
        format!(
            "{{httpGet: {{host: \"{ip}\", port: 8080, path: /{path}, httpHeaders: [{{name: X-A, value: b}}]}}}}"
        )
    };
    let write = |name: &str| format!("{{exec: {{command: [sh, -c, \"echo $HOSTNAME > /v/{name}\"]}}}}");
    subject.apply(&[
        pod("hook-exec", &format!("postStart: {}, preStop: {}", write("started"), write("stopped"))),
        pod("hook-http", &format!("postStart: {}, preStop: {}", get("poststart"), get("prestop"))),
        pod("hook-sleep", "postStart: {sleep: {seconds: 2}}, preStop: {sleep: {seconds: 3}}"),
        // Longer than the grace: it is cut off, and the container has two seconds more, which may be enough for it.
        pod("hook-long", "preStop: {exec: {command: [sleep, \"300\"]}}").grace(3),
    ]);
    let all = ["hook-exec", "hook-http", "hook-sleep", "hook-long"];
    for name in all {
        subject.cluster.wait(name, "condition=Ready").unwrap();
        subject.until_says(&[name], "up");
    }
    assert_eq!(fs::read_to_string(folder.join("started")).unwrap(), "hook-exec\n");
    subject.until_says(&["hooked-server"], "/poststart");
    let before = std::time::Instant::now();
    all.iter().for_each(|name| subject.delete(name));
    for name in all {
        let ended = |it: &Value| container(it, "main")["state"]["terminated"].is_object();
        let pod = subject.objects.until(name, "it has ended", ended).unwrap();
        let end = end(&container(&pod, "main")["state"]);
        assert!(end == (0, "Completed") || name == "hook-long" && end == (137, "Error"), "{name}: {end:?}");
        if name == "hook-sleep" {
            assert!(before.elapsed().as_secs() >= 3, "the hook's sleep was waited for");
        }
    }
    assert!(before.elapsed().as_secs() < 300, "a hook has no more time than the pod");
    assert_eq!(fs::read_to_string(folder.join("stopped")).unwrap(), "hook-exec\n");
    subject.until_says(&["hooked-server"], "/prestop");
    all.iter().for_each(|name| subject.release(name));
}

pub(crate) fn a_failing_one_ends_its_container(subject: &Subject<'_>) {
    let fails = "{exec: {command: [sh, -c, \"echo secret words; exit 4\"]}}";
    subject.apply(&[
        Pod::new("hook-fails").container(&format!("lifecycle: {{postStart: {fails}}}")),
        Pod::new("hook-fails-never")
            .spec("restartPolicy: Never")
            .container("lifecycle: {postStart: {httpGet: {port: 1}}}"),
        Pod::new("hook-fails-at-the-end")
            .grace(60)
            .metadata(HOLD)
            .container(&format!("lifecycle: {{preStop: {fails}}}"))
            .script(TRAPPED),
    ]);
    subject.until_says(&["hook-fails-at-the-end"], "up");
    subject.delete("hook-fails-at-the-end");
    let waits = |it: &Value| {
        let main = container(it, "main");
        main["state"]["waiting"].is_object() && main["lastState"]["terminated"].is_object()
    };
    let pod = subject.objects.until("hook-fails", "its container waits", waits).unwrap();
    assert_eq!(end(&container(&pod, "main")["lastState"]).0, 137);
    let reason = &container(&pod, "main")["state"]["waiting"]["reason"];
    assert!([json!("PostStartHookError"), json!("CrashLoopBackOff")].contains(reason), "{reason}");
    let told = subject.objects.until_told("hook-fails", "FailedPostStartHook: ").unwrap();
    assert!(!told.contains("secret"), "what a hook says may be secret: {told}");
    subject.objects.until_told("hook-fails", "Killing: FailedPostStartHook").unwrap();
    let pod = subject.until_phase("hook-fails-never", "Failed");
    assert_eq!(end(&container(&pod, "main")["state"]).0, 137);

    subject.objects.until_told("hook-fails-at-the-end", "FailedPreStopHook: ").unwrap();
    let ended = |it: &Value| container(it, "main")["state"]["terminated"].is_object();
    let pod = subject.objects.until("hook-fails-at-the-end", "it has ended", ended).unwrap();
    assert_eq!(end(&container(&pod, "main")["state"]), (0, "Completed"));
    subject.release("hook-fails-at-the-end");
}
