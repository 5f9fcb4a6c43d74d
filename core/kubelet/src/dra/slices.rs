//! What drivers that are gone offered is taken from the API, so that no pod is placed for it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Dra;

/// How long a driver may be away, as while it is replaced.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(10);

impl Dra {
    /// Looks after claims and slices of what is gone, until `shutdown`.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let start = Instant::now();
        let (mut sweep, mut retry) = (Some(start + PATIENCE), None::<Instant>);
        loop {
            let wait = async {
                match sweep.into_iter().chain(retry).min() {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                () = wait => {}
            }
            retry = (!self.take_back().await).then(|| Instant::now() + RETRY);
            let now = Instant::now();
            let is_due = sweep.is_some_and(|due| due <= now);
            sweep = self.next_sweep(now, start);
            if is_due && let Err(error) = self.sweep(now, start).await {
                tracing::warn!(%error, "what drivers that are gone offered is not taken back");
                sweep = Some(now + RETRY);
            }
        }
    }

    /// When the next driver has been away for long enough.
    fn next_sweep(&self, now: Instant, start: Instant) -> Option<Instant> {
        let gone = self.gone.lock();
        gone.values().chain([&start]).map(|since| *since + PATIENCE).filter(|due| *due > now).min()
    }

    /// Deletes the slices of drivers of this node that have been away for long enough; one that was never here is away since the start.
    async fn sweep(&self, now: Instant, start: Instant) -> Result<(), kube::Error> {
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let node = format!("spec.nodeName={}", self.config.node_name);
        let slices = api.list(&ListParams::default().fields(&node)).await?;
        let named: BTreeSet<String> = slices.items.into_iter().map(|slice| slice.spec.driver).collect();
        for driver in named {
            let since = self.gone.lock().get(&driver).copied().unwrap_or(start);
            if self.drivers.lock().contains_key(&driver) || now < since + PATIENCE {
                continue;
            }
            let fields = format!("{node},spec.driver={driver}");
            api.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&fields)).await?;
            tracing::info!(driver, "what a driver that is gone offered is taken back");
        }
        self.gone.lock().retain(|_, since| now < *since + PATIENCE);
        Ok(())
    }
}
