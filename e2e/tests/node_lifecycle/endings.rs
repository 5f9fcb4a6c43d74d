//! How pods end that are asked to, or whose time is over.

use keelson_e2e::{Engine, Pod};
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

pub(crate) fn a_pod_has_its_grace_and_the_codes_of_its_end(subject: &Subject<'_>) {
    let loops = "echo up; while true; do sleep 0.1; done";
    let pod =
        |name: &str, grace: u32, script: &str| Pod::new(name).metadata(HOLD).grace(grace).script(script);
    let mut pods = vec![
        (pod("ends-well", 60, &format!("trap 'exit 0' TERM; {loops}")), (0, "Completed")),
        (pod("ends-slowly", 60, &format!("trap 'sleep 3; exit 9' TERM; {loops}")), (9, "Error")),
        // The first process of a PID namespace has no default for a signal.
        (pod("ignores", 2, &format!("trap '' TERM; {loops}")), (137, "Error")),
        // Any other one has.
        (
            pod("is-signalled", 60, "echo up; exec sleep infinity").spec("shareProcessNamespace: true"),
            (143, "Error"),
        ),
    ];
    let stop_signal = || {
        let script = format!("trap 'exit 21' TERM; trap 'exit 22' USR1; {loops}");
        let pod = pod("other-signal", 60, &script).spec("os: {name: linux}");
        pod.container("lifecycle: {stopSignal: SIGUSR1}")
    };
    if subject.engine == Engine::Embedded {
        pods.push((stop_signal(), (22, "Error")));
    }
    subject.apply(&pods.iter().map(|(pod, _)| pod.clone()).collect::<Vec<_>>());
    for (pod, _) in &pods {
        subject.until_says(&[pod.name()], "up");
    }
    if subject.engine == Engine::Embedded {
        let pod = subject.objects.pod("other-signal").unwrap();
        assert_eq!(container(&pod, "main")["stopSignal"], "SIGUSR1");
    }
    pods.iter().for_each(|(pod, _)| subject.delete(pod.name()));
    for (pod, wanted) in &pods {
        let ended = |it: &Value| {
            container(it, "main")["state"]["terminated"].is_object()
                && matches!(it["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        };
        let found = subject.objects.until(pod.name(), "it has ended", ended).unwrap();
        assert_eq!(end(&container(&found, "main")["state"]), *wanted, "{}", pod.name());
        let phase = if wanted.0 == 0 { "Succeeded" } else { "Failed" };
        assert_eq!(found["status"]["phase"], phase, "{}", pod.name());
        assert_eq!(condition(&found, "Ready")["status"], "False");
        subject.objects.until_told(pod.name(), "Killing: Stopping container main").unwrap();
        subject.release(pod.name());
    }
}

pub(crate) fn a_grace_is_shortened_and_a_deadline_ends_a_pod(subject: &Subject<'_>) {
    let stubborn = "trap '' TERM; echo up; while true; do sleep 0.1; done";
    subject.apply(&[
        Pod::new("stubborn").grace(600).script(stubborn),
        Pod::new("forced").grace(600).script(stubborn),
        Pod::new("timed").spec("activeDeadlineSeconds: 10").grace(1),
        Pod::new("timed-later").grace(1),
    ]);
    for name in ["stubborn", "forced", "timed-later"] {
        subject.until_runs(name);
    }
    let later = r#"{"spec":{"activeDeadlineSeconds":1}}"#;
    subject.cluster.kubectl(&["patch", "pod", "timed-later", "-p", later]).unwrap();
    subject.until_says(&["stubborn"], "up");
    subject.delete("stubborn");
    let ending = subject.objects.pod("stubborn").unwrap();
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 600);
    // Its end is under way: the container has been asked.
    subject.objects.until_told("stubborn", "Killing: Stopping container main").unwrap();
    assert_eq!(subject.objects.pod("stubborn").unwrap()["status"]["phase"], "Running");
    subject.cluster.kubectl(&["delete", "pod", "stubborn", "--grace-period=1", "--wait=false"]).unwrap();
    subject.objects.until_gone("stubborn").unwrap();
    subject.cluster.kubectl(&["delete", "pod", "forced", "--force", "--grace-period=0"]).unwrap();
    subject.objects.until_gone("forced").unwrap();

    for name in ["timed", "timed-later"] {
        let over = subject.until_phase(name, "Failed");
        let status = &over["status"];
        assert_eq!(status["reason"], "DeadlineExceeded", "{name}");
        assert_eq!(status["message"], "Pod was active on the node longer than the specified deadline");
        let ended = |it: &Value| container(it, "main")["state"]["terminated"].is_object();
        let over = subject.objects.until(name, "its container has ended", ended).unwrap();
        // One may have had no time to begin.
        assert_eq!(end(&container(&over, "main")["state"]).0, 137);
        assert_eq!(
            (&condition(&over, "Ready")["reason"], &over["status"]["phase"]),
            (&json!("PodFailed"), &json!("Failed"))
        );
        subject.objects.until_told(name, "DeadlineExceeded: Pod was active on the node longer than").unwrap();
    }
}
