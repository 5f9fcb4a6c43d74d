//! A machine that shuts down: its pods end in good order, and only then does it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use keelson_e2e::{Cluster, Engine, LONG, Node, Pod, eventually};

/// The system's bus and its login manager, which end with the value.
struct Machine {
    bus: Child,
    logind: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Machine {
    fn new(cluster: &Cluster) -> Self {
        // What the kubelet and the bus write of their own, in a place where it stays.
        for folder in ["/run", "/etc/systemd"] {
            cluster.on_the_host("mount", &["-t", "tmpfs", "own", folder]).unwrap();
        }
        cluster.on_the_host("mkdir", &["/run/dbus"]).unwrap();
        let settings = cluster.folder().join("bus.conf");
        let text = r#"<busconfig>
<listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context="default"><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/></policy>
</busconfig>"#;
        fs::write(&settings, text).unwrap();
        let mut bus = cluster.client().program("dbus-daemon");
        bus.arg(format!("--config-file={}", settings.display())).args(["--nofork", "--print-address"]);
        let mut bus = bus.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let address = BufReader::new(bus.stdout.take().unwrap()).lines().next();
        address.expect("the bus is there").unwrap();
        let mut logind = cluster.client().program(env!("CARGO_BIN_EXE_logind"));
        let mut logind = logind.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(logind.stdout.take().unwrap()).lines();
        let input = logind.stdin.take().unwrap();
        let mut machine = Machine { bus, logind, input, output };
        machine.says("ready");
        machine
    }

    fn says(&mut self, expected: &str) {
        let line = self.output.next().expect("the login manager runs").unwrap();
        assert_eq!(line, expected);
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in [&mut self.logind, &mut self.bus] {
            // It may have ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A pod that says goodbye to a file of the machine when it is asked to end.
fn pod(cluster: &Cluster, name: &str, end: &str) -> Pod {
    let folder = cluster.folder().join("ends");
    let volume =
        format!("{{name: ends, hostPath: {{path: \"{}\", type: DirectoryOrCreate}}}}", folder.display());
    Pod::new(name)
        .spec(&format!("volumes: [{volume}]"))
        .script(&format!("trap '{end}' TERM; touch /ready; while true; do sleep 0.1; done"))
        .container(
            "readinessProbe: {exec: {command: [test, -e, /ready]}, periodSeconds: 1, timeoutSeconds: 30}",
        )
        .container("volumeMounts: [{name: ends, mountPath: /ends}]")
}

fn ready(cluster: &Cluster) -> (String, String) {
    let of = |field: &str| {
        let path = format!(r#"{{.items[0].status.conditions[?(@.type=="Ready")].{field}}}"#);
        cluster.kubectl(&["get", "nodes", "-o", &format!("jsonpath={path}")]).unwrap()
    };
    (of("status"), of("message"))
}

#[test]
fn pods_end_before_their_machine_and_the_critical_ones_last() {
    ends(Engine::Embedded);
}

#[test]
fn pods_in_containerd_end_before_their_machine_and_the_critical_ones_last() {
    ends(Engine::Containerd);
}

fn ends(engine: Engine) {
    let cluster = Cluster::namespaces().unwrap();
    let mut machine = Machine::new(&cluster);
    let cluster = Node::on(cluster, engine).unwrap();
    cluster.configure("shutdownGracePeriod: 60s\nshutdownGracePeriodCriticalPods: 20s\n").unwrap();
    cluster.continue_with(&[]).unwrap();
    // A login manager that waits for 5 seconds is told to wait for longer.
    machine.says("lock taken by kubelet");
    let told = cluster.on_the_host("cat", &["/etc/systemd/logind.conf.d/99-kubelet.conf"]).unwrap();
    assert!(told.contains("InhibitDelayMaxSec=60\n"), "{told}");

    let goodbye = "echo $HOSTNAME >> /ends/all; exit 0";
    let slow = format!("sleep 1; {goodbye}");
    let critical = "priorityClassName: system-node-critical";
    for pod in [
        pod(&cluster, "plain", &slow).grace(30),
        pod(&cluster, "deaf", "true").grace(2),
        pod(&cluster, "vital", goodbye).grace(30).spec(critical),
    ] {
        cluster.start(&pod).unwrap();
    }
    machine.tell("shutdown");
    // The machine goes on when all have ended.
    machine.says("lock released");
    let ends = fs::read_to_string(cluster.folder().join("ends/all")).unwrap();
    assert_eq!(ends, "plain\nvital\n");
    let message = "Pod was terminated in response to imminent node shutdown.";
    for name in ["plain", "deaf", "vital"] {
        cluster.wait(name, "jsonpath={.status.phase}=Failed").unwrap();
        let is = |path: &str| cluster.pod(name, path).unwrap();
        assert_eq!(is(".status.reason"), "Terminated");
        assert_eq!(is(".status.message"), message);
        let condition = is(r#".status.conditions[?(@.type=="DisruptionTarget")].reason"#);
        assert_eq!(condition, "TerminationByKubelet");
    }
    let is_told = || Ok((ready(&cluster) == ("False".into(), "node is shutting down".into())).then_some(()));
    eventually("the node to be told of", LONG, is_told).unwrap();

    // Whoever comes now is not taken.
    let name = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap();
    let late = pod(&cluster, "late", goodbye).spec(&format!("nodeName: {}", name.trim()));
    cluster.apply(&late.to_string()).unwrap();
    let refused = || Ok((cluster.pod("late", ".status.reason")? == "NodeShutdown").then_some(()));
    eventually("the late pod to be refused", LONG, refused).unwrap();
    let message = cluster.pod("late", ".status.message").unwrap();
    assert_eq!(message, "Pod was rejected: Pod was rejected as the node is shutting down.");

    // If the machine stays, so does the node.
    machine.tell("cancel");
    machine.says("lock taken by kubelet");
    eventually("the node to be ready", LONG, || Ok((ready(&cluster).0 == "True").then_some(()))).unwrap();
    for what in ["event", "cancellation"] {
        eventually(&format!("the event of the shutdown's {what}"), LONG, || {
            let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
            anyhow::ensure!(
                events.contains(&format!("Shutdown manager detected shutdown {what}")),
                "{events}"
            );
            Ok(Some(()))
        })
        .unwrap();
    }
    cluster.kubectl(&["delete", "pod", "plain", "deaf", "vital", "late"]).unwrap();
    cluster.start(&pod(&cluster, "after", goodbye).grace(1)).unwrap();
    cluster.kubectl(&["delete", "pod", "after"]).unwrap();
}
