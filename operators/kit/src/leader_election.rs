//! One holder of a Lease at a time (client): the driver around [`step`].
//!
//! # Guarantees
//! - The work runs only while this process holds the Lease, as far as clocks run at the same speed: it is told to end
//!   [`Timing::lease`] minus [`Timing::renew_within`] before another may take over, and dropped when it does not.
//! - A Lease that is given up in order can be taken at once.

use std::future::Future;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::step::{Action, Election};
pub use self::step::{Record, Timing};

pub mod step;

/// Which Lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this process is: different from that of every other candidate.
    pub identity: String,
    /// How fast it goes.
    pub timing: Timing,
}

/// How a term ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Term<T> {
    /// The work ended of itself, or because it was asked to.
    Ended(T),
    /// The Lease could not be renewed in time, or somebody else took it.
    Lost,
    /// The shutdown came before the Lease was taken.
    NeverBegan,
}

/// Waits for the Lease, then runs `work` while renewing it. The token that `work` is given is cancelled with `shutdown`,
/// and when the Lease is lost. `elected` is called when the Lease was taken.
pub async fn lead<T, Fut>(
    client: Client,
    config: &Config,
    shutdown: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> Fut,
) -> Term<T>
where
    Fut: Future<Output = T>,
{
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut candidate = Candidate { api, config, election: Election::new(&config.identity, config.timing) };
    loop {
        let pause = candidate.round().await;
        if candidate.election.leads(Instant::now()) {
            break;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Term::NeverBegan,
            () = tokio::time::sleep(pause) => {}
        }
    }
    tracing::info!(lease = config.name, identity = config.identity, "took the lease");
    let stop = shutdown.child_token();
    let work = work(stop.clone());
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => Some(ended),
        () = candidate.keep() => None,
    };
    match ended {
        Some(ended) => {
            candidate.release().await;
            Term::Ended(ended)
        }
        None => {
            tracing::warn!(lease = config.name, identity = config.identity, "lost the lease");
            stop.cancel();
            let grace = config.timing.lease.saturating_sub(config.timing.renew_within);
            let _ = tokio::time::timeout(grace, work).await;
            Term::Lost
        }
    }
}

struct Candidate<'a> {
    api: Api<Lease>,
    config: &'a Config,
    election: Election,
}

impl Candidate<'_> {
    /// Renews until that fails for too long.
    async fn keep(&mut self) {
        let mut pause = self.config.timing.renew_every;
        loop {
            tokio::time::sleep(pause).await;
            pause = self.round().await;
            if !self.election.leads(Instant::now()) {
                return;
            }
        }
    }

    /// One attempt; returns the pause before the next.
    async fn round(&mut self) -> std::time::Duration {
        // An answer that does not come must not keep a holder from giving up in time.
        match tokio::time::timeout(self.config.timing.retry * 2, self.attempt()).await {
            Ok(Ok(())) => {}
            Err(_) => {
                self.election.not_written();
                tracing::warn!(lease = self.config.name, "a lease could not be read or written in time");
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    lease = self.config.name,
                    error = &error as &dyn std::error::Error,
                    "a lease could not be read or written"
                );
            }
        }
        self.election.pause(Instant::now())
    }

    async fn attempt(&mut self) -> Result<(), kube::Error> {
        // A holder writes over what it wrote last; only when that fails does it look.
        let seen = match self.election.last_written() {
            Some(lease) => lease,
            None => match self.api.get_opt(&self.config.name).await? {
                Some(lease) => lease,
                None => Lease {
                    metadata: ObjectMeta {
                        name: Some(self.config.name.clone()),
                        namespace: Some(self.config.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: None,
                },
            },
        };
        match self.election.observe(&seen, Instant::now(), Timestamp::now()) {
            Action::Wait => Ok(()),
            Action::Write(record) => {
                let began = Instant::now();
                let wanted = Lease { spec: Some(record.into()), ..seen };
                let written = if wanted.metadata.resource_version.is_none() {
                    self.api.create(&PostParams::default(), &wanted).await
                } else {
                    self.api.replace(&self.config.name, &PostParams::default(), &wanted).await
                };
                match written {
                    Ok(lease) => {
                        self.election.written(lease, began);
                        Ok(())
                    }
                    Err(error) => {
                        self.election.not_written();
                        // Another candidate was faster.
                        if crate::controller::is_conflict(&error) { Ok(()) } else { Err(error) }
                    }
                }
            }
        }
    }

    async fn release(&mut self) {
        let Some(mut lease) = self.election.last_written() else { return };
        lease.spec = Some(self.election.released(Timestamp::now()).into());
        let name = &self.config.name;
        if let Err(error) = self.api.replace(name, &PostParams::default(), &lease).await {
            tracing::warn!(
                lease = name,
                error = &error as &dyn std::error::Error,
                "a lease could not be given up; others wait until it runs out"
            );
        }
    }
}
