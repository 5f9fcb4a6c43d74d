use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use keelson_api::GroupResource;
use keelson_store::{Event, EventKind, Key, Observer, Revision};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::cache::{self, WatchCache};

/// Serves `POST /hook` with the request's own body, and its authorization, for a name; gives the certificate.
async fn server(name: &str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let pem = made.cert.pem();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = |headers: http::HeaderMap, body: String| async move {
        let who = headers.get(header::AUTHORIZATION).map(|it| it.to_str().unwrap().to_owned());
        json!({"sent": serde_json::from_str::<Value>(&body).unwrap(), "who": who}).to_string()
    };
    let elsewhere = (http::StatusCode::FOUND, [(header::LOCATION, "/hook")], "moved");
    let router =
        Router::new().route("/hook", post(echo)).route("/moved", post(move || async move { elsewhere }));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    (address, pem)
}

fn nowhere() -> Arc<ServiceResolver> {
    Arc::new(ServiceResolver::new(Arc::new(WatchCache::default())))
}

fn holding(objects: &[(&str, &str, Value)]) -> Arc<ServiceResolver> {
    let cache = WatchCache::default();
    let mut events = Vec::new();
    for (at, (group, plural, object)) in objects.iter().enumerate() {
        let name = object["metadata"]["name"].as_str().unwrap();
        let key = cache::key(&GroupResource::new(group, plural), Some("ns"), name);
        events.push(Event {
            key: Key::new(key).unwrap(),
            revision: Revision::new(at as u64 + 1),
            kind: EventKind::Created,
            previous: None,
            value: object.to_string().into(),
        });
    }
    cache.applied(&events);
    Arc::new(ServiceResolver::new(Arc::new(cache)))
}

fn service(port: u16, ready: bool) -> Arc<ServiceResolver> {
    let service = json!({"metadata": {"name": "hook", "namespace": "ns"}, "spec": {"clusterIP": "None",
        "ports": [{"name": "web", "port": 443, "targetPort": "https"}]}});
    let slice = json!({"metadata": {"name": "hook-1", "namespace": "ns", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "web", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}]});
    let other = json!({"metadata": {"name": "out", "namespace": "ns"},
        "spec": {"type": "ExternalName", "externalName": "hooks.example.com"}});
    holding(&[
        ("", "services", service),
        ("discovery.k8s.io", "endpointslices", slice),
        ("", "services", other),
    ])
}

fn at_service(pem: &str) -> RemoteConfig {
    let target =
        Target::Service { namespace: "ns".into(), name: "hook".into(), port: 443, path: "hook".into() };
    RemoteConfig { ca_bundle: Some(pem.into()), ..RemoteConfig::new(target) }
}

#[tokio::test]
async fn a_document_is_posted_to_a_url_with_a_token() {
    let (address, pem) = server("localhost").await;
    let target = Target::Url(format!("https://localhost:{}/hook?old=1", address.port()));
    let mut config = RemoteConfig { ca_bundle: Some(pem.into()), ..RemoteConfig::new(target) };
    config.credentials.token = Some(Token::Fixed("t".into()));
    let remote = Remote::new(config, &nowhere()).unwrap();
    let answer = remote.post_json("timeout=5s", &json!({"a": 1}), 1 << 20).await.unwrap();
    assert_eq!(answer, json!({"sent": {"a": 1}, "who": "Bearer t"}));
    let error = remote.post_json("", &json!({"a": "x".repeat(500)}), 100).await.unwrap_err();
    let url = format!("https://localhost:{}/hook", address.port());
    assert_eq!(error.to_string(), format!("Post {url:?}: the answer is larger than 100 bytes"));
}

#[tokio::test]
async fn a_service_leads_to_its_ready_endpoint_and_the_certificate_must_be_for_its_name() {
    let (address, pem) = server("hook.ns.svc").await;
    let remote = Remote::new(at_service(&pem), &service(address.port(), true)).unwrap();
    assert_eq!(remote.post_json("", &json!(1), 100).await.unwrap()["sent"], 1);

    let (address, pem) = server("other.ns.svc").await;
    let remote = Remote::new(at_service(&pem), &service(address.port(), true)).unwrap();
    let error = remote.post_json("timeout=1s", &json!(1), 100).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "Post \"https://hook.ns.svc:443/hook?timeout=1s\": tls: failed to verify certificate: \
         x509: certificate is valid for other.ns.svc, not hook.ns.svc"
    );
}

#[tokio::test]
async fn a_failed_call_says_why() {
    let (address, _) = server("hook.ns.svc").await;
    let (_, other) = server("hook.ns.svc").await;
    let said = |config: RemoteConfig, resolver: Arc<ServiceResolver>| async move {
        let remote = Remote::new(config, &resolver).unwrap();
        remote.post_json("", &json!(1), 100).await.unwrap_err().to_string()
    };
    let at = "Post \"https://hook.ns.svc:443/hook\": ";
    let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert_eq!(said(at_service(&other), service(address.port(), true)).await, format!("{at}{unknown}"));
    let none = "no endpoints available for service \"hook\"";
    assert_eq!(said(at_service(&other), service(address.port(), false)).await, format!("{at}{none}"));
    assert_eq!(said(at_service(&other), nowhere()).await, format!("{at}service \"hook\" not found"));
    let refused = "dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(said(at_service(&other), service(1, true)).await, format!("{at}{refused}"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (address, pem) = server("127.0.0.1").await;
    let target = Target::Url(format!("https://{address}/moved"));
    let config = RemoteConfig { ca_bundle: Some(pem.into()), ..RemoteConfig::new(target) };
    let remote = Remote::new(config, &nowhere()).unwrap();
    let error = remote.post_json("", &json!(1), 100).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused { code: 302, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Url(format!("https://{}", listener.local_addr().unwrap()));
    let timeout = Duration::from_millis(20);
    let config = RemoteConfig { insecure_skip_tls_verify: true, timeout, ..RemoteConfig::new(target) };
    let remote = Remote::new(config, &nowhere()).unwrap();
    let error = remote.post_json("", &json!(1), 100).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Timeout), "{error}");
}

#[test]
fn an_external_name_is_the_endpoint() {
    let endpoint = service(1, true).resolve("ns", "out", 443).unwrap();
    assert_eq!(endpoint, Endpoint { host: "hooks.example.com".into(), port: 443 });
    assert_eq!(
        service(1, true).resolve("ns", "hook", 80).unwrap_err().to_string(),
        "no service port 80 found for service \"hook\""
    );
}

#[test]
fn a_kubeconfig_names_server_authorities_and_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    std::fs::write(dir.path().join("ca.pem"), "authority").unwrap();
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: s, user: u}}]\n\
        clusters: [{name: s, cluster: {server: 'https://a.example/x', certificate-authority: ca.pem, tls-server-name: b}}]\n\
        users: [{name: u, user: {tokenFile: token, client-certificate-data: YQ==, client-key-data: Yg==}}]\n";
    std::fs::write(&path, text).unwrap();
    let config = RemoteConfig::from_kubeconfig(&path).unwrap();
    assert_eq!(config.target, Target::Url("https://a.example/x".into()));
    assert_eq!(config.ca_bundle.as_deref(), Some(&b"authority"[..]));
    assert_eq!(config.server_name.as_deref(), Some("b"));
    assert_eq!(config.credentials.token, Some(Token::file(dir.path().join("token"))));
    let certificate = ClientCertificate::Fixed { chain: b"a".to_vec(), key: b"b".to_vec() };
    assert_eq!(config.credentials.certificate, Some(certificate));
    std::fs::write(&path, text.replace("user: u}", "user: v}")).unwrap();
    let error = RemoteConfig::from_kubeconfig(&path).unwrap_err().to_string();
    assert!(error.ends_with("user \"v\" does not exist"), "{error}");
}
