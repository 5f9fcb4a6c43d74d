//! Devices of ResourceClaims on this node, which drivers prepare over the protocol of Dynamic Resource Allocation.
//!
//! - `driver`: one of them, and what it is asked; drivers make themselves known as plugins of the type `DRAPlugin`
//! - `drivers` (pure): all of them, and which are there; `connection`: seeing that one dies
//! - `state` (disk): which claims are prepared for which pods, so that it is taken back also after a restart
//! - `health`: how devices fare, as drivers tell it
//! - `claims`: prepares claims for pods, and takes that back
//! - `slices`: what drivers that are gone offered is taken from the API
//!
//! **Invariant: what is recorded on disk may be prepared, and nothing is that is not recorded**; a claim is given back when no pod's
//! record names it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::Config;

mod claims;
mod connection;
mod driver;
mod drivers;
mod health;
mod slices;
mod state;

pub(crate) use state::{Claim, Device, StateError};

use driver::Driver;
use drivers::Drivers;
use health::Health;
use state::{ClaimName, State};

/// Why a pod cannot have its devices, or they cannot be taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraError {
    /// The claim cannot be read.
    #[error("fetch ResourceClaim {claim}: {}", crate::objects::answer(source))]
    Fetch {
        /// The claim's name.
        claim: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The pod may not have the claim, or not yet.
    #[error("{0}")]
    Refused(String),
    /// There is no such driver on the node.
    #[error("DRA driver {0} is not registered")]
    Unknown(String),
    /// The driver did not do it.
    #[error("{call}: rpc error: code = {code:?} desc = {message}")]
    Call {
        /// What was asked.
        call: &'static str,
        /// Its answer.
        code: tonic::Code,
        /// In its words.
        message: String,
    },
    /// The driver could not do it for the claim.
    #[error("{call} failed for ResourceClaim {claim}: {message}")]
    Claim {
        /// What was asked.
        call: &'static str,
        /// The claim's name.
        claim: String,
        /// In its words.
        message: String,
    },
    /// The driver said nothing of the claim.
    #[error("{0} skipped 1 ResourceClaims")]
    Skipped(&'static str),
    /// It cannot be recorded.
    #[error("checkpoint ResourceClaim state: {0}")]
    State(#[from] StateError),
}

/// Who holds it works on a claim.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers of this node, and what they have prepared.
pub(crate) struct Dra {
    config: Arc<Config>,
    client: kube::Client,
    drivers: Arc<Mutex<Drivers>>,
    state: State,
    /// How devices fare.
    health: Arc<Mutex<Health>>,
    /// Counts what was told of that.
    news: Arc<watch::Sender<u64>>,
    /// A claim is prepared and taken back by one at a time.
    turns: Mutex<HashMap<ClaimName, Turn>>,
    /// Pods of an earlier run that are no more.
    forgotten: Mutex<Vec<String>>,
    changed: Arc<Notify>,
}

impl Dra {
    /// With what an earlier run has recorded.
    pub(crate) fn open(config: Arc<Config>, client: kube::Client) -> Result<Self, StateError> {
        let state = State::open(&config.data_dir)?;
        Ok(Dra {
            config,
            client,
            drivers: Arc::new(Mutex::new(Drivers::new(Instant::now()))),
            state,
            health: Arc::default(),
            news: Arc::new(watch::channel(0).0),
            turns: Mutex::default(),
            forgotten: Mutex::default(),
            changed: Arc::default(),
        })
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, DraError> {
        let found = self.drivers.lock().find(name);
        found.ok_or_else(|| DraError::Unknown(name.to_owned()))
    }

    fn turn(&self, claim: &ClaimName) -> Turn {
        let mut turns = self.turns.lock();
        // Those that nobody holds are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(claim.clone()).or_default())
    }
}
