//! A webhook: an HTTPS server of one function, and what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Answer = dyn Fn(&str, &Value) -> Value + Send + Sync;

#[derive(Clone)]
pub(crate) struct HookServer {
    pub(crate) address: SocketAddr,
    /// The bundle of a client configuration.
    pub(crate) ca_bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

#[derive(Clone)]
struct Serving {
    answer: Arc<Answer>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl HookServer {
    /// Serves any path by a function of the path and the review.
    pub(crate) async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
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
        let serving = Serving { answer: Arc::new(answer), asked: Arc::default() };
        let asked = Arc::clone(&serving.asked);
        let router = Router::new().route("/{*path}", post(serve)).with_state(serving);
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
        HookServer { address, ca_bundle: STANDARD.encode(made.cert.pem()), asked }
    }

    /// The `clientConfig` of a path.
    pub(crate) fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://{}/{path}", self.address), "caBundle": self.ca_bundle})
    }

    /// All documents since the last look.
    pub(crate) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock())
    }

    /// The `request` parts of all reviews since the last look.
    pub(crate) fn take_requests(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock())
            .into_iter()
            .map(|mut review| review["request"].take())
            .collect()
    }
}

async fn serve(
    State(serving): State<Serving>,
    axum::extract::Path(path): axum::extract::Path<String>,
    axum::Json(review): axum::Json<Value>,
) -> axum::Json<Value> {
    let answer = (serving.answer)(&path, &review);
    serving.asked.lock().push(review);
    axum::Json(answer)
}

/// The answer to an admission review.
pub(crate) fn answer(review: &Value, mut response: Value) -> Value {
    response["uid"] = review["request"]["uid"].clone();
    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
}

/// An answer that changes the object.
pub(crate) fn patched(review: &Value, operations: Value) -> Value {
    let patch = STANDARD.encode(operations.to_string());
    answer(review, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}
