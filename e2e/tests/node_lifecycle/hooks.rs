//! Hooks after the start of containers, and before their end.

use std::fs;

use keelson_e2e::Pod;
use serde_json::{Value, json};

use crate::{HOLD, Subject, container, end};

pub(crate) fn they_run_after_the_start_and_before_the_end(subject: &Subject<'_>) {
    // Tells which paths it was asked for.
    let server = Pod::new("hooked-server").script("exec httpd -f -vv -p 8080 -h /home");
    subject.apply(&[server]);
    let server = subject.until_runs("hooked-server");
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
        pod.container("volumeMounts: [{name: v, mountPath: /v}]")
            .script("trap 'exit 0' TERM; while true; do sleep 0.1; done")
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
        // Longer than the grace: it is cut off, and the container has two seconds more.
        pod("hook-long", "preStop: {exec: {command: [sleep, \"300\"]}}").grace(3),
    ]);
    let all = ["hook-exec", "hook-http", "hook-sleep", "hook-long"];
    for name in all {
        subject.cluster.wait(name, "condition=Ready").unwrap();
    }
    assert_eq!(fs::read_to_string(folder.join("started")).unwrap(), "hook-exec\n");
    subject.until_says(&["hooked-server"], "/poststart");
    let before = std::time::Instant::now();
    all.iter().for_each(|name| subject.delete(name));
    for name in all {
        let ended = |it: &Value| container(it, "main")["state"]["terminated"].is_object();
        let pod = subject.objects.until(name, "it has ended", ended).unwrap();
        assert_eq!(end(&container(&pod, "main")["state"]), (0, "Completed"), "{name}");
        if name == "hook-sleep" {
            assert!(before.elapsed().as_secs() >= 3, "the hook's sleep was waited for");
        }
    }
    assert!(before.elapsed().as_secs() < 100, "a hook has no more time than the pod");
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
            .grace(5)
            .metadata(HOLD)
            .container(&format!("lifecycle: {{preStop: {fails}}}"))
            .script("trap 'exit 0' TERM; while true; do sleep 0.1; done"),
    ]);
    subject.until_runs("hook-fails-at-the-end");
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
