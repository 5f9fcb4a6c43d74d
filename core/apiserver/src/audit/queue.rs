//! Events that wait to be written together, of bounded number and size.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keelson_api::audit::Event;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::Delivery;
use super::metrics::{Failures, Metrics};
use super::options::{BatchOptions, Throttle};

/// What waits and what is under way may take this much memory, beside the number of events that may wait.
const MOST_BYTES: usize = 64 << 20;
/// Batches that are under way at once.
const UNDER_WAY: usize = 8;

/// Where events wait. Nobody waits for it: what it has no room for is dropped and counted.
pub(super) struct Queue {
    events: mpsc::Sender<Arc<Event>>,
    bytes: Arc<AtomicUsize>,
    failures: Failures,
}

/// Takes events from a queue.
struct Worker {
    events: mpsc::Receiver<Arc<Event>>,
    bytes: Arc<AtomicUsize>,
    delivery: Arc<Delivery>,
    options: BatchOptions,
    bucket: Option<Bucket>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Batches that may be written now: so many a second, and more at once after a pause.
struct Bucket {
    throttle: Throttle,
    tokens: f64,
    filled: Instant,
}

impl Queue {
    pub(super) fn start(
        delivery: Delivery,
        options: &BatchOptions,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (events, waiting) = mpsc::channel(options.buffer_size.max(1));
        let bytes = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            events: waiting,
            bytes: Arc::clone(&bytes),
            delivery: Arc::new(delivery),
            options: options.clone(),
            bucket: options.throttle.map(Bucket::new),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
            tasks: tasks.clone(),
            stop,
        };
        tasks.spawn(worker.run());
        Queue { events, bytes, failures: metrics.failures("buffered") }
    }

    /// Takes an event, if there is room.
    pub(super) fn push(&self, event: Arc<Event>) {
        let weight = event.weight();
        let before = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let has_room = before == 0 || before.saturating_add(weight) <= MOST_BYTES;
        let refusal = match has_room.then(|| self.events.try_send(event)) {
            Some(Ok(())) => return,
            None | Some(Err(mpsc::error::TrySendError::Full(_))) => "audit buffer queue blocked",
            Some(Err(mpsc::error::TrySendError::Closed(_))) => "the audit buffer is closed",
        };
        self.bytes.fetch_sub(weight, Ordering::Relaxed);
        self.failures.add(1, &refusal);
    }
}

impl Worker {
    /// Writes batches until it is told to stop and nothing waits any more.
    async fn run(mut self) {
        loop {
            let batch = self.collect().await;
            if batch.is_empty() {
                return;
            }
            if let Some(bucket) = self.bucket.as_mut().filter(|_| !self.stop.is_cancelled()) {
                bucket.take().await;
            }
            self.deliver(batch).await;
        }
    }

    /// The next batch; empty when there will be none.
    async fn collect(&mut self) -> Vec<Arc<Event>> {
        let first = tokio::select! {
            event = self.events.recv() => event,
            () = self.stop.cancelled() => {
                self.events.close();
                self.events.recv().await
            }
        };
        let Some(first) = first else { return Vec::new() };
        let mut batch = vec![first];
        let wait = self.options.max_wait;
        let deadline = (!wait.is_zero()).then(|| Instant::now() + wait);
        let over = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        while batch.len() < self.options.max_size {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => batch.push(event),
                    None => break,
                },
                () = self.stop.cancelled() => self.events.close(),
                () = &mut over => break,
            }
        }
        batch
    }

    async fn deliver(&self, batch: Vec<Arc<Event>>) {
        let weight = batch.iter().map(|event| event.weight()).sum();
        let (delivery, bytes) = (Arc::clone(&self.delivery), Arc::clone(&self.bytes));
        let is_concurrent = delivery.output.is_concurrent();
        let deliver = async move {
            delivery.deliver(batch).await;
            bytes.fetch_sub(weight, Ordering::Relaxed);
        };
        if !is_concurrent {
            return deliver.await;
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        self.tasks.spawn(async move {
            deliver.await;
            drop(place);
        });
    }
}

impl Bucket {
    fn new(throttle: Throttle) -> Self {
        Bucket { throttle, tokens: f64::from(throttle.burst), filled: Instant::now() }
    }

    /// Waits until a batch may be written.
    async fn take(&mut self) {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * f64::from(self.throttle.qps);
        self.tokens = (self.tokens + gained).min(f64::from(self.throttle.burst)) - 1.0;
        self.filled = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / f64::from(self.throttle.qps))).await;
        }
    }
}

#[cfg(test)]
mod tests;
