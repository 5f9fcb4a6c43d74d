//! Groups that another server serves: a small one of the tests' own, which believes the front proxy alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use keelson_apiserver::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::Server;

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/things.example.com/v1";
/// Which OpenAPI document the extension has; none with 0.
static DOCUMENT: AtomicU32 = AtomicU32::new(1);

/// What the extension says in version 2 of OpenAPI, to who does not know it yet.
fn swagger(known: Option<&str>) -> Response<Body> {
    let number = DOCUMENT.load(Ordering::SeqCst);
    let tag = format!("\"{number}\"");
    let (code, document) = match number {
        0 => (500, json!({})),
        _ if known == Some(&tag) => (304, json!({})),
        _ => {
            let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
            let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
            let answer = json!({"200": {"description": "OK", "schema": reference("Thing")}});
            let get = json!({"get": {"operationId": "readThing", "responses": answer}});
            let paths = json!({format!("{GROUP}/namespaces/{{namespace}}/things/{{name}}"): get, "/api/v1/pods": {}, "/version/": {}});
            let thing = json!({"type": "object", "description": format!("thing {number}"), "properties": {"metadata": reference(meta)}});
            (
                200,
                json!({"swagger": "2.0", "paths": paths,
                "definitions": {"Thing": thing, meta: {"type": "object", "description": "another"}, "Unused": {}}}),
            )
        }
    };
    let response =
        Response::builder().status(code).header("etag", tag).header("content-type", "application/json");
    response.body(Body::from(document.to_string())).unwrap()
}

/// Answers who asked, and for what.
async fn answer(request: Request<hyper::body::Incoming>) -> Response<Body> {
    let headers = request.headers();
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let path = request.uri().path().to_owned();
    if path == "/openapi/v2" {
        return swagger(all("if-none-match").first().map(String::as_str));
    }
    let query = request.uri().query().unwrap_or_default();
    let document = match path.as_str() {
        GROUP => {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.example.com/v1",
            "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                "verbs": ["get", "list", "watch", "create"]}]})
        }
        "/openapi/v3" => json!({"paths": {"apis/things.example.com/v1": {"serverRelativeURL":
            "/openapi/v3/apis/things.example.com/v1?hash=1"}}}),
        _ if query.contains("watch=true") => {
            let events = (0..3).map(|number| {
                let event = json!({"type": "ADDED", "object": {"metadata": {"name": number.to_string()}}});
                Ok::<_, std::convert::Infallible>(format!("{event}\n"))
            });
            return Response::new(Body::from_stream(futures::stream::iter(events)));
        }
        _ => json!({"kind": "Thing", "path": path, "query": query, "method": request.method().as_str(),
            "user": all("x-remote-user"), "groups": all("x-remote-group"), "uid": all("x-remote-uid"),
            "scopes": all("x-remote-extra-scopes"), "authorization": all("authorization"),
            "impersonated": all("impersonate-user")}),
    };
    Response::builder()
        .header("content-type", "application/json")
        .body(Body::from(document.to_string()))
        .unwrap()
}

/// Starts the server; who has no certificate of `clients` is not answered. Answers where, and its authority.
async fn extension(clients: &str) -> (SocketAddr, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_ca_cert_pem(&authority, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["things.default.svc".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    let tls = tls.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request| async move {
                    Ok::<_, std::convert::Infallible>(answer(request).await)
                });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, authority)
}

async fn until(server: &Server, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..100_000 {
        let value = server.get(path).await.1;
        if good(&value) {
            return value;
        }
        tokio::task::yield_now().await;
    }
    panic!("{path} never became what it should be: {}", server.get(path).await.1);
}

fn condition(value: &Value, field: &str) -> String {
    value["status"]["conditions"][0][field].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_is_reached_in_the_callers_name_and_gone_with_its_api_service() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let told = server.get(path).await.ok();
    assert_eq!(told["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let (address, authority) =
        extension(told["data"]["requestheader-client-ca-file"].as_str().unwrap()).await;
    let spec = json!({"group": "things.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
        "caBundle": base64(&authority), "service": {"namespace": "default", "name": "things", "port": address.port()}});
    let object = json!({"metadata": {"name": "v1.things.example.com"}, "spec": spec});
    server.post(API_SERVICES, object).await.ok();
    let own = format!("{API_SERVICES}/v1.things.example.com");
    until(&server, &own, |it| condition(it, "reason") == "ServiceNotFound").await;
    server.get(&format!("{GROUP}/namespaces/n/things/a")).await.fails(503);
    let aggregated = server.get("/apis/things.example.com").await.ok();
    assert_eq!(aggregated["preferredVersion"]["groupVersion"], "things.example.com/v1");
    let service = json!({"metadata": {"name": "things"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    server.post("/api/v1/namespaces/default/services", service).await.ok();
    until(&server, &own, |it| condition(it, "reason") == "Passed").await;

    let mut ann = Identity::user("ann", &["crew", "system:masters"]);
    ann.extra.insert("scopes".to_owned(), vec!["a".to_owned()]);
    let thing = format!("{GROUP}/namespaces/n/things/a?x=1");
    let found = server.act(ann, Method::PUT, &thing, json!({"a": 1})).await.ok();
    assert_eq!(found["user"], json!(["ann"]));
    assert_eq!(found["groups"], json!(["crew", "system:masters", "system:authenticated"]));
    assert_eq!(
        (&found["scopes"], &found["method"], &found["query"]),
        (&json!(["a"]), &json!("PUT"), &json!("x=1"))
    );
    assert_eq!((&found["authorization"], &found["impersonated"]), (&json!([]), &json!([])));
    // Who may not ask this server for it is not passed on.
    server.act(Identity::user("bob", &[]), Method::GET, &thing, Value::Null).await.fails(403);

    let list = server.get(GROUP).await.ok();
    assert_eq!(list["resources"][0]["name"], "things");
    let index = server.get("/openapi/v3").await.ok();
    assert!(
        index["paths"]["apis/things.example.com/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .ends_with("?hash=1")
    );
    let groups = server.get("/apis").await.ok();
    assert!(groups["groups"].to_string().contains("things.example.com"));

    let is = |number: u32| {
        move |it: &Value| it["definitions"]["Thing"]["description"] == format!("thing {number}")
    };
    let merged = until(&server, "/openapi/v2", is(1)).await;
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let theirs = &merged["definitions"][format!("{meta}_v2")];
    assert_eq!(theirs["description"], "another");
    assert_ne!(merged["definitions"][meta]["description"], "another");
    let reference = &merged["definitions"]["Thing"]["properties"]["metadata"]["$ref"];
    assert_eq!(*reference, format!("#/definitions/{meta}_v2"));
    assert!(
        merged["paths"]["/apis/things.example.com/v1/namespaces/{namespace}/things/{name}"]["get"]
            .is_object()
    );
    assert!(merged["paths"]["/api/v1/pods"]["get"].is_object() && merged["paths"]["/version/"].is_null());
    assert!(merged["definitions"]["Unused"].is_null());
    // Another document is taken over when the server is looked at again; none leaves the one before.
    for (number, mark) in [(2, "one"), (0, "two")] {
        DOCUMENT.store(number, Ordering::SeqCst);
        let mark = json!({"metadata": {"annotations": {"mark": mark}}});
        let path = "/api/v1/namespaces/default/services/things";
        server.merge(path, mark).await.ok();
        until(&server, "/openapi/v2", is(2)).await;
    }

    server.delete(&own, json!({})).await.ok();
    server.get(&format!("{GROUP}/namespaces/n/things/a")).await.fails(404);
    server.get("/apis/things.example.com").await.fails(404);
    assert!(server.get("/openapi/v2").await.ok()["definitions"]["Thing"].is_null());
}

#[tokio::test]
async fn what_the_server_serves_itself_has_api_services_that_are_available() {
    let server = Server::start().await;
    let apps =
        until(&server, &format!("{API_SERVICES}/v1.apps"), |it| condition(it, "status") == "True").await;
    assert_eq!(condition(&apps, "reason"), "Local");
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    until(&server, &format!("{API_SERVICES}/v1."), |it| it["spec"]["groupPriorityMinimum"] == 18_000).await;
    let names = json!({"plural": "ships", "kind": "Ship"});
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema}]);
    let spec = json!({"group": "sea.io", "scope": "Namespaced", "names": names, "versions": versions});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.post(definitions, json!({"metadata": {"name": "ships.sea.io"}, "spec": spec})).await.ok();
    let ships = format!("{API_SERVICES}/v1.sea.io");
    until(&server, &ships, |it| condition(it, "reason") == "Local").await;
    server.delete(&format!("{definitions}/ships.sea.io"), json!({})).await.ok();
    until(&server, &ships, |it| it["code"] == 404).await;
}

#[tokio::test]
async fn an_api_service_must_make_sense_and_gets_the_usual_port() {
    let server = Server::start().await;
    let service = json!({"namespace": "n", "name": "s"});
    let spec = |priority: i64| json!({"group": "g.io", "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 1, "service": service});
    let made =
        server.post(API_SERVICES, json!({"metadata": {"name": "v1.g.io"}, "spec": spec(1)})).await.ok();
    assert_eq!(made["spec"]["service"]["port"], 443);
    let wrong = json!({"metadata": {"name": "v1.other"}, "spec": spec(20_001)});
    let text = server.post(API_SERVICES, wrong).await.fails(422);
    assert!(text.contains("must be positive and less than 20000") && text.contains("v1.g.io"), "{text}");
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
