//! What every store promises, of all that this crate has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use async_trait::async_trait;
use keelson_store::conformance::Bench;
use keelson_store::raft_store::Config;
use keelson_store::{MemoryStore, Observer, RaftStore, Store, engine};

struct Memory;

#[async_trait]
impl Bench for Memory {
    async fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        MemoryStore::open(engine::Config::default(), observer)
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// A member without others.
struct Lone(tempfile::TempDir);

#[async_trait]
impl Bench for Lone {
    async fn open(&self, observer: Arc<dyn Observer>) -> Arc<dyn Store> {
        RaftStore::open(Config::new(self.0.path()), observer).await.unwrap()
    }
}

mod in_memory {
    keelson_store::conformance!(super::Memory);
}

mod alone {
    keelson_store::conformance!(super::Lone(tempfile::tempdir().unwrap()));
}
