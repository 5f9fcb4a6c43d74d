//! Clients that write as fast as they are answered.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_e2e::measure::percentile;
use tokio::task::JoinSet;

use crate::client::{Client, Target, Text};

/// Of so many failed writes in a row a client gives up.
const FAILURES: u32 = 20;

/// How long clients write: first without being measured, then measured.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

/// What became of a load.
pub(crate) struct Outcome {
    /// How long each write took that was begun and answered in the measured time, in order of length.
    pub(crate) times: Vec<Duration>,
    /// The length of the measured time.
    pub(crate) measured: Duration,
    /// All writes, also those that were not measured.
    pub(crate) all: u64,
    /// Those that were not made.
    pub(crate) failed: u64,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        (self.times.len() as f64 / self.measured.as_secs_f64()).round()
    }

    pub(crate) fn percentile(&self, share: f64) -> Duration {
        percentile(&self.times, share)
    }
}

/// What the clients of a system share: the letters, and the number of the next write.
#[derive(Clone)]
pub(crate) struct Shared {
    text: Arc<Text>,
    next: Arc<AtomicU64>,
}

impl Shared {
    pub(crate) fn new(text: &Arc<Text>) -> Self {
        // Number 0 is nobody's: it is what is asked for to see whether a server answers.
        Shared { text: Arc::clone(text), next: Arc::new(AtomicU64::new(1)) }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes once.
    pub(crate) async fn put(&self, client: &mut Client) -> anyhow::Result<()> {
        client.put(self.number(), &self.text).await
    }
}

/// Connections for clients: each has one of its own to each target, and goes round them.
pub(crate) async fn connect(targets: &[Target], clients: usize) -> anyhow::Result<Vec<Vec<Client>>> {
    let mut all = Vec::new();
    for number in 0..clients {
        let mut own = Vec::new();
        for target in targets {
            own.push(target.connect().await?);
        }
        own.rotate_left(number % targets.len().max(1));
        all.push(own);
    }
    Ok(all)
}

/// Has clients write for a while, each one after the other.
pub(crate) async fn run(clients: Vec<Vec<Client>>, shared: &Shared, times: Times) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let measured = start + times.warm..start + times.warm + times.measured;
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(write(client, shared.clone(), measured.clone()));
    }
    let mut outcome = Outcome { times: Vec::new(), measured: times.measured, all: 0, failed: 0 };
    while let Some(ended) = tasks.join_next().await {
        let of_client = ended.context("a client panicked")??;
        outcome.times.extend(of_client.times);
        outcome.all += of_client.all;
        outcome.failed += of_client.failed;
    }
    outcome.times.sort_unstable();
    Ok(outcome)
}

async fn write(
    mut connections: Vec<Client>,
    shared: Shared,
    measured: Range<Instant>,
) -> anyhow::Result<Outcome> {
    let length = measured.end - measured.start;
    let mut outcome = Outcome { times: Vec::new(), measured: length, all: 0, failed: 0 };
    let (mut turn, mut in_a_row) = (0, 0);
    loop {
        let began = Instant::now();
        if began >= measured.end {
            return Ok(outcome);
        }
        turn = (turn + 1) % connections.len();
        match shared.put(&mut connections[turn]).await {
            Ok(()) => {
                in_a_row = 0;
                outcome.all += 1;
                let ended = Instant::now();
                if began >= measured.start && ended <= measured.end {
                    outcome.times.push(ended - began);
                }
            }
            Err(error) => {
                outcome.failed += 1;
                in_a_row += 1;
                if in_a_row == FAILURES {
                    return Err(error.context("a client is refused again and again"));
                }
            }
        }
    }
}

/// Writes everything from 1 up to a number, with so many clients.
pub(crate) async fn fill(target: &Target, text: &Arc<Text>, last: u64, clients: usize) -> anyhow::Result<()> {
    let shared = Shared::new(text);
    let mut tasks = JoinSet::new();
    for mut connections in connect(std::slice::from_ref(target), clients).await? {
        let shared = shared.clone();
        tasks.spawn(async move {
            loop {
                let number = shared.number();
                if number > last {
                    return anyhow::Ok(());
                }
                for client in &mut connections {
                    client.put(number, &shared.text).await?;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client panicked")??;
    }
    Ok(())
}
