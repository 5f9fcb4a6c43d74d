//! The way to a cluster's API server: from a kubeconfig, or, for a machine that joins, from a token.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::join_token::{JoinToken, KeyDigest};

/// The EndpointSlice of the servers: its namespace, and its name.
pub(crate) const SERVERS: (&str, &str) = ("default", "kubernetes");
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a command finds its cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterOptions {
    /// The kubeconfig of the cluster; without it, the one in the data folder.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: crate::cli::DataDir,
}

impl ClusterOptions {
    /// The way that the kubeconfig tells.
    pub(crate) async fn config(&self) -> anyhow::Result<kube::Config> {
        let path = self.kubeconfig.clone().unwrap_or_else(|| self.data.data_dir.join("kubeconfig"));
        let read = || -> anyhow::Result<Kubeconfig> { Ok(Kubeconfig::read_from(&path)?) };
        let kubeconfig = read().with_context(|| {
            format!("read {}: give a cluster's kubeconfig with --kubeconfig", path.display())
        })?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        config.with_context(|| format!("use {}", path.display()))
    }
}

/// Notes what a server shows, and believes none of it.
#[derive(Debug)]
struct Look {
    shown: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|it| it.clone().into_owned()).collect();
        if let Ok(mut shown) = self.shown.lock() {
            *shown = chain;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Host and port of `https://HOST[:PORT]`.
pub(crate) fn host_and_port(url: &str) -> anyhow::Result<(String, u16)> {
    let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is no address of a server"))?;
    match (uri.scheme_str(), uri.host(), uri.path()) {
        (Some("https"), Some(host), "" | "/") => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok((host, uri.port_u16().unwrap_or(443)))
        }
        (_, _, _) => bail!("{url:?} is no address of a server: it is https://HOST:PORT"),
    }
}

/// The authority of the cluster at an address: the one of all that the server shows whose key has the digest. Nothing is
/// told to the server, and nothing of what it says is believed before the connections that follow have verified it.
pub(crate) async fn authority(url: &str, digest: KeyDigest) -> anyhow::Result<CertificateDer<'static>> {
    let (host, port) = host_and_port(url)?;
    let look = Arc::new(Look { shown: Mutex::default() });
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&look) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone()).with_context(|| format!("{host:?} is no host"))?;
    let addresses = tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs());
    let shake = async {
        let addresses: Vec<_> = addresses.await??.collect();
        let stream = TcpStream::connect(&addresses[..]).await?;
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // It has shown what is wanted of it.
        let _ = stream.shutdown().await;
        anyhow::Ok(())
    };
    let shaken = tokio::time::timeout(PATIENCE, shake).await;
    shaken
        .context("it does not answer")
        .and_then(|result| result)
        .with_context(|| format!("connect to {url}"))?;
    let shown = look.shown.lock().map(|shown| shown.clone()).unwrap_or_default();
    for certificate in &shown {
        if KeyDigest::of(certificate).is_ok_and(|found| found == digest) {
            return Ok(certificate.clone());
        }
    }
    bail!(
        "the server at {url} is not of the cluster that the token is for: none of the {} certificates that it shows \
         has the digest in the token. Is this the right address, and does no proxy stand between?",
        shown.len()
    )
}

/// The way to the cluster that a token is for, as the one whom the token makes.
pub(crate) async fn with_token(url: &str, token: &JoinToken) -> anyhow::Result<kube::Config> {
    let authority = authority(url, token.authority).await?;
    let mut config = kube::Config::new(url.parse().with_context(|| format!("{url:?} is no address"))?);
    config.root_cert = Some(vec![authority.to_vec()]);
    config.auth_info = AuthInfo { token: Some(token.bootstrap.reveal().into()), ..AuthInfo::default() };
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE * 3);
    Ok(config)
}

/// The URLs of the servers in a slice of the Service `kubernetes`, in the order of their addresses.
pub(crate) fn urls(slice: &EndpointSlice) -> Vec<String> {
    let Some(port) = slice.ports.iter().flatten().find_map(|port| port.port) else { return Vec::new() };
    let port = u16::try_from(port).unwrap_or(443);
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses);
    let mut found: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|address| format!("https://{}", SocketAddr::new(address, port))).collect()
}

/// Where the cluster's servers are, as they tell it themselves.
pub(crate) async fn servers(client: &kube::Client) -> anyhow::Result<Vec<String>> {
    let api: kube::Api<EndpointSlice> = kube::Api::namespaced(client.clone(), SERVERS.0);
    let slice = api.get_opt(SERVERS.1).await.context("ask where the servers are")?;
    Ok(slice.as_ref().map(urls).unwrap_or_default())
}

/// Reads the first certificate of a file or text in PEM.
pub(crate) fn first_certificate(pem: &[u8]) -> anyhow::Result<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem).context("read the authority's certificate")
}

/// Reads a token from what was given: the text itself, or `@FILE`.
pub(crate) fn token_of(text: &str) -> anyhow::Result<JoinToken> {
    let text = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(Path::new(path)).with_context(|| format!("read the token from {path}"))?
        }
        None => text.to_owned(),
    };
    Ok(text.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_their_addresses_and_those_that_are_not_ready_are_not() {
        let slice = |port: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(serde_json::json!({
                "addressType": "IPv4", "ports": port,
                "endpoints": [
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                    {"addresses": ["10.0.0.1"]},
                    {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
                    {"addresses": ["fd00::1"]},
                ],
            }))
            .unwrap()
        };
        let found = urls(&slice(serde_json::json!([{"name": "https", "port": 6443}])));
        assert_eq!(found, ["https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://[fd00::1]:6443"]);
        assert!(urls(&slice(serde_json::json!([]))).is_empty());
    }

    #[test]
    fn the_address_of_a_server_is_https_with_host_and_port() {
        assert_eq!(host_and_port("https://10.0.0.1:6443").unwrap(), ("10.0.0.1".to_owned(), 6443));
        assert_eq!(host_and_port("https://[::1]:6443/").unwrap(), ("::1".to_owned(), 6443));
        assert_eq!(host_and_port("https://first").unwrap().1, 443);
        for wrong in ["10.0.0.1:6443", "http://10.0.0.1", "https://10.0.0.1/api", "first", ""] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }
}
