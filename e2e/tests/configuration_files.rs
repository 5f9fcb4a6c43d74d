//! Configuration files that change while the server runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use keelson_e2e::{Server, eventually};

const AUTHENTICATION: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
const AUTHORIZATION: &str =
    "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";

/// The code of a request without credentials.
fn code(server: &Server, path: &str) -> String {
    let url = format!("{}{path}", server.url());
    let output = std::process::Command::new("curl")
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", &url])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a file was read again so often, with this outcome.
fn reads(server: &Server, kind: &str, status: &str, times: u32) {
    let name = format!("apiserver_{kind}_config_controller_automatic_reloads_total{{");
    let what = format!("a reload of the {kind} configuration with {status}");
    eventually(&what, Duration::from_secs(60), || {
        let metrics = server.kubectl(&["get", "--raw", "/metrics"])?;
        let mut lines = metrics.lines().filter(|line| line.starts_with(&name) && line.contains(status));
        Ok(lines.any(|line| line.ends_with(&format!(" {times}"))).then_some(()))
    })
    .unwrap();
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_configuration_that_changes_holds_and_a_faulty_one_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let [who, what] = ["authentication.yaml", "authorization.yaml"].map(|name| dir.path().join(name));
    let open = |path: &str| {
        format!("{AUTHENTICATION}anonymous: {{enabled: true, conditions: [{{path: {path}}}]}}\n")
    };
    write(&who, &open("/livez"));
    write(&what, &format!("{AUTHORIZATION}- {{type: Node, name: node}}\n- {{type: RBAC, name: rbac}}\n"));
    let flags = [
        format!("--authentication-config={}", who.display()),
        format!("--authorization-config={}", what.display()),
    ];
    let server = Server::start_with(&flags.each_ref().map(String::as_str)).unwrap();
    assert_eq!([code(&server, "/livez"), code(&server, "/version")], ["200", "401"]);
    write(&who, &open("/version"));
    reads(&server, "authentication", "success", 1);
    assert_eq!([code(&server, "/livez"), code(&server, "/version")], ["401", "200"]);
    let faulty = "jwt: [{issuer: {url: 'https://a', audiences: [a]}, claimMappings: {username: {expression: 'claims.sub +'}}}]\n";
    write(&who, &format!("{AUTHENTICATION}{faulty}"));
    reads(&server, "authentication", "failure", 1);
    assert_eq!([code(&server, "/livez"), code(&server, "/version")], ["401", "200"]);
    // Roles must stay where they are.
    write(&what, &format!("{AUTHORIZATION}- {{type: Node, name: node}}\n"));
    reads(&server, "authorization", "failure", 1);
    write(&what, &format!("{AUTHORIZATION}- {{type: RBAC, name: rbac}}\n- {{type: Node, name: node}}\n"));
    reads(&server, "authorization", "success", 1);
    let allowed = server.kubectl(&["auth", "can-i", "get", "pods", "--as=ann", "--as-group=nobody"]);
    assert!(allowed.is_err(), "{allowed:?}");
    assert_eq!(server.kubectl(&["auth", "can-i", "get", "pods"]).unwrap().trim(), "yes");
}
