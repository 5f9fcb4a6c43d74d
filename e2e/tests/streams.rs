//! Streams between clients and containers, and what the API server passes on: kubectls that speak SPDY and kubectls that
//! speak WebSocket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use keelson_e2e::{BUSYBOX, Cluster, Kubectl, LONG, clients, eventually};

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

fn logs(kubectl: &Kubectl) {
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
    kubectl.run(&["exec", "echo", "--", "sh", "-c", "echo followed > /proc/1/fd/1"]).unwrap();
    followed.line("followed");
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

#[test]
fn kubectls_of_both_protocols_reach_into_containers_and_through_the_server() {
    let cluster = Cluster::up().unwrap();
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
    cluster.quickstart().unwrap();
    for pod in ["tools", "echo"] {
        cluster.wait(pod, "condition=Ready").unwrap();
    }
    eventually("the second life of a container", LONG, || {
        Ok(cluster.kubectl(&["logs", "twice"])?.ends_with("line 10\n").then_some(()))
    })
    .unwrap();
    let found = clients::kubectls();
    let mut all = vec![("on the PATH".to_owned(), "kubectl".to_owned(), cluster.client().clone())];
    for version in VERSIONS {
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
        copy(kubectl, &cluster, version);
        attach(kubectl);
        forward(kubectl, &cluster);
        logs(kubectl);
        proxies(kubectl, &cluster);
    }
}
