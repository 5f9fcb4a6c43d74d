//! Whose certificates are shown, who acts for whom, and how a newcomer finds the cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use keelson_e2e::{Cluster, LONG, Server, eventually};

fn shell(script: &str, folder: &Path) -> String {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A certificate for a name, which vouches for itself: `NAME.crt` and `NAME.key`.
const SELF_SIGNED: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -keyout $NAME.key -out $NAME.crt -subj /CN=$NAME -addext subjectAltName=DNS:$NAME 2>/dev/null";

#[test]
fn a_certificate_of_files_is_shown_to_who_asks_for_its_name() {
    let folder = tempfile::tempdir().unwrap();
    shell(&format!("NAME=api.example.com; {SELF_SIGNED}"), folder.path());
    let file =
        |kind: &str| folder.path().join(format!("api.example.com.{kind}")).to_string_lossy().into_owned();
    let pair = format!("{},{}", file("crt"), file("key"));
    let server = Server::start_with(&["--tls-sni-cert-key", &pair]).unwrap();
    // Who connects to the address sees the cluster's own.
    server.kubectl(&["get", "namespaces"]).unwrap();
    let authority = format!("--certificate-authority={}", file("crt"));
    let named = ["--tls-server-name=api.example.com", authority.as_str(), "get", "namespaces"];
    server.kubectl(&named).unwrap();
    let told = server.kubectl_fails(&[authority.as_str(), "get", "namespaces"]).unwrap();
    assert!(told.contains("certificate signed by unknown authority"), "{told}");

    let server = server
        .kill_and_restart_with(&["--tls-cert-file", &file("crt"), "--tls-private-key-file", &file("key")])
        .unwrap();
    let told = server.kubectl_fails(&["get", "namespaces"]).unwrap();
    assert!(told.contains("certificate"), "{told}");
    server.kubectl(&named).unwrap();
}

#[test]
fn a_deputy_lists_for_somebody_and_does_nothing_else_for_them() {
    let server = Server::start().unwrap();
    let rules = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: deputy}
rules:
- {apiGroups: [authentication.k8s.io], resources: [users], resourceNames: [ann], verbs: ["impersonate:user-info"]}
- {apiGroups: [""], resources: [configmaps], verbs: ["impersonate-on:user-info:list"]}
"#;
    server.kubectl_with(&["create", "-f", "-"], rules).unwrap();
    server
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "deputy",
            "--clusterrole=deputy",
            "--serviceaccount=default:deputy",
        ])
        .unwrap();
    server.kubectl(&["create", "clusterrolebinding", "ann", "--clusterrole=edit", "--user=ann"]).unwrap();
    server.kubectl(&["create", "serviceaccount", "deputy"]).unwrap();
    let token = server.kubectl(&["create", "token", "deputy"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(server.kubeconfig()).unwrap();
    let bare: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("client-")).collect();
    let config = folder.path().join("deputy");
    let user = format!("  user: {{token: {}}}\n", token.trim());
    fs::write(&config, bare.join("\n").replace("  user:\n", &user)).unwrap();
    let run = |arguments: &[&str]| {
        let output = server.command(arguments).env("KUBECONFIG", &config).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["get", "configmaps", "--as=ann"]), (true, String::new()));
    for (arguments, refused) in [
        (&["get", "configmaps"][..], "cannot list resource \"configmaps\""),
        (&["get", "secrets", "--as=ann"], "cannot impersonate-on:user-info:list resource \"secrets\""),
        (&["delete", "configmap", "x", "--as=ann"], "cannot impersonate-on:user-info:delete"),
        (&["get", "configmaps", "--as=bob"], "cannot impersonate:user-info resource \"users\""),
    ] {
        let (succeeded, told) = run(arguments);
        assert!(!succeeded && told.contains(refused), "{arguments:?}: {told}");
    }
}

#[test]
fn a_bootstrap_token_signs_where_the_cluster_is_and_goes_when_it_ends() {
    let cluster = Cluster::up().unwrap();
    let secret = |id: &str, end: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, type: bootstrap.kubernetes.io/token, metadata: {{name: bootstrap-token-{id}, \
             namespace: kube-system}}, stringData: {{token-id: {id}, token-secret: 0123456789abcdef, expiration: \"{end}\", \
             usage-bootstrap-signing: \"true\"}}}}"
        )
    };
    cluster
        .apply(&format!(
            "---\n{}\n---\n{}",
            secret("aaaaaa", "2100-01-01T00:00:00Z"),
            secret("bbbbbb", "2020-01-01T00:00:00Z")
        ))
        .unwrap();
    let info = |key: &str| {
        let path = format!("jsonpath={{.data.{key}}}");
        cluster.kubectl(&["-n", "kube-public", "get", "cm", "cluster-info", "-o", &path])
    };
    let signature = eventually("the signature", LONG, || {
        Ok(info("jws-kubeconfig-aaaaaa").ok().filter(|text| !text.is_empty()))
    })
    .unwrap();
    eventually("the ended token to go", LONG, || {
        let left = cluster.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "name"])?;
        Ok((!left.contains("bbbbbb")).then_some(()))
    })
    .unwrap();
    let kubeconfig = info("kubeconfig").unwrap();
    assert!(kubeconfig.contains("certificate-authority-data: ") && kubeconfig.contains("server: https://"));
    // Another program makes the same of it.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("content"), &kubeconfig).unwrap();
    let script = "url() { base64 -w0 | tr '+/' '-_' | tr -d =; }\n\
        head=$(printf '{\"alg\":\"HS256\",\"kid\":\"aaaaaa\"}' | url)\n\
        body=$(url < content)\n\
        sign=$(printf '%s.%s' $head $body | openssl dgst -sha256 -mac HMAC -macopt key:0123456789abcdef -binary | url)\n\
        printf '%s..%s' $head $sign";
    assert_eq!(shell(script, folder.path()), signature);
    // Nobody reads it without credentials.
    let refused = cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/namespaces/kube-public/configmaps/cluster-info",
        "--as",
        "jane",
    ]);
    assert!(refused.is_err());
}
