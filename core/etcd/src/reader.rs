//! How far etcd is, asked once for all who ask at the same time.

use std::sync::Arc;
use std::time::Duration;

use keelson_store::{Revision, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::connection::{Failure, Servers};
use crate::copy::Copy;
use crate::follower::newest;

/// One who wants to know.
pub(crate) type Ask = oneshot::Sender<Result<Revision, StoreError>>;

/// Answers until nobody can ask any more. Who comes while a question is under way is answered by the next one.
pub(crate) async fn run(
    servers: Arc<Servers>,
    copy: Arc<Copy>,
    mut asks: mpsc::Receiver<Ask>,
    patience: Duration,
) {
    while let Some(first) = asks.recv().await {
        let mut all = vec![first];
        while let Ok(more) = asks.try_recv() {
            all.push(more);
        }
        let outcome = newest(&servers, &copy, Instant::now() + patience).await.map_err(Failure::of_read);
        for ask in all {
            // Who does not wait any more does not need it.
            let _ = ask.send(outcome.clone());
        }
    }
}
