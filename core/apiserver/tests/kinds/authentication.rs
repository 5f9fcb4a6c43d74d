//! Who callers are: over TLS, with tokens and certificates.

use http::Method;
use keelson_apiserver::Identity;
use keelson_apiserver::authentication::request_header::RequestHeader;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::https::Https;

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn token(server: &Server, spec: Value) -> Value {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    server.post(path, json!({"spec": spec})).await.ok()
}

async fn whoami(https: &Https, headers: &[(&str, &str)]) -> (u16, Value) {
    https.send(Method::POST, WHOAMI, headers, json!({})).await
}

#[tokio::test]
async fn an_account_is_known_by_its_token_until_it_is_deleted() {
    let server = Server::start().await;
    let https = Https::to(&server);
    let given = token(&server, json!({"audiences": [], "expirationSeconds": 600})).await;
    let bearer = format!("Bearer {}", given["status"]["token"].as_str().unwrap());
    let (code, who) = whoami(&https, &[("authorization", &bearer)]).await;
    assert_eq!(
        (code, &who["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:default:default"))
    );
    server.delete("/api/v1/namespaces/default/serviceaccounts/default", json!({})).await.ok();
    assert_eq!(whoami(&https, &[("authorization", &bearer)]).await.0, 401);
}

#[tokio::test]
async fn a_token_for_others_and_two_tokens_at_once_are_refused() {
    let server = Server::start().await;
    let https = Https::to(&server);
    let other = token(&server, json!({"audiences": ["vault"]})).await;
    let other = format!("Bearer {}", other["status"]["token"].as_str().unwrap());
    assert_eq!(whoami(&https, &[("authorization", &other)]).await.0, 401);
    let good = token(&server, json!({})).await;
    let good = format!("Bearer {}", good["status"]["token"].as_str().unwrap());
    assert_eq!(whoami(&https, &[("authorization", &good), ("authorization", &good)]).await.0, 401);
    assert_eq!(whoami(&https, &[("authorization", "Bearer x.y.z")]).await.0, 401);
    assert_eq!(whoami(&https, &[]).await.0, 401);
}

#[tokio::test]
async fn a_review_tells_whose_token_it_is_and_what_is_wrong_with_it() {
    let server = Server::start().await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let given = token(&server, json!({"audiences": ["vault", "other"]})).await;
    let text = given["status"]["token"].as_str().unwrap();
    let asked = json!({"spec": {"token": text, "audiences": ["vault"]}});
    let status = server.post(reviews, asked).await.ok()["status"].clone();
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    let status = server.post(reviews, json!({"spec": {"token": text}})).await.ok()["status"].clone();
    assert!(status["authenticated"].is_null(), "{status}");
    assert_eq!(status["error"], "token audiences do not match the target audiences");
    let unknown = server.post(reviews, json!({"spec": {"token": "abc"}})).await.ok();
    assert_eq!(unknown["status"]["error"], "invalid bearer token");
    server.post(reviews, json!({"spec": {}})).await.fails(400);
}

#[tokio::test]
async fn a_token_of_a_life_that_is_too_short_is_refused() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let text = server.post(path, json!({"spec": {"expirationSeconds": 60}})).await.fails(422);
    assert_eq!(
        text,
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"
    );
}

#[tokio::test]
async fn tokens_of_a_file_and_bootstrap_tokens_name_their_users() {
    let server = Server::start_with(|config| {
        let path = config.data_dir.join("tokens.csv");
        std::fs::write(&path, "s3cret,ann,7,\"dev\"\n").unwrap();
        config.authentication.token_file = Some(path);
    })
    .await;
    let https = Https::to(&server);
    let (_, who) = whoami(&https, &[("authorization", "Bearer s3cret")]).await;
    assert_eq!(who["status"]["userInfo"]["username"], "ann");
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    server.post("/api/v1/namespaces/kube-system/secrets", secret).await.ok();
    let (_, who) = whoami(&https, &[("authorization", "Bearer abcdef.0123456789abcdef")]).await;
    assert_eq!(who["status"]["userInfo"]["username"], "system:bootstrap:abcdef");
    server.delete("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef", json!({})).await.ok();
    assert_eq!(whoami(&https, &[("authorization", "Bearer abcdef.0123456789abcdef")]).await.0, 401);
}

#[tokio::test]
async fn a_kubelet_gets_tokens_for_the_audiences_of_its_own_pods_alone() {
    let server = Server::start().await;
    let kubelet = || Identity::user("system:node:one", &["system:nodes"]);
    server.post("/api/v1/nodes", json!({"metadata": {"name": "one"}})).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]}});
    let pod = server.post("/api/v1/namespaces/default/pods", pod).await.ok();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let ask = |audiences: Value| {
        let spec = json!({"audiences": audiences, "boundObjectRef": bound});
        server.act(kubelet(), Method::POST, path, json!({"spec": spec}))
    };
    ask(json!(["vault"])).await.ok();
    ask(json!([])).await.ok();
    let text = ask(json!(["other"])).await.fails(403);
    assert!(
        text.contains("audience \"other\" not found in pod spec volume, system:node:one is not authorized"),
        "{text}"
    );
}

#[tokio::test]
async fn the_keys_of_tokens_are_published_for_accounts() {
    let server = Server::start().await;
    let account = || Identity::service_account("default", "default");
    let document =
        server.act(account(), Method::GET, "/.well-known/openid-configuration", Value::Null).await.ok();
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let keys = server.act(account(), Method::GET, "/openid/v1/jwks", Value::Null).await.ok();
    assert_eq!(keys["keys"][0]["kty"], "EC");
    let other = Identity::user("ann", &[]);
    server.act(other, Method::GET, "/openid/v1/jwks", Value::Null).await.fails(403);
}

#[tokio::test]
async fn a_certificate_names_its_user_and_a_trusted_proxy_its_client() {
    let front = rcgen_authority();
    let bundle = front.0.clone();
    let server = Server::start_with(move |config| {
        let path = config.data_dir.join("front.crt");
        std::fs::write(&path, bundle).unwrap();
        config.authentication.request_header = Some(RequestHeader {
            ca_file: path,
            allowed_names: vec!["front".into()],
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: Vec::new(),
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: Vec::new(),
        });
    })
    .await;
    let headers = [("x-remote-user", "bob"), ("x-remote-group", "ops")];
    let own = server.api.pki().issue_client("ann", &["dev"]).unwrap();
    let client = Https::to(&server).with_certificate(&server, &own.certificate, &own.key);
    let (_, who) = whoami(&client, &headers).await;
    assert_eq!(who["status"]["userInfo"]["username"], "ann");
    for (name, user) in [("front", Some("bob")), ("other", None)] {
        let (certificate, key) = front.1(name);
        let proxy = Https::to(&server).with_certificate(&server, &certificate, &key);
        let (code, who) = whoami(&proxy, &headers).await;
        match user {
            Some(user) => assert_eq!(who["status"]["userInfo"]["username"], user),
            None => assert_eq!(code, 401, "{who}"),
        }
    }
}

/// An authority, and what makes certificates of it.
fn rcgen_authority() -> (String, impl Fn(&str) -> (String, String)) {
    let dir = tempfile::tempdir().unwrap();
    let pki = keelson_apiserver::pki::Pki::open(dir.path()).unwrap();
    let bundle = pki.authority().to_owned();
    (bundle, move |name: &str| {
        let made = pki.issue_client(name, &[]).unwrap();
        (made.certificate, made.key)
    })
}
