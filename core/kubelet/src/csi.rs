//! Storage drivers on this node, spoken with over the Container Storage Interface.
//!
//! - `registration`: drivers make themselves known as plugins of the type `CSIPlugin`
//! - `driver`: one of them, and what it is asked
//! - `node_object`: CSINode, and what drivers say of the node
//! - `record` (disk): what was staged and published, so that it is taken back also after a restart
//! - `in_use`: the volumes that must not be detached, as the Node's status says
//! - `attachment`: waits until a volume is attached to this node
//! - `bearer`: the pod that has a volume, and its tokens; `republish`: calls drivers again that ask for it
//! - `expansion`: has file systems grow with their volumes
//! - `mount`: stages and publishes volumes for pods, and takes that back
//!
//! Drivers from elsewhere mount `/var/lib/kubelet`, where the kubelet they know has its folder. Here that is `DATA`, wherever it lies: a
//! hostPath at or below `/var/lib/kubelet` leads there, and a driver whose endpoint begins with `/var/lib/kubelet` is told paths that do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::event::Recorder;
use crate::volume::token::Tokens;

mod attachment;
mod bearer;
mod driver;
mod expansion;
mod in_use;
mod mount;
mod node_object;
mod record;
mod registration;
mod republish;

pub(crate) use driver::CsiError;
pub(crate) use in_use::{Report, left_in_use};
pub(crate) use mount::{Lifecycle, Ownership, Wanted, inline_handle};

use driver::Driver;

/// How soon the Node is told again of drivers.
const RETRY: Duration = Duration::from_secs(5);

/// Who holds it works on a volume.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers of this node.
pub(crate) struct Drivers {
    config: Arc<Config>,
    client: kube::Client,
    known: Mutex<HashMap<String, Arc<Driver>>>,
    /// A volume is staged, published and taken back by one at a time.
    turns: Mutex<HashMap<(String, String), Turn>>,
    in_use: in_use::InUse,
    published: republish::PublishedVolumes,
    /// Tokens that drivers are given.
    tokens: Tokens,
    /// Capacities of PersistentVolumes to which file systems have grown.
    grown: Mutex<HashMap<String, Quantity>>,
    refusals: Mutex<expansion::Refusals>,
    recorder: Recorder,
}

impl Drivers {
    /// None yet. Must be called within a tokio runtime, for the events.
    pub(crate) fn new(config: Arc<Config>, client: kube::Client) -> Self {
        let in_use = in_use::InUse::new(client.clone(), &config);
        let tokens = Tokens::new(client.clone());
        let recorder = Recorder::new(client.clone(), &config.node_name);
        let (known, turns, grown) = (Mutex::default(), Mutex::default(), Mutex::default());
        let refusals = Mutex::default();
        let published = republish::PublishedVolumes::default();
        Drivers { config, client, known, turns, in_use, published, tokens, grown, refusals, recorder }
    }

    /// Keeps what the Node's status says of volumes in use, calls drivers again that ask for it, and tells the Node of drivers again
    /// when it was made anew, until `shutdown`. `node` is the Node's UID.
    pub(crate) async fn keep(&self, node: watch::Receiver<String>, shutdown: CancellationToken) {
        let all = async { tokio::join!(self.in_use.keep(), self.keep_republished(), self.keep_told(node)) };
        shutdown.run_until_cancelled(all).await;
    }

    /// The volumes that are in use, to be written into the Node while nobody else does.
    pub(crate) async fn in_use(&self) -> Result<Report<'_>, CsiError> {
        self.in_use.report_with().await
    }

    /// Tells the Node and its CSINode of all drivers when the Node is another object than it was.
    async fn keep_told(&self, mut node: watch::Receiver<String>) {
        let mut known = String::new();
        while node.changed().await.is_ok() {
            let now = node.borrow_and_update().clone();
            let before = std::mem::replace(&mut known, now);
            // Drivers that make themselves known tell the first one themselves.
            while !before.is_empty() {
                match self.tell_all().await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "the node does not know its drivers yet"),
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn tell_all(&self) -> Result<(), CsiError> {
        let all: Vec<Arc<Driver>> = self.known.lock().values().cloned().collect();
        for driver in all {
            node_object::write(&self.client, &self.config.node_name, &driver.name, Some(&driver)).await?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<Driver>, CsiError> {
        let found = self.known.lock().get(name).cloned();
        found.ok_or_else(|| CsiError::Unknown { driver: name.to_owned() })
    }

    fn turn(&self, driver: &str, handle: &str) -> Turn {
        let mut turns = self.turns.lock();
        // Those that nobody holds are forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry((driver.to_owned(), handle.to_owned())).or_default())
    }
}
