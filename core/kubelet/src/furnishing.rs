//! Gives a pod that the node takes what it alone is to have: processors, memory and devices, near to each other where that is wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::devices::{DeviceError, Devices};
use crate::exclusive_cpus::{CpuError, ExclusiveCpus};
use crate::memory::Why;
use crate::numa_memory::{MemoryError, NumaMemory};
use crate::pod::{Kind, Member, PodModel};
use crate::topology::{Hint, Mask, Policy, Scope, Topology, Unaligned};

/// What could not be written down is written down after this.
const RETRY: Duration = Duration::from_secs(5);

/// Why a pod cannot have for itself what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfurnished {
    #[error("{0}")]
    Unaligned(#[from] Unaligned),
    #[error("{0}")]
    Cpu(#[from] CpuError),
    #[error("{0}")]
    Memory(#[from] MemoryError),
    #[error("{0}")]
    Device(#[from] DeviceError),
}

impl Unfurnished {
    /// Whether it is only too early.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Device(DeviceError::Awaited(_)))
    }

    /// Reason and message of the pod's status.
    pub(crate) fn why(&self) -> Why {
        match self {
            Self::Unaligned(_) => Why::new("TopologyAffinityError", self.to_string()),
            Self::Cpu(CpuError::Part { .. } | CpuError::TooFewCores { .. }) => {
                Why::new("SMTAlignmentError", self.to_string())
            }
            Self::Cpu(_) | Self::Memory(_) | Self::Device(_) => {
                let message = format!("Allocate failed due to {self}, which is unexpected");
                Why::new("UnexpectedAdmissionError", message)
            }
        }
    }
}

/// What is given to one alone, and where.
#[derive(Debug)]
pub(crate) struct Furnishing {
    pub(crate) cpus: Arc<ExclusiveCpus>,
    pub(crate) memory: NumaMemory,
    pub(crate) devices: Arc<Devices>,
    topology: Topology,
    /// What is said of where something can be had holds until it is given.
    turn: tokio::sync::Mutex<()>,
    /// Something was taken back, which is not written down.
    dirty: Notify,
}

impl Furnishing {
    /// All together.
    pub(crate) fn new(
        cpus: Arc<ExclusiveCpus>,
        memory: NumaMemory,
        devices: Arc<Devices>,
        topology: Topology,
    ) -> Self {
        Furnishing {
            cpus,
            memory,
            devices,
            topology,
            turn: tokio::sync::Mutex::default(),
            dirty: Notify::new(),
        }
    }

    fn hints(&self, pod: &PodModel, member: &Member) -> Vec<Vec<Hint>> {
        let devices = self.devices.hints(pod, member, &self.topology.nodes());
        [self.cpus.hints(pod, member), self.memory.hints(pod, member), devices].concat()
    }

    fn hints_of_pod(&self, pod: &PodModel) -> Vec<Vec<Hint>> {
        let devices = self.devices.hints_of_pod(pod, &self.topology.nodes());
        [self.cpus.hints_of_pod(pod), self.memory.hints_of_pod(pod), devices].concat()
    }

    async fn give(&self, pod: &PodModel, member: &Member, place: Option<Mask>) -> Result<(), Unfurnished> {
        self.cpus.allocate(pod, member, place).await?;
        self.memory.allocate(pod, member, place).await?;
        self.devices.allocate(pod, member, place.map(Mask::set).as_ref()).await?;
        Ok(())
    }

    /// Gives all containers of a pod theirs. Who calls it takes all back if that fails.
    pub(crate) async fn furnish(&self, pod: &PodModel) -> Result<(), Unfurnished> {
        let members = pod.members.iter().filter(|member| member.kind != Kind::Ephemeral);
        if self.topology.policy == Policy::None {
            for member in members {
                self.give(pod, member, None).await?;
            }
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let of_pod = match self.topology.scope {
            Scope::Pod => Some(self.topology.place(&self.hints_of_pod(pod))?),
            Scope::Container => None,
        };
        for member in members {
            let place = match of_pod {
                Some(place) => place,
                None => self.topology.place(&self.hints(pod, member))?,
            };
            self.give(pod, member, place).await?;
        }
        Ok(())
    }

    /// Takes back what a pod has.
    pub(crate) fn release(&self, uid: &str) {
        let is_changed = self.cpus.release(uid) | self.memory.release(uid);
        if is_changed {
            self.dirty.notify_one();
        }
        self.devices.release(uid);
    }

    /// Keeps what those pods have that are still there.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let all = self.cpus.pods().into_iter().chain(self.memory.pods());
        all.filter(|uid| !is_there(uid)).for_each(|uid| self.release(&uid));
        self.devices.retain(&is_there);
    }

    /// Writes down what was taken back, until the shutdown. Until then who had it has it after a restart, which takes it back again.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let work = async {
            loop {
                self.dirty.notified().await;
                let (cpus, memory) = tokio::join!(self.cpus.save(), self.memory.save());
                let errors = [cpus.err().map(Unfurnished::Cpu), memory.err().map(Unfurnished::Memory)];
                for error in errors.into_iter().flatten() {
                    tracing::warn!(%error, "what pods have no more is not written down");
                    tokio::time::sleep(RETRY).await;
                    self.dirty.notify_one();
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }
}
