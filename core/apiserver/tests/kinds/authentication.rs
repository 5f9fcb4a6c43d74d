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

/// What a token says of itself.
fn claims(token: &Value) -> Value {
    use base64::Engine;
    let text = token["status"]["token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn the_token_that_a_pod_finds_mounted_holds_longer_than_it_says() {
    let server = Server::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "gone", "containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", pod).await.ok();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    let given = token(&server, json!({"boundObjectRef": bound, "expirationSeconds": 3607})).await;
    let said = claims(&given);
    let (issued, end) = (said["iat"].as_i64().unwrap(), said["exp"].as_i64().unwrap());
    assert_eq!((end - issued, &said["kubernetes.io"]["warnafter"]), (31_536_000, &json!(issued + 3607)));
    assert_eq!(said["kubernetes.io"]["node"], json!({"name": "gone"}));
    let told: jiff::Timestamp = given["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
    assert_eq!((told.as_second() - issued, &given["spec"]["expirationSeconds"]), (3607, &json!(3607)));
    // Only for this server, only for a pod, and only with that life.
    for spec in [
        json!({"boundObjectRef": bound, "expirationSeconds": 3607, "audiences": ["vault"]}),
        json!({"boundObjectRef": bound, "expirationSeconds": 3600}),
        json!({"expirationSeconds": 3607}),
    ] {
        let said = claims(&token(&server, spec).await);
        assert!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap() < 3608, "{said}");
    }
}

#[tokio::test]
async fn a_token_request_that_contradicts_itself_is_refused() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let told = server.post(path, json!({"metadata": {"name": "other"}, "spec": {}})).await.fails(422);
    assert_eq!(
        told,
        "TokenRequest.authentication.k8s.io \"default\" is invalid: metadata.name: Invalid value: \"other\": must match the service account name if specified"
    );
    let bound = |version: &str, kind: &str| json!({"spec": {"boundObjectRef": {"apiVersion": version, "kind": kind, "name": "x"}}});
    let told = server.post(path, bound("v1", "Service")).await.fails(400);
    assert_eq!(told, "cannot bind token to object of type /v1, Kind=Service");
    let told = server.post(path, bound("example.com/v1", "Pod")).await.fails(400);
    assert_eq!(told, "cannot bind token to object of type example.com/v1, Kind=Pod");
    let made =
        server.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.ok();
    let mut wrong = bound("v1", "Secret");
    wrong["spec"]["boundObjectRef"]["name"] = "s".into();
    wrong["spec"]["boundObjectRef"]["uid"] = "another".into();
    let told = server.post(path, wrong.clone()).await.fails(409);
    assert!(
        told.starts_with("Operation cannot be fulfilled on Secret \"s\": the UID in the bound"),
        "{told}"
    );
    wrong["spec"]["boundObjectRef"]["uid"] = made["metadata"]["uid"].clone();
    server.post(path, wrong).await.ok();
}

/// Asks until the document is as it should be.
async fn until(server: &Server, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2000 {
        let value = server.get(path).await.1;
        if good(&value) {
            return value;
        }
        tokio::task::yield_now().await;
    }
    panic!("{path} never became what it should be: {}", server.get(path).await.1);
}

#[tokio::test]
async fn the_use_of_a_token_in_a_secret_is_written_down_and_one_marked_invalid_is_refused() {
    let server = Server::start().await;
    let https = Https::to(&server);
    let tracking =
        "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let is_day = |text: &Value| {
        let day: Option<jiff::civil::Date> = text.as_str().and_then(|text| text.parse().ok());
        day.is_some_and(|day| day >= today)
    };
    until(&server, tracking, |map| is_day(&map["data"]["since"])).await;
    let secret = json!({"metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    let path = "/api/v1/namespaces/default/secrets/s";
    server.post("/api/v1/namespaces/default/secrets", secret).await.ok();
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": "s"});
    let given = token(&server, json!({"boundObjectRef": bound})).await;
    let bearer = format!("Bearer {}", given["status"]["token"].as_str().unwrap());
    assert_eq!(whoami(&https, &[("authorization", &bearer)]).await.0, 201);
    let used = |secret: &Value| is_day(&secret["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"]);
    until(&server, path, used).await;
    let label = "kubernetes.io/legacy-token-invalid-since";
    server.merge(path, json!({"metadata": {"labels": {label: "2026-01-01"}}})).await.ok();
    assert_eq!(whoami(&https, &[("authorization", &bearer)]).await.0, 401);
    let review = json!({"spec": {"token": given["status"]["token"]}});
    let told = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok();
    let text = told["status"]["error"].as_str().unwrap();
    assert!(
        text.starts_with(
            "the token in secret default/s for service account default/default has been marked invalid."
        ),
        "{text}"
    );
    server.merge(path, json!({"metadata": {"labels": {label: null}}})).await.ok();
    assert_eq!(whoami(&https, &[("authorization", &bearer)]).await.0, 201);
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
