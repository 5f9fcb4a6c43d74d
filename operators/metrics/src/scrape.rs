//! What a kubelet tells in `/metrics/resource`: [`parse`] reads it (pure), [`Scraper`] asks (client).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// No kubelet has more to tell.
const LARGEST: usize = 16 << 20;

/// What something has used up to a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    /// Seconds of processor time.
    pub(crate) cpu: f64,
    /// The working set in bytes.
    pub(crate) memory: f64,
    /// Milliseconds since 1970.
    pub(crate) at: i64,
    /// When it began, in milliseconds since 1970, if that was told.
    pub(crate) started: Option<i64>,
}

/// What a node and its pods have used.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodePoints {
    pub(crate) node: Option<Point>,
    /// By namespace and name of the pod, then by container.
    pub(crate) pods: HashMap<(String, String), HashMap<String, Point>>,
}

/// The labels of a line, which are escaped as Prometheus' text format says.
fn labels(text: &str) -> HashMap<&str, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let (mut value, mut escaped, mut end) = (String::new(), false, after.len());
        for (at, character) in after.char_indices() {
            match (escaped, character) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = at + 1;
                    break;
                }
                (true, 'n') => (value.push('\n'), escaped = false).1,
                (_, other) => (value.push(other), escaped = false).1,
            }
        }
        found.insert(name.trim_start_matches(','), value);
        rest = after.get(end..).unwrap_or_default();
    }
    found
}

/// Reads the metrics that this is about; all others are passed over.
pub(crate) fn parse(text: &str) -> NodePoints {
    let mut found = NodePoints::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels, rest) = match (line.split_once('{'), line.rsplit_once('}')) {
            (Some((name, _)), Some((head, rest))) => {
                (name, labels(head.get(name.len() + 1..).unwrap_or_default()), rest)
            }
            _ => match line.split_once(' ') {
                Some((name, rest)) => (name, HashMap::new(), rest),
                None => continue,
            },
        };
        let mut fields = rest.split_whitespace();
        let Some(value) = fields.next().and_then(|value| value.parse::<f64>().ok()) else { continue };
        let at = fields.next().and_then(|at| at.parse::<i64>().ok());
        let point = if name.starts_with("node_") {
            found.node.get_or_insert_default()
        } else if name.starts_with("container_") {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let pod = found.pods.entry((label("namespace"), label("pod"))).or_default();
            pod.entry(label("container")).or_default()
        } else {
            continue;
        };
        match name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                (point.cpu, point.at) = (value, at.unwrap_or_default());
            }
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => point.memory = value,
            "container_start_time_seconds" => point.started = Some((value * 1e3) as i64),
            _ => {}
        }
    }
    // Of what was only just seen the processor time is missing.
    found.node = found.node.filter(|point| point.at > 0);
    for containers in found.pods.values_mut() {
        containers.retain(|_, point| point.at > 0);
    }
    found
}

/// Why a kubelet did not tell anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    #[error("it did not answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("connect")]
    Connect(#[from] std::io::Error),
    #[error("ask")]
    Ask(#[from] hyper::Error),
    #[error("ask in a way that HTTP knows")]
    Request(#[from] http::Error),
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("read its answer")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Asks kubelets, whose certificates are of the cluster's authority.
#[derive(Clone)]
pub(crate) struct Scraper(TlsConnector);

impl Scraper {
    /// `authority` in PEM.
    pub(crate) fn new(authority: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Scraper(TlsConnector::from(Arc::new(tls))))
    }

    /// What the kubelet there tells to whom a token belongs.
    pub(crate) async fn scrape(&self, ip: IpAddr, port: u16, token: &str) -> Result<NodePoints, ScrapeError> {
        tokio::time::timeout(PATIENCE, self.ask(ip, port, token)).await?
    }

    async fn ask(&self, ip: IpAddr, port: u16, token: &str) -> Result<NodePoints, ScrapeError> {
        let stream = TcpStream::connect((ip, port)).await?;
        let stream = self.0.connect(ServerName::from(ip), stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get("/metrics/resource")
            .header(header::HOST, format!("{ip}:{port}"))
            .header(header::ACCEPT, "text/plain")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            if !answer.status().is_success() {
                return Err(ScrapeError::Refused(answer.status()));
            }
            let body =
                Limited::new(answer.into_body(), LARGEST).collect().await.map_err(ScrapeError::Read)?;
            Ok(parse(&String::from_utf8_lossy(&body.to_bytes())))
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // What was read before the end is still there.
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn figures_are_read_with_their_time_and_others_are_passed_over() {
        let text = "# HELP node_cpu_usage_seconds_total x\n# TYPE node_cpu_usage_seconds_total counter\n\
            node_cpu_usage_seconds_total 2.5 1000\nnode_memory_working_set_bytes 7e+06 1000\n\
            container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 0.25 1001\n\
            container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\"} 4096 1001\n\
            container_start_time_seconds{container=\"a\",namespace=\"n\",pod=\"p\"} 0.5\n\
            container_memory_working_set_bytes{container=\"b\",namespace=\"n\",pod=\"p\"} 1 1001\n\
            pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 0.3 1001\nresource_scrape_error 0\n";
        let found = parse(text);
        let node = Point { cpu: 2.5, memory: 7e6, at: 1000, started: None };
        let container = Point { cpu: 0.25, memory: 4096.0, at: 1001, started: Some(500) };
        assert_eq!(found.node, Some(node));
        let pod = HashMap::from([("a".to_owned(), container)]);
        assert_eq!(found.pods, HashMap::from([(("n".to_owned(), "p".to_owned()), pod)]));
    }

    #[test]
    fn labels_may_hold_anything() {
        let found = labels(r#"a="x,y=\"z\"",b="\\n""#);
        assert_eq!((found["a"].as_str(), found["b"].as_str()), ("x,y=\"z\"", "\\n"));
    }
}
