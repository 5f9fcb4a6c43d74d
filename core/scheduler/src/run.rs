//! The task that owns the scheduler.

use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::actor::{Actor, Outcome};
use crate::config::Config;
use crate::informer;
use crate::scheduler::Scheduler;

/// How long requests that are under way may take when the scheduler ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why the scheduler ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The watches ended, which they never do by themselves.
    #[error("the watches ended")]
    WatchesEnded,
}

/// Schedules pods until `shutdown`. Requests that are under way then are given a few seconds.
///
/// The client needs: list and watch nodes, pods, namespaces, persistent volumes, their claims and classes, CSINodes, volume attachments, claims to devices,
/// slices and classes of devices; patch volumes and claims;
/// create bindings and events; patch pods' status; delete pods.
pub async fn run(config: Config, client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let mut updates = informer::watch(&client, &config.scheduler_name);
    let actor = Actor::new(client, &config.scheduler_name);
    let most = config.max_in_flight.max(1);
    let mut scheduler = Scheduler::new(config);
    let mut under_way: JoinSet<Outcome> = JoinSet::new();
    loop {
        let now = Instant::now();
        let ready = under_way.len() < most && scheduler.is_ready(now.into_std());
        let wake = scheduler.next_wake().map(Instant::from_std).filter(|wake| *wake > now);
        tokio::select! {
            () = shutdown.cancelled() => break,
            update = updates.next() => match update {
                Some(update) => scheduler.update(update, now.into_std()),
                None => return Err(Error::WatchesEnded),
            },
            Some(outcome) = under_way.join_next() => {
                if let Some(action) = settle(&mut scheduler, outcome, Instant::now()) {
                    under_way.spawn(actor.clone().act(action));
                }
            }
            () = tokio::task::yield_now(), if ready => {
                for action in scheduler.step(Instant::now().into_std()) {
                    under_way.spawn(actor.clone().act(action));
                }
            }
            () = sleep_until(wake), if !ready && wake.is_some() => {}
        }
    }
    let farewell = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("requests were still under way when the scheduler ended");
    }
    Ok(())
}

fn settle(
    scheduler: &mut Scheduler,
    outcome: Result<Outcome, tokio::task::JoinError>,
    now: Instant,
) -> Option<crate::scheduler::Action> {
    match outcome {
        Ok(Outcome::Bound { uid, result, written }) => {
            let written = written.iter().filter_map(informer::device_claim).collect();
            scheduler.written(written, now.into_std());
            scheduler.bound(&uid, result, now.into_std())
        }
        Ok(Outcome::Preempted { uid, deleted }) => {
            scheduler.preempted(&uid, deleted, now.into_std());
            None
        }
        Ok(Outcome::Asked { uid, result }) => scheduler.asked(&uid, result, now.into_std()),
        Ok(Outcome::Reported) => None,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a request ended without an outcome");
            None
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
