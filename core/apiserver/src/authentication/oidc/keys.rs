//! The keys that an issuer publishes: known ones at once, newer ones by one question at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::remote::{Remote, RemoteConfig, ServiceResolver, Target};

/// The longest document of an issuer, in bytes.
const DOCUMENT: usize = 1 << 20;
/// Keys are not asked for again so soon after an answer, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// How long an issuer may take for all that it is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many requests wait for an issuer; more are told at once that their token cannot be verified.
const WAITING: usize = 256;

const UNKNOWN: &str = "oidc: authenticator not initialized";

type Answer = Result<Arc<JwkSet>, Arc<str>>;

/// Where an issuer publishes its keys.
pub(super) struct Publisher {
    /// The issuer, as tokens name it.
    pub(super) issuer: String,
    /// Its discovery document.
    pub(super) document: String,
    /// The authorities that vouch for its server, in PEM.
    pub(super) ca_bundle: Option<String>,
    /// The way to it.
    pub(super) resolver: Arc<ServiceResolver>,
}

#[derive(Default)]
struct State {
    known: Option<Arc<JwkSet>>,
    /// When an answer came last, a good one or not.
    answered: Option<Instant>,
    under_way: Option<Shared<BoxFuture<'static, Answer>>>,
}

/// The keys of an issuer.
pub(super) struct Keys {
    publisher: Arc<Publisher>,
    state: Arc<Mutex<State>>,
    places: Semaphore,
    pause: Duration,
}

impl Publisher {
    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let ca_bundle = self.ca_bundle.clone().map(String::into_bytes);
        let remote = RemoteConfig { ca_bundle, ..RemoteConfig::new(Target::Url(url.to_owned())) };
        let remote = Remote::new(remote, &self.resolver).map_err(|error| error.to_string())?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = http::Uri::from_static("/");
        let response = remote.send(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("{url}: {}", response.status()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT).collect().await;
        Ok(body.map_err(|error| format!("{url}: {error}"))?.to_bytes())
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let read = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
        let document = read(&self.get(&self.document).await?)?;
        if document["issuer"] != self.issuer.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.issuer, document["issuer"]
            ));
        }
        let keys = document["jwks_uri"].as_str().ok_or("oidc: the provider names no jwks_uri")?;
        serde_json::from_slice(&self.get(keys).await?).map_err(|error| format!("{keys}: {error}"))
    }
}

impl Keys {
    /// The keys that somebody publishes; none is known yet.
    pub(super) fn new(publisher: Publisher) -> Self {
        Keys {
            publisher: Arc::new(publisher),
            state: Arc::default(),
            places: Semaphore::new(WAITING),
            pause: PAUSE,
        }
    }

    /// The same, without a pause between questions.
    #[cfg(test)]
    pub(super) fn without_pause(publisher: Publisher) -> Self {
        Keys { pause: Duration::ZERO, ..Keys::new(publisher) }
    }

    /// The keys that are known.
    pub(super) fn known(&self) -> Option<Arc<JwkSet>> {
        self.state.lock().known.clone()
    }

    /// Keys that are newer than those that were of no use; `None` where there are none for now.
    pub(super) async fn newer(&self, than: Option<&Arc<JwkSet>>) -> Result<Option<Arc<JwkSet>>, String> {
        let nothing = || than.map(|_| None).ok_or_else(|| UNKNOWN.to_owned());
        let Ok(_place) = self.places.try_acquire() else { return nothing() };
        let answer = {
            let mut state = self.state.lock();
            if let Some(known) = &state.known
                && !than.is_some_and(|than| Arc::ptr_eq(than, known))
            {
                return Ok(Some(Arc::clone(known)));
            }
            match state.under_way.as_ref().filter(|it| it.peek().is_none()) {
                Some(under_way) => under_way.clone(),
                None if state.answered.is_some_and(|at| at.elapsed() < self.pause) => return nothing(),
                None => state.under_way.insert(self.ask()).clone(),
            }
        };
        answer.await.map(Some).map_err(|error| error.to_string())
    }

    /// Asks the issuer, whoever waits for the answer and however long.
    fn ask(&self) -> Shared<BoxFuture<'static, Answer>> {
        let (publisher, state) = (Arc::clone(&self.publisher), Arc::clone(&self.state));
        let asked = tokio::spawn(async move {
            let fetched = tokio::time::timeout(PATIENCE, publisher.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| Err("the issuer does not answer in time".to_owned()));
            let mut state = state.lock();
            state.answered = Some(Instant::now());
            match fetched {
                Ok(set) => Ok(Arc::clone(state.known.insert(Arc::new(set)))),
                Err(error) => {
                    tracing::warn!(issuer = %publisher.issuer, error, "an issuer's keys could not be had");
                    Err(Arc::from(error))
                }
            }
        });
        let ended = |joined: Result<Answer, tokio::task::JoinError>| {
            joined.unwrap_or_else(|error| {
                tracing::error!(%error, "the question for an issuer's keys ended");
                Err(Arc::from(error.to_string()))
            })
        };
        asked.map(ended).boxed().shared()
    }
}
