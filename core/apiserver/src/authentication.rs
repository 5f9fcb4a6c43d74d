//! Who sends a request: a client certificate, a proxy that vouches for its client, a token, or nobody; and for whom they
//! act.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};
use keelson_api::Status;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cache::WatchCache;
use crate::identity::Identity;
use crate::reload::{self, ReloadMetrics, WatchedFile};
use crate::remote::ServiceResolver;

mod bootstrap_token;
pub mod certificate;
pub mod claims;
pub mod configuration;
mod impersonation;
pub mod legacy_tokens;
pub mod oidc;
pub mod options;
pub mod request_header;
mod service_account;
pub mod token;
pub mod token_file;
mod webhook;

pub use impersonation::{Acting, impersonate};
pub use options::AuthenticationOptions;

use certificate::Peer;
use configuration::Configuration;
use legacy_tokens::Ledger;
use oidc::Issuers;
use request_header::RequestHeader;
use token::Signer;

/// Paths that need no credentials.
pub(crate) const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Who a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The user.
    pub identity: Identity,
    /// Those of the audiences asked for that the token is for.
    pub audiences: Vec<String>,
}

/// Knows the holders of some tokens.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// Whose token it is, if it is for one of the audiences. `None` for a token that is not of this kind; an error for
    /// one that is, and is of no use.
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String>;
}

/// The audiences asked for among those of this server, for tokens that say nothing of audiences. `None` without any.
fn known_audiences(own: &[String], asked: &[&str]) -> Option<Vec<String>> {
    let both: Vec<String> = own.iter().filter(|it| asked.contains(&it.as_str())).cloned().collect();
    (!both.is_empty()).then_some(both)
}

/// The authenticator of requests that come over the network.
pub struct Authenticator {
    signer: Arc<Signer>,
    proxies: Option<RequestHeader>,
    tokens: Vec<Arc<dyn TokenAuthenticator>>,
    /// Those of them that a file names.
    issuers: Arc<Issuers>,
    /// Paths that need no credentials.
    open: ArcSwap<Vec<String>>,
    /// The file that says which issuers and paths, until it is watched.
    file: Mutex<Option<WatchedFile>>,
}

/// The paths of a configuration that need no credentials.
fn open_paths(configuration: &Configuration) -> Vec<String> {
    configuration.open.clone().unwrap_or_else(|| OPEN.map(str::to_owned).to_vec())
}

impl Authenticator {
    /// Verifies tokens of `signer`, whose accounts, pods, secrets and nodes are in the cache, and what the options name.
    /// Somebody has to keep the ledger. Must be called in a tokio runtime.
    pub fn new(
        signer: Arc<Signer>,
        cache: &WatchCache,
        options: &AuthenticationOptions,
        resolver: &Arc<ServiceResolver>,
    ) -> Result<(Self, Ledger), options::OptionsError> {
        let (notes, ledger) = legacy_tokens::ledger();
        let audiences = signer.issuance().audiences.clone();
        let mut tokens: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
        if let Some(path) = &options.token_file {
            tokens.push(Arc::new(options::token_file(path, audiences.clone())?));
        }
        tokens.push(Arc::new(service_account::ServiceAccounts::new(Arc::clone(&signer), cache, notes)));
        if options.bootstrap_tokens {
            tokens.push(Arc::new(bootstrap_token::BootstrapTokens::new(cache, audiences.clone())));
        }
        let (configuration, file) = options.configuration(&signer.issuance().issuers)?;
        let open = ArcSwap::from_pointee(open_paths(&configuration));
        let issuers = Issuers::new(configuration.issuers, Arc::clone(resolver), audiences.clone());
        let issuers = Arc::new(issuers);
        tokens.push(issuers.clone());
        if let Some(path) = &options.webhook_file {
            let remote = options::webhook(path, resolver)?;
            tokens.push(Arc::new(webhook::Webhook::new(remote, options.webhook_ttl, audiences)));
        }
        let proxies = options.request_header.clone();
        Ok((Authenticator { signer, proxies, tokens, issuers, open, file: Mutex::new(file) }, ledger))
    }

    /// Follows its configuration file, if it has one, until told to stop.
    pub(crate) async fn follow_file(self: Arc<Self>, metrics: ReloadMetrics, stop: CancellationToken) {
        let Some(file) = self.file.lock().take() else { return };
        let path = file.path().to_owned();
        reload::keep(file, metrics, stop, |text| self.read(&path, text)).await;
    }

    /// Takes what a configuration file says now.
    fn read(&self, path: &Path, text: &str) -> Result<(), options::OptionsError> {
        let configuration = options::parsed(path, text, &self.signer.issuance().issuers)?;
        self.open.store(Arc::new(open_paths(&configuration)));
        self.issuers.replace(configuration.issuers);
        Ok(())
    }

    /// The signer.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Whose token it is, for one of the audiences; else why nobody's.
    pub async fn token(&self, token: &str, audiences: &[&str]) -> Result<Authenticated, Vec<String>> {
        let mut faults = Vec::new();
        for authenticator in &self.tokens {
            match authenticator.authenticate(token, audiences).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        Err(faults)
    }

    /// Who sends a request: whom a trusted proxy names, the certificate's user, else the token's. A request without any
    /// of them may only ask for the server's health and version. Credentials are taken from the headers: nothing
    /// behind this needs them.
    pub async fn request(
        &self,
        peer: &Peer,
        headers: &mut HeaderMap,
        path: &str,
    ) -> Result<Identity, Status> {
        if let (Some(proxies), Some(proxy)) = (&self.proxies, &peer.proxy)
            && let Some(identity) = proxies.identity(proxy, headers)
        {
            headers.remove(header::AUTHORIZATION);
            return Ok(identity);
        }
        if let Some(client) = &peer.client {
            headers.remove(header::AUTHORIZATION);
            return Ok(client.clone());
        }
        if let Some(token) = bearer(headers)? {
            return match self.token(&token, &self.signer.audiences()).await {
                Ok(found) => Ok(found.identity),
                Err(faults) => {
                    tracing::debug!(?faults, "a token was refused");
                    Err(Status::unauthorized())
                }
            };
        }
        let path = path.trim_end_matches('/');
        if self.open.load().iter().any(|open| open.trim_end_matches('/') == path) {
            return Ok(Identity::anonymous());
        }
        Err(Status::unauthorized())
    }
}

/// The prefix of the WebSocket subprotocol in which browsers send a token, as base64 for URLs.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes the token out of the headers. Credentials of another kind, or more than one, are refused.
fn bearer(headers: &mut HeaderMap) -> Result<Option<String>, Status> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (values.next(), values.next()) {
        (None, _) => return protocol(headers),
        // Which one counts is not for us to guess.
        (Some(_), Some(_)) => return Err(Status::unauthorized()),
        (Some(value), None) => value.to_str().ok().and_then(|value| value.trim().split_once(' ')),
    };
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let token = token.map(|(_, token)| token.trim().to_owned()).filter(|token| !token.is_empty());
    headers.remove(header::AUTHORIZATION);
    token.ok_or_else(Status::unauthorized).map(Some)
}

fn protocol(headers: &mut HeaderMap) -> Result<Option<String>, Status> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(None);
    }
    let (mut token, mut rest) = (None, Vec::new());
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            match protocol.strip_prefix(PROTOCOL) {
                Some(_) if token.is_some() => return Err(Status::unauthorized()),
                Some(encoded) => token = Some(encoded.to_owned()),
                None => rest.push(protocol.to_owned()),
            }
        }
    }
    let Some(token) = token else { return Ok(None) };
    // Without another protocol the answer could only be the token.
    let rest = HeaderValue::from_str(&rest.join(",")).ok().filter(|rest| !rest.is_empty());
    let decoded = URL_SAFE_NO_PAD.decode(token).ok().and_then(|token| String::from_utf8(token).ok());
    let (Some(rest), Some(decoded)) = (rest, decoded) else { return Err(Status::unauthorized()) };
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
    Ok(Some(decoded))
}

/// A header's key as upstream's clients send it: in lower case, with `%XX` for what a header's name cannot hold.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        match escaped {
            Some(byte) => {
                bytes.extend(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(list: &[(&str, &str)]) -> (Result<Option<String>, u16>, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        (bearer(&mut headers).map_err(|status| status.code), headers)
    }

    #[test]
    fn a_token_is_taken_out_of_its_header() {
        let (token, headers) = taken(&[("authorization", "bearer  abc")]);
        assert_eq!((token, headers.len()), (Ok(Some("abc".to_owned())), 0));
        assert_eq!(taken(&[]).0, Ok(None));
    }

    #[test]
    fn other_credentials_or_several_are_refused() {
        for list in [
            &[("authorization", "Basic YTpi")][..],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(taken(list).0, Err(401), "{list:?}");
        }
    }

    #[test]
    fn a_browser_sends_its_token_as_a_protocol_beside_another() {
        let name = "sec-websocket-protocol";
        let (token, headers) =
            taken(&[(name, "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj")]);
        assert_eq!(token, Ok(Some("abc".to_owned())));
        assert_eq!(headers.get(name).unwrap(), "v5.channel.k8s.io");
        assert_eq!(taken(&[(name, "base64url.bearer.authorization.k8s.io.YWJj")]).0, Err(401));
        assert_eq!(taken(&[(name, "v5.channel.k8s.io")]).0, Ok(None));
    }

    #[test]
    fn keys_in_headers_are_unescaped() {
        assert_eq!(unescape("example.com%2fscopes"), "example.com/scopes");
        assert_eq!(unescape("100%"), "100%");
    }
}
