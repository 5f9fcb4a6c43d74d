//! Where clients find the servers that share an etcd: none of them leads, and none knows who is alive but by its Lease.
//!
//! Each renews a Lease of its own as often as upstream's servers do, and leads clients to all that do so. Servers' clocks
//! may differ: whoever is alive changes its Lease, whatever time it writes there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Since when a Lease says what it says.
struct Sighting {
    renewed: Timestamp,
    at: Instant,
    /// How old it was by the clocks when it was first seen, as far as that counts.
    before: Duration,
}

/// What this server has seen of the Leases.
#[derive(Default)]
struct Sightings(HashMap<MemberId, Sighting>);

impl Sightings {
    /// How long a server has not changed its Lease.
    fn silent(&mut self, said: &Said, clock: Timestamp, now: Instant) -> Duration {
        let renewed = said.renewed;
        let sighting = self.0.entry(said.id).or_insert_with(|| {
            // One that died long ago is known by the clocks. Where these are wrong, it changes its Lease soon.
            let age = Duration::try_from(clock.duration_since(renewed)).unwrap_or_default();
            Sighting { renewed, at: now, before: age.min(GONE) }
        });
        if sighting.renewed != renewed {
            *sighting = Sighting { renewed, at: now, before: Duration::ZERO };
        }
        sighting.before + now.saturating_duration_since(sighting.at)
    }

    /// Who is alive, and who can be forgotten.
    fn judge(&mut self, all: &[Said], clock: Timestamp, now: Instant) -> (Vec<SocketAddr>, Vec<MemberId>) {
        self.0.retain(|id, _| all.iter().any(|said| said.id == *id));
        let (mut living, mut forgotten) = (Vec::new(), Vec::new());
        for said in all {
            let silent = self.silent(said, clock, now);
            if silent < GONE {
                living.push(said.address);
            }
            if silent >= FORGOTTEN {
                forgotten.push(said.id);
            }
        }
        living.sort_unstable();
        living.dedup();
        (living, forgotten)
    }
}

/// Corrects the endpoints.
async fn correct(registry: &Registry, sightings: &mut Sightings) -> Result<(), Status> {
    let (living, forgotten) = sightings.judge(&all_said(registry)?, Timestamp::now(), Instant::now());
    for id in forgotten {
        forget(registry, id).await?;
    }
    kubernetes_service::lead_to(registry, &living).await
}

/// Keeps this server's Lease and the endpoints, and takes itself out of them in the end.
pub(crate) async fn keep(registry: Arc<Registry>, address: SocketAddr, stop: CancellationToken) {
    let id = number(address);
    let own = Own { name: address.to_string().replace(':', "-"), address };
    let mut sightings = Sightings::default();
    loop {
        let kept = async {
            say(&registry, id, &own).await?;
            correct(&registry, &mut sightings).await
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
        correct(&registry, &mut sightings).await
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
        let ports = |all: &[SocketAddr]| all.iter().map(SocketAddr::port).collect::<Vec<_>>();
        let mut sightings = Sightings::default();
        let began = Instant::now();
        assert_eq!(
            sightings.judge(&all, now, began),
            (vec![all[1].address, all[0].address, all[4].address], vec![])
        );
        // Number 4 lives: its clock is two hours behind. Number 1 is not heard of any more.
        let all = [said(3, 4), said(1, 29), said(2, 31), said(4, 7190), said(5, -21)];
        let (living, forgotten) = sightings.judge(&all, now, began + Duration::from_secs(10));
        assert_eq!((ports(&living), forgotten), (vec![3, 4, 5], vec![]));
        let (living, forgotten) = sightings.judge(&all, now, began + Duration::from_secs(3600));
        assert_eq!((ports(&living), forgotten), (vec![], vec![all[1].id, all[2].id]));
    }
}
