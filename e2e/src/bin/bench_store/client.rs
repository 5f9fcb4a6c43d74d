//! One client for all that is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use keelson_store::{
    Change, Event, Key, Observer, Precondition, RaftStore, Revision, Snapshot, Store, Value, Write,
};

use crate::{api, etcd};

/// Between two looks whether a server answers.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long one question may take where it is asked again.
const ANSWER: Duration = Duration::from_secs(10);
/// The bytes of a value.
pub(crate) const VALUE_BYTES: usize = 1024;
/// The bytes that values are cut out of.
const TEXT_BYTES: usize = 1 << 20;

/// Letters without a pattern, in which every value is another piece.
pub(crate) struct Text(String);

impl Text {
    pub(crate) fn new() -> Arc<Self> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut state: u64 = 1;
        let letters = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(LETTERS[(state >> 58) as usize])
        });
        Arc::new(Text(letters.take(TEXT_BYTES).collect()))
    }

    fn value(&self, number: u64) -> &str {
        let start = (number.wrapping_mul(7919) % (TEXT_BYTES - VALUE_BYTES) as u64) as usize;
        &self.0[start..start + VALUE_BYTES]
    }
}

/// Where a server is asked.
#[derive(Clone)]
pub(crate) enum Target {
    Api(api::Target),
    Etcd(String),
}

/// Who asks it. Clones share a connection.
#[derive(Clone)]
pub(crate) enum Client {
    Api(api::Client),
    Etcd(etcd::Client),
    /// In the same process.
    Store(Arc<RaftStore>),
}

/// Watches a store without interest.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn restored(&self, _: &Snapshot) {}
    fn applied(&self, _: &[Event]) {}
    fn compacted(&self, _: Revision) {}
}

impl Target {
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(match self {
            Target::Api(target) => Client::Api(target.connect().await?),
            Target::Etcd(url) => Client::Etcd(etcd::Client::connect(url).await?),
        })
    }

    /// Asks until an answer comes: whether there is what has that number.
    pub(crate) async fn answers(&self, number: u64, limit: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let ask = async { self.connect().await?.has(number).await };
            let answer = tokio::time::timeout(ANSWER, ask).await.context("the question took too long");
            match answer.flatten() {
                Ok(found) => return Ok(found),
                Err(_) if Instant::now() < until => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => return Err(error.context("the server does not answer")),
            }
        }
    }
}

impl Client {
    /// Writes what has that number, which nobody has written before; answered when it is durable.
    pub(crate) async fn put(&mut self, number: u64, text: &Text) -> anyhow::Result<()> {
        let value = text.value(number);
        match self {
            Client::Api(api) => api.put(number, value).await,
            Client::Etcd(etcd) => etcd.put(number, Bytes::copy_from_slice(value.as_bytes())).await,
            Client::Store(store) => {
                let key = Key::new(format!("/registry/configmaps/bench/c-{number:010}"))?;
                let change = Change::Put(Value::plain(value.as_bytes().to_vec()));
                let write = Write { key, precondition: Precondition::Any, change };
                store.write(write).await.map(drop).context("write")
            }
        }
    }

    async fn has(&mut self, number: u64) -> anyhow::Result<bool> {
        match self {
            Client::Api(api) => api.has(number).await,
            Client::Etcd(etcd) => etcd.has(number).await,
            Client::Store(store) => {
                let key = Key::new(format!("/registry/configmaps/bench/c-{number:010}"))?;
                Ok(store.snapshot().get(&key).is_some())
            }
        }
    }
}
