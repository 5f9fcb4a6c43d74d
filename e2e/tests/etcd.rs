//! The API server on an etcd cluster, as kubectl sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use keelson_e2e::{Etcd, Server};

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: red}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example/web:1"}]}
"#;

fn start(etcd: &Etcd) -> Server {
    let flags = etcd.flags();
    Server::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[test]
fn the_api_is_served_from_etcd_and_nothing_is_lost_when_either_is_killed() {
    let mut etcd = Etcd::start().unwrap();
    let server = start(&etcd);
    let applied = server.kubectl_with(&["apply", "-f", "-"], OBJECTS).unwrap();
    assert_eq!(applied, "configmap/settings created\ndeployment.apps/web created\n");
    let changed = OBJECTS.replace("red", "blue");
    let applied = server.kubectl_with(&["apply", "-f", "-"], &changed).unwrap();
    assert_eq!(applied, "configmap/settings configured\ndeployment.apps/web unchanged\n");
    server.kubectl(&["create", "configmap", "gone"]).unwrap();
    let uid = server.kubectl(&["get", "configmap", "settings", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let watch = ["get", "configmaps", "--watch-only", "--output-watch-events", "--no-headers"];
    let mut watch = server.command(&watch).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    // What comes before the watch has begun is not seen by it: the first line says that it has.
    let mut number = 0;
    let probed = std::thread::scope(|scope| {
        let (send, seen) = std::sync::mpsc::channel();
        let lines = &mut lines;
        scope.spawn(move || send.send(lines.next()).unwrap());
        loop {
            number += 1;
            server
                .kubectl(&["label", "configmap", "settings", "--overwrite", &format!("n={number}")])
                .unwrap();
            if let Ok(line) = seen.recv_timeout(std::time::Duration::from_millis(300)) {
                break line.unwrap();
            }
        }
    });
    assert!(probed.starts_with("MODIFIED") && probed.contains("settings"), "{probed}");
    etcd.kill(0);
    etcd.run(0).unwrap();
    // It waits until etcd is back.
    server.kubectl(&["create", "configmap", "after", "--from-literal=a=b"]).unwrap();
    server.kubectl(&["delete", "configmap", "gone"]).unwrap();
    let told: Vec<String> = lines.by_ref().filter(|line| !line.starts_with("MODIFIED")).take(2).collect();
    assert!(told[0].starts_with("ADDED") && told[0].contains("after"), "{told:?}");
    assert!(told[1].starts_with("DELETED") && told[1].contains("gone"), "{told:?}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let flags = etcd.flags();
    let server = server.kill_and_restart_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let found = ["get", "configmap", "settings", "-o", "jsonpath={.metadata.uid} {.data.color}"];
    assert_eq!(server.kubectl(&found).unwrap(), format!("{uid} blue"));
    let names = server.kubectl(&["get", "configmaps", "-o", "name"]).unwrap();
    assert!(names.contains("configmap/after") && !names.contains("configmap/gone"), "{names}");
    assert_eq!(server.kubectl(&["get", "--raw", "/readyz/etcd"]).unwrap(), "ok");
}

#[test]
fn two_servers_on_one_etcd_are_one_cluster() {
    let etcd = Etcd::start().unwrap();
    let (first, flags) = (start(&etcd), etcd.flags());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // Without the keys of the first it is refused.
    let stranger = Server::start_with(&flags).err().map(|error| error.to_string()).unwrap();
    assert!(stranger.contains("belongs to servers with another authority"), "{stranger}");
    let second = first.start_beside("127.0.0.2", &flags).unwrap();
    for number in 0..10 {
        let (writer, reader) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let name = format!("c{number}");
        writer.kubectl(&["create", "configmap", &name, &format!("--from-literal=n={number}")]).unwrap();
        let found = reader.kubectl(&["get", "configmap", &name, "-o", "jsonpath={.data.n}"]).unwrap();
        assert_eq!(found, number.to_string());
        let selected =
            ["get", "configmaps", "--field-selector", &format!("metadata.name={name}"), "-o", "name"];
        assert_eq!(reader.kubectl(&selected).unwrap(), format!("configmap/{name}\n"));
        writer.kubectl(&["delete", "configmap", &name]).unwrap();
        reader.kubectl_fails(&["get", "configmap", &name]).unwrap();
    }
    // A token of one is known by the other.
    let token = first.kubectl(&["create", "token", "default"]).unwrap();
    let review = format!(
        r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {{"token": "{}"}}}}"#,
        token.trim()
    );
    let review = second
        .kubectl_with(&["create", "-f", "-", "-o", "jsonpath={.status.user.username}"], &review)
        .unwrap();
    assert_eq!(review, "system:serviceaccount:default:default");
    let addresses = ["get", "endpoints", "kubernetes", "-o", "jsonpath={.subsets[0].addresses[*].ip}"];
    assert_eq!(first.kubectl(&addresses).unwrap(), "127.0.0.1 127.0.0.2");
    second.stop().unwrap();
    assert_eq!(first.kubectl(&addresses).unwrap(), "127.0.0.1");
}

#[test]
fn a_server_that_does_not_reach_etcd_says_so() {
    let flags = ["--store=etcd", "--etcd-servers=http://127.0.0.1:1"];
    let error = Server::start_with(&flags).err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("cannot reach etcd at http://127.0.0.1:1: "), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    let error = Server::start_with(&["--store=etcd"]).err().map(|error| error.to_string()).unwrap();
    assert!(error.contains("--store=etcd needs --etcd-servers"), "{error}");
}
