//! Ends pods in good order before the machine shuts down: the critical ones last, each group in the time that the settings
//! give it (`shutdownGracePeriod`, `shutdownGracePeriodByPodPriority`).
//!
//! - `group` (pure): who ends when; `logind`: when the machine shuts down, and having it wait
//! - `record`: when pods were ended last, for the metrics of a kubelet that starts after it
//!
//! Pods end by the same orders as by an eviction. Meanwhile the node is not ready and takes no pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::EventType;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::eviction::{Eviction, Order};
use crate::node::NodeRecorder;
use crate::pod::PodModel;
use crate::pods::Pods;

mod group;
mod logind;
mod record;

use group::Period;
pub(crate) use group::periods;
use logind::{Logind, LogindError};
pub(crate) use record::Record;

/// The login manager is looked for again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at pods that are to end.
const LOOK: Duration = Duration::from_millis(100);
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Whether the machine is about to shut down.
pub(crate) type Leaving = watch::Receiver<bool>;

/// What it takes to end pods.
pub(crate) struct Tools {
    pub(crate) config: Arc<Config>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) recorder: NodeRecorder,
    pub(crate) orders: mpsc::Sender<Order>,
    /// Who is told that the machine shuts down.
    pub(crate) leaving: watch::Sender<bool>,
    pub(crate) record: Arc<Record>,
}

/// Waits for the machine's shutdown.
pub(crate) struct NodeShutdown {
    tools: Tools,
    periods: Vec<Period>,
}

impl NodeShutdown {
    pub(crate) fn new(tools: Tools) -> Self {
        Self { periods: periods(&tools.config.settings), tools }
    }

    /// Works until `stop`; does nothing where the settings give no time.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if self.periods.is_empty() {
            return;
        }
        let work = async {
            let mut known = String::new();
            loop {
                let Err(error) = self.watch().await;
                // The same is not told each time.
                if known != error.to_string() {
                    known = error.to_string();
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "pods are not ended in good order when the machine shuts down");
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(work).await;
    }

    /// Has the machine wait, and follows what becomes of it.
    async fn watch(&self) -> Result<std::convert::Infallible, LogindError> {
        let mut logind = Logind::connect().await?;
        logind.allow(self.periods.iter().map(|period| period.grace).sum()).await?;
        // While nobody listened it may have begun, or have been given up.
        let begun = logind.is_leaving().await?;
        let mut lock = if begun { None } else { Some(logind.lock().await?) };
        tracing::info!(begun, "the machine waits with a shutdown until pods have ended");
        let mut missed = (begun != *self.tools.leaving.borrow()).then_some(begun);
        loop {
            let leaving = match missed.take() {
                Some(missed) => missed,
                None => logind.next().await?,
            };
            let what = if leaving { "event" } else { "cancellation" };
            let note = format!("Shutdown manager detected shutdown {what}");
            self.tools.recorder.tell(EventType::Normal, "NodeShutdown", note).await;
            self.tools.leaving.send_replace(leaving);
            if leaving {
                let since = jiff::Timestamp::now();
                self.tools.record.put(since, None).await;
                self.end_pods().await;
                self.tools.record.put(since, Some(jiff::Timestamp::now())).await;
                drop(lock.take());
            } else {
                lock = Some(logind.lock().await?);
            }
        }
    }

    /// Ends one group after the other; none is waited for longer than it has.
    async fn end_pods(&self) {
        let models = self.tools.pods.all().into_iter().filter_map(|pod| PodModel::new(pod).ok());
        let active = models.filter(|pod| !pod.is_over()).collect();
        for (Period { priority, grace }, pods) in group::groups(&self.periods, active) {
            tracing::info!(priority, count = pods.len(), "pods end because the machine shuts down");
            for pod in &pods {
                let eviction = Eviction {
                    reason: "Terminated",
                    message: MESSAGE.to_owned(),
                    grace: grace.min(pod.grace()),
                    annotations: BTreeMap::new(),
                    disruption: Some(MESSAGE.to_owned()),
                };
                // Who takes them ends with the kubelet alone.
                let _ = self.tools.orders.send((pod.uid.clone(), eviction)).await;
            }
            let deadline = Instant::now() + grace;
            while pods.iter().any(|pod| self.tools.pods.is_active(&pod.uid)) {
                if Instant::now() >= deadline {
                    tracing::warn!(priority, "pods have not ended in their time");
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}
