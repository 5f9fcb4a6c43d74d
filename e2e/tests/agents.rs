//! Machines that join a cluster as nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Child, Output, Stdio};

use keelson_e2e::{BUSYBOX, Cluster, Containerd, LONG, PATIENCE, Pod, Switch, binary, eventually, image};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A cluster whose control plane is on the first machine of a network.
struct Site {
    // Goes last: the machines have legs on it.
    first: Cluster,
    switch: Switch,
}

impl Site {
    fn new() -> Self {
        let switch = Switch::new().unwrap();
        let first = switch.machine(1).unwrap();
        first.continue_with(&["--node-name", "first"]).unwrap();
        Site { first, switch }
    }

    /// A new token, by further arguments to `keelson token create`.
    fn token(&self, arguments: &[&str]) -> String {
        let output = self.first.keelson(&[&["token", "create", "--quiet"], arguments].concat()).unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn server(&self) -> String {
        format!("https://{}:6443", Switch::address(1))
    }

    /// What an agent prints that starts for the first time.
    fn agent(&self, machine: &Cluster, name: &str, token: &str) -> Output {
        let server = self.server();
        let arguments = ["agent", "--detach", "--server", &server, "--token", token, "--node-name", name];
        machine.keelson(&arguments).unwrap()
    }

    /// A machine that has joined.
    fn joined(&self, number: u8, name: &str) -> Cluster {
        let machine = self.switch.machine(number).unwrap();
        let output = self.agent(&machine, name, &self.token(&[]));
        assert!(output.status.success(), "{}", text(&output));
        machine.import_busybox().unwrap();
        machine
    }

    /// A pod on a node that answers over HTTP with the node's name.
    fn pod(&self, node: &str) {
        pod(&self.first, node);
    }

    fn address(&self, node: &str) -> String {
        self.first.pod(&format!("on-{node}"), ".status.podIP").unwrap()
    }

    fn get(&self, from: &str, url: &str) -> String {
        let pod = format!("on-{from}");
        self.first.exec(&pod, &["wget", "-q", "-O", "-", url]).unwrap().trim().to_owned()
    }
}

/// A process that goes with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // What has ended by itself needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod on a node that answers over HTTP with the node's name.
fn pod(cluster: &Cluster, node: &str) {
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}, labels: {{on: {node}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: "{BUSYBOX}"
    command: [sh, -c, "mkdir /www; echo {node} > /www/index.html; exec busybox httpd -f -v -p 8080 -h /www"]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
"#
    );
    cluster.apply(&manifest).unwrap();
    cluster.wait(&format!("on-{node}"), "condition=Ready").unwrap();
}

#[test]
fn pods_of_joined_machines_reach_each_other_with_their_own_addresses_and_services_reach_them() {
    let site = Site::new();
    let (_second, _third) = (site.joined(2, "second"), site.joined(3, "third"));
    let nodes = ["first", "second", "third"];
    for node in nodes {
        site.pod(node);
    }
    // Kubelets of joined machines tell what is used to who may know it.
    eventually("the usage of all nodes", LONG, || {
        let top = site.first.kubectl(&["top", "nodes", "--no-headers"])?;
        let known =
            |node: &str| top.lines().any(|line| line.starts_with(node) && line.trim_end().ends_with('%'));
        Ok(nodes.into_iter().all(known).then_some(()))
    })
    .unwrap();
    for (from, to) in [("first", "second"), ("second", "first"), ("second", "third"), ("third", "second")] {
        let answer = site.get(from, &format!("http://{}:8080/", site.address(to)));
        assert_eq!(answer, to, "from {from}");
        // What passes from node to node keeps the pod's address.
        let seen = || {
            let log = site.first.kubectl(&["logs", &format!("on-{to}")])?;
            Ok(log.contains(&site.address(from)).then_some(()))
        };
        eventually("the pod's address in the log", LONG, seen).unwrap();
    }
    for node in nodes {
        site.first
            .kubectl(&["expose", "pod", &format!("on-{node}"), "--port", "80", "--target-port", "8080"])
            .unwrap();
    }
    for from in nodes {
        for to in nodes {
            let name = format!("http://on-{to}.default.svc.cluster.local/");
            let answered = || {
                let pod = format!("on-{from}");
                let answer = site.first.exec(&pod, &["wget", "-q", "-O", "-", &name]);
                Ok(answer.ok().filter(|answer| answer.trim() == to))
            };
            eventually(&format!("{from} to reach the Service of {to}"), LONG, answered).unwrap();
        }
    }
    // The way of metrics, verified with the certificate that the kubelet asked for.
    let stats = site.first.kubectl(&["get", "--raw", "/api/v1/nodes/second/proxy/stats/summary"]).unwrap();
    assert!(stats.contains("on-second"), "{stats}");
    let ranges = site.first.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]).unwrap();
    let mut ranges: Vec<&str> = ranges.split(' ').collect();
    ranges.sort_unstable();
    ranges.dedup();
    assert_eq!(ranges.len(), 3);
    // A node that goes takes its route along.
    let route = site.first.field(&["node", "third"], ".spec.podCIDR").unwrap();
    site.first.kubectl(&["delete", "node", "third"]).unwrap();
    let gone = || {
        let routes = site.first.on_the_host("ip", &["route"])?;
        Ok((!routes.contains(&route)).then_some(()))
    };
    eventually("the route to be gone", LONG, gone).unwrap();
}

#[test]
fn an_agent_that_is_killed_leaves_its_pods_running_and_goes_on_without_its_token() {
    let site = Site::new();
    let second = site.joined(2, "second");
    site.pod("second");
    let process = site.first.main_process("on-second").unwrap();
    let ids = site.first.keelson_prints(&["token", "list"]).unwrap();
    let id = ids.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    site.first.keelson_prints(&["token", "delete", &id]).unwrap();
    let archive = second.folder().join("other.tar");
    image::busybox(&archive, OTHER).unwrap();
    second.keelson_prints(&["image", "import", &archive.to_string_lossy()]).unwrap();
    away(&site.first, &second, || {
        assert!(std::path::Path::new(&format!("/proc/{process}")).exists());
        let printed = second.keelson_prints(&["agent", "--detach"]).unwrap();
        assert!(printed.contains("second is Ready"), "{printed}");
    });
    assert_eq!(site.first.main_process("on-second").unwrap(), process);
    assert_eq!(site.first.exec("on-second", &["echo", "there"]).unwrap().trim(), "there");
    // The control plane may go and come.
    site.first.kill().unwrap();
    site.first.continue_with(&[]).unwrap();
    let again = || Ok(site.first.kubectl(&["exec", "on-second", "--", "true"]).ok());
    eventually("the node to be reached again", LONG, again).unwrap();
    site.first.kubectl(&["delete", "pod", "on-second"]).unwrap();
    site.pod("second");
    let taken = second.keelson(&["up", "-d"]).unwrap();
    assert!(text(&taken).contains("is the folder of an agent"));
    let printed = second.keelson_prints(&["down"]).unwrap();
    assert!(printed.contains("keelson agent --data-dir"), "{printed}");
    let printed = second.reset().unwrap();
    assert!(printed.contains("kubectl delete node second"), "{printed}");
    let links = second.on_the_host("ip", &["link"]).unwrap();
    assert!(!links.contains("keel"), "{links}");
}

/// Another name of the image of all pods.
const OTHER: &str = "test.keelson.io/other:1";

/// What happens to pods of the node `second` while its agent is away is made good when `begins` has started it again; it knows [`OTHER`].
fn away(first: &Cluster, agent: &Cluster, begins: impl FnOnce()) {
    let links = agent.interfaces().unwrap();
    let with = |name: &str| {
        let pod =
            Pod::new(name).spec("nodeName: second").spec("volumes: [{name: v, emptyDir: {medium: Memory}}]");
        let pod = pod.script("trap 'exit 0' TERM; while true; do sleep 0.1; done").grace(5);
        pod.container("volumeMounts: [{name: v, mountPath: /v}]")
    };
    let names = ["forced", "deleted", "replaced", "changed", "short"];
    first.apply(&names.map(|name| with(name).to_string()).concat()).unwrap();
    let uid = |name: &str| first.pod(name, ".metadata.uid").unwrap();
    for name in names {
        first.wait(name, "condition=Ready").unwrap();
    }
    let uids = ["forced", "deleted", "replaced"].map(uid);
    let kept = uid("changed");
    for uid in &uids {
        assert!(!agent.traces(std::slice::from_ref(uid)).unwrap().is_empty(), "{uid} is to be seen");
    }

    agent.kill().unwrap();
    first.kubectl(&["delete", "pod", "forced", "replaced", "--force", "--grace-period=0"]).unwrap();
    first.apply(&with("replaced").to_string()).unwrap();
    first.kubectl(&["delete", "pod", "deleted", "--wait=false"]).unwrap();
    first.kubectl(&["set", "image", "pod/changed", &format!("main={OTHER}")]).unwrap();
    first.kubectl(&["patch", "pod", "short", "-p", "{\"spec\": {\"activeDeadlineSeconds\": 1}}"]).unwrap();
    assert_eq!(first.pod("deleted", ".status.phase").unwrap(), "Running", "nobody has ended it");
    begins();

    first.kubectl(&["wait", "pod", "deleted", "--for=delete", PATIENCE]).unwrap();
    first.wait("short", "jsonpath={.status.reason}=DeadlineExceeded").unwrap();
    assert_eq!(first.pod("short", ".status.phase").unwrap(), "Failed");
    first.wait("changed", "jsonpath={.status.containerStatuses[0].restartCount}=1").unwrap();
    first.wait("changed", "condition=Ready").unwrap();
    let of = |path: &str| first.pod("changed", path).unwrap();
    assert_eq!((of(".metadata.uid"), of(".status.containerStatuses[0].image")), (kept, OTHER.to_owned()));
    first.wait("replaced", "condition=Ready").unwrap();
    assert!(!uids.contains(&uid("replaced")));
    eventually("nothing to be left of what was deleted", LONG, || {
        let (left, links_now) = (agent.traces(&uids)?, agent.interfaces()?);
        anyhow::ensure!(left.is_empty() && links_now <= links + 2, "{links_now} interfaces, {left:#?}");
        Ok(Some(()))
    })
    .unwrap();
    assert_eq!(first.exec("replaced", &["echo", "there"]).unwrap().trim(), "there");
    first.kubectl(&["delete", "pod", "replaced", "changed", "short"]).unwrap();
}

/// A machine whose pods containerd runs. The agent goes first: it ends its pods there.
struct Elsewhere {
    machine: Cluster,
    engine: Containerd,
}

#[test]
fn an_agent_runs_its_pods_in_containerd_and_they_reach_those_of_other_machines() {
    let site = Site::new();
    let machine = site.switch.machine(2).unwrap();
    let engine = Containerd::run(&machine, "").unwrap();
    let Elsewhere { machine, engine } = &Elsewhere { machine, engine };
    let (server, token, endpoint) =
        (site.server(), site.token(&[]), format!("unix://{}", engine.socket().display()));
    let elsewhere = ["--container-runtime-endpoint", endpoint.as_str()];
    let joins = ["agent", "--detach", "--server", &server, "--token", &token, "--node-name", "second"];
    machine.keelson_prints(&[&joins[..], &elsewhere].concat()).unwrap();
    assert!(!machine.data_dir().join("run/cri.sock").exists(), "the embedded runtime was started");
    let version = ".status.nodeInfo.containerRuntimeVersion";
    let version = site.first.field(&["node", "second"], version).unwrap();
    assert!(version.starts_with("containerd://1."), "{version}");
    for node in ["first", "second"] {
        site.pod(node);
    }
    for (from, to) in [("first", "second"), ("second", "first")] {
        assert_eq!(site.get(from, &format!("http://{}:8080/", site.address(to))), to, "from {from}");
    }
    let log = || {
        let log = site.first.kubectl(&["logs", "on-second"])?;
        Ok(log.contains(&site.address("first")).then_some(()))
    };
    eventually("the pod's address in the log", LONG, log).unwrap();
    site.first.kubectl(&["expose", "pod", "on-first", "--port", "80", "--target-port", "8080"]).unwrap();
    let by_name = || {
        let url = "http://on-first.default.svc.cluster.local/";
        let answer = site.first.exec("on-second", &["wget", "-q", "-O", "-", url]);
        Ok(answer.ok().filter(|answer| answer.trim() == "first"))
    };
    eventually("the Service to be reached", LONG, by_name).unwrap();

    // The agent goes and comes, and its pods stay.
    let process = site.first.main_process("on-second").unwrap();
    engine.ctr(&["images", "tag", BUSYBOX, OTHER]).unwrap();
    away(&site.first, machine, || {
        let refused = machine.keelson(&["agent", "--detach"]).unwrap();
        let told = text(&refused);
        assert!(!refused.status.success() && told.contains("would run on beside the new ones"), "{told}");
        machine.keelson_prints(&[&["agent", "--detach"], &elsewhere[..]].concat()).unwrap();
    });
    let again = || Ok(site.first.exec("on-second", &["echo", "there"]).ok());
    assert_eq!(eventually("the node to be reached again", LONG, again).unwrap().trim(), "there");
    assert_eq!(site.first.main_process("on-second").unwrap(), process);
    machine.reset().unwrap();
    assert_eq!(engine.ctr(&["containers", "list", "--quiet"]).unwrap().trim(), "");
}

#[test]
fn a_machine_without_a_fitting_token_is_refused_and_told_why() {
    let site = Site::new();
    let machine = site.switch.machine(2).unwrap();
    let refused = |token: &str, name: &str, why: &str| {
        let output = site.agent(&machine, name, token);
        let text = text(&output);
        assert!(!output.status.success() && text.contains(why), "{text}");
    };
    let short = site.token(&["--ttl", "1s"]);
    let id = short.split('.').next().unwrap();
    let secret = format!("bootstrap-token-{id}");
    site.first.kubectl(&["-n", "kube-system", "wait", "secret", &secret, "--for=delete", PATIENCE]).unwrap();
    refused(&short, "second", "it has expired or was deleted");
    refused(&site.token(&["--role", "server"]), "second", "is not for an agent");
    refused(&site.token(&[]), "first", "is at work: choose another name");
    let token = site.token(&[]);
    let other = format!("{}@sha256:{}", token.split('@').next().unwrap(), "0".repeat(64));
    refused(&other, "second", "is not of the cluster that the token is for");
    refused("abc", "second", "a token to join with is ID.SECRET@sha256:DIGEST");
    let nothing = machine.keelson(&["agent"]).unwrap();
    assert!(text(&nothing).contains("Give --server"), "nothing to join");
    // What was refused is in nobody's way.
    let output = site.agent(&machine, "second", &site.token(&[]));
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_server_without_a_node_reaches_pods_and_what_is_behind_services() {
    let switch = Switch::new().unwrap();
    let first = switch.machine(1).unwrap();
    let address = format!("{}:6443", Switch::address(1));
    let log = std::fs::File::create(first.folder().join("server.log")).unwrap();
    let mut command = first.client().program(binary().unwrap().to_str().unwrap());
    command.args(["server", "--bind", &address, "--data-dir"]).arg(first.data_dir());
    let _server = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let installed = || Ok(first.kubectl(&["get", "operators"]).ok().filter(|it| it.contains("nodeipam")));
    eventually("the server to be set up", LONG, installed).unwrap();
    let kubeconfig = first.data_dir().join("kubeconfig").to_string_lossy().into_owned();
    let token = first.keelson_prints(&["token", "create", "--quiet", "--kubeconfig", &kubeconfig]).unwrap();
    let second = switch.machine(2).unwrap();
    let server = format!("https://{address}");
    let joins = ["--server", &server, "--token", token.trim(), "--node-name", "second"];
    second.keelson_prints(&[&["agent", "--detach"], &joins[..]].concat()).unwrap();
    second.import_busybox().unwrap();
    pod(&first, "second");
    let asked = |path: &str| first.kubectl(&["get", "--raw", path]);
    let answer = || Ok(asked("/api/v1/namespaces/default/pods/on-second:8080/proxy/").ok());
    let answer = eventually("the server to reach the pod", LONG, answer).unwrap();
    assert_eq!(answer.trim(), "second");
    first.kubectl(&["expose", "pod", "on-second", "--port", "80", "--target-port", "8080"]).unwrap();
    let answer = || Ok(asked("/api/v1/namespaces/default/services/on-second:80/proxy/").ok());
    let answer = eventually("the server to reach the Service", LONG, answer).unwrap();
    assert_eq!(answer.trim(), "second");
    let routes = first.on_the_host("ip", &["route"]).unwrap();
    assert!(routes.contains(&format!("via {}", Switch::address(2))), "{routes}");
}
