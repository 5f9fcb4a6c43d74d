//! What the node, its pods and their containers use of processor, memory and network.
//!
//! - `group`: control groups of either version; `interface`: network interfaces; `claim`: file systems of claimed volumes
//!
//! Nothing is looked at unless somebody asks, and what was just looked at is not looked at again. A rate is what lies between two
//! looks: who wants one when nobody has asked lately waits for a second look.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_cgroup::Names;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::Config;
use crate::node::machine;
use crate::pod::PodModel;
use crate::pods::Pods;
use crate::runtime_view::{ContainerState, Observed};

pub(crate) mod claim;
pub(crate) mod group;
pub(crate) mod interface;

use group::{Detail, Group, Hierarchy};
use interface::Interface;

const MOUNT: &str = "/sys/fs/cgroup";
/// So long a look serves all who ask.
const FRESH: Duration = Duration::from_secs(1);
/// What lies further back says nothing of now.
const STALE: Duration = Duration::from_secs(120);

/// Nanoseconds of processor time in each second.
type Rate = Option<u64>;

/// A container that runs.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) id: String,
    /// As the pod names it.
    pub(crate) image: String,
    pub(crate) started_at: Timestamp,
    /// Its control group's path.
    pub(crate) path: String,
    pub(crate) group: Group,
    pub(crate) rate: Rate,
}

/// A pod that has a control group.
#[derive(Debug, Clone)]
pub(crate) struct PodFigures {
    pub(crate) model: Arc<PodModel>,
    pub(crate) path: String,
    pub(crate) group: Group,
    pub(crate) rate: Rate,
    /// `None` on the host's network, and where no process is left.
    pub(crate) interfaces: Option<Vec<Interface>>,
    pub(crate) containers: Vec<Container>,
}

/// The machine.
#[derive(Debug, Clone)]
pub(crate) struct NodeFigures {
    /// Nanoseconds.
    pub(crate) cpu: u64,
    pub(crate) rate: Rate,
    pub(crate) memory: machine::Memory,
    /// Those of the machine's root group, where it has one.
    pub(crate) group: Option<Group>,
    pub(crate) interfaces: Vec<Interface>,
}

/// One look.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) at: Timestamp,
    pub(crate) node: NodeFigures,
    pub(crate) pods: Vec<PodFigures>,
    /// Of each group that was not there or could not be read, what was said.
    pub(crate) errors: Vec<String>,
}

#[derive(Debug)]
struct Look {
    snapshot: Arc<Snapshot>,
    detail: Detail,
    at: Instant,
}

/// What a group had used, and what it used in each second before that.
#[derive(Debug, Clone, Copy)]
struct Mark {
    cpu: u64,
    at: Instant,
    rate: Rate,
}

/// By the group's path; the machine's has none.
#[derive(Debug, Default)]
struct Marks(HashMap<String, Mark>);

impl Marks {
    /// The rate up to now; `None` if nothing is known of before.
    fn rate(&mut self, path: &str, cpu: u64, now: Instant) -> Rate {
        let before = self.0.get(path).filter(|mark| now.duration_since(mark.at) < STALE && mark.cpu <= cpu);
        let rate = before.and_then(|before| {
            let passed = now.duration_since(before.at).as_nanos();
            // Two looks that lie too close say nothing new.
            if passed < FRESH.as_nanos() / 2 {
                return before.rate;
            }
            u64::try_from(u128::from(cpu - before.cpu) * 1_000_000_000 / passed).ok()
        });
        self.0.insert(path.to_owned(), Mark { cpu, at: now, rate });
        rate
    }

    /// Forgets groups that are not looked at any more.
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, mark| now.duration_since(mark.at) < STALE);
    }
}

#[derive(Debug, Default)]
struct State {
    last: Option<Look>,
    marks: Marks,
}

/// Looks when somebody asks.
#[derive(Debug)]
pub(crate) struct Meter {
    config: Arc<Config>,
    pods: Arc<Pods>,
    hierarchy: Hierarchy,
    state: Mutex<State>,
    /// Looks at claimed volumes.
    pub(crate) claims: claim::Looks,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// The machine does not say what it uses.
    #[error("look at the machine")]
    Machine(#[from] machine::MachineError),
    /// The look broke off.
    #[error("look at what pods use")]
    Broken(#[from] tokio::task::JoinError),
}

impl Meter {
    pub(crate) fn new(config: Arc<Config>, pods: Arc<Pods>) -> Self {
        let (hierarchy, claims) = (Hierarchy::at(Path::new(MOUNT)), claim::Looks::default());
        Meter { config, pods, hierarchy, state: Mutex::default(), claims }
    }

    /// What is used now.
    pub(crate) async fn look(&self, detail: Detail) -> Result<Arc<Snapshot>, UsageError> {
        let mut state = self.state.lock().await;
        if let Some(last) = &state.last
            && last.at.elapsed() < FRESH
            && last.detail >= detail
        {
            return Ok(Arc::clone(&last.snapshot));
        }
        let (groups, hierarchy) = (self.config.cgroups(), self.hierarchy.clone());
        let pods = self.pods.observed();
        let work = move || snapshot(&hierarchy, &groups, pods, detail);
        let mut found = tokio::task::spawn_blocking(work).await??;
        let now = Instant::now();
        let marks = &mut state.marks;
        found.node.rate = marks.rate("", found.node.cpu, now);
        for pod in &mut found.pods {
            pod.rate = marks.rate(&pod.path, pod.group.cpu.total, now);
            for container in &mut pod.containers {
                container.rate = marks.rate(&container.path, container.group.cpu.total, now);
            }
        }
        marks.forget(now);
        let snapshot = Arc::new(found);
        state.last = Some(Look { snapshot: Arc::clone(&snapshot), detail, at: now });
        Ok(snapshot)
    }

    /// The same with rates: where nobody has asked lately, after a second look.
    pub(crate) async fn look_twice(&self, detail: Detail) -> Result<Arc<Snapshot>, UsageError> {
        let first = self.look(detail).await?;
        if first.node.rate.is_some() {
            return Ok(first);
        }
        tokio::time::sleep(FRESH).await;
        self.look(detail).await
    }
}

/// Blocks.
fn snapshot(
    hierarchy: &Hierarchy,
    groups: &Names,
    pods: Vec<(Arc<k8s_openapi::api::core::v1::Pod>, Arc<Observed>)>,
    detail: Detail,
) -> Result<Snapshot, machine::MachineError> {
    let node = NodeFigures {
        cpu: machine::cpu_nanoseconds()?,
        rate: None,
        memory: machine::memory()?,
        group: hierarchy.read("/", detail).ok(),
        interfaces: interface::of_process("self").unwrap_or_default(),
    };
    let (mut figures, mut errors) = (Vec::new(), Vec::new());
    for (pod, observed) in pods {
        let Ok(model) = PodModel::new(pod) else { continue };
        if observed.ready_sandbox().is_none() {
            continue;
        }
        match of_pod(hierarchy, groups, model, &observed, detail) {
            Ok(found) => figures.push(found),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let key = |pod: &PodFigures| (pod.model.namespace.clone(), pod.model.name.clone());
    figures.sort_by_key(key);
    Ok(Snapshot { at: Timestamp::now(), node, pods: figures, errors })
}

fn of_pod(
    hierarchy: &Hierarchy,
    groups: &Names,
    model: PodModel,
    observed: &Observed,
    detail: Detail,
) -> io::Result<PodFigures> {
    let path = groups.path(&model.cgroup(&groups.root));
    let group = hierarchy.read(&path, detail)?;
    let mut containers = Vec::new();
    for member in &model.members {
        let Some(instance) = observed.newest(member.name()) else { continue };
        let ContainerState::Running { started_at } = instance.state else { continue };
        let path = hierarchy.container(&path, &instance.id);
        // It may have ended since.
        let Ok(group) = hierarchy.read(&path, detail) else { continue };
        containers.push(Container {
            name: member.name().to_owned(),
            id: instance.id.clone(),
            image: instance.image.clone(),
            started_at,
            path,
            group,
            rate: None,
        });
    }
    let of_network = || interface::of_process(&hierarchy.process(&path)?.to_string());
    let interfaces = if model.host_network() || detail == Detail::Brief { None } else { of_network() };
    Ok(PodFigures { model: Arc::new(model), path, group, rate: None, interfaces, containers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_what_lies_between_two_looks() {
        let (mut marks, start) = (Marks::default(), Instant::now());
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(marks.rate("/a", 1_000_000_000, start), None);
        assert_eq!(marks.rate("/a", 2_000_000_000, after(2.0)), Some(500_000_000));
        // Too close to say anything new.
        assert_eq!(marks.rate("/a", 2_000_000_001, after(2.1)), Some(500_000_000));
        // Another group in its place, and a look long after.
        assert_eq!(marks.rate("/a", 5, after(4.0)), None);
        assert_eq!(marks.rate("/a", 6, after(200.0)), None);
        marks.forget(after(400.0));
        assert!(marks.0.is_empty());
    }
}
