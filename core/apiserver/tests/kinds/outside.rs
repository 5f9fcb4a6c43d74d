//! Servers outside that know who callers are and what they may do.

use axum::routing::{get, post};
use axum::{Json, Router};
use http::Method;
use keelson_apiserver::Identity;
use keelson_apiserver::authentication::claims::Source;
use keelson_apiserver::authentication::oidc::IssuerConfig;
use keelson_apiserver::authentication::token::{Claims, Issuance, Signer};
use keelson_apiserver::authorization::options::Mode;
use keelson_apiserver::expression::Expression;
use keelson_cel::{Declaration, Environment};
use serde_json::{Value, json};

use crate::harness::Server;
use crate::https::Https;

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Serves on a port of its own; the URL.
async fn outside(router: impl FnOnce(&str) -> Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = router(&url);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

fn kubeconfig(url: &str, dir: &std::path::Path) -> std::path::PathBuf {
    let path = dir.join("webhook.kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c}}}}]\nclusters: [{{name: c, cluster: {{server: {url}}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_token_of_a_believed_issuer_names_its_user() {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let published = Signer::from_pem(&key).unwrap().key_set();
    let url = outside(|url| {
        let document = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(document)))
            .route("/keys", get(async move || Json(published)))
    })
    .await;
    let issuer = url.clone();
    let claims = Environment::new().variable("claims", Declaration::map(Declaration::dynamic()));
    let server = Server::start_with(move |config| {
        let name = Expression::compile("'oidc:' + claims.sub", &claims, &[]).unwrap();
        config.authentication.issuer = Some(IssuerConfig {
            url: issuer,
            audiences: vec!["kube".into()],
            ..IssuerConfig::named_by(Source::Expression(name))
        });
    })
    .await;
    let https = Https::to(&server);
    let of = |issuer: &str| Issuance { issuers: vec![issuer.to_owned()], ..Issuance::default() };
    let sign = |key: &str, audience: &str, end: i64| {
        let now = jiff::Timestamp::now().as_second();
        let claims = Claims {
            aud: vec![audience.into()],
            iss: url.clone(),
            sub: "ann".into(),
            exp: now + end,
            iat: now,
            nbf: now,
            ..Claims::default()
        };
        let token = Signer::new(key, &[], of(&url)).unwrap().sign(&claims).unwrap();
        format!("Bearer {token}")
    };
    let asks = async |bearer: String| {
        https.send(Method::POST, WHOAMI, &[("authorization", &bearer)], json!({})).await
    };
    let (code, who) = asks(sign(&key, "kube", 600)).await;
    assert_eq!((code, &who["status"]["userInfo"]["username"]), (201, &json!("oidc:ann")));
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for refused in [sign(&key, "other", 600), sign(&key, "kube", -600), sign(&other, "kube", 600)] {
        assert_eq!(asks(refused).await.0, 401);
    }
}

#[tokio::test]
async fn a_server_that_knows_tokens_and_one_that_knows_rights_are_asked() {
    let url = outside(|_| {
        let review = async |Json(review): Json<Value>| {
            let known = review["spec"]["token"] == "magic";
            Json(json!({"status": {"authenticated": known, "user": {"username": "ann", "groups": ["dev"]}}}))
        };
        Router::new().route("/tokens", post(review))
    })
    .await;
    let rights = outside(|_| {
        let review = async |Json(review): Json<Value>| {
            let asked = &review["spec"]["resourceAttributes"];
            let denied = asked["namespace"] == "kube-system";
            let allowed = !denied && review["spec"]["user"] == "ann" && asked["resource"] == "secrets";
            Json(json!({"status": {"allowed": allowed, "denied": denied, "reason": "the book says so"}}))
        };
        Router::new().route("/", post(review))
    })
    .await;
    let server = Server::start_with(move |config| {
        let dir = config.data_dir.join("tokens");
        std::fs::create_dir(&dir).unwrap();
        config.authentication.webhook_file = Some(kubeconfig(&format!("{url}/tokens"), &dir));
        config.authorization.webhook_file = Some(kubeconfig(&rights, &config.data_dir));
        config.authorization.modes = vec![Mode::Webhook, Mode::Rbac];
    })
    .await;
    let https = Https::to(&server);
    let asks = async |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        https.send(Method::GET, path, &[("authorization", &bearer)], Value::Null).await
    };
    assert_eq!(asks("magic", "/api/v1/namespaces/default/secrets").await.0, 200);
    let (code, told) = asks("magic", "/api/v1/namespaces/kube-system/secrets").await;
    assert_eq!(code, 403);
    assert!(told["message"].as_str().unwrap().ends_with("the book says so"), "{told}");
    assert_eq!(asks("magic", "/api/v1/namespaces/default/configmaps").await.0, 403);
    assert_eq!(asks("other", "/api/v1/namespaces/default/secrets").await.0, 401);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let told = server.act(Identity::user("ann", &[]), Method::POST, path, review).await.ok();
    assert_eq!(told["status"], json!({"allowed": true, "reason": "the book says so"}));
}

#[tokio::test]
async fn a_webhook_is_asked_for_rights_only_where_its_conditions_hold() {
    let rights = outside(|_| {
        let review = async |Json(_): Json<Value>| Json(json!({"status": {"allowed": true}}));
        Router::new().route("/", post(review))
    })
    .await;
    let server = Server::start_with(move |config| {
        let dir = config.data_dir.join("rights");
        std::fs::create_dir(&dir).unwrap();
        let kubeconfig = kubeconfig(&rights, &dir);
        let path = dir.join("authorization.yaml");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- type: Webhook\n  name: book\n  webhook:\n    timeout: 3s\n    subjectAccessReviewVersion: v1\n    matchConditionSubjectAccessReviewVersion: v1\n    failurePolicy: Deny\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: '{}'}}\n    matchConditions:\n    - expression: has(request.resourceAttributes)\n    - expression: request.resourceAttributes.namespace != 'kube-system'\n- {{type: RBAC, name: rbac}}\n",
            kubeconfig.display()
        );
        std::fs::write(&path, text).unwrap();
        config.authorization.config_file = Some(path);
    })
    .await;
    let ann = || Identity::user("ann", &[]);
    let secrets = |namespace: &str| format!("/api/v1/namespaces/{namespace}/secrets");
    server.act(ann(), Method::GET, &secrets("default"), Value::Null).await.ok();
    server.act(ann(), Method::GET, &secrets("kube-system"), Value::Null).await.fails(403);
    server.act(ann(), Method::GET, "/metrics", Value::Null).await.fails(403);
}
