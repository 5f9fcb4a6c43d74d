//! Who comes in, with what, and what the server tells of itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keelson_e2e::{LONG, Server, eventually};

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().expect("run openssl: is it installed?");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A request for a certificate, whose key lies in `folder/NAME.key`.
fn request(folder: &Path, name: &str, subject: &str, signer: &str) -> String {
    let key = folder.join(format!("{name}.key")).to_string_lossy().into_owned();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let wanted = ["req", "-new", "-nodes", "-keyout", &key, "-subj", subject];
    let file = folder.join(format!("{name}.csr"));
    fs::write(&file, openssl(&[&wanted[..], &curve].concat())).unwrap();
    let pem = openssl(&["base64", "-A", "-in", &file.to_string_lossy()]);
    format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}}, \
         spec: {{request: {pem}, signerName: {signer}, expirationSeconds: 3600, usages: [digital signature, client auth]}}}}"
    )
}

/// A kubeconfig without the administrator's credentials.
fn nobody(server: &Server, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(server.kubeconfig()).unwrap();
    let bare: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("client-")).collect();
    let file = folder.join("nobody");
    fs::write(&file, bare.join("\n").replace("  user:\n", "  user: {}\n")).unwrap();
    file
}

fn run_as(server: &Server, config: &Path, credentials: &[String], arguments: &[&str]) -> Output {
    server.command(arguments).args(credentials).env("KUBECONFIG", config).output().unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn with_input(server: &Server, config: &Path, credentials: &[String], file: &Path) -> Output {
    run_as(server, config, credentials, &["create", "-f", &file.to_string_lossy()])
}

#[test]
fn an_approved_certificate_logs_its_owner_in_with_the_rights_of_its_name() {
    let server = Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nobody = nobody(&server, folder.path());
    let signer = "kubernetes.io/kube-apiserver-client";
    let manifest = request(folder.path(), "ann", "/O=crew/CN=ann", signer);
    server.kubectl_with(&["create", "-f", "-"], &manifest).unwrap();
    let table = server.kubectl(&["get", "csr"]).unwrap();
    let columns: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"]);
    assert_eq!(columns[1][2..], [signer, "kubernetes-admin", "60m", "Pending"]);
    server.kubectl(&["certificate", "approve", "ann"]).unwrap();
    let pem = eventually("the certificate", LONG, || {
        let text = server.kubectl(&["get", "csr", "ann", "-o", "jsonpath={.status.certificate}"])?;
        Ok((!text.is_empty()).then_some(text))
    })
    .unwrap();
    assert!(server.kubectl(&["get", "csr", "ann"]).unwrap().contains("Approved,Issued"));
    let described = server.kubectl(&["describe", "csr", "ann"]).unwrap();
    let words = described.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("Common Name: ann") && words.contains("Organization: crew"), "{described}");
    let (encoded, certificate) = (folder.path().join("ann.b64"), folder.path().join("ann.crt"));
    fs::write(&encoded, pem).unwrap();
    let (from, to) = (encoded.to_string_lossy(), certificate.to_string_lossy());
    openssl(&["base64", "-d", "-A", "-in", &from, "-out", &to]);
    let key = folder.path().join("ann.key");
    let ann = [format!("--client-certificate={to}"), format!("--client-key={}", key.to_string_lossy())];
    let run = |arguments: &[&str]| run_as(&server, &nobody, &ann, arguments);
    let who = printed(&run(&["auth", "whoami"]));
    let words: Vec<&str> = who.split_whitespace().collect();
    let groups = words.iter().position(|word| *word == "Groups").unwrap();
    assert_eq!(words[..4], ["ATTRIBUTE", "VALUE", "Username", "ann"]);
    assert_eq!(words[groups + 1..groups + 3], ["[crew", "system:authenticated]"]);
    let refused = printed(&run(&["get", "cm"]));
    assert!(refused.contains("User \"ann\" cannot list resource \"configmaps\""), "{refused}");
    server.kubectl(&["create", "rolebinding", "crew", "--clusterrole=view", "--group=crew"]).unwrap();
    assert!(run(&["get", "cm"]).status.success());
    assert!(!run(&["create", "cm", "x"]).status.success());
    let can = printed(&run(&["auth", "can-i", "--list"]));
    let rule = |name: &str| can.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(rule("configmaps").ends_with("[get list watch]"), "{can}");
    assert!(rule("selfsubjectreviews.authentication.k8s.io").ends_with("[create]"), "{can}");
    assert!(can.contains("[/healthz]"), "{can}");
    let can = run(&["auth", "can-i", "delete", "pods"]);
    assert_eq!((can.status.code(), printed(&can).as_str()), (Some(1), "no\n"));

    let manifest = request(folder.path(), "bob", "/CN=bob", signer);
    server.kubectl_with(&["create", "-f", "-"], &manifest).unwrap();
    server.kubectl(&["certificate", "deny", "bob"]).unwrap();
    assert!(server.kubectl(&["get", "csr", "bob"]).unwrap().contains("Denied"));
    let twice = server.kubectl_fails(&["certificate", "approve", "bob"]).unwrap();
    assert!(twice.contains("certificate signing request \"bob\" is already Denied"), "{twice}");
}

#[test]
fn a_bootstrap_token_asks_for_a_nodes_certificate_and_for_nothing_else() {
    let server = Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nobody = nobody(&server, folder.path());
    let secret = r#"
apiVersion: v1
kind: Secret
type: bootstrap.kubernetes.io/token
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: "true"
  auth-extra-groups: system:bootstrappers:joiners
"#;
    server.kubectl_with(&["create", "-f", "-"], secret).unwrap();
    for role in
        ["system:node-bootstrapper", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"]
    {
        let name = role.rsplit(':').next().unwrap();
        server
            .kubectl(&[
                "create",
                "clusterrolebinding",
                name,
                &format!("--clusterrole={role}"),
                "--group=system:bootstrappers:joiners",
            ])
            .unwrap();
    }
    let token = ["--token=abcdef.0123456789abcdef".to_owned()];
    let who = eventually("the token to be known", LONG, || {
        let output =
            run_as(&server, &nobody, &token, &["auth", "whoami", "-o", "jsonpath={.status.userInfo}"]);
        Ok(output.status.success().then(|| printed(&output)))
    })
    .unwrap();
    assert!(
        who.contains("\"system:bootstrap:abcdef\"") && who.contains("system:bootstrappers:joiners"),
        "{who}"
    );
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let file = folder.path().join("node.yaml");
    let manifest = request(folder.path(), "one", "/O=system:nodes/CN=system:node:one", signer);
    // The separator tells kubectl that what follows is YAML, even where it begins with a brace.
    fs::write(&file, format!("---\n{manifest}")).unwrap();
    let made = with_input(&server, &nobody, &token, &file);
    assert!(made.status.success(), "{}", printed(&made));
    eventually("the node's certificate", LONG, || {
        Ok(server.kubectl(&["get", "csr", "one"])?.contains("Approved,Issued").then_some(()))
    })
    .unwrap();
    let refused = printed(&run_as(&server, &nobody, &token, &["get", "secrets", "-A"]));
    assert!(
        refused.contains("User \"system:bootstrap:abcdef\" cannot list resource \"secrets\""),
        "{refused}"
    );
    server.kubectl(&["-n", "kube-system", "delete", "secret", "bootstrap-token-abcdef"]).unwrap();
    eventually("the token to be forgotten", LONG, || {
        let output = run_as(&server, &nobody, &token, &["auth", "whoami"]);
        Ok((!output.status.success()).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_server_tells_of_its_health_and_its_work() {
    let server = Server::start().unwrap();
    let ready = server.kubectl(&["get", "--raw", "/readyz?verbose"]).unwrap();
    assert!(ready.contains("[+]ping ok\n") && ready.ends_with("readyz check passed\n"), "{ready}");
    let ping = server.kubectl(&["get", "--raw", "/livez/ping"]).unwrap();
    assert_eq!(ping, "ok");
    let absent = server.kubectl_fails(&["get", "--raw", "/readyz/absent"]).unwrap();
    assert!(absent.contains("(NotFound)") || absent.contains("could not find"), "{absent}");
    let count = || -> f64 {
        let text = server.kubectl(&["get", "--raw", "/metrics"]).unwrap();
        let own = |line: &&str| {
            let all = ["apiserver_request_total{", "resource=\"configmaps\"", "verb=\"GET\"", "code=\"404\""];
            all.iter().all(|part| line.contains(part))
        };
        let lines = text.lines().filter(own);
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let before = count();
    for _ in 0..3 {
        server.kubectl_fails(&["get", "cm", "absent"]).unwrap();
    }
    assert_eq!(count() - before, 3.0);
    let refused = server.kubectl_fails(&["get", "--raw", "/metrics", "--as", "jane"]).unwrap();
    assert!(refused.contains("User \"jane\" cannot get path \"/metrics\""), "{refused}");
}
