use async_trait::async_trait;
use parking_lot::Mutex;

use super::super::delivery::{Entry, Output, OutputError, Sink};
use super::super::options::{DeliveryOptions, Mode};
use super::super::tests::event;
use super::*;

/// Takes batches, and tells their sizes and when they came.
struct Kept {
    batches: Arc<Mutex<Vec<(usize, Duration)>>>,
    began: Instant,
    hangs: bool,
}

#[async_trait]
impl Output for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn is_concurrent(&self) -> bool {
        true
    }

    async fn write(&self, entries: &[Entry]) -> Result<(), OutputError> {
        self.batches.lock().push((entries.len(), self.began.elapsed()));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct Started {
    sink: Sink,
    batches: Arc<Mutex<Vec<(usize, Duration)>>>,
    registry: keelson_metrics::Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn start(hangs: bool, batch: BatchOptions) -> Started {
    let registry = keelson_metrics::Registry::default();
    let metrics = Metrics::new(&registry).unwrap();
    let batches: Arc<Mutex<Vec<_>>> = Arc::default();
    let output = Kept { batches: Arc::clone(&batches), began: Instant::now(), hangs };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let options = DeliveryOptions { mode: Mode::Batch, batch, truncate: None };
    let sink = Sink::new(Box::new(output), &options, &metrics, &tasks, stop.clone());
    Started { sink, batches, registry, tasks, stop }
}

fn batch(buffer_size: usize, max_size: usize, seconds: u64) -> BatchOptions {
    BatchOptions { buffer_size, max_size, max_wait: Duration::from_secs(seconds), throttle: None }
}

impl Started {
    async fn push(&self, count: usize) {
        for _ in 0..count {
            assert!(self.sink.take(&Arc::new(event())).await);
        }
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn metrics(&self) -> String {
        self.registry.expose(keelson_metrics::Format::accepted(""))
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_full_buffer_has_no_room_for_is_dropped_and_counted() {
    let started = start(true, batch(2, 1, 0));
    started.push(10).await;
    let text = started.metrics();
    assert!(text.contains("apiserver_audit_error_total{plugin=\"buffered\"} 8\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_in_bytes_too() {
    let started = start(true, batch(10_000, 1, 0));
    let mut large = event();
    large.user_agent = "x".repeat(MOST_BYTES / 4);
    let large = Arc::new(large);
    for _ in 0..10 {
        started.sink.take(&large).await;
    }
    let text = started.metrics();
    assert!(text.contains("apiserver_audit_error_total{plugin=\"buffered\"} 7\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn events_wait_for_others_until_the_batch_is_full_or_the_time_is_over() {
    let started = start(false, batch(100, 3, 30));
    started.push(4).await;
    // The clock goes on when nothing else can.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let batches = started.batches.lock().clone();
    assert_eq!(batches, [(3, Duration::ZERO), (1, Duration::from_secs(30))]);
}

#[tokio::test(start_paused = true)]
async fn batches_are_throttled() {
    let throttle = Some(Throttle { qps: 2.0, burst: 2 });
    let started = start(false, BatchOptions { throttle, ..batch(100, 1, 0) });
    started.push(4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let times: Vec<u128> = started.batches.lock().iter().map(|(_, at)| (at.as_millis() + 5) / 10).collect();
    assert_eq!(times, [0, 0, 50, 100]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_written_at_the_end() {
    let throttle = Some(Throttle { qps: 0.001, burst: 1 });
    let started = start(false, BatchOptions { throttle, ..batch(100, 2, 3600) });
    started.push(5).await;
    started.close().await;
    let sizes: Vec<usize> = started.batches.lock().iter().map(|(size, _)| *size).collect();
    assert_eq!(sizes, [2, 2, 1]);
    started.push(1).await;
    assert!(started.metrics().contains("apiserver_audit_error_total{plugin=\"buffered\"} 1\n"));
}
