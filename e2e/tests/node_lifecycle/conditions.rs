//! Conditions, phases and the statuses of containers.

use keelson_e2e::{Engine, Pod};
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

const ALL: [&str; 5] =
    ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

fn says(pod: &Value, kind: &str) -> (String, String) {
    let text = |field: &str| condition(pod, kind)[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

pub(crate) fn they_tell_of_a_life(subject: &Subject<'_>) {
    let probe =
        "readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30}";
    let gate = "readinessGates: [{conditionType: test.keelson.io/gate}]";
    subject.apply(&[
        Pod::new("life")
            .metadata(HOLD)
            .spec("restartPolicy: Never")
            .container(probe)
            .spec(gate)
            .grace(20)
            .script("trap 'exit 0' TERM; while ! test -e /tmp/end; do sleep 0.1; done"),
        Pod::new("unschedulable").spec("nodeSelector: {no: such}"),
    ]);
    let runs = subject.until_runs("life");
    assert_eq!(runs["status"]["phase"], "Running");
    for kind in ["PodScheduled", "PodReadyToStartContainers", "Initialized"] {
        assert_eq!(says(&runs, kind), is("True", ""), "{kind}");
    }
    for kind in ["ContainersReady", "Ready"] {
        assert_eq!(says(&runs, kind), is("False", "ContainersNotReady"), "{kind}");
        assert_eq!(condition(&runs, kind)["message"], "containers with unready status: [main]");
    }
    let main = container(&runs, "main");
    assert_eq!((&main["started"], &main["ready"]), (&json!(true), &json!(false)));
    assert!(runs["status"]["startTime"].is_string() && runs["status"]["hostIP"].is_string());
    assert_eq!(runs["status"]["qosClass"], "BestEffort");
    for (list, first) in [("hostIPs", "hostIP"), ("podIPs", "podIP")] {
        assert_eq!(runs["status"][list][0]["ip"], runs["status"][first], "{list}");
    }
    let mount = &container(&runs, "main")["volumeMounts"][0];
    let token = json!({"name": runs["spec"]["volumes"][0]["name"], "readOnly": true, "recursiveReadOnly": "Disabled",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(*mount, token);

    subject.cluster.exec("life", &["touch", "/tmp/ready"]).unwrap();
    let gated = |it: &Value| says(it, "ContainersReady") == is("True", "");
    let pod = subject.objects.until("life", "its containers are ready", gated).unwrap();
    assert_eq!(says(&pod, "Ready"), is("False", "ReadinessGatesNotReady"));
    let told = condition(&pod, "Ready")["message"].as_str().unwrap();
    assert_eq!(
        told,
        "corresponding condition of pod readiness gate \"test.keelson.io/gate\" does not exist."
    );
    let gate = |status: &str| {
        let gate = json!({"status": {"conditions": [{"type": "test.keelson.io/gate", "status": status}]}});
        let patch = gate.to_string();
        let arguments = ["patch", "pod", "life", "--subresource=status", "-p", &patch];
        subject.cluster.kubectl(&arguments).unwrap();
    };
    gate("True");
    let ready = |it: &Value| says(it, "Ready") == is("True", "");
    let pod = subject.objects.until("life", "it is ready", ready).unwrap();
    let generation = &pod["metadata"]["generation"];
    assert_eq!(&pod["status"]["observedGeneration"], generation);
    for kind in ALL {
        assert_eq!(says(&pod, kind).0, "True", "{kind}");
        assert!(condition(&pod, kind)["lastTransitionTime"].is_string(), "{kind}");
    }
    for kind in &ALL[1..] {
        assert_eq!(&condition(&pod, kind)["observedGeneration"], generation, "{kind}");
    }
    gate("False");
    let unready = |it: &Value| says(it, "Ready") == is("False", "ReadinessGatesNotReady");
    let pod = subject.objects.until("life", "its gate closes", unready).unwrap();
    let told = condition(&pod, "Ready")["message"].as_str().unwrap();
    assert_eq!(told, "the status of pod readiness gate \"test.keelson.io/gate\" is not \"True\", but False");

    subject.cluster.exec("life", &["touch", "/tmp/end"]).unwrap();
    let pod = subject.until_phase("life", "Succeeded");
    assert_eq!(says(&pod, "Initialized"), is("True", "PodCompleted"));
    assert_eq!(says(&pod, "Ready"), is("False", "PodCompleted"));
    assert_eq!(says(&pod, "ContainersReady"), is("False", "PodCompleted"));
    let down = |it: &Value| says(it, "PodReadyToStartContainers").0 == "False";
    let pod = subject.objects.until("life", "its sandbox is gone", down).unwrap();
    assert_eq!(pod["status"]["phase"], "Succeeded");
    assert!(pod["status"]["podIP"].is_string(), "what its address was is still told");
    subject.delete("life");
    subject.release("life");

    let pod = subject.objects.until("unschedulable", "it is not scheduled", |it| {
        it["status"]["conditions"].is_array() && says(it, "PodScheduled") == is("False", "Unschedulable")
    });
    assert_eq!(pod.unwrap()["status"]["phase"], "Pending");
}

pub(crate) fn containers_tell_what_they_have_and_how_they_died(subject: &Subject<'_>) {
    let never = "restartPolicy: Never";
    let limits = "resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 32Mi}}";
    let user = "securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000]}";
    let signals = |name: &str, signal: &str| {
        // `$$` is one `$` in a pod. Not as the first process, which does without signals that it has not asked for.
        let pod = Pod::new(name).spec(never).spec("shareProcessNamespace: true");
        pod.script(&format!("ulimit -c 0; kill -{signal} $$$$; sleep infinity"))
    };
    subject.apply(&[
        Pod::new("has-all").container(limits).spec(user),
        Pod::new("eats").spec(never).container(limits).script("exec tail /dev/zero"),
        Pod::new("eats-again").container(limits).script("exec tail /dev/zero"),
        signals("dies-of-segv", "SEGV"),
        signals("dies-of-kill", "KILL"),
        Pod::new("says-255").spec(never).script("exit 255"),
    ]);
    let pod = subject.until_runs("has-all");
    let main = container(&pod, "main");
    assert_eq!(main["allocatedResources"], json!({"cpu": "10m", "memory": "16Mi"}));
    let wanted =
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "32Mi"}});
    assert_eq!(main["resources"], wanted);
    assert_eq!(
        (&main["started"], &main["ready"], &main["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    let scheme = if subject.engine == Engine::Embedded { "keelson://" } else { "containerd://" };
    for field in ["containerID", "imageID", "image"] {
        assert!(main[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {main}");
    }
    assert!(main["containerID"].as_str().unwrap().starts_with(scheme), "{main}");
    assert!(main["state"]["running"]["startedAt"].is_string());
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    if subject.engine == Engine::Embedded {
        let linux = &main["user"]["linux"];
        assert_eq!((&linux["uid"], &linux["gid"]), (&json!(1000), &json!(3000)), "{main}");
        assert!(linux["supplementalGroups"].as_array().unwrap().contains(&json!(4000)), "{main}");
    }
    for (name, code, reason) in [
        ("eats", 137, "OOMKilled"),
        ("dies-of-segv", 139, "Error"),
        ("dies-of-kill", 137, "Error"),
        ("says-255", 255, "Error"),
    ] {
        let over = subject.until_phase(name, "Failed");
        let ended = container(&over, "main");
        let (found, told) = end(&ended["state"]);
        // containerd hears apart from the end that memory was the reason, and may hear it later.
        let late = subject.engine == Engine::Containerd && reason == "OOMKilled" && told == "Error";
        assert!(found == code && (told == reason || late), "{name}: {ended}");
        assert_eq!((&ended["started"], &ended["ready"]), (&json!(false), &json!(false)), "{name}");
        let times = &ended["state"]["terminated"];
        assert!(times["startedAt"].is_string() && times["finishedAt"].is_string(), "{times}");
        assert_eq!(times["containerID"], ended["containerID"]);
    }
    let again = |it: &Value| end(&container(it, "main")["lastState"]) == (137, "OOMKilled");
    subject.objects.until("eats-again", "it has eaten too much", again).unwrap();
}
