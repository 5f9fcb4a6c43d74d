//! What kubectl does is recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use keelson_e2e::{BUSYBOX, Cluster, LONG, Server, eventually};
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- {level: None, users: ["system:apiserver", "system:kube-scheduler"]}
- {level: None, nonResourceURLs: ["/*"]}
- {level: Request, resources: [{group: "", resources: [configmaps]}]}
- {level: RequestResponse}
"#;

/// The events in a file, all of whose lines must be whole. The server may be about to write another one.
fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events about a path.
fn about(path: &Path, wanted: &str) -> Vec<Value> {
    let is_it = |event: &Value| event["requestURI"].as_str().unwrap().split('?').next() == Some(wanted);
    read(path).into_iter().filter(is_it).collect()
}

fn last(path: &Path, wanted: &str) -> Value {
    about(path, wanted).pop().unwrap()
}

#[test]
fn what_kubectl_does_is_recorded_and_the_log_is_put_aside_when_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("logs/audit.log"));
    fs::write(&policy, POLICY).unwrap();
    let flags = [
        &format!("--audit-policy-file={}", policy.display()),
        &format!("--audit-log-path={}", log.display()),
        "--audit-log-maxsize=1",
        "--audit-log-maxbackup=2",
        "--audit-log-compress",
    ];
    let server = Server::start_with(&flags).unwrap();
    let secrets = "/api/v1/namespaces/default/secrets";
    server.kubectl(&["create", "secret", "generic", "keys", "--from-literal=k=hush-hush"]).unwrap();
    server.kubectl(&["get", "secret", "keys", "-o", "yaml"]).unwrap();
    let created = last(&log, secrets);
    assert_eq!(
        created["objectRef"],
        json!({"resource": "secrets", "namespace": "default", "name": "keys", "apiVersion": "v1"})
    );
    assert_eq!((&created["level"], &created["stage"]), (&json!("Metadata"), &json!("ResponseComplete")));
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert!(created["userAgent"].as_str().unwrap().starts_with("kubectl"), "{created}");
    assert_eq!(created["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(created["responseStatus"]["code"], 201);
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hush-hush") && !text.contains("aHVzaC1odXNo"));

    let refused = server.kubectl_fails(&["--as=ann", "get", "pods"]).unwrap();
    assert!(refused.contains("Forbidden"), "{refused}");
    let pods = last(&log, "/api/v1/namespaces/default/pods");
    assert_eq!(pods["user"]["username"], "kubernetes-admin");
    assert_eq!(pods["impersonatedUser"], json!({"username": "ann", "groups": ["system:authenticated"]}));
    assert_eq!(pods["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(
        (&pods["responseStatus"]["code"], &pods["responseObject"]["kind"]),
        (&json!(403), &json!("Status"))
    );

    let stranger =
        ["--server", server.url(), "--insecure-skip-tls-verify", "--token=hush", "get", "services"];
    let output = server.command(&stranger).env("KUBECONFIG", "/dev/null").output().unwrap();
    assert!(!output.status.success());
    let events = read(&log);
    let unknown = events.iter().rev().find(|event| event["responseStatus"]["code"] == 401).unwrap();
    assert_eq!(unknown["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!((&unknown["stage"], &unknown["user"]), (&json!("ResponseStarted"), &json!({})));

    // Protobuf, as kubectl sends it, is recorded as JSON.
    server.kubectl(&["create", "deployment", "web", "--image=example/web:1"]).unwrap();
    let made = last(&log, "/apis/apps/v1/namespaces/default/deployments");
    assert_eq!(made["requestObject"]["spec"]["template"]["spec"]["containers"][0]["image"], "example/web:1");
    assert_eq!(made["responseObject"]["spec"]["progressDeadlineSeconds"], 600);
    assert!(!made.to_string().contains("managedFields"));

    // What was there before a crash stays, and the log goes on.
    let before = read(&log).len();
    let server = server.kill_and_restart_with(&flags).unwrap();
    server.kubectl(&["get", "services"]).unwrap();
    assert!(read(&log).len() > before);

    let big = folder.path().join("big");
    fs::write(&big, "x".repeat(400 << 10)).unwrap();
    let file = format!("--from-file={}", big.display());
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        server.kubectl(&["create", "configmap", name, &file]).unwrap();
    }
    let newest = last(&log, "/api/v1/namespaces/default/configmaps");
    assert_eq!((&newest["objectRef"]["name"], &newest["level"]), (&json!("h"), &json!("Request")));
    assert!(fs::metadata(&log).unwrap().len() <= 1 << 20);
    let is_done = |names: &Vec<String>| {
        let aside = || names.iter().filter(|name| *name != "audit.log");
        aside().count() == 2 && aside().all(|name| name.starts_with("audit-2") && name.ends_with(".log.gz"))
    };
    eventually("two compressed logs beside the new one", LONG, || {
        let entries = fs::read_dir(log.parent().unwrap())?;
        let names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        Ok(is_done(&names).then_some(()))
    })
    .unwrap();
    server.stop().unwrap();
}

#[test]
fn an_exec_is_recorded_when_it_begins_and_when_it_ends() {
    let cluster = Cluster::namespaces().unwrap();
    let (policy, log) = (cluster.folder().join("policy.yaml"), cluster.folder().join("audit.log"));
    fs::write(&policy, POLICY).unwrap();
    let file = format!("--audit-policy-file={}", policy.display());
    cluster.continue_with(&[&file, &format!("--audit-log-path={}", log.display())]).unwrap();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: tools}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: \"{BUSYBOX}\", command: [sleep, infinity]}}]\n"
    );
    cluster.apply(&pod).unwrap();
    cluster.wait("tools", "condition=Ready").unwrap();
    let mut exec = cluster.client().command(&["exec", "-i", "tools", "--", "cat"]);
    let mut child = exec.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"there\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    let stages = || {
        let events = about(&log, "/api/v1/namespaces/default/pods/tools/exec");
        events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted"]);
    drop(input);
    assert!(child.wait().unwrap().success());
    eventually("the end of the exec to be recorded", LONG, || Ok((stages().len() == 3).then_some(())))
        .unwrap();
    let ended = last(&log, "/api/v1/namespaces/default/pods/tools/exec");
    assert_eq!(
        (&ended["stage"], &ended["responseStatus"]["code"]),
        (&json!("ResponseComplete"), &json!(101))
    );
    assert_eq!(ended["objectRef"]["subresource"], "exec");
    assert!(ended["requestURI"].as_str().unwrap().contains("command=cat"), "{ended}");
    // Nothing of what the parts of the cluster read and write of credentials is in the log.
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("serviceaccounts/default/token") && !text.contains("eyJhbGciOi"),
        "a token was recorded"
    );
}
