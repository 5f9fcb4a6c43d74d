//! A request passed on over a connection of its own, with what it and its answer may carry.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::TryStreamExt as _;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::audit::Record;

/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Answers from behind the proxy do not open the API to pages of other origins.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// A request on its way out, without what is between its sender and this server alone.
pub(crate) struct Outward {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    upgrade: Option<Upgrade>,
}

/// What waits for the sender's connection. The record of the request lasts as long as what goes over that.
pub(crate) struct Upgrade {
    connection: OnUpgrade,
    record: Option<Arc<Record>>,
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The protocol in which a request wants to go on.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let asks = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks)
}

/// Removes what belongs to one connection, but for an upgrade.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let upgrade = upgrade(headers).cloned();
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// Whether a header tells this server who sends a request. What is behind the proxy has no use for it, and must not
/// take it for this server's word.
fn is_credential(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION
        || name.as_str().starts_with("impersonate-")
        || name.as_str().starts_with("x-remote-")
}

/// How the protocol begins that is a token.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes out tokens that browsers send as a WebSocket's protocol, whoever has been believed.
fn remove_tokens(headers: &mut HeaderMap) {
    let protocols: Vec<String> =
        tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
    if !protocols.iter().any(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        return;
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    let rest: Vec<&str> =
        protocols.iter().map(String::as_str).filter(|it| !it.starts_with(TOKEN_PROTOCOL)).collect();
    if let (false, Ok(value)) = (rest.is_empty(), HeaderValue::from_str(&rest.join(", "))) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

impl Outward {
    /// Takes a request. Its sender's credentials stay here.
    pub(crate) fn new(mut request: Request<Body>) -> Self {
        let upgrade = upgrade(request.headers())
            .is_some()
            .then(|| Upgrade { record: Record::of(&request), connection: hyper::upgrade::on(&mut request) });
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        let credentials: Vec<HeaderName> =
            headers.keys().filter(|name| is_credential(name)).cloned().collect();
        for name in credentials {
            headers.remove(name);
        }
        remove_tokens(&mut headers);
        remove_hop_by_hop(&mut headers);
        // In HTTP/2 the host is part of the URL.
        if let (false, Some(host)) = (headers.contains_key(header::HOST), authority)
            && let Ok(host) = HeaderValue::from_str(&host)
        {
            headers.insert(header::HOST, host);
        }
        Outward { method: parts.method, headers, body, upgrade }
    }

    /// Whether it asks for another protocol.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    /// What waits for the sender's connection, if that asks for another protocol.
    pub(crate) fn take_upgrade(&mut self) -> Option<Upgrade> {
        self.upgrade.take()
    }

    /// Sends it over a connection, as a request for a path and query; passes the bytes on in both directions after an
    /// upgrade.
    pub(crate) async fn send<S>(mut self, connection: S, path: Uri) -> Result<Response, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection of the proxy ended");
            }
        });
        let upgrade = self.take_upgrade();
        let mut request = Request::new(self.body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (self.method, path, self.headers);
        let response = sender.send_request(request).await?;
        Ok(answer(response, upgrade))
    }
}

/// An answer to be passed back. Its body is a stream, whatever its length: it is not held in memory.
pub(crate) fn answer(
    mut response: http::Response<hyper::body::Incoming>,
    upgrade: Option<Upgrade>,
) -> Response {
    for name in CORS {
        response.headers_mut().remove(name);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let inner = hyper::upgrade::on(&mut response);
        match upgrade {
            Some(outer) => drop(tokio::spawn(pass(outer, inner))),
            None => {
                let mut refused = Response::new(Body::from("protocols were switched without being asked to"));
                *refused.status_mut() = StatusCode::BAD_GATEWAY;
                return refused;
            }
        }
    } else {
        remove_hop_by_hop(response.headers_mut());
    }
    let (parts, body) = response.into_parts();
    let body = Body::from_stream(body.into_data_stream().map_err(axum::Error::new).map_ok(Bytes::from));
    Response::from_parts(parts, body)
}

async fn pass(outer: Upgrade, inner: OnUpgrade) {
    let Upgrade { connection, record: _record } = outer;
    let (outer, inner) = match tokio::try_join!(connection, inner) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection could not be upgraded");
            return;
        }
    };
    let (mut outer, mut inner) = (TokioIo::new(outer), TokioIo::new(inner));
    if let Err(error) = tokio::io::copy_bidirectional(&mut outer, &mut inner).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outward(headers: &[(&str, &str)]) -> Outward {
        let mut request = Request::builder().uri("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Outward::new(request.body(Body::empty()).unwrap())
    }

    #[test]
    fn credentials_and_headers_of_the_connection_stay_here() {
        let found = outward(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "ann"),
            ("x-remote-user", "admin"),
            ("x-remote-extra-a", "b"),
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("cookie", "a=b"),
        ]);
        let names: Vec<&str> = found.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["cookie"]);
        assert!(!found.is_upgrade());
    }

    #[test]
    fn an_upgrade_is_passed_on() {
        let found = outward(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(found.is_upgrade());
        assert_eq!(
            (&found.headers["connection"], &found.headers["upgrade"]),
            (&HeaderValue::from_static("Upgrade"), &HeaderValue::from_static("websocket"))
        );
    }
}
