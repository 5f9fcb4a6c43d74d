//! Devices of ResourceClaims on this node, which drivers prepare over the protocol of Dynamic Resource Allocation.
//!
//! - `driver`: one of them, and what it is asked; drivers make themselves known as plugins of the type `DRAPlugin`
//! - `state` (disk): which claims are prepared for which pods, so that it is taken back also after a restart
//! - `claims`: prepares claims for pods, and takes that back
//! - `slices`: what drivers that are gone offered is taken from the API
//!
//! **Invariant: what is recorded on disk may be prepared, and nothing is that is not recorded**; a claim is given back when no pod's
//! record names it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Config;

mod claims;
mod driver;
mod slices;
mod state;

pub(crate) use state::StateError;

use driver::Driver;
use state::{ClaimName, State};

/// Why a pod cannot have its devices, or they cannot be taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraError {
    /// The claim cannot be read.
    #[error("failed to fetch ResourceClaim {claim} referenced by pod {pod}: {reason}")]
    Fetch {
        /// The claim's name.
        claim: String,
        /// The pod's name.
        pod: String,
        /// Why.
        reason: String,
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

/// The sockets by which drivers of one name made themselves known.
type Instances = Vec<(PathBuf, Arc<Driver>)>;

/// Who holds it works on a claim.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers of this node, and what they have prepared.
pub(crate) struct Dra {
    config: Arc<Config>,
    client: kube::Client,
    /// By name, those of the same name in the order in which they came: the last one is asked.
    drivers: Mutex<HashMap<String, Instances>>,
    /// Since when drivers are gone.
    gone: Mutex<HashMap<String, Instant>>,
    state: Mutex<State>,
    /// A claim is prepared and taken back by one at a time.
    turns: Mutex<HashMap<ClaimName, Turn>>,
    /// Pods of an earlier run that are no more.
    forgotten: Mutex<Vec<String>>,
    changed: Notify,
}

impl Dra {
    /// With what an earlier run has recorded.
    pub(crate) fn open(config: Arc<Config>, client: kube::Client) -> Result<Self, StateError> {
        let state = State::open(&config.data_dir)?;
        Ok(Dra {
            config,
            client,
            drivers: Mutex::default(),
            gone: Mutex::default(),
            state: Mutex::new(state),
            turns: Mutex::default(),
            forgotten: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, DraError> {
        let drivers = self.drivers.lock();
        let found = drivers.get(name).and_then(|all| all.last()).map(|(_, driver)| Arc::clone(driver));
        found.ok_or_else(|| DraError::Unknown(name.to_owned()))
    }

    fn turn(&self, claim: &ClaimName) -> Turn {
        let mut turns = self.turns.lock();
        // Those that nobody holds are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(claim.clone()).or_default())
    }

    fn add(&self, name: &str, socket: &Path, driver: Driver) {
        let mut drivers = self.drivers.lock();
        let all = drivers.entry(name.to_owned()).or_default();
        all.retain(|(known, _)| known != socket);
        all.push((socket.to_owned(), Arc::new(driver)));
        self.gone.lock().remove(name);
    }

    fn remove(&self, name: &str, socket: &Path) {
        let mut drivers = self.drivers.lock();
        let Some(all) = drivers.get_mut(name) else { return };
        all.retain(|(known, _)| known != socket);
        if all.is_empty() {
            drivers.remove(name);
            self.gone.lock().insert(name.to_owned(), Instant::now());
            self.changed.notify_one();
        }
    }
}
