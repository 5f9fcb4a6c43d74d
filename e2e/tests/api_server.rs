//! The API server as kubectl sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use keelson_e2e::Server;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
fn kubectl_applies_changes_and_deletes() {
    let server = Server::start().unwrap();
    let applied = server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    assert_eq!(applied, "deployment.apps/web created\nservice/web created\n");
    let again = server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    assert_eq!(again, "deployment.apps/web unchanged\nservice/web unchanged\n");
    let newer = WEB.replace("web:1", "web:2");
    server.kubectl_with(&["apply", "-f", "-"], &newer).unwrap();
    let image = "jsonpath={.spec.template.spec.containers[0].image} {.metadata.generation}";
    assert_eq!(server.kubectl(&["get", "deploy", "web", "-o", image]).unwrap(), "example/web:2 2");
    server.kubectl(&["scale", "deploy", "web", "--replicas=5"]).unwrap();
    server.kubectl(&["label", "deploy", "web", "tier=front"]).unwrap();
    server.kubectl(&["set", "image", "deploy/web", "web=example/web:3"]).unwrap();
    let table = server.kubectl(&["get", "deploy", "-l", "tier=front", "-o", "wide"]).unwrap();
    let columns: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        columns[0],
        ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    );
    assert_eq!(columns[1][..2], ["web", "0/5"]);
    assert_eq!(columns[1][6], "example/web:3");
    server.kubectl(&["delete", "deploy", "web"]).unwrap();
    let gone = server.kubectl_fails(&["get", "deploy", "web"]).unwrap();
    assert_eq!(gone, "Error from server (NotFound): deployments.apps \"web\" not found\n");
}

#[test]
fn kubectl_explains_the_fields_of_a_kind() {
    let server = Server::start().unwrap();
    let text = server.kubectl(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]).unwrap();
    assert!(text.contains("GROUP:      apps") && text.contains("FIELD: maxSurge"), "{text}");
    // kubectl breaks the lines of a description.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("The maximum number of pods that can be scheduled above the desired number"),
        "{text}"
    );
    let whole = server.kubectl(&["explain", "pod", "--recursive"]).unwrap();
    assert!(whole.contains("terminationGracePeriodSeconds"), "{whole}");
}

#[test]
fn kubectl_shows_components_resources_scales_and_rows_of_every_kind() {
    let server = Server::start().unwrap();
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let components = rows(&server.kubectl(&["get", "componentstatuses"]).unwrap());
    assert_eq!(components[0], ["NAME", "STATUS", "MESSAGE", "ERROR"]);
    assert!(components.contains(&vec!["scheduler".into(), "Healthy".into(), "ok".into()]), "{components:?}");
    assert!(components.contains(&vec!["etcd-0".into(), "Healthy".into(), "ok".into()]), "{components:?}");
    let served = rows(&server.kubectl(&["api-resources", "-o", "wide", "--no-headers"]).unwrap());
    let deployments = [
        "deployments",
        "deploy",
        "apps/v1",
        "true",
        "Deployment",
        "create,delete,deletecollection,get,list,patch,update,watch",
        "all",
    ];
    assert!(served.iter().any(|row| *row == deployments), "{served:?}");
    let components = ["componentstatuses", "cs", "v1", "false", "ComponentStatus", "get,list"];
    assert!(served.iter().any(|row| *row == components), "{served:?}");
    server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    let scale = rows(&server.kubectl(&["get", "deploy", "web", "--subresource=scale"]).unwrap());
    assert_eq!(
        (&scale[0][..3], &scale[1][..2]),
        (&["NAME", "DESIRED", "AVAILABLE"].map(String::from)[..], &["web", "3"].map(String::from)[..])
    );
    let schemas = rows(&server.kubectl(&["get", "flowschemas", "--no-headers"]).unwrap());
    let precedence: Vec<u32> = schemas.iter().map(|row| row[2].parse().unwrap()).collect();
    assert!(precedence.len() > 5 && precedence.is_sorted(), "{precedence:?}");
    server.kubectl(&["create", "job", "once", "--image=example/once:1"]).unwrap();
    server.kubectl(&["delete", "job", "once"]).unwrap();
}

#[test]
fn kubectl_creates_in_its_binary_encoding() {
    let server = Server::start().unwrap();
    server.kubectl(&["create", "namespace", "shop"]).unwrap();
    server.kubectl(&["-n", "shop", "create", "configmap", "settings", "--from-literal=k=v"]).unwrap();
    server.kubectl(&["-n", "shop", "create", "secret", "generic", "keys", "--from-literal=k=v"]).unwrap();
    let create =
        ["-n", "shop", "create", "deployment", "web", "--image=example/web:1", "--replicas=2", "--port=80"];
    server.kubectl(&create).unwrap();
    server
        .kubectl(&["-n", "shop", "expose", "deployment", "web", "--port=80", "--target-port=8080"])
        .unwrap();
    server.kubectl(&["-n", "shop", "create", "role", "reader", "--verb=get", "--resource=pods"]).unwrap();
    let get = |kind: &str, name: &str, path: &str| {
        server.kubectl(&["-n", "shop", "get", kind, name, "-o", &format!("jsonpath={path}")]).unwrap()
    };
    assert_eq!(get("configmap", "settings", "{.data}"), r#"{"k":"v"}"#);
    assert_eq!(get("secret", "keys", "{.data.k} {.type}"), "dg== Opaque");
    let containers = "{.spec.replicas} {.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].ports[0].containerPort}";
    assert_eq!(get("deployment", "web", containers), "2 example/web:1 80");
    assert_eq!(get("service", "web", "{.spec.ports[0].targetPort} {.spec.selector.app}"), "8080 web");
    assert_eq!(
        get("role", "reader", "{.rules}"),
        r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]"#
    );
    let who = server.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).unwrap();
    assert_eq!(who, "kubernetes-admin");
    assert_eq!(server.kubectl(&["auth", "can-i", "create", "pods"]).unwrap(), "yes\n");
}

#[test]
fn who_acts_as_another_has_the_rights_of_the_other() {
    let server = Server::start().unwrap();
    let refused = server.kubectl_fails(&["get", "pods", "--as", "jane"]).unwrap();
    let text = "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"\n";
    assert_eq!(refused, text);
    server.kubectl(&["create", "role", "reader", "--verb=list", "--resource=pods"]).unwrap();
    server.kubectl(&["create", "rolebinding", "reader", "--role=reader", "--user=jane"]).unwrap();
    server.kubectl(&["get", "pods", "--as", "jane"]).unwrap();
    server.kubectl_fails(&["get", "pods", "--as", "jane", "-n", "kube-system"]).unwrap();
    server.kubectl_fails(&["get", "secrets", "--as", "jane"]).unwrap();
}

#[test]
fn a_token_of_a_service_account_is_known_and_has_the_rights_of_the_account() {
    let server = Server::start().unwrap();
    server.kubectl(&["create", "namespace", "shop"]).unwrap();
    let token = server.kubectl(&["-n", "shop", "create", "token", "default"]).unwrap();
    let token = format!("--token={}", token.trim());
    // Without the administrator's certificate, which would win.
    let config = server.kubeconfig().with_extension("token");
    let text = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let bare: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("client-")).collect();
    std::fs::write(&config, bare.join("\n").replace("  user:\n", "  user: {}\n")).unwrap();
    let run = |arguments: &[&str]| {
        let output = server.command(arguments).arg(&token).env("KUBECONFIG", &config).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (who, _) = run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    assert_eq!(who, "system:serviceaccount:shop:default");
    let (_, refused) = run(&["-n", "shop", "get", "pods"]);
    assert!(
        refused.contains("User \"system:serviceaccount:shop:default\" cannot list resource \"pods\""),
        "{refused}"
    );
    server
        .kubectl(&[
            "-n",
            "shop",
            "create",
            "rolebinding",
            "v",
            "--clusterrole=view",
            "--serviceaccount=shop:default",
        ])
        .unwrap();
    let (_, allowed) = run(&["-n", "shop", "get", "pods"]);
    assert_eq!(allowed, "No resources found in shop namespace.\n");
}

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: one}
"#;

#[test]
fn the_scheduler_binds_a_pod_to_a_node_that_fits_and_says_why_it_cannot() {
    let server = Server::start().unwrap();
    let pod = |name: &str, cpu: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: i, resources: {{requests: {{cpu: '{cpu}'}}}}}}]}}}}"
        )
    };
    let wait = |what: &str, name: &str| {
        server.kubectl(&["wait", &format!("--for={what}"), &format!("pod/{name}"), "--timeout=60s"]).unwrap();
    };
    server.kubectl_with(&["apply", "-f", "-"], &pod("large", "8")).unwrap();
    wait("jsonpath={.status.conditions[0].message}=no nodes available to schedule pods", "large");
    server.kubectl_with(&["apply", "-f", "-"], NODE).unwrap();
    let room = r#"{"status":{"capacity":{"cpu":"4","memory":"8Gi","pods":"110"},"allocatable":{"cpu":"4","memory":"8Gi","pods":"110"},"conditions":[{"type":"Ready","status":"True"}]}}"#;
    server.kubectl(&["patch", "node", "one", "--subresource=status", "--type=merge", "-p", room]).unwrap();
    // A new node is closed until it was seen to be ready.
    server.kubectl_with(&["apply", "-f", "-"], &pod("small", "1")).unwrap();
    wait("jsonpath={.spec.nodeName}=one", "small");
    let event =
        server.kubectl(&["wait", "--for=condition=PodScheduled", "pod/small", "--timeout=60s"]).unwrap();
    assert_eq!(event, "pod/small condition met\n");
}

#[test]
fn a_service_gets_an_address_of_its_own() {
    let server = Server::start().unwrap();
    server.kubectl_with(&["apply", "-f", "-"], WEB).unwrap();
    let address = "jsonpath={.spec.clusterIP}";
    let web = server.kubectl(&["get", "svc", "web", "-o", address]).unwrap();
    assert_eq!(server.kubectl(&["get", "svc", "kubernetes", "-o", address]).unwrap(), "10.96.0.1");
    assert!(web.starts_with("10.96.") && web != "10.96.0.1", "{web}");
    let taken = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: other}}, spec: {{clusterIP: {web}, ports: [{{port: 1}}]}}}}"
    );
    let refused = server.kubectl_with(&["apply", "-f", "-"], &taken).unwrap_err().to_string();
    assert!(refused.contains("provided IP is already allocated"), "{refused}");
}

#[test]
fn a_watch_tells_of_changes_as_they_come() {
    let server = Server::start().unwrap();
    let mut watch = server
        .command(&["get", "cm", "-w", "--no-headers", "--output-watch-events"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || {
        let line = lines.next().unwrap().unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(next(), "ADDED kube-root-ca.crt");
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}";
    server.kubectl_with(&["apply", "-f", "-"], map).unwrap();
    assert_eq!(next(), "ADDED a");
    server.kubectl(&["annotate", "cm", "a", "x=y"]).unwrap();
    assert_eq!(next(), "MODIFIED a");
    server.kubectl(&["delete", "cm", "a"]).unwrap();
    assert_eq!(next(), "DELETED a");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut server = Server::start().unwrap();
    for round in 0..3 {
        let map =
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: round-{round}}}, data: {{k: v}}}}");
        server.kubectl_with(&["apply", "-f", "-"], &map).unwrap();
        server = server.kill_and_restart().unwrap();
        for earlier in 0..=round {
            server.kubectl(&["get", "cm", &format!("round-{earlier}")]).unwrap();
        }
    }
    assert!(server.stop().unwrap().success());
}

#[test]
fn a_typing_error_is_refused_and_changes_nothing() {
    let server = Server::start().unwrap();
    let misspelt = WEB.replace("replicas: 3", "replcas: 3");
    let refused = server.kubectl_with(&["apply", "-f", "-"], &misspelt).unwrap_err().to_string();
    let told = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replcas\"";
    assert!(refused.contains(told), "{refused}");
    server.kubectl_fails(&["get", "deploy", "web"]).unwrap();
}

#[test]
fn what_is_asked_in_another_form_is_understood_or_refused_with_its_reason() {
    let server = Server::start().unwrap();
    // As clients write it that encode every part of a path.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode";
    assert!(server.kubectl(&["get", "--raw", role]).unwrap().contains("\"system:node\""));
    let text = server.kubectl_fails(&["get", "--raw", "/api/v1/namespaces?timeout=soon"]).unwrap();
    assert!(text.contains("invalid timeout specified in the request URL"), "{text}");
    server.kubectl(&["create", "configmap", "a", "--from-literal=k=v"]).unwrap();
    let test = r#"[{"op": "test", "path": "/data/k", "value": "w"}]"#;
    let text = server.kubectl_fails(&["patch", "cm", "a", "--type=json", "-p", test]).unwrap();
    assert!(text.contains("The request is invalid: patch: "), "{text}");
    let text = server.kubectl_fails(&["patch", "cm", "a", "-p", r#"{"metadata": {"name": "b"}}"#]).unwrap();
    assert!(text.contains("metadata.name: Invalid value: \"b\": field is immutable"), "{text}");
}

#[test]
fn who_has_no_certificate_may_only_ask_whether_the_server_is_well() {
    let server = Server::start().unwrap();
    let anonymous = |path: &str, more: &[&str]| {
        let mut command = std::process::Command::new("curl");
        command
            .args(["--silent", "--show-error", "--insecure"])
            .args(more)
            .arg(format!("{}{path}", server.url()));
        String::from_utf8(command.output().expect("run curl: is it installed?").stdout).unwrap()
    };
    assert_eq!(anonymous("/livez", &[]), "ok");
    let status = |text: String| -> (i64, String) {
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        (status["code"].as_i64().unwrap(), status["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(status(anonymous("/api/v1/pods", &[])), (401, "Unauthorized".to_owned()));
    let token = anonymous("/api/v1/pods", &["--header", "Authorization: Bearer not-a-token"]);
    assert_eq!(status(token), (401, "Unauthorized".to_owned()));
}

#[test]
fn a_namespace_that_ends_takes_nothing_new() {
    let server = Server::start().unwrap();
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: ending}}";
    server.kubectl_with(&["apply", "-f", "-"], namespace).unwrap();
    server.kubectl(&["delete", "ns", "ending", "--wait=false"]).unwrap();
    let phase = server.kubectl(&["get", "ns", "ending", "-o", "jsonpath={.status.phase}"]).unwrap();
    assert_eq!(phase, "Terminating");
    let refused = server.kubectl_with(&["apply", "-n", "ending", "-f", "-"], WEB).unwrap_err().to_string();
    assert!(refused.contains("because it is being terminated"), "{refused}");
}

const ENCRYPTED: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers: PROVIDERS
"#;

/// Whether a text is in one of the files of the server's store.
fn is_on_disk(folder: &std::path::Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return is_on_disk(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text)
    })
}

#[test]
fn secrets_are_encrypted_in_the_store_and_survive_the_change_of_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("encryption.yaml");
    // The secrets of the keys are 32 times the letter a, and b.
    let one = "{name: one, secret: YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=}";
    let two = "{name: two, secret: YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=}";
    let configure = |providers: &str| {
        std::fs::write(&file, ENCRYPTED.replace("PROVIDERS", providers)).unwrap();
    };
    configure(&format!("[{{aesgcm: {{keys: [{one}]}}}}, {{identity: {{}}}}]"));
    let flags = ["--encryption-provider-config", file.to_str().unwrap()];
    let server = Server::start_with(&flags).unwrap();
    server.kubectl(&["create", "secret", "generic", "keys", "--from-literal=k=correct-horse"]).unwrap();
    server.kubectl(&["create", "configmap", "plain", "--from-literal=k=battery-staple"]).unwrap();
    // Base64 of the secret's value.
    let (hidden, shown) = (&b"Y29ycmVjdC1ob3JzZQ"[..], &b"battery-staple"[..]);
    let store = server.data_dir().join("store");
    assert!(is_on_disk(&store, shown) && !is_on_disk(&store, hidden));
    let data = ["get", "secret", "keys", "-o", "jsonpath={.data.k}"];
    assert_eq!(server.kubectl(&data).unwrap(), "Y29ycmVjdC1ob3JzZQ==");
    // With a new key before it, what is there is written anew, and the old key is no longer needed.
    configure(&format!("[{{secretbox: {{keys: [{two}]}}}}, {{aesgcm: {{keys: [{one}]}}}}]"));
    let version = ["get", "secret", "keys", "-o", "jsonpath={.metadata.resourceVersion}"];
    let before = server.kubectl(&version).unwrap();
    let server = server.kill_and_restart_with(&flags).unwrap();
    keelson_e2e::eventually("the secret to be written anew", keelson_e2e::LONG, || {
        Ok((server.kubectl(&version)? != before).then_some(()))
    })
    .unwrap();
    configure(&format!("[{{secretbox: {{keys: [{two}]}}}}]"));
    let server = server.kill_and_restart_with(&flags).unwrap();
    assert_eq!(server.kubectl(&data).unwrap(), "Y29ycmVjdC1ob3JzZQ==");
    // Without its key nothing is served, and nothing is lost.
    configure(&format!("[{{aesgcm: {{keys: [{one}]}}}}]"));
    let Err(failed) = server.restart_with(&flags) else { panic!("it started without the key") };
    let error = failed.error.to_string();
    assert!(error.contains("1 stored objects cannot be decrypted"), "{error}");
    configure(&format!("[{{secretbox: {{keys: [{two}]}}}}]"));
    let server = failed.start_again(&flags).unwrap();
    assert_eq!(server.kubectl(&data).unwrap(), "Y29ycmVjdC1ob3JzZQ==");
}
