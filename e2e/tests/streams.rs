//! Streams between clients and containers, and what the API server passes on: kubectls that speak SPDY and kubectls that
//! speak WebSocket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use keelson_e2e::{BUSYBOX, Cluster, Engine, Kubectl, LONG, Node, clients, eventually};

/// The versions in use: those before 1.30 know SPDY alone.
const VERSIONS: [u32; 3] = [27, 29, 36];

/// A program that runs until the test has seen enough of it.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    /// The next line that has this in it.
    fn line(&mut self, part: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if line.contains(part) {
                return line;
            }
        }
        panic!("it ended without a line with {part:?}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in a text such as `127.0.0.1:40123 -> 80`.
fn port(line: &str) -> &str {
    let after = line.split("127.0.0.1:").nth(1).unwrap();
    after.split(|it: char| !it.is_ascii_digit()).next().unwrap()
}

fn exec(kubectl: &Kubectl) {
    let output = kubectl.command(&["exec", "tools", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    let output = { output }.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.starts_with("err\n") && errors.contains("terminated with exit code 7"), "{errors}");
    let counted = kubectl.with(&["exec", "-i", "tools", "--", "wc", "-l"], "one\ntwo\n").unwrap();
    assert_eq!(counted.trim(), "3", "the input ends where the client's ends");
    let missing = kubectl.fails(&["exec", "tools", "--", "no-such-program"]).unwrap();
    assert!(missing.contains("no-such-program"), "{missing}");
}

fn terminal(kubectl: &Kubectl, program: &str) {
    let inside = format!("stty rows 33 cols 99; exec {program} exec -it tools -- sh");
    let mut script = kubectl.program("script");
    script.args(["-qefc", &inside, "/dev/null"]).env("TERM", "dumb");
    let mut script = Running::start(script);
    let mut input = script.child.stdin.take().unwrap();
    input.write_all(b"tty; echo is-$((40+2)) $(stty size)\n").unwrap();
    assert!(script.line("/dev/").contains("/dev/pts/"));
    // The size comes after the start, as kubectl tells it.
    let size = (0..50).find_map(|_| {
        let line = script.line("is-42");
        if line.contains("33 99") {
            return Some(line);
        }
        input.write_all(b"echo is-$((40+2)) $(stty size)\n").unwrap();
        None
    });
    assert!(size.is_some(), "the terminal has the size of the client's");
    input.write_all(b"exit 5\n").unwrap();
    script.lines.by_ref().for_each(drop);
    assert_eq!(script.child.wait().unwrap().code(), Some(5));
}

fn copy(kubectl: &Kubectl, cluster: &Cluster, version: &str) {
    let (there, back) = (cluster.folder().join(format!("to-{version}")), cluster.folder().join("back"));
    let bytes: Vec<u8> =
        (0..1_048_576_u32).map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(&there, &bytes).unwrap();
    kubectl.run(&["cp", &there.to_string_lossy(), "tools:/tmp/copied"]).unwrap();
    kubectl.run(&["cp", "tools:/tmp/copied", &back.to_string_lossy()]).unwrap();
    assert!(fs::read(&back).unwrap() == bytes, "what was copied there and back is what it was");
}

fn attach(kubectl: &Kubectl) {
    let mut attached = Running::start(kubectl.command(&["attach", "-i", "echo"]));
    let mut input = attached.child.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    attached.line("got hello");
}

fn forward(kubectl: &Kubectl, cluster: &Cluster) {
    for target in ["svc/demo-web", "deploy/demo-web"] {
        let remote = if target.starts_with("svc") { ":80" } else { ":8080" };
        let mut forwarded = Running::start(kubectl.command(&["port-forward", target, remote]));
        let line = forwarded.line("Forwarding from 127.0.0.1:");
        for _ in 0..3 {
            let page = cluster.http("GET", &format!("http://127.0.0.1:{}/inside", port(&line))).unwrap();
            assert!(page.contains("Hello from Keelson") && page.contains("/inside"), "{page}");
        }
    }
}

/// A port of a pod, with nothing between.
fn forward_to_pod(kubectl: &Kubectl, cluster: &Cluster) {
    let serve = "echo a page > /home/index.html; test -e /home/served || { touch /home/served; httpd -p 8080 -h /home; }";
    kubectl.run(&["exec", "tools", "--", "sh", "-c", serve]).unwrap();
    let mut forwarded = Running::start(kubectl.command(&["port-forward", "tools", ":8080"]));
    let line = forwarded.line("Forwarding from 127.0.0.1:");
    for _ in 0..3 {
        assert_eq!(cluster.http("GET", &format!("http://127.0.0.1:{}/", port(&line))).unwrap(), "a page\n");
    }
}

fn logs(kubectl: &Kubectl, version: &str) {
    assert_eq!(kubectl.run(&["logs", "twice", "--previous"]).unwrap(), "first life\n");
    assert_eq!(kubectl.run(&["logs", "twice", "--tail=2"]).unwrap(), "line 9\nline 10\n");
    assert_eq!(kubectl.run(&["logs", "twice", "--limit-bytes=6"]).unwrap(), "line 1");
    let stamped = kubectl.run(&["logs", "twice", "--timestamps"]).unwrap();
    let lines: Vec<(&str, &str)> = stamped.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines.iter().all(|(time, _)| time.ends_with('Z') && time.contains('T')), "{stamped}");
    assert_eq!(kubectl.run(&["logs", "twice", "--since=1h"]).unwrap().lines().count(), 10);
    let since = format!("--since-time={}", lines[9].0);
    // kubectl knows whole seconds here: the lines of that second are all that may be there.
    assert!(kubectl.run(&["logs", "twice", &since]).unwrap().ends_with("line 10\n"));
    assert_eq!(kubectl.run(&["logs", "twice", "--since-time=2999-01-01T00:00:00Z"]).unwrap(), "");
    let mut followed = Running::start(kubectl.command(&["logs", "-f", "echo"]));
    // It follows: what is there already comes first.
    followed.line("got hello");
    let word = format!("followed by {version}");
    kubectl.run(&["exec", "echo", "--", "sh", "-c", &format!("echo {word} > /proc/1/fd/1")]).unwrap();
    followed.line(&word);
    let both = kubectl.run(&["logs", "-l", "app=logs", "--prefix", "--tail=1"]).unwrap();
    assert!(both.contains("[pod/twice/c] line 10"), "{both}");
}

fn proxies(kubectl: &Kubectl, cluster: &Cluster) {
    let pod = &cluster.pods("app.kubernetes.io/name=demo-web").unwrap()[0];
    let node = cluster.field(&["node"], ".items[0].metadata.name").unwrap();
    let raw = |path: &str| kubectl.run(&["get", "--raw", path]).unwrap();
    for path in ["services/http:demo-web:80", "services/demo-web:http", &format!("pods/{pod}:8080")] {
        let page = raw(&format!("/api/v1/namespaces/default/{path}/proxy/deep/path?a=b"));
        assert!(page.contains("Hello from Keelson") && page.contains("/deep/path"), "{path}: {page}");
    }
    assert_eq!(raw(&format!("/api/v1/nodes/{node}/proxy/healthz")), "ok");
    let absent =
        kubectl.fails(&["get", "--raw", "/api/v1/namespaces/default/services/absent/proxy/"]).unwrap();
    assert!(absent.contains("services \"absent\" not found"), "{absent}");
    let mut proxy = Running::start(kubectl.command(&["proxy", "--port=0"]));
    let line = proxy.line("Starting to serve on");
    let own = format!("http://127.0.0.1:{}", port(&line));
    assert!(cluster.http("GET", &format!("{own}/api/v1/namespaces")).unwrap().contains("NamespaceList"));
    let service = format!("{own}/api/v1/namespaces/default/services/demo-web:80/proxy");
    assert!(cluster.http("GET", &format!("{service}/x")).unwrap().contains("Hello from Keelson"));
    assert!(cluster.http("POST", &format!("{service}/healthz/pass")).unwrap().contains("healthz will pass"));
    let info = kubectl.run(&["cluster-info"]).unwrap();
    assert!(info.contains("Kubernetes control plane"), "{info}");
}

/// Logs of containers of all kinds, followed to their end and over rotations.
fn further_logs(cluster: &Cluster) {
    let kubectl = cluster.client();
    let line = "0123456789012345678901234567890123456789";
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: several}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  initContainers:
  - {{name: first, image: "{BUSYBOX}", command: [echo, said at first]}}
  - {{name: side, image: "{BUSYBOX}", restartPolicy: Always, command: [sh, -c, "echo said aside; exec sleep infinity"]}}
  containers:
  - {{name: a, image: "{BUSYBOX}", command: [sh, -c, "echo said by a; exec sleep infinity"]}}
  - {{name: b, image: "{BUSYBOX}", command: [sh, -c, "echo said by b; echo wrong >&2; exec sleep infinity"]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: talks}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: c
    image: "{BUSYBOX}"
    command: [sh, -c, "echo waits; read begin; i=0; while test $i -lt 4000; do i=$((i+1)); echo $i {line}; test $((i % 20)) -ne 0 || sleep 0.05; done"]
    stdin: true
"#
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait("several", "condition=Ready").unwrap();
    cluster.wait("talks", "condition=Ready").unwrap();
    let mut followed = Running::start(kubectl.command(&["logs", "-f", "talks"]));
    followed.line("waits");
    kubectl.with(&["attach", "-i", "talks"], "begin\n").unwrap();
    for (container, said) in [("first", "said at first\n"), ("side", "said aside\n"), ("a", "said by a\n")] {
        assert_eq!(kubectl.run(&["logs", "several", "-c", container]).unwrap(), said);
    }
    let all = kubectl.run(&["logs", "several", "--all-containers", "--prefix"]).unwrap();
    for said in ["first] said at first", "side] said aside", "a] said by a", "b] said by b", "b] wrong"] {
        assert!(all.contains(&format!("[pod/several/{said}")), "{all}");
    }
    let unnamed = kubectl.run(&["logs", "several"]).unwrap();
    assert_eq!(unnamed, "said by a\n", "the first container is meant");
    let absent = kubectl.fails(&["logs", "several", "-c", "no"]).unwrap();
    assert!(absent.contains("container no is not valid for pod several"), "{absent}");
    let none = kubectl.fails(&["logs", "several", "-c", "a", "--previous"]).unwrap();
    assert!(none.contains("previous terminated container \"a\" in pod \"several\" not found"), "{none}");
    // It ends with its container; no line is lost where a file ends and another begins.
    let lines: Vec<String> = followed.lines.by_ref().map(Result::unwrap).collect();
    let numbers: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    let expected: Vec<String> = (1..=4000).map(|number: u32| number.to_string()).collect();
    let first_wrong = numbers.iter().zip(&expected).find(|(found, wanted)| found != wanted);
    assert!(numbers.len() == 4000 && first_wrong.is_none(), "{} lines, {first_wrong:?}", numbers.len());
    assert!(followed.child.wait().unwrap().success());
    let files = std::fs::read_dir(cluster.data_dir().join("logs/pods")).unwrap().flatten();
    let of_it = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("default_talks_"));
    let folder = of_it.map(|entry| entry.path().join("c")).next().unwrap();
    assert!(fs::read_dir(folder).unwrap().count() > 1, "its log was rotated");
}

/// Keeps logs so short that they are rotated.
const SHORT_LOGS: &str =
    "containerLogMaxSize: 20Ki\ncontainerLogMaxFiles: 3\ncontainerLogMonitorInterval: 3s\n";

fn all(engine: Engine, versions: &[u32]) {
    let cluster = Node::up(engine, SHORT_LOGS).unwrap();
    let cluster: &Cluster = &cluster;
    cluster
        .apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: tools}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "{BUSYBOX}", command: [sleep, infinity]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: echo, labels: {{app: logs}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "{BUSYBOX}", stdin: true, command: [sh, -c, "while read line; do echo got $line; done"]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: twice, labels: {{app: logs}}}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{name: kept, emptyDir: {{}}}}]
  containers:
  - name: c
    image: "{BUSYBOX}"
    volumeMounts: [{{name: kept, mountPath: /kept}}]
    command:
    - sh
    - -c
    - |
      test -e /kept/again || {{ touch /kept/again; echo first life; exit 1; }}
      i=0; while test $i -lt 10; do i=$((i+1)); echo line $i; done; exec sleep infinity
"#
        ))
        .unwrap();
    // Its image is part of the embedded runtime.
    let has_quickstart = engine == Engine::Embedded;
    if has_quickstart {
        cluster.quickstart().unwrap();
    }
    for pod in ["tools", "echo"] {
        cluster.wait(pod, "condition=Ready").unwrap();
    }
    eventually("the second life of a container", LONG, || {
        Ok(cluster.kubectl(&["logs", "twice"])?.ends_with("line 10\n").then_some(()))
    })
    .unwrap();
    let found = clients::kubectls();
    let mut all = vec![("on the PATH".to_owned(), "kubectl".to_owned(), cluster.client().clone())];
    for &version in versions {
        let Some(program) = found.get(&version) else {
            eprintln!("kubectl 1.{version} is not here: run e2e/fetch-clients, and have Google's SDK");
            continue;
        };
        let path = program.to_string_lossy().into_owned();
        all.push((format!("1.{version}"), path, cluster.client().with_program(program)));
    }
    for (version, program, kubectl) in &all {
        eprintln!("driven by kubectl {version}");
        exec(kubectl);
        terminal(kubectl, program);
        copy(kubectl, cluster, version);
        attach(kubectl);
        forward_to_pod(kubectl, cluster);
        logs(kubectl, version);
        if has_quickstart {
            forward(kubectl, cluster);
            proxies(kubectl, cluster);
        }
    }
    further_logs(cluster);
}

#[test]
fn kubectls_of_both_protocols_reach_into_containers_and_through_the_server() {
    all(Engine::Embedded, &VERSIONS);
}

#[test]
fn kubectls_of_both_protocols_reach_into_containers_of_containerd() {
    all(Engine::Containerd, &VERSIONS[..1]);
}
