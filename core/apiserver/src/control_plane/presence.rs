//! Where clients find the servers that share an etcd: none of them leads, and none knows who is alive but by its Lease.
//!
//! Each renews a Lease of its own as often as upstream's servers do, and leads clients to all that do so. Clocks may
//! differ by less than [`GONE`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_api::Status;
use keelson_store::MemberId;
use tokio_util::sync::CancellationToken;

use super::endpoints::{Own, Said, all_said, forget, say};
use crate::registry::Registry;
use crate::server::kubernetes_service;

/// How often a server renews its Lease.
const RENEW: Duration = Duration::from_secs(10);
/// After how long without that it is believed to be gone.
const GONE: Duration = Duration::from_secs(30);
/// After how long its Lease is removed.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A server's number: made of where it is, so that it is the same after a restart.
fn number(address: SocketAddr) -> MemberId {
    let digest = ring::digest::digest(&ring::digest::SHA256, address.to_string().as_bytes());
    MemberId(digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Who is alive, and who can be forgotten.
fn judge(all: &[Said], now: Timestamp) -> (Vec<SocketAddr>, Vec<MemberId>) {
    let silent = |said: &Said| Duration::try_from(now.duration_since(said.renewed)).unwrap_or_default();
    let mut living: Vec<SocketAddr> =
        all.iter().filter(|said| silent(said) < GONE).map(|said| said.address).collect();
    living.sort_unstable();
    living.dedup();
    let forgotten = all.iter().filter(|said| silent(said) >= FORGOTTEN).map(|said| said.id);
    (living, forgotten.collect())
}

/// Corrects the endpoints.
async fn correct(registry: &Registry) -> Result<(), Status> {
    let (living, forgotten) = judge(&all_said(registry)?, Timestamp::now());
    for id in forgotten {
        forget(registry, id).await?;
    }
    kubernetes_service::lead_to(registry, &living).await
}

/// Keeps this server's Lease and the endpoints, and takes itself out of them in the end.
pub(crate) async fn keep(registry: Arc<Registry>, address: SocketAddr, stop: CancellationToken) {
    let id = number(address);
    let own = Own { name: address.to_string().replace(':', "-"), address };
    loop {
        let kept = async {
            say(&registry, id, &own).await?;
            correct(&registry).await
        };
        if let Err(error) = kept.await {
            tracing::info!(%error, "the endpoints of the API server could not be corrected");
        }
        tokio::select! {
            () = tokio::time::sleep(RENEW) => {}
            () = stop.cancelled() => break,
        }
    }
    let left = async {
        forget(&registry, id).await?;
        correct(&registry).await
    };
    if let Err(error) = left.await {
        tracing::info!(%error, "this server could not be taken out of the endpoints of the API server");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_led_to_while_it_renews_its_lease_and_forgotten_after_an_hour() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let said = |port: u16, seconds: i64| {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            let renewed = now - jiff::SignedDuration::from_secs(seconds);
            Said { id: number(address), address, renewed }
        };
        // The last one's clock is ahead.
        let all = [said(3, 5), said(1, 29), said(2, 31), said(4, 7200), said(5, -20)];
        let (living, forgotten) = judge(&all, now);
        assert_eq!(living.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(forgotten, [all[3].id]);
    }
}
