//! A lean client of the API: HTTP/2 over TLS with a client's certificate, one connection.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const NAMESPACE: &str = "bench";

/// A server and who asks it.
#[derive(Clone)]
pub(crate) struct Target {
    address: IpAddr,
    port: u16,
    tls: Arc<ClientConfig>,
}

/// A connection. Its clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    requests: SendRequest<Full<Bytes>>,
    host: Arc<str>,
}

impl Target {
    /// What an administrator's kubeconfig names.
    pub(crate) fn of(kubeconfig: &Path, address: &str) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
        let config: Value = serde_yaml_ng::from_str(&text).context("read a kubeconfig")?;
        let pem = |list: &str, item: &str, field: &str| -> anyhow::Result<Vec<u8>> {
            let text = config[list][0][item][field].as_str();
            Ok(STANDARD.decode(text.with_context(|| format!("the kubeconfig has no {field}"))?)?)
        };
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem("clusters", "cluster", "certificate-authority-data")?)
        {
            roots.add(root?)?;
        }
        let own = pem("users", "user", "client-certificate-data")?;
        let own: Vec<_> = CertificateDer::pem_slice_iter(&own).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("users", "user", "client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(own, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Target { address: address.parse()?, port: 6443, tls: Arc::new(tls) })
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let address = SocketAddr::new(self.address, self.port);
        let stream = TcpStream::connect(address).await.context("connect to the API")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.into());
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends with the last of its clients, or with its server; those who wait are told.
        tokio::spawn(connection);
        Ok(Client { requests, host: address.to_string().into() })
    }
}

impl Client {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.host))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.requests.ready().await?;
        let answer = self.requests.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn create(&mut self, path: &str, body: Vec<u8>) -> anyhow::Result<()> {
        let (status, answer) = self.send(Method::POST, path, body).await?;
        ensure!(status == StatusCode::CREATED, "{status}: {}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Makes the namespace that everything is put into.
    pub(crate) async fn prepare(&mut self) -> anyhow::Result<()> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string();
        self.create("/api/v1/namespaces", namespace.into_bytes()).await.context("make a namespace")
    }

    /// Makes a ConfigMap with a value.
    pub(crate) async fn put(&mut self, number: u64, value: &str) -> anyhow::Result<()> {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c-{number:010}"}},"data":{{"value":"{value}"}}}}"#
        );
        self.create(&format!("/api/v1/namespaces/{NAMESPACE}/configmaps"), body.into_bytes()).await
    }

    /// Whether there is a ConfigMap.
    pub(crate) async fn has(&mut self, number: u64) -> anyhow::Result<bool> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/c-{number:010}");
        match self.send(Method::GET, &path, Vec::new()).await? {
            (StatusCode::OK, _) => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, answer) => bail!("{status}: {}", String::from_utf8_lossy(&answer)),
        }
    }
}
