use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::testing;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self, user: &str, group: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// What a client shows.
enum Credentials {
    Certificate(String, String),
    Token(&'static str),
    Nothing,
}

impl From<(String, String)> for Credentials {
    fn from((certificate, key): (String, String)) -> Self {
        Credentials::Certificate(certificate, key)
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a client with the certificate gets; `None` if it is not let in.
async fn get(authority: &Authority, port: u16, client: impl Into<Credentials>, path: &str) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut header = String::new();
    let tls = match client.into() {
        Credentials::Certificate(certificate, key) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            tls.with_client_auth_cert(chain, key).unwrap()
        }
        Credentials::Token(token) => {
            header = format!("authorization: Bearer {token}\r\n");
            tls.with_no_client_auth()
        }
        Credentials::Nothing => tls.with_no_client_auth(),
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    // With TLS 1.3 the refusal of a certificate comes with the first bytes.
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test]
async fn only_known_clients_are_answered() {
    let authority = Authority::new();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = authority.sign(params, ExtendedKeyUsagePurpose::ServerAuth);
    let port = free_port();
    let bind = SocketAddr::from(([127, 0, 0, 1], port));
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
    let serving = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let client_ca = authority.pem.clone();
    let config = Arc::new(Config { bind, serving, client_ca, ..testing::config() });
    let runtime = RuntimeClient::new(&config.cri_socket, None);
    let shutdown = CancellationToken::new();
    // Nobody may do anything, as far as the API says.
    let api = tower::service_fn(|request: Request<kube::client::Body>| async move {
        let known = request.uri().path().ends_with("/tokenreviews");
        let status = json!({"authenticated": known, "allowed": false, "user": {"username": "scraper"}});
        let review = json!({"metadata": {}, "spec": {}, "status": status}).to_string();
        Ok::<_, Infallible>(http::Response::new(kube::client::Body::from(review.into_bytes())))
    });
    let api = kube::Client::new(api, "default");
    let pods = Arc::default();
    let metrics = Metrics::new("node-1", "v1.36.0", &pods).unwrap();
    let meter = Arc::new(Meter::new(Arc::clone(&config), Arc::clone(&pods)));
    let server = tokio::spawn(run(config, pods, runtime, api, metrics, meter, shutdown.clone()));
    let master = || authority.client("someone", "system:masters");
    let mut healthy = None;
    while healthy.is_none() {
        assert!(!server.is_finished());
        healthy = get(&authority, port, master(), "/healthz").await;
    }
    assert!(healthy.unwrap().ends_with("\r\n\r\nok"));
    let pods = get(&authority, port, master(), "/pods").await.unwrap();
    assert!(pods.contains("\"kind\":\"PodList\""), "{pods}");
    let logs = get(&authority, port, master(), "/containerLogs/n/p/c").await.unwrap();
    assert!(logs.starts_with("HTTP/1.1 404") && logs.ends_with("pod \"p\" does not exist"), "{logs}");
    let exec = get(&authority, port, master(), "/exec/n/p/c?command=ls&output=1").await.unwrap();
    assert!(exec.starts_with("HTTP/1.1 404"), "{exec}");
    let node = authority.client("system:node:other", "system:nodes");
    let refused = get(&authority, port, node, "/pods").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    let refused = get(&authority, port, Credentials::Token("t"), "/pods").await.unwrap();
    let text = "Forbidden (user=scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert!(refused.starts_with("HTTP/1.1 403") && refused.ends_with(text), "{refused}");
    let refused = get(&authority, port, Credentials::Nothing, "/healthz").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401") && refused.ends_with("\r\n\r\nUnauthorized"), "{refused}");
    let stranger = Authority::new().client("someone", "system:masters");
    assert_eq!(get(&authority, port, stranger, "/healthz").await, None);
    shutdown.cancel();
    server.await.unwrap().unwrap();
}
