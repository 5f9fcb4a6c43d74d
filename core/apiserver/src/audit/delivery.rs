//! The way of an event to one place: who waits for it, what is cut, what is counted.

use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::audit::Event;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::{Failures, Metrics};
use super::options::{DeliveryOptions, Mode, Truncate};
use super::queue::Queue;

/// An event that is to be written.
pub(super) struct Entry {
    pub(super) event: Arc<Event>,
    /// Its document.
    pub(super) json: Vec<u8>,
}

/// Why events were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    #[error("{0}")]
    Write(#[from] std::io::Error),
    #[error("{0}")]
    Send(String),
    #[error("the writer has ended")]
    Ended,
}

/// A place for events.
#[async_trait]
pub(super) trait Output: Send + Sync {
    /// What failures are counted under.
    fn name(&self) -> &'static str;

    /// Whether several batches may be under way, so that a slow one does not hold up the next.
    fn is_concurrent(&self) -> bool;

    /// Writes events; returns when they are there.
    async fn write(&self, entries: &[Entry]) -> Result<(), OutputError>;
}

/// Brings events to a place.
pub(super) struct Delivery {
    pub(super) output: Box<dyn Output>,
    truncate: Option<Truncate>,
    failures: Failures,
    too_large: Failures,
}

/// A place, and who waits for it.
pub(super) enum Sink {
    /// Nobody.
    Batch(Queue),
    /// The request.
    Blocking(Delivery),
    /// The request, which is refused on a failure.
    BlockingStrict(Delivery),
}

impl Delivery {
    fn new(output: Box<dyn Output>, truncate: Option<Truncate>, metrics: &Metrics) -> Self {
        let failures = metrics.failures(output.name());
        Delivery { output, truncate, failures, too_large: metrics.failures("truncate") }
    }

    /// An event as it is to be written; none if it cannot be.
    fn entry(&self, event: Arc<Event>) -> Option<Entry> {
        let encode = |event: Arc<Event>| match event.to_json() {
            Ok(json) => Some(Entry { event, json }),
            Err(error) => {
                self.failures.add(1, &error);
                None
            }
        };
        let entry = encode(event)?;
        let Some(limits) = self.truncate.filter(|limits| entry.json.len() > limits.max_event_size) else {
            return Some(entry);
        };
        let short = encode(Arc::new(entry.event.truncated()))?;
        if short.json.len() > limits.max_event_size {
            self.too_large.add(1, &"the event is too large even after truncating");
            return None;
        }
        Some(short)
    }

    /// Writes events, in batches as large as they may be; whether all that could be were written.
    pub(super) async fn deliver(&self, events: Vec<Arc<Event>>) -> bool {
        let most = self.truncate.map_or(usize::MAX, |limits| limits.max_batch_size);
        let (mut batch, mut size, mut is_well) = (Vec::new(), 0_usize, true);
        for entry in events.into_iter().filter_map(|event| self.entry(event)) {
            if !batch.is_empty() && size.saturating_add(entry.json.len()) > most {
                is_well &= self.write(&std::mem::take(&mut batch)).await;
                size = 0;
            }
            size = size.saturating_add(entry.json.len());
            batch.push(entry);
        }
        is_well & self.write(&batch).await
    }

    async fn write(&self, batch: &[Entry]) -> bool {
        if batch.is_empty() {
            return true;
        }
        match self.output.write(batch).await {
            Ok(()) => true,
            Err(error) => {
                self.failures.add(batch.len(), &error);
                false
            }
        }
    }
}

impl Sink {
    /// Must be called in a tokio runtime.
    pub(super) fn new(
        output: Box<dyn Output>,
        options: &DeliveryOptions,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let delivery = Delivery::new(output, options.truncate, metrics);
        match options.mode {
            Mode::Batch => Sink::Batch(Queue::start(delivery, &options.batch, metrics, tasks, stop)),
            Mode::Blocking => Sink::Blocking(delivery),
            Mode::BlockingStrict => Sink::BlockingStrict(delivery),
        }
    }

    /// Where events wait, if nobody waits for them.
    pub(super) fn queue(&self) -> Option<&Queue> {
        match self {
            Sink::Batch(queue) => Some(queue),
            Sink::Blocking(_) | Sink::BlockingStrict(_) => None,
        }
    }

    /// Takes an event; whether its request may go on.
    pub(super) async fn take(&self, event: &Arc<Event>) -> bool {
        match self {
            Sink::Batch(queue) => {
                queue.push(Arc::clone(event));
                true
            }
            Sink::Blocking(delivery) => {
                delivery.deliver(vec![Arc::clone(event)]).await;
                true
            }
            Sink::BlockingStrict(delivery) => delivery.deliver(vec![Arc::clone(event)]).await,
        }
    }
}
