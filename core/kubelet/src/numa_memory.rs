//! Memory at nodes of the machine for containers of Guaranteed pods, as `memoryManagerPolicy: Static` wants it: what they ask for is set aside
//! at as few nodes as can be, and they get memory from those alone.
//!
//! Who was promised what is in the file `memory_manager_state`, written before it holds. `ledger` (pure) decides.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::configuration::KubeletConfiguration;
use crate::pod::{Kind, Member, PodModel, QosClass};
use crate::state_file::{StateFile, replace};
use crate::topology::{Hint, Mask, NumaMachine};

mod ledger;

use ledger::Ledger;
pub(crate) use ledger::{Amounts, Block, NoMemory};

/// The policy that keeps this.
const STATIC: &str = "Static";

/// Why memory cannot be set aside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged: drain the node, and remove it", path.display())]
    Damaged { path: PathBuf },
    #[error("{} is of another memoryManagerPolicy or of another machine: drain the node, and remove it", path.display())]
    Other { path: PathBuf },
    #[error("make the text of the state")]
    Text(#[source] serde_json::Error),
    /// The settings name what is not there.
    #[error("reservedMemory: the machine has no NUMA node {node} with {reserved} of {kind}")]
    Reserved { node: u32, kind: String, reserved: u64 },
    /// The settings contradict each other.
    #[error(
        "the total amount {total:?} of type {kind:?} is not equal to the value {kept:?} determined by Node Allocatable feature"
    )]
    Sum { total: u64, kind: String, kept: u64 },
    #[error("{0}")]
    None(#[from] NoMemory),
}

/// `memory_manager_state`
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    /// Of the two others.
    checksum: String,
}

/// Who was promised what, and where that is written down.
#[derive(Debug, Clone)]
struct Given {
    ledger: Arc<Mutex<Ledger>>,
    file: StateFile,
}

/// Who was promised which memory; nothing where the policy is `None`.
#[derive(Debug, Default)]
pub(crate) struct NumaMemory(Option<Given>);

/// (pure) What pods may have of each node.
fn allocatable(
    settings: &KubeletConfiguration,
    machine: &NumaMachine,
    kept: &Amounts,
) -> Result<BTreeMap<u32, Amounts>, MemoryError> {
    let mut found: BTreeMap<u32, Amounts> = BTreeMap::new();
    for (number, node) in &machine.0 {
        let amounts = found.entry(*number).or_default();
        amounts.clone_from(&node.huge_pages);
        amounts.insert("memory".to_owned(), node.memory.saturating_sub(node.huge_pages.values().sum()));
    }
    let mut totals = Amounts::new();
    for (node, kind, reserved) in settings.reserved_memory() {
        *totals.entry(kind.clone()).or_default() += reserved;
        let amount = found.get_mut(&node).and_then(|amounts| amounts.get_mut(&kind));
        match amount.filter(|amount| **amount >= reserved) {
            Some(amount) => *amount -= reserved,
            None => return Err(MemoryError::Reserved { node, kind, reserved }),
        }
    }
    let kinds: std::collections::BTreeSet<&String> = totals.keys().chain(kept.keys()).collect();
    for kind in kinds {
        let of = |amounts: &Amounts| amounts.get(kind).copied().unwrap_or(0);
        let (total, kept) = (of(&totals), of(kept));
        if total != kept {
            return Err(MemoryError::Sum { total, kind: kind.clone(), kept });
        }
    }
    Ok(found)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MemoryError {
    let path = path.to_owned();
    move |source| MemoryError::File { action, path, source }
}

fn checksum(policy: &str, entries: &impl Serialize) -> Result<String, MemoryError> {
    let text = serde_json::to_string(&(policy, entries)).map_err(MemoryError::Text)?;
    Ok(hex::encode(digest(&SHA256, text.as_bytes())))
}

/// Takes over what an earlier run has promised.
fn load(path: &Path, ledger: &mut Ledger) -> Result<(), MemoryError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let damaged = || MemoryError::Damaged { path: path.to_owned() };
    let state: State = serde_json::from_slice(&text).map_err(|_| damaged())?;
    if checksum(&state.policy_name, &state.entries)? != state.checksum {
        return Err(damaged());
    }
    ledger.entries = state.entries;
    let is_sound = state.policy_name == STATIC && ledger.is_sound();
    if is_sound { Ok(()) } else { Err(MemoryError::Other { path: path.to_owned() }) }
}

/// Writes down who is promised what now. It blocks.
fn write(path: &Path, ledger: &Mutex<Ledger>) -> Result<(), MemoryError> {
    let entries = ledger.lock().entries.clone();
    let checksum = checksum(STATIC, &entries)?;
    let state = State { policy_name: STATIC.to_owned(), entries, checksum };
    let text = serde_json::to_vec(&state).map_err(MemoryError::Text)?;
    replace(path, &text).map_err(failed("write", path))
}

impl Given {
    async fn save(&self) -> Result<(), MemoryError> {
        let ledger = Arc::clone(&self.ledger);
        let written = self.file.work(move |path| write(path, &ledger)).await;
        written.map_err(failed("write", self.file.path()))?
    }
}

impl NumaMemory {
    /// Reads the state of an earlier run. `folder` is the kubelet's, `kept` what of the machine's memory is not for pods.
    pub(crate) fn open(
        folder: &Path,
        settings: &KubeletConfiguration,
        machine: &NumaMachine,
        kept: &Amounts,
    ) -> Result<Self, MemoryError> {
        let path = folder.join("memory_manager_state");
        if settings.memory_manager_policy != STATIC {
            return if path.exists() { Err(MemoryError::Other { path }) } else { Ok(Self::default()) };
        }
        let allocatable = allocatable(settings, machine, kept)?;
        let mut ledger = Ledger { allocatable, ..Ledger::default() };
        load(&path, &mut ledger)?;
        let ledger = Arc::new(Mutex::new(ledger));
        write(&path, &ledger)?;
        Ok(NumaMemory(Some(Given { ledger, file: StateFile::new(path) })))
    }

    /// What is kept, if a pod is one that memory is set aside for. For who is limited as a whole none is, as upstream.
    fn of(&self, pod: &PodModel) -> Option<&Given> {
        let is_whole = pod.resources().is_some();
        self.0.as_ref().filter(|_| !is_whole && pod.qos_class() == QosClass::Guaranteed)
    }

    /// Where a container's memory can be had.
    pub(crate) fn hints(&self, pod: &PodModel, member: &Member) -> Vec<Vec<Hint>> {
        self.of(pod).map(|given| given.ledger.lock().hints(pod, member)).unwrap_or_default()
    }

    /// Where that of a whole pod can be had.
    pub(crate) fn hints_of_pod(&self, pod: &PodModel) -> Vec<Vec<Hint>> {
        self.of(pod).map(|given| given.ledger.lock().hints_of_pod(pod)).unwrap_or_default()
    }

    /// Promises a container of a pod that is taken its memory, at `place` where that is said. Who calls it gives the pod's back
    /// if that fails.
    pub(crate) async fn allocate(
        &self,
        pod: &PodModel,
        member: &Member,
        place: Option<Mask>,
    ) -> Result<(), MemoryError> {
        let Some(given) = self.of(pod).filter(|_| member.kind != Kind::Ephemeral) else { return Ok(()) };
        if given.ledger.lock().allocate(pod, member, place)? {
            given.save().await?;
        }
        Ok(())
    }

    /// Takes back what a pod was promised; whether it was any, which is to be written down.
    pub(crate) fn release(&self, uid: &str) -> bool {
        self.0.as_ref().is_some_and(|given| given.ledger.lock().entries.remove(uid).is_some())
    }

    /// The pods that were promised some.
    pub(crate) fn pods(&self) -> Vec<String> {
        let pods = |given: &Given| given.ledger.lock().entries.keys().cloned().collect();
        self.0.as_ref().map(pods).unwrap_or_default()
    }

    /// Writes down who is promised what now.
    pub(crate) async fn save(&self) -> Result<(), MemoryError> {
        match &self.0 {
            Some(given) => given.save().await,
            None => Ok(()),
        }
    }

    /// What a container was promised.
    pub(crate) fn blocks(&self, uid: &str, container: &str) -> Vec<Block> {
        let blocks = |given: &Given| given.ledger.lock().entries.get(uid)?.get(container).cloned();
        self.0.as_ref().and_then(blocks).unwrap_or_default()
    }

    /// What pods may have of each node.
    pub(crate) fn allocatable(&self) -> BTreeMap<u32, Amounts> {
        self.0.as_ref().map(|given| given.ledger.lock().allocatable.clone()).unwrap_or_default()
    }

    /// The nodes that a container gets memory from, as control groups have them; empty for all.
    pub(crate) fn nodes(&self, uid: &str, container: &str) -> String {
        let blocks = self.blocks(uid, container);
        crate::exclusive_cpus::text(&blocks.into_iter().flat_map(|block| block.nodes).collect())
    }
}

/// What of the machine's memory is not for pods.
pub(crate) fn kept(config: &crate::config::Config) -> Result<Amounts, crate::node::machine::MachineError> {
    let memory = crate::node::allocatable::kept_memory(config)?;
    Ok(Amounts::from([("memory".to_owned(), memory)]))
}

#[cfg(test)]
mod tests;
