//! The webhook: events as an `EventList`, posted to a server until it takes them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use keelson_api::audit::Event;

use super::delivery::{Entry, Output, OutputError};
use crate::proxy::chain;
use crate::remote::{Remote, RemoteConfig, ServiceResolver, SetupError};

/// How often events are sent before they are given up, and how the pauses between grow.
const ATTEMPTS: u32 = 5;
const GROWTH: f64 = 1.5;
/// So much of a pause is left to chance, so that servers do not come back together.
const JITTER: f64 = 0.2;
/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// So much of an answer is read, to keep its connection.
const ANSWER: usize = 64 << 10;

/// The webhook.
pub(super) struct Webhook {
    remote: Remote,
    initial_backoff: Duration,
}

impl Webhook {
    /// The server of a kubeconfig. Must be called in a tokio runtime.
    pub(super) fn open(
        path: &Path,
        initial_backoff: Duration,
        resolver: &Arc<ServiceResolver>,
    ) -> Result<Self, SetupError> {
        let config = RemoteConfig { timeout: PATIENCE, ..RemoteConfig::from_kubeconfig(path)? };
        Ok(Webhook { remote: Remote::new(config, resolver)?, initial_backoff })
    }

    async fn post(&self, list: Bytes) -> Result<(), String> {
        let mut request = Request::new(Full::new(list));
        *request.method_mut() = Method::POST;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        let agent = HeaderValue::from_static("kube-apiserver-audit");
        request.headers_mut().insert(header::USER_AGENT, agent);
        let response = self.remote.send(request).await.map_err(|error| chain(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect();
        // What it answers is of no interest.
        let _ = tokio::time::timeout(PATIENCE, body).await;
        if code.is_success() { Ok(()) } else { Err(format!("{} answered {code}", self.remote.url())) }
    }
}

#[async_trait]
impl Output for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn is_concurrent(&self) -> bool {
        true
    }

    async fn write(&self, entries: &[Entry]) -> Result<(), OutputError> {
        let list = Bytes::from(Event::list(entries.iter().map(|entry| entry.json.as_slice())));
        let mut pause = self.initial_backoff;
        for attempt in 1.. {
            match self.post(list.clone()).await {
                Ok(()) => break,
                Err(why) if attempt == ATTEMPTS => return Err(OutputError::Send(why)),
                Err(why) => tracing::debug!(why, attempt, "an audit webhook did not take events"),
            }
            tokio::time::sleep(pause.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
            pause = pause.mul_f64(GROWTH);
        }
        Ok(())
    }
}
