//! What a node's probes do, as upstream's conformance tests of probes say, in both runtimes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use keelson_e2e::{Engine, Node, Objects, Pod};
use serde_json::Value;

/// The server whose container is probed; a static program.
const SERVER: &str = env!("CARGO_BIN_EXE_probed");

const PATIENT: &str = "periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 30";
const QUICK: &str = "periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 30";

/// A pod with that server.
fn served(name: &str, probes: &str) -> Pod {
    let folder = Path::new(SERVER).parent().unwrap().display().to_string();
    let pod =
        Pod::new(name).grace(2).spec(&format!("volumes: [{{name: bin, hostPath: {{path: \"{folder}\"}}}}]"));
    pod.script("exec /server/probed")
        .container("volumeMounts: [{name: bin, mountPath: /server, readOnly: true}]")
        .container("ports: [{name: web, containerPort: 8080}, {name: tls, containerPort: 8443}]")
        .container(probes)
}

fn slept(name: &str, script: &str, probes: &[&str]) -> Pod {
    let pod = Pod::new(name).grace(1).script(script);
    probes.iter().fold(pod, |pod, probe| pod.container(probe))
}

fn main_container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn restarts(pod: &Value) -> i64 {
    main_container(pod)["restartCount"].as_i64().unwrap_or_default()
}

fn pods() -> Vec<Pod> {
    let http = |more: &str| format!("httpGet: {{port: 8080, {more}}}");
    let sleep = "exec sleep infinity";
    vec![
        // Readiness by every kind of probe.
        served("http", &format!("readinessProbe: {{{}, {PATIENT}}}", http("path: /ok"))),
        served("http-named-port", &format!("readinessProbe: {{httpGet: {{path: /ok, port: web}}, {PATIENT}}}")),
        served(
            "http-headers",
            &format!(
                "readinessProbe: {{{}, {PATIENT}}}",
                http("path: /header, httpHeaders: [{name: X-Probe, value: \"yes\"}, {name: Host, value: probed.test}]")
            ),
        ),
        served("https", &format!("readinessProbe: {{httpGet: {{path: /ok, port: tls, scheme: HTTPS}}, {PATIENT}}}")),
        served("http-redirect", &format!("readinessProbe: {{{}, {PATIENT}}}", http("path: /here"))),
        served("http-redirect-away", &format!("readinessProbe: {{{}, {PATIENT}}}", http("path: /away"))),
        // Asked by the node, this is the node itself, where nobody listens at that port.
        served("http-host", &format!("readinessProbe: {{{}, {PATIENT}}}", http("path: /ok, host: 127.0.0.1"))),
        served("http-fails", &format!("readinessProbe: {{{}, {PATIENT}}}", http("path: /fails"))),
        served(
            "http-slow",
            &format!("readinessProbe: {{{}, periodSeconds: 1, failureThreshold: 100}}", http("path: /slow")),
        ),
        served("tcp", &format!("readinessProbe: {{tcpSocket: {{port: web}}, {PATIENT}}}")),
        served("tcp-fails", &format!("readinessProbe: {{tcpSocket: {{port: 1}}, {PATIENT}}}")),
        served("grpc", &format!("readinessProbe: {{grpc: {{port: 9090}}, {PATIENT}}}")),
        served("grpc-service", &format!("readinessProbe: {{grpc: {{port: 9090, service: well}}, {PATIENT}}}")),
        served("grpc-ill", &format!("readinessProbe: {{grpc: {{port: 9090, service: ill}}, {PATIENT}}}")),
        served("grpc-unknown", &format!("readinessProbe: {{grpc: {{port: 9090, service: absent}}, {PATIENT}}}")),
        served("grpc-refused", "readinessProbe: {grpc: {port: 1}, periodSeconds: 1, failureThreshold: 100}"),
        // Liveness: a restart, once it fails.
        served("live-http", &format!("livenessProbe: {{{}, {QUICK}}}", http("path: /ok")))
            .container(&format!("startupProbe: {{{}, {PATIENT}}}", http("path: /ok"))),
        served("live-redirect", &format!("livenessProbe: {{{}, {QUICK}}}", http("path: /there"))),
        served("live-grpc", &format!("livenessProbe: {{grpc: {{port: 9090}}, {QUICK}}}"))
            .container(&format!("startupProbe: {{tcpSocket: {{port: 9090}}, {PATIENT}}}")),
        slept(
            "live-exec",
            "echo ok > /tmp/health; sleep 3; rm -f /tmp/health; sleep 600",
            &["livenessProbe: {exec: {command: [cat, /tmp/health]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1, initialDelaySeconds: 1}"],
        ),
        slept("live-exec-slow", sleep, &["livenessProbe: {exec: {command: [sleep, \"100\"]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 1}"]),
        slept("live-tcp", sleep, &[&format!("livenessProbe: {{tcpSocket: {{port: 8080}}, {QUICK}}}")]),
        // With a grace of its own that is shorter than the pod's.
        Pod::new("live-grace")
            .grace(500)
            .script("trap '' TERM; while true; do sleep 0.1; done")
            .container("livenessProbe: {exec: {command: [\"false\"]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1, terminationGracePeriodSeconds: 2}"),
        // As often as it fails, it never restarts who only is not ready.
        slept(
            "toggles",
            "touch /tmp/ready; exec sleep infinity",
            &["readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1, successThreshold: 2}"],
        ),
        // Startup: nothing else is probed before it, and its failure is a restart.
        slept(
            "starts",
            "sleep 3; touch /tmp/started; exec sleep infinity",
            &[
                "startupProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 60}",
                "livenessProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}",
                "readinessProbe: {exec: {command: [test, -e, /tmp/started]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}",
            ],
        ),
        // Who ends is still asked whether it is ready, and no more whether it lives.
        slept(
            "ends",
            "trap 'rm /tmp/ready' TERM; touch /tmp/ready; while ! test -e /tmp/go; do sleep 0.1; done",
            &[
                "readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}",
                "livenessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}",
                "startupProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 100}",
            ],
        )
        .grace(600),
        slept(
            "never-starts",
            sleep,
            &[
                "startupProbe: {exec: {command: [\"false\"]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2, terminationGracePeriodSeconds: 1}",
                "livenessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1, timeoutSeconds: 30}",
            ],
        ),
        slept("no-such-program", sleep, &[&format!("readinessProbe: {{exec: {{command: [/no/such]}}, {PATIENT}}}")]),
    ]
}

fn is_ready(pod: &Value) -> bool {
    main_container(pod)["ready"] == true
}

fn readiness(objects: &Objects) {
    for name in [
        "http",
        "http-named-port",
        "http-headers",
        "https",
        "http-redirect",
        "http-redirect-away",
        "tcp",
        "grpc",
        "grpc-service",
    ] {
        let pod = objects.until(name, "it is ready", is_ready).unwrap();
        assert_eq!(restarts(&pod), 0, "{name}");
    }
    objects
        .until_told("http-redirect-away", "ProbeWarning: Readiness probe warning: Probe terminated redirects")
        .unwrap();
    let ip = |pod: &str| {
        let pod = objects.until(pod, "it has an address", |it| it["status"]["podIP"].is_string()).unwrap();
        pod["status"]["podIP"].as_str().unwrap().to_owned()
    };
    for (name, told) in [
        ("http-fails", "HTTP probe failed with statuscode: 500".to_owned()),
        (
            "http-host",
            "Get \"http://127.0.0.1:8080/ok\": dial tcp 127.0.0.1:8080: connect: connection refused"
                .to_owned(),
        ),
        (
            "http-slow",
            format!(
                "Get \"http://{}:8080/slow\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                ip("http-slow")
            ),
        ),
        ("tcp-fails", format!("dial tcp {}:1: connect: connection refused", ip("tcp-fails"))),
        ("grpc-ill", "service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        (
            "grpc-unknown",
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service".to_owned(),
        ),
        (
            "grpc-refused",
            format!(
                "timeout: failed to connect service \"{}:1\" within 1s: context deadline exceeded",
                ip("grpc-refused")
            ),
        ),
    ] {
        objects.until_told(name, &format!("Unhealthy: Readiness probe failed: {told}")).unwrap();
        let pod = objects.until_is(name, "/status/phase", "Running").unwrap();
        assert!(!is_ready(&pod) && restarts(&pod) == 0, "{pod}");
    }
    // A probe that cannot be made is told as well, and decides nothing.
    objects.until_told("no-such-program", "Unhealthy: Readiness probe ").unwrap();
    assert!(!is_ready(&objects.pod("no-such-program").unwrap()));
}

fn liveness(node: &Node, objects: &Objects) {
    for name in ["live-http", "live-grpc"] {
        objects.until(name, "it has started", is_ready).unwrap();
        assert_eq!(restarts(&objects.pod(name).unwrap()), 0, "{name}");
        node.exec(name, &["touch", "/tmp/ill"]).unwrap();
    }
    for (name, told) in [
        ("live-http", "HTTP probe failed with statuscode: 503"),
        ("live-redirect", "HTTP probe failed with statuscode: 500"),
        ("live-grpc", "service unhealthy (responded with \"NOT_SERVING\")"),
        ("live-exec", "cat: can't open '/tmp/health': No such file or directory"),
        ("live-exec-slow", "command timed out: \"sleep 100\" timed out after 1s"),
        ("live-tcp", "dial tcp "),
        ("live-grace", ""),
    ] {
        let pod = objects.until(name, "it is started again", |it| restarts(it) > 0).unwrap();
        assert_eq!(pod["status"]["phase"], "Running", "{name}");
        let last = &main_container(&pod)["lastState"]["terminated"];
        assert!(last["exitCode"].as_i64().is_some_and(|code| code != 0), "{name}: {last}");
        objects.until_told(name, &format!("Unhealthy: Liveness probe failed: {told}")).unwrap();
        objects.until_told(name, "Killing: Container main failed liveness probe, will be restarted").unwrap();
    }
    // Its file is gone with the container that had it.
    objects.until("live-http", "it is well again", is_ready).unwrap();
}

fn startup(node: &Node, objects: &Objects) {
    let pod = objects.until("starts", "it is ready", is_ready).unwrap();
    assert_eq!((restarts(&pod), &main_container(&pod)["started"]), (0, &Value::Bool(true)));
    let told = objects.events("starts").unwrap();
    assert!(
        !told.iter().any(|event| event.contains("Liveness probe") || event.contains("Readiness probe")),
        "{told:?}"
    );
    let pod = objects.until("never-starts", "it is started again", |it| restarts(it) > 0).unwrap();
    assert_eq!(main_container(&pod)["lastState"]["terminated"]["exitCode"], 137);
    assert!(!is_ready(&pod) && main_container(&pod)["started"] != Value::Bool(true), "{pod}");
    objects.until_told("never-starts", "Unhealthy: Startup probe failed: ").unwrap();
    objects
        .until_told("never-starts", "Killing: Container main failed startup probe, will be restarted")
        .unwrap();

    objects.until("ends", "it is ready", is_ready).unwrap();
    node.kubectl(&["delete", "pod", "ends", "--wait=false"]).unwrap();
    let pod = objects.until("ends", "it is not ready", |it| !is_ready(it)).unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_string() && pod["status"]["phase"] == "Running");
    objects.until_told("ends", "Unhealthy: Readiness probe failed").unwrap();
    let told = objects.events("ends").unwrap();
    assert!(!told.iter().any(|event| event.contains("Liveness probe failed")), "{told:?}");
    node.exec("ends", &["touch", "/tmp/go"]).unwrap();
    objects.until_gone("ends").unwrap();

    for _ in 0..2 {
        objects.until("toggles", "it is ready", is_ready).unwrap();
        node.exec("toggles", &["rm", "/tmp/ready"]).unwrap();
        let unready = |it: &Value| {
            let conditions = it["status"]["conditions"].as_array().into_iter().flatten();
            !is_ready(it)
                && conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "False")
        };
        objects.until("toggles", "it is not ready", unready).unwrap();
        node.exec("toggles", &["touch", "/tmp/ready"]).unwrap();
    }
    let pod = objects.until("toggles", "it is ready", is_ready).unwrap();
    assert_eq!(restarts(&pod), 0, "who is not ready is not restarted");
}

fn all(engine: Engine) {
    let node = Node::up(engine, "").unwrap();
    let objects = Objects::of(&node).unwrap();
    node.apply(&pods().iter().map(Pod::to_string).collect::<String>()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| readiness(&objects));
        scope.spawn(|| liveness(&node, &objects));
        scope.spawn(|| startup(&node, &objects));
    });
}

#[test]
fn probes_of_the_embedded_runtime_do_what_upstream_s_do() {
    all(Engine::Embedded);
}

#[test]
fn probes_of_containerd_do_what_upstream_s_do() {
    all(Engine::Containerd);
}
