//! What drivers that are gone offered is taken from the API, so that no pod is placed for it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Dra;

/// Between two tries.
const RETRY: Duration = Duration::from_secs(10);

impl Dra {
    /// Looks after claims and slices of what is gone, until `shutdown`.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let mut retry = None::<Instant>;
        loop {
            let sweep = self.drivers.lock().next_sweep();
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
            if self.drivers.lock().next_sweep().is_none_or(|due| due > now) {
                continue;
            }
            match self.sweep(now).await {
                Ok(()) => self.drivers.lock().swept(now),
                Err(error) => {
                    tracing::warn!(%error, "what drivers that are gone offered is not taken back");
                    self.drivers.lock().not_swept(now + RETRY);
                }
            }
        }
    }

    /// Deletes the slices of drivers of this node that have been away for long enough; one that was never here is away since the start.
    async fn sweep(&self, now: Instant) -> Result<(), kube::Error> {
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let node = format!("spec.nodeName={}", self.config.node_name);
        let slices = api.list(&ListParams::default().fields(&node)).await?;
        let named: BTreeSet<String> = slices.items.into_iter().map(|slice| slice.spec.driver).collect();
        for driver in named {
            if !self.drivers.lock().is_overdue(&driver, now) {
                continue;
            }
            let fields = format!("{node},spec.driver={driver}");
            api.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&fields)).await?;
            tracing::info!(driver, "what a driver that is gone offered is taken back");
        }
        Ok(())
    }
}
