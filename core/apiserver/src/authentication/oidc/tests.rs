use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use axum::{Json, Router};
use jsonwebtoken::EncodingKey;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use super::super::claims::Mapping;
use super::super::token::Signer;
use super::*;
use crate::cache::WatchCache;

/// An issuer that publishes some keys as often as it is let.
#[derive(Clone)]
struct Issuer {
    url: String,
    published: Arc<Mutex<Value>>,
    asked: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Issuer {
            url,
            published: Arc::default(),
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let document = json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url)});
        let own = issuer.clone();
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(async move || Json(document)))
            .route("/keys", get(async move || Json(own.keys().await)));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        issuer
    }

    async fn keys(self) -> Value {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.published.lock().clone()
    }

    fn publish(&self, key: &str) {
        *self.published.lock() = Signer::from_pem(key).unwrap().key_set();
    }

    fn answer(&self, times: usize) {
        self.gate.add_permits(times);
    }

    async fn was_asked(&self, times: usize) {
        while self.asked.load(Ordering::SeqCst) < times {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.asked.load(Ordering::SeqCst), times);
    }

    /// Its authenticator, which may ask it again at once.
    fn authenticator(&self) -> Arc<Oidc> {
        let username = Source::Claim(Mapping { claim: "sub".into(), prefix: String::new() });
        let config = IssuerConfig {
            url: self.url.clone(),
            audiences: vec!["kube".into()],
            ..IssuerConfig::named_by(username)
        };
        let resolver = Arc::new(ServiceResolver::new(Arc::new(WatchCache::new(Arc::default()))));
        let mut made = Oidc::new(config, Arc::clone(&resolver), vec!["api".into()]);
        let document = format!("{}/.well-known/openid-configuration", self.url);
        let issuer = self.url.clone();
        made.keys = Keys::without_pause(Publisher { issuer, document, ca_bundle: None, resolver });
        Arc::new(made)
    }

    /// A token that does not say by which key it is signed.
    fn token(&self, key: &str) -> String {
        let end = jiff::Timestamp::now().as_second() + 600;
        let claims = json!({"iss": self.url, "aud": "kube", "sub": "ann", "exp": end});
        let key = EncodingKey::from_ec_pem(key.as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
    }
}

fn key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

async fn asks(authenticator: Arc<Oidc>, token: String) -> Result<String, String> {
    let header = Header::new(Algorithm::ES256);
    let found = authenticator.holder(&token, &header, &["api"]).await?;
    Ok(found.unwrap().identity.username)
}

#[tokio::test]
async fn one_question_is_under_way_and_all_who_need_its_answer_get_it() {
    let (issuer, key) = (Issuer::start().await, key());
    issuer.publish(&key);
    let authenticator = issuer.authenticator();
    let all =
        (0..5).map(|_| tokio::spawn(asks(authenticator.clone(), issuer.token(&key)))).collect::<Vec<_>>();
    issuer.was_asked(1).await;
    issuer.answer(1);
    for one in all {
        assert_eq!(one.await.unwrap(), Ok("ann".to_owned()));
    }
    issuer.was_asked(1).await;
}

#[tokio::test]
async fn holders_of_known_keys_do_not_wait_for_an_issuer_that_stalls() {
    let (issuer, old, new) = (Issuer::start().await, key(), key());
    issuer.publish(&old);
    issuer.answer(1);
    let authenticator = issuer.authenticator();
    assert!(asks(authenticator.clone(), issuer.token(&old)).await.is_ok());
    // The keys are others now, and the issuer takes its time to say so.
    issuer.publish(&new);
    let waits = tokio::spawn(asks(authenticator.clone(), issuer.token(&new)));
    issuer.was_asked(2).await;
    assert!(asks(authenticator.clone(), issuer.token(&old)).await.is_ok());
    assert!(!waits.is_finished());
    issuer.answer(1);
    assert_eq!(waits.await.unwrap(), Ok("ann".to_owned()));
    issuer.was_asked(2).await;
}

#[tokio::test]
async fn a_token_that_no_key_has_signed_has_the_issuer_asked_but_one_that_is_wrong_has_not() {
    let (issuer, own) = (Issuer::start().await, key());
    issuer.publish(&own);
    issuer.answer(2);
    let authenticator = issuer.authenticator();
    assert!(asks(authenticator.clone(), issuer.token(&own)).await.is_ok());
    let end = jiff::Timestamp::now().as_second() + 600;
    let claims = json!({"iss": issuer.url, "aud": "other", "sub": "ann", "exp": end});
    let signing = EncodingKey::from_ec_pem(own.as_bytes()).unwrap();
    let wrong = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &signing).unwrap();
    assert!(asks(authenticator.clone(), wrong).await.unwrap_err().contains("InvalidAudience"));
    issuer.was_asked(1).await;
    assert!(
        asks(authenticator.clone(), issuer.token(&key())).await.unwrap_err().contains("InvalidSignature")
    );
    issuer.was_asked(2).await;
}
