//! Pods of Deployments over their life: probes, restarts, graceful ends, rolling updates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use keelson_e2e::{BUSYBOX, Cluster, LONG, PATIENCE, eventually};

const WEB: &str = "app.kubernetes.io/name=demo-web";

/// Addresses of the ready endpoints of the quickstart's Service.
fn ready_endpoints(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let each =
        r#"jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.addresses[0]}{"\n"}{end}"#;
    let slices = ["get", "endpointslices", "-l", "kubernetes.io/service-name=demo-web", "-o", each];
    Ok(cluster.kubectl(&slices)?.lines().map(str::to_owned).collect())
}

fn events(cluster: &Cluster, object: &str) -> String {
    let fields = format!("involvedObject.name={object}");
    let columns = "custom-columns=REASON:.reason,TYPE:.type,MESSAGE:.message";
    cluster.kubectl(&["get", "events", "--field-selector", &fields, "-o", columns]).unwrap()
}

#[test]
fn a_pod_that_is_not_ready_gets_no_traffic_and_one_that_is_not_alive_is_restarted() {
    let cluster = Cluster::up().unwrap();
    cluster.quickstart().unwrap();
    let pods = cluster.pods(WEB).unwrap();
    let (sick, killed) = (&pods[0], &pods[1]);
    let address = cluster.pod(sick, ".status.podIP").unwrap();
    let service = cluster.field(&["svc", "demo-web"], ".spec.clusterIP").unwrap();

    eventually("three endpoints", LONG, || Ok((ready_endpoints(&cluster)?.len() == 3).then_some(())))
        .unwrap();
    cluster.http("POST", &format!("http://{address}:8080/healthz/fail")).unwrap();
    cluster.wait(sick, "condition=Ready=false").unwrap();
    eventually("the endpoint to go", LONG, || {
        Ok((!ready_endpoints(&cluster)?.contains(&address)).then_some(()))
    })
    .unwrap();
    eventually("connections to go elsewhere", LONG, || {
        let pages = (0..20)
            .map(|_| cluster.http("GET", &format!("http://{service}/")))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(pages.iter().all(|page| !page.contains(&format!("host: {sick}\n"))).then_some(()))
    })
    .unwrap();
    assert!(
        events(&cluster, sick).contains("Readiness probe failed: HTTP probe failed with statuscode: 503")
    );
    assert_eq!(cluster.pod(sick, ".status.containerStatuses[0].restartCount").unwrap(), "0");
    cluster.http("POST", &format!("http://{address}:8080/healthz/pass")).unwrap();
    cluster.wait(sick, "condition=Ready").unwrap();
    eventually("the endpoint to be back", LONG, || {
        Ok(ready_endpoints(&cluster)?.contains(&address).then_some(()))
    })
    .unwrap();

    let count = "jsonpath={.status.containerStatuses[0].restartCount}=1";
    cluster.http("POST", &format!("http://{address}:8080/livez/fail")).unwrap();
    cluster.wait(sick, count).unwrap();
    cluster.wait(sick, "condition=Ready").unwrap();
    let told = events(&cluster, sick);
    for event in [
        "Liveness probe failed: HTTP probe failed with statuscode: 503",
        "Container web failed liveness probe, will be restarted",
    ] {
        assert!(told.contains(event), "{told}");
    }
    assert_eq!(cluster.pod(sick, ".status.podIP").unwrap(), address);

    let before = cluster.pod(killed, ".status.podIP").unwrap();
    let process = cluster.main_process(killed).unwrap();
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    cluster.wait(killed, count).unwrap();
    cluster.wait(killed, "condition=Ready").unwrap();
    assert_eq!(cluster.pod(killed, ".status.podIP").unwrap(), before);
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(cluster.pod(killed, last).unwrap(), "137");
}

#[test]
fn a_container_that_keeps_failing_is_backed_off() {
    let cluster = Cluster::up().unwrap();
    cluster.kubectl(&["run", "broken", "--image", BUSYBOX, "--", "sh", "-c", "echo no; exit 3"]).unwrap();
    let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
    cluster.wait("broken", &format!("jsonpath={waiting}=CrashLoopBackOff")).unwrap();
    let table = cluster.kubectl(&["get", "pod", "broken"]).unwrap();
    assert!(table.contains("CrashLoopBackOff"), "{table}");
    let last = ".status.containerStatuses[0].lastState.terminated";
    assert_eq!(cluster.pod("broken", &format!("{last}.exitCode")).unwrap(), "3");
    assert_eq!(cluster.pod("broken", &format!("{last}.reason")).unwrap(), "Error");
    assert_eq!(cluster.kubectl(&["logs", "broken"]).unwrap(), "no\n");
    assert_eq!(cluster.kubectl(&["logs", "broken", "--previous"]).unwrap(), "no\n");
    assert!(
        events(&cluster, "broken")
            .contains("Back-off restarting failed container broken in pod broken_default")
    );
    tells_of_a_hook_that_failed(&cluster);
}

/// A container whose hook after the start fails ends, and says why before it waits as others do.
fn tells_of_a_hook_that_failed(cluster: &Cluster) {
    let seen = cluster.folder().join("seen");
    let path = "jsonpath={.status.containerStatuses[0].state.waiting}{\"\\n\"}";
    let watch = ["get", "pods", "-l", "app=hooked", "--watch-only", "-o", path];
    let output = std::fs::File::create(&seen).unwrap();
    let mut watching = cluster.client().command(&watch).stdout(output).spawn().unwrap();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: hooked, labels: {{app: hooked}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: \"{BUSYBOX}\"
    command: [sleep, infinity]
    lifecycle: {{postStart: {{exec: {{command: [sh, -c, echo out; echo no >&2; exit 3]}}}}}}
"
    );
    cluster.apply(&manifest).unwrap();
    let uid = cluster.pod("hooked", ".metadata.uid").unwrap();
    eventually("the container to say that its hook failed", LONG, || {
        let seen = std::fs::read_to_string(&seen)?;
        let states = seen.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let found = states.into_iter().find(|state| state["reason"] == "PostStartHookError");
        let Some(found) = found else { return Ok(None) };
        let text = format!(
            "Exec lifecycle hook ([sh -c echo out; echo no >&2; exit 3]) for Container \"main\" in Pod \"hooked_default({uid})\" \
             failed - error: command 'sh -c echo out; echo no >&2; exit 3' exited with 3: no\n, message: \"out\\nno\\n\""
        );
        anyhow::ensure!(found["message"] == text.as_str(), "{found}");
        Ok(Some(()))
    })
    .unwrap();
    let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
    cluster.wait("hooked", &format!("jsonpath={waiting}=CrashLoopBackOff")).unwrap();
    let told = events(cluster, "hooked");
    for event in ["PostStartHook failed", "FailedPostStartHook"] {
        assert!(told.contains(event), "{told}");
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
    cluster.kubectl(&["delete", "pod", "hooked"]).unwrap();
}

#[test]
fn a_deleted_pod_leaves_the_service_first_and_ends_gracefully() {
    let cluster = Cluster::up().unwrap();
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: polite, labels: {{app: polite}}}}
spec:
  terminationGracePeriodSeconds: 60
  containers:
  - name: polite
    image: {BUSYBOX}
    command: [sh, -c, "trap 'echo term; exit 0' TERM; while true; do sleep 0.1; done"]
    lifecycle: {{preStop: {{exec: {{command: [sh, -c, "echo stopping > /proc/1/fd/1; while ! test -e /tmp/go; do sleep 0.1; done"]}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: polite}}
spec: {{selector: {{app: polite}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: stubborn}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: stubborn, image: "{BUSYBOX}", command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; done"]}}
"#
        ))
        .unwrap();
    cluster.wait("polite", "condition=Ready").unwrap();
    cluster.wait("stubborn", "condition=Ready").unwrap();
    let slice = |path: &str| {
        let selector = ["get", "endpointslices", "-l", "kubernetes.io/service-name=polite", "-o"];
        cluster.kubectl(
            &[&selector[..], &[&format!("jsonpath={{.items[0].endpoints[0].conditions.{path}}}")]].concat(),
        )
    };
    eventually("the endpoint", LONG, || Ok((slice("ready")? == "true").then_some(()))).unwrap();
    let mut logs =
        cluster.client().command(&["logs", "-f", "polite"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    cluster.kubectl(&["delete", "pod", "polite", "--wait=false"]).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "stopping");
    assert_eq!(cluster.pod("polite", ".metadata.deletionGracePeriodSeconds").unwrap(), "60");
    eventually("the endpoint to be terminating", LONG, || {
        Ok((slice("ready")? == "false" && slice("terminating")? == "true").then_some(()))
    })
    .unwrap();
    let table = cluster.kubectl(&["get", "pod", "polite"]).unwrap();
    assert!(table.contains("Terminating"), "{table}");
    cluster.exec("polite", &["touch", "/tmp/go"]).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "term");
    assert!(lines.next().is_none());
    assert!(logs.wait().unwrap().success());
    cluster.wait("polite", "delete").unwrap();
    // One that does not listen is killed after its grace period.
    cluster.kubectl(&["delete", "pod", "stubborn", PATIENCE]).unwrap();
    assert!(events(&cluster, "stubborn").contains("Stopping container stubborn"));
}

#[test]
fn a_rolling_update_never_goes_below_two_and_can_be_undone() {
    const SELECTOR: &str = "app=web";
    let cluster = Cluster::up().unwrap();
    // Another name for the same image.
    let archive = cluster.folder().join("busybox.tar").to_string_lossy().into_owned();
    cluster.keelson_prints(&["image", "import", &archive, "--name", "test.keelson.io/web:2"]).unwrap();
    cluster
        .apply(&format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  strategy: {{rollingUpdate: {{maxUnavailable: 1, maxSurge: 1}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: {BUSYBOX}
        command: [httpd, -f, -p, "8080", -h, /home]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"#
        ))
        .unwrap();
    cluster.kubectl(&["rollout", "status", "deploy/web", PATIENCE]).unwrap();

    let each = r#"jsonpath={.status.readyReplicas} {.spec.template.spec.containers[0].image}{"\n"}"#;
    let mut watch = cluster
        .client()
        .command(&["get", "deploy", "web", "-w", "-o", each])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.kubectl(&["set", "image", "deploy/web", "web=test.keelson.io/web:2"]).unwrap();
    let done = cluster.kubectl(&["rollout", "status", "deploy/web", PATIENCE]).unwrap();
    assert!(done.contains(r#"deployment "web" successfully rolled out"#), "{done}");
    let history = cluster.kubectl(&["rollout", "history", "deploy/web"]).unwrap();
    assert_eq!(history.lines().filter(|line| line.starts_with(['1', '2'])).count(), 2, "{history}");
    let images = |cluster: &Cluster| {
        let pods = cluster.pods(SELECTOR)?;
        pods.iter()
            .map(|pod| cluster.pod(pod, ".spec.containers[0].image"))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    assert_eq!(images(&cluster).unwrap(), ["test.keelson.io/web:2"; 3]);

    cluster.kubectl(&["rollout", "undo", "deploy/web"]).unwrap();
    cluster.kubectl(&["rollout", "status", "deploy/web", PATIENCE]).unwrap();
    assert_eq!(images(&cluster).unwrap(), [BUSYBOX; 3]);
    watch.kill().unwrap();
    watch.wait().unwrap();
    let seen: Vec<String> =
        BufReader::new(watch.stdout.take().unwrap()).lines().collect::<Result<_, _>>().unwrap();
    assert!(seen.len() > 2, "{seen:?}");
    for line in &seen {
        let ready: u32 = line.split(' ').next().unwrap().parse().unwrap_or(0);
        assert!(ready >= 2, "{seen:?}");
    }

    // An image that does not exist stops the update, and what ran runs on.
    cluster.kubectl(&["set", "image", "deploy/web", "web=test.keelson.io/missing:1"]).unwrap();
    eventually("a pod that cannot start", LONG, || {
        let table = cluster.kubectl(&["get", "pods", "-l", SELECTOR])?;
        Ok((table.contains("ErrImagePull") || table.contains("ImagePullBackOff")).then_some(()))
    })
    .unwrap();
    let ready: u32 = cluster.field(&["deploy", "web"], ".status.readyReplicas").unwrap().parse().unwrap();
    assert!(ready >= 2, "{ready}");
    cluster.kubectl(&["rollout", "undo", "deploy/web"]).unwrap();
    cluster.kubectl(&["rollout", "status", "deploy/web", PATIENCE]).unwrap();
}

#[test]
fn kubectl_scales_replaces_labels_edits_compares_and_describes() {
    let cluster = Cluster::up().unwrap();
    cluster.quickstart().unwrap();
    cluster.kubectl(&["scale", "deploy/demo-web", "--replicas=5"]).unwrap();
    cluster.kubectl(&["rollout", "status", "deploy/demo-web", PATIENCE]).unwrap();
    assert_eq!(cluster.pods(WEB).unwrap().len(), 5);
    cluster.kubectl(&["scale", "deploy/demo-web", "--replicas=2"]).unwrap();
    eventually("two pods", LONG, || Ok((cluster.pods(WEB)?.len() == 2).then_some(()))).unwrap();

    let victim = cluster.pods(WEB).unwrap().remove(0);
    cluster.kubectl(&["delete", "pod", &victim, PATIENCE]).unwrap();
    eventually("a replacement", LONG, || {
        let pods = cluster.pods(WEB)?;
        Ok((pods.len() == 2 && !pods.contains(&victim)).then_some(()))
    })
    .unwrap();

    cluster.kubectl(&["label", "deploy/demo-web", "tier=front"]).unwrap();
    assert!(
        cluster.kubectl(&["get", "deploy", "-l", "tier=front", "-o", "name"]).unwrap().contains("demo-web")
    );
    let mut editor = cluster.client().command(&["edit", "configmap", "demo-web"]);
    let edited =
        editor.env("KUBE_EDITOR", "sed -i s/Keelson/kubectl/").stdin(Stdio::null()).output().unwrap();
    assert!(edited.status.success(), "{edited:?}");
    assert_eq!(cluster.field(&["configmap", "demo-web"], ".data.greeting").unwrap(), "Hello from kubectl");

    let changed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: demo-web}\ndata: {greeting: changed}\n";
    for arguments in
        [["diff", "-f", "-"].as_slice(), &["diff", "--server-side", "--force-conflicts", "-f", "-"]]
    {
        let mut diff = cluster.client().command(arguments);
        let mut child = diff.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(changed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        // 1 says that there are differences.
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("-  greeting: Hello from kubectl") && text.contains("+  greeting: changed"),
            "{text}"
        );
    }
    let applied =
        cluster.client().with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], changed).unwrap();
    assert_eq!(applied, "configmap/demo-web serverside-applied\n");
    assert_eq!(cluster.field(&["configmap", "demo-web"], ".data.greeting").unwrap(), "changed");

    cluster.kubectl(&["rollout", "status", "deploy/demo-web", PATIENCE]).unwrap();
    let pod = cluster.pods(WEB).unwrap().remove(0);
    let described = cluster.kubectl(&["describe", "pod", &pod]).unwrap();
    for text in [
        "Controlled By:  ReplicaSet/demo-web-",
        "Container started",
        "Successfully assigned default/",
        "Ready             True",
    ] {
        assert!(described.contains(text), "{described}");
    }
    let described = cluster.kubectl(&["describe", "deploy", "demo-web"]).unwrap();
    for text in [
        "RollingUpdateStrategy:  1 max unavailable, 1 max surge",
        "Scaled up replica set demo-web-",
        "MinimumReplicasAvailable",
    ] {
        assert!(described.contains(text), "{described}");
    }
    let node = cluster.kubectl(&["describe", "nodes"]).unwrap();
    for text in ["KubeletReady", "Allocated resources", &pod] {
        assert!(node.contains(text), "{node}");
    }
    let service = cluster.kubectl(&["describe", "svc", "demo-web"]).unwrap();
    assert_eq!(service.matches(":8080").count(), 2, "{service}");
}

#[test]
fn kubectl_logs_follow_exec_is_interactive_and_a_namespace_goes_with_its_content() {
    let cluster = Cluster::up().unwrap();
    cluster.kubectl(&["create", "namespace", "shop"]).unwrap();
    let script = "while true; do echo tick; sleep 0.1; done";
    cluster
        .kubectl(&[
            "-n",
            "shop",
            "create",
            "deployment",
            "clock",
            "--image",
            BUSYBOX,
            "--",
            "sh",
            "-c",
            script,
        ])
        .unwrap();
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deploy/clock", PATIENCE]).unwrap();
    let mut logs = cluster
        .client()
        .command(&["-n", "shop", "logs", "-f", "deploy/clock"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(logs.stdout.take().unwrap()).lines().take(20);
    assert!(lines.map(Result::unwrap).all(|line| line == "tick"));
    logs.kill().unwrap();
    logs.wait().unwrap();
    let tail = cluster.kubectl(&["-n", "shop", "logs", "deploy/clock", "--tail=3", "--timestamps"]).unwrap();
    assert_eq!(tail.lines().filter(|line| line.ends_with("Z tick")).count(), 3, "{tail}");

    // `script` gives kubectl a terminal.
    let config = cluster.data_dir().join("kubeconfig");
    let command = format!("kubectl --kubeconfig {} -n shop exec -it deploy/clock -- sh", config.display());
    let mut terminal = cluster
        .client()
        .program("script")
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = terminal.stdin.take().unwrap();
    input.write_all(b"tty && echo answer-$((6*7)); exit 5\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut terminal.stdout.take().unwrap(), &mut text).unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("answer-42"), "{text}");
    assert_eq!(terminal.wait().unwrap().code(), Some(5), "the exit code of the command is kubectl's: {text}");
    let piped =
        cluster.client().with(&["-n", "shop", "exec", "-i", "deploy/clock", "--", "cat"], "over\n").unwrap();
    assert!(piped.ends_with("over\n"), "{piped}");

    cluster.kubectl(&["delete", "namespace", "shop", PATIENCE]).unwrap();
    let left =
        cluster.kubectl(&["-n", "shop", "get", "all,configmaps,serviceaccounts", "-o", "name"]).unwrap();
    assert_eq!(left, "");
    assert!(cluster.kubectl_fails(&["get", "namespace", "shop"]).unwrap().contains("NotFound"));
}
