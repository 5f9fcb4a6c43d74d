//! SPDY/3.1, as far as exec, attach and port forwarding need it, as the server: bytes in, frames out, and back (pure);
//! and the upgrade of a request to it.
//!
//! - `headers`: compressed header blocks; `frame`: the frames
//!
//! Flow control is left out: the clients of this protocol, all of one library, do not have it either, and wait for a
//! window forever. What is on its way is bounded by the connection, since nothing is read that cannot be handed on.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;

use super::wire::Wire;

mod frame;
mod headers;

#[cfg(test)]
pub(super) use frame::tests::{open_stream, open_with};
pub(super) use frame::{Decoder, Encoder, Frame, REFUSED_STREAM};

const NAME: &str = "SPDY/3.1";
/// The protocols within, which the client offers and of which the server takes one.
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What a client sent is not SPDY/3.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    /// The version of a frame.
    #[error("SPDY version {0} is not supported")]
    Version(u16),
    /// A frame is longer than any client sends.
    #[error("a SPDY frame of {0} bytes is too long")]
    Length(usize),
    /// A frame is too short for its type.
    #[error("a SPDY frame of type {0} is too short")]
    Short(u16),
    /// A header block cannot be decompressed, or its lengths contradict each other.
    #[error("a SPDY header block is malformed")]
    Headers,
}

/// A request to go on in SPDY.
pub(super) struct Upgrade {
    connection: OnUpgrade,
    /// What the client offers, best first.
    offered: Vec<String>,
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

impl Upgrade {
    /// `None` for a request that asks for something else.
    pub(super) fn of<B>(request: &mut Request<B>) -> Option<Self> {
        let headers = request.headers();
        let has = |name, wanted: &str| tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted));
        if !has(&header::CONNECTION, "upgrade") || !has(&header::UPGRADE, NAME) {
            return None;
        }
        let offered = tokens(headers, &PROTOCOL).map(str::to_owned).collect();
        Some(Upgrade { connection: hyper::upgrade::on(request), offered })
    }

    /// Goes on in the first offered protocol that is one of `spoken`.
    pub(super) fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        spoken: &'static [&'static str],
        run: impl FnOnce(Wire, &'static str) -> F + Send + 'static,
    ) -> Response {
        let chosen = |offered: &String| spoken.iter().copied().find(|protocol| protocol == offered);
        let Some(protocol) = self.offered.iter().find_map(chosen) else {
            let text = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                self.offered.join(" "),
                spoken.join(" "),
            );
            let accepted = HeaderValue::from_str(&spoken.join(",")).ok();
            let headers: HeaderMap = accepted.into_iter().map(|value| (ACCEPTED, value)).collect();
            return (StatusCode::FORBIDDEN, headers, text).into_response();
        };
        tokio::spawn(async move {
            match self.connection.await {
                Ok(upgraded) => run(Wire::connection(upgraded), protocol).await,
                Err(error) => tracing::debug!(%error, "a connection could not be upgraded to SPDY"),
            }
        });
        let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, NAME), (PROTOCOL, protocol)];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}
