//! Calls to other servers: webhooks, extension API servers, audit backends.
//!
//! Connections are kept and used again; a Service is resolved anew for each new connection. Redirects are answers like
//! any other. Nothing is read without a limit of time and size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use serde_json::Value;

pub use credentials::{ClientCertificate, Credentials, Token};
pub use error::{Cause, RemoteError, SetupError};
pub use service::{Endpoint, ServiceError, ServiceResolver};
pub(crate) use tls::any_server;

mod connector;
mod credentials;
mod error;
mod kubeconfig;
mod service;
mod tls;

/// How long a connection is kept without being used.
const IDLE: Duration = Duration::from_secs(90);
/// Connections to one server that are kept without being used.
const IDLE_CONNECTIONS: usize = 8;
/// So much of a refusal's text is read.
const REFUSAL_BYTES: usize = 2048;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At an `https` (or, from a kubeconfig, `http`) URL.
    Url(String),
    /// Behind a Service of this cluster. Its certificate is for `NAME.NAMESPACE.svc`.
    Service {
        /// The Service's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
        /// The path at the server; empty for none.
        path: String,
    },
}

/// Which HTTP is spoken, as TLS negotiates it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1.1 alone: each request may go to another replica, and connections can be upgraded.
    #[default]
    Http1,
    /// HTTP/2 where the server has it.
    Http2,
}

/// How a server is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Where it is.
    pub target: Target,
    /// The authorities whose certificates are believed, in PEM; those of the system if there are none.
    pub ca_bundle: Option<Vec<u8>>,
    /// Whether any certificate is believed.
    pub insecure_skip_tls_verify: bool,
    /// The name for which the server's certificate must be, if not the one it is called by.
    pub server_name: Option<String>,
    /// How the API server shows who it is.
    pub credentials: Credentials,
    /// Until the head of an answer; until its end with [`Remote::post_json`].
    pub timeout: Duration,
    /// Which HTTP is spoken.
    pub protocols: Protocols,
}

impl RemoteConfig {
    /// A server at a target, believed by the system's authorities, without credentials, with ten seconds of time.
    pub fn new(target: Target) -> Self {
        RemoteConfig {
            target,
            ca_bundle: None,
            insecure_skip_tls_verify: false,
            server_name: None,
            credentials: Credentials::default(),
            timeout: Duration::from_secs(10),
            protocols: Protocols::default(),
        }
    }
}

/// A server, with the connections to it.
#[derive(Clone)]
pub struct Remote {
    client: Client<HttpsConnector<connector::Connector>, Full<Bytes>>,
    base: String,
    credentials: Arc<Credentials>,
    timeout: Duration,
}

impl Remote {
    /// Prepares to call a server; nothing is connected yet. Must be called in a tokio runtime.
    pub fn new(config: RemoteConfig, resolver: &Arc<ServiceResolver>) -> Result<Self, SetupError> {
        let tls = tls::client(&config)?;
        let (base, connector, name) = match &config.target {
            Target::Url(url) => {
                let base = base_of_url(url)?;
                (base, connector::Connector::Direct, config.server_name.clone())
            }
            Target::Service { namespace, name, port, path } => {
                let server = format!("{name}.{namespace}.svc");
                let base = format!("https://{server}:{port}{}", rooted(path));
                base.parse::<Uri>().map_err(|source| SetupError::Url { url: base.clone(), source })?;
                let (namespace, name) = (namespace.as_str().into(), name.as_str().into());
                let resolver = Arc::clone(resolver);
                let connector = connector::Connector::Service { resolver, namespace, name, port: *port };
                (base, connector, config.server_name.clone().or(Some(server)))
            }
        };
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let https = match name {
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| SetupError::ServerName { name })?;
                https.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => https,
        };
        let https = match config.protocols {
            Protocols::Http1 => https.enable_http1().wrap_connector(connector),
            Protocols::Http2 => https.enable_http1().enable_http2().wrap_connector(connector),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(https);
        Ok(Remote { client, base, credentials: Arc::new(config.credentials), timeout: config.timeout })
    }

    /// The same server over the same connections, with another limit of time.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Remote { timeout, ..self.clone() }
    }

    /// The target as a URL, without a `/` at its end.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Sends a request, whose path and query come after the target's own; the path `/` adds nothing. The answer's body
    /// is the caller's to bound. Headers that name the server or the caller are set here.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        let (mut parts, body) = request.into_parts();
        let url = self.full_url(&parts.uri);
        let failed = |cause| RemoteError::new(&parts.method, &url, cause);
        parts.uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(Cause::other(error)))?;
        parts.headers.remove(header::HOST);
        if let Some(value) =
            self.credentials.authorization().await.map_err(|cause| failed(Cause::other(cause)))?
        {
            parts.headers.insert(header::AUTHORIZATION, value);
        }
        let method = parts.method.clone();
        let failed = |cause| RemoteError::new(&method, &url, cause);
        let answer = self.client.request(Request::from_parts(parts, body));
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(Cause::of(&error))),
            Err(_) => Err(failed(Cause::Timeout)),
        }
    }

    /// Posts a document to the target, with a query (such as `timeout=10s`, or nothing), and reads the document that
    /// is answered, of at most `limit` bytes. An answer that is neither 200 nor 201 is an error.
    pub async fn post_json(&self, query: &str, document: &Value, limit: usize) -> Result<Value, RemoteError> {
        let path = if query.is_empty() { "/".to_owned() } else { format!("/?{query}") };
        let uri: Uri = path.parse().map_err(|error: http::uri::InvalidUri| {
            RemoteError::new(&Method::POST, &self.base, Cause::other(error))
        })?;
        let url = self.full_url(&uri);
        let failed = |cause| RemoteError::new(&Method::POST, &url, cause);
        let mut request = Request::new(Full::new(Bytes::from(document.to_string())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        let agent = HeaderValue::from_static("kube-apiserver-admission");
        request.headers_mut().insert(header::USER_AGENT, agent);
        let whole = async {
            let response = self.send(request).await?;
            let code = response.status();
            if !matches!(code.as_u16(), 200 | 201) {
                let body = Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
                let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned());
                return Err(failed(Cause::Refused { code: code.as_u16(), text: text.unwrap_or_default() }));
            }
            let body = Limited::new(response.into_body(), limit).collect().await;
            let body = body.map_err(|error| failed(Cause::of_body(error.as_ref(), limit)))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|error| failed(Cause::Unreadable(error)))
        };
        match tokio::time::timeout(self.timeout, whole).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed(Cause::Timeout)),
        }
    }

    fn full_url(&self, uri: &Uri) -> String {
        let path = uri.path();
        let path = if path == "/" || path.is_empty() { "" } else { path };
        match uri.query() {
            Some(query) => format!("{}{path}?{query}", self.base),
            None => format!("{}{path}", self.base),
        }
    }
}

/// A path that begins with `/` and does not end with one; nothing for the root.
fn rooted(path: &str) -> String {
    let path = path.trim_end_matches('/');
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Scheme, host and path of a URL; its query is not part of the target.
fn base_of_url(url: &str) -> Result<String, SetupError> {
    let uri: Uri = url.parse().map_err(|source| SetupError::Url { url: url.to_owned(), source })?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("https" | "http")), Some(authority)) => {
            Ok(format!("{scheme}://{authority}{}", rooted(uri.path())))
        }
        _ => Err(SetupError::NoHost { url: url.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
