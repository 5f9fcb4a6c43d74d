//! Processors for one container alone: those of Guaranteed pods that ask for whole ones. All others share the rest.
//!
//! Who has which is in the file `cpu_manager_state`, written before it holds. What is kept for the machine is shared, and never given
//! to one alone. Containers that share are moved away from what is given to another as soon as that is known.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_cri::v1;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::configuration::KubeletConfiguration;
use crate::pod::{Kind, Member, PodModel, QosClass};
use crate::pods::Pods;
use crate::resources;
use crate::runtime_client::RuntimeClient;
use crate::state_file::{StateFile, replace};
use crate::topology::{Hint, Mask, NumaMachine, Supply, hints, masks};

mod set;

use set::{Caches, Order, Topology, spread, take, take_in};
pub(crate) use set::{Cpus, parse, text};

/// Between two looks at whether everyone is where it belongs.
const INTERVAL: Duration = Duration::from_secs(10);

/// Why processors cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpuError {
    /// A file of the machine or of the state.
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The state cannot be read.
    #[error("{} is damaged: drain the node, and remove it", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    /// The node was run otherwise.
    #[error("{} is of another cpuManagerPolicy or of other processors: drain the node, and remove it", path.display())]
    Other { path: PathBuf },
    /// The machine has no such processors.
    #[error("reservedSystemCPUs {reserved} are not among the machine's {online}")]
    Reserved { reserved: String, online: String },
    /// Memory nodes of several sockets cannot be kept together by socket.
    #[error(
        "Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
    )]
    MoreSockets,
    /// Whole cores are given, and that would be a part of one.
    #[error("SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {per_core}")]
    Part { requested: usize, per_core: usize },
    /// Too few whole cores are left.
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {requested}, CPUs per core = {per_core}"
    )]
    TooFewCores { requested: usize, available: usize, per_core: usize },
    /// Too few are left.
    #[error("not enough cpus available to satisfy request: requested={requested}, available={available}")]
    TooFew { requested: usize, available: usize },
}

/// `cpu_manager_state`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    default_cpu_set: String,
    /// By the pod's UID and the container's name.
    #[serde(default)]
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Given {
    online: Cpus,
    reserved: Cpus,
    topology: Topology,
    caches: Caches,
    /// The memory node of each.
    nodes: BTreeMap<u32, u32>,
    options: Options,
    entries: BTreeMap<String, BTreeMap<String, Cpus>>,
}

/// `cpuManagerPolicyOptions`, those that are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Options {
    /// `full-pcpus-only`: whole cores alone are given.
    whole_cores: bool,
    /// `distribute-cpus-across-numa`: who needs several memory nodes has as many of each.
    even: bool,
    /// `distribute-cpus-across-cores`: one thread of each core before another of any.
    spread: bool,
    /// `align-by-socket`: what is at one socket is near, also at several memory nodes of it.
    by_socket: bool,
    /// `prefer-align-cpus-by-uncorecache`: as few last-level caches as can be.
    by_cache: bool,
    /// `strict-cpu-reservation`: who shares does not run on what is kept for the machine.
    strict: bool,
}

/// Who has which processors, and where that is written down.
#[derive(Debug, Clone)]
struct Kept {
    given: Arc<Mutex<Given>>,
    file: StateFile,
}

impl Kept {
    /// Writes down who has which now. It blocks.
    fn write(path: &Path, given: &Mutex<Given>) -> Result<(), CpuError> {
        let state = given.lock().state();
        let text = serde_json::to_vec(&state).map_err(io::Error::from).map_err(file("write", path))?;
        replace(path, &text).map_err(file("write", path))
    }

    async fn save(&self) -> Result<(), CpuError> {
        let given = Arc::clone(&self.given);
        let written = self.file.work(move |path| Self::write(path, &given)).await;
        written.map_err(file("write", self.file.path()))?
    }
}

/// Who has which processors; nothing where the policy is `none`.
#[derive(Debug, Default)]
pub(crate) struct ExclusiveCpus {
    kept: Option<Kept>,
    changed: Notify,
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CpuError {
    let path = path.to_owned();
    move |source| CpuError::File { action, path, source }
}

/// Whole processors that a container has for itself.
fn whole(member: &Member) -> Option<usize> {
    let requests = member.container.resources.as_ref()?.requests.as_ref();
    let limits = member.container.resources.as_ref()?.limits.as_ref();
    let milli = requests.and_then(|all| all.get("cpu")).or(limits?.get("cpu")).and_then(resources::amount)?;
    (milli > 0 && milli % 1000 == 0).then(|| usize::try_from(milli / 1000).ok()).flatten()
}

/// The same, if its pod is such that it has them.
fn exclusive(pod: &PodModel, member: &Member) -> Option<usize> {
    // Who is limited as a whole shares, as upstream.
    let is_whole = pod.resources().is_some();
    let may = member.kind != Kind::Ephemeral && !is_whole && pod.qos_class() == QosClass::Guaranteed;
    may.then(|| whole(member)).flatten()
}

/// How many the containers of a pod have at once: those that go on together, or an init container beside the sidecars before it.
fn exclusive_of_pod(pod: &PodModel) -> usize {
    let (mut lasting, mut most) = (0, 0);
    for member in &pod.members {
        let own = exclusive(pod, member).unwrap_or(0);
        match member.kind {
            Kind::Init => most = most.max(lasting + own),
            Kind::Sidecar | Kind::Regular => lasting += own,
            Kind::Ephemeral => {}
        }
    }
    most.max(lasting)
}

fn topology(online: &Cpus) -> Topology {
    let number = |cpu: u32, name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()
    };
    let of = |cpu: &u32| {
        (*cpu, (number(*cpu, "physical_package_id").unwrap_or(0), number(*cpu, "core_id").unwrap_or(*cpu)))
    };
    online.iter().map(of).collect()
}

/// The last-level cache of each processor, or its socket where the kernel does not tell it.
fn caches(topology: &Topology) -> Caches {
    let cache = |cpu: u32| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cache/index3/id");
        fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()
    };
    topology.iter().map(|(cpu, (socket, _))| (*cpu, (*socket, cache(*cpu).unwrap_or(0)))).collect()
}

impl Given {
    /// The memory nodes of the sockets of some.
    fn sockets_of(&self, nodes: Mask) -> Cpus {
        let at = |cpu: &u32| nodes.meets(Mask::of(self.nodes.get(cpu).copied()));
        self.topology.iter().filter(|(cpu, _)| at(cpu)).map(|(_, (socket, _))| *socket).collect()
    }

    /// Whether nodes are at no more sockets than so many nodes need.
    fn is_at_few_sockets(&self, nodes: Mask, least: usize) -> bool {
        let all = Mask::of(self.nodes.values().copied());
        let per_socket = all.set().len() / self.sockets_of(all).len().max(1);
        per_socket > 0 && self.sockets_of(nodes).len() == least.div_ceil(per_socket)
    }

    fn shared(&self) -> Cpus {
        let taken: Cpus = self.entries.values().flat_map(BTreeMap::values).flatten().copied().collect();
        let kept = |cpu: &u32| self.options.strict && self.reserved.contains(cpu);
        self.online.difference(&taken).copied().filter(|cpu| !kept(cpu)).collect()
    }

    /// Those that can be given to one alone. Where whole cores are given, cores that are free as a whole.
    fn free(&self) -> Cpus {
        let free: Cpus = self.shared().difference(&self.reserved).copied().collect();
        if !self.options.whole_cores {
            return free;
        }
        let core = |cpu: &u32| self.topology.get(cpu).copied();
        let is_whole = |cpu: &u32| {
            let mut siblings = self.topology.iter().filter(|(_, of)| Some(**of) == core(cpu));
            siblings.all(|(sibling, _)| free.contains(sibling))
        };
        free.iter().copied().filter(is_whole).collect()
    }

    /// What init containers of a pod before a container had, and nobody has since: they have ended when it starts.
    fn reusable(&self, pod: &PodModel, container: &str) -> Cpus {
        let mut left = Cpus::new();
        for member in pod.members.iter().take_while(|member| member.name() != container) {
            let own = self.entries.get(&pod.uid).and_then(|of_pod| of_pod.get(member.name()));
            let own = own.cloned().unwrap_or_default();
            match member.kind {
                Kind::Init => left.extend(own),
                // A sidecar runs on beside all that come after it.
                Kind::Sidecar | Kind::Regular | Kind::Ephemeral => left.retain(|cpu| !own.contains(cpu)),
            }
        }
        left
    }

    fn at(&self, cpus: &Cpus) -> Vec<Mask> {
        cpus.iter().map(|cpu| Mask::of(self.nodes.get(cpu).copied())).collect()
    }

    /// Where so many of these can be had; nothing is said where none are asked for.
    fn places(&self, count: usize, free: &Cpus, reused: &Cpus) -> Vec<Vec<Hint>> {
        let numbers: Vec<u32> = self.nodes.values().copied().collect::<Cpus>().into_iter().collect();
        let supply = Supply { all: self.at(&self.online), free: self.at(free), reused: self.at(reused) };
        if count == 0 {
            return Vec::new();
        }
        let mut found = hints(&numbers, &supply, count);
        if self.options.by_socket {
            let has = |nodes: &Mask| supply.all.iter().filter(|one| one.meets(*nodes)).count() >= count;
            let least =
                masks(&numbers).into_iter().find(has).map_or(numbers.len(), |nodes| nodes.set().len());
            for hint in &mut found {
                hint.preferred |= hint.nodes.is_some_and(|nodes| self.is_at_few_sockets(nodes, least));
            }
        }
        vec![found]
    }

    fn hints(&self, pod: &PodModel, member: &Member) -> Vec<Vec<Hint>> {
        let count = exclusive(pod, member).unwrap_or(0);
        match self.entries.get(&pod.uid).and_then(|pod| pod.get(member.name())) {
            Some(own) => self.places(count, own, &Cpus::new()),
            None => self.places(count, &self.free(), &self.reusable(pod, member.name())),
        }
    }

    fn hints_of_pod(&self, pod: &PodModel) -> Vec<Vec<Hint>> {
        if self.entries.contains_key(&pod.uid) {
            return pod.members.iter().flat_map(|member| self.hints(pod, member)).collect();
        }
        self.places(exclusive_of_pod(pod), &self.free(), &Cpus::new())
    }

    /// So many: those that can be had again, then of those that are free, at `place` as far as there are enough.
    fn choose(&self, count: usize, reusable: &Cpus, place: Option<Mask>) -> Result<Cpus, CpuError> {
        let free = self.free();
        let available = free.len() + reusable.len();
        let cores: std::collections::BTreeSet<_> = self.topology.values().collect();
        let per_core = (self.topology.len() / cores.len().max(1)).max(1);
        let take = |free: &Cpus, count: usize| match self.options {
            Options { even: true, whole_cores, .. } => {
                let group = if whole_cores { per_core } else { 1 };
                spread(free, count, &self.topology, &self.nodes, group)
            }
            Options { spread: true, .. } => take_in(free, count, &self.topology, Order::Spread),
            Options { by_cache: true, .. } => {
                take_in(free, count, &self.topology, Order::Cached(&self.caches))
            }
            Options { .. } => take(free, count, &self.topology),
        };
        if self.options.whole_cores {
            if !count.is_multiple_of(per_core) {
                return Err(CpuError::Part { requested: count, per_core });
            }
            if count > available {
                return Err(CpuError::TooFewCores { requested: count, available, per_core });
            }
        }
        let sockets = place.filter(|_| self.options.by_socket).map(|place| self.sockets_of(place));
        let is_near = |cpu: &u32| match &sockets {
            Some(sockets) => self.topology.get(cpu).is_some_and(|(socket, _)| sockets.contains(socket)),
            None => place.is_some_and(|place| place.meets(Mask::of(self.nodes.get(cpu).copied()))),
        };
        let near: Cpus = free.iter().copied().filter(is_near).collect();
        let mut chosen = take(reusable, count.min(reusable.len())).unwrap_or_default();
        chosen.extend(take(&near, (count - chosen.len()).min(near.len())).unwrap_or_default());
        let rest: Cpus = free.difference(&chosen).copied().collect();
        let too_few = || CpuError::TooFew { requested: count, available };
        chosen.extend(take(&rest, count - chosen.len()).ok_or_else(too_few)?);
        Ok(chosen)
    }

    fn state(&self) -> State {
        let of_pod = |pod: &BTreeMap<String, Cpus>| -> BTreeMap<String, String> {
            pod.iter().map(|(name, cpus)| (name.clone(), text(cpus))).collect()
        };
        State {
            policy_name: "static".to_owned(),
            default_cpu_set: text(&self.shared()),
            entries: self.entries.iter().map(|(uid, pod)| (uid.clone(), of_pod(pod))).collect(),
        }
    }

    /// Gives a container that has some for itself its own.
    fn allocate(&mut self, pod: &PodModel, member: &Member, place: Option<Mask>) -> Result<bool, CpuError> {
        let has = self.entries.get(&pod.uid).is_some_and(|pod| pod.contains_key(member.name()));
        let Some(count) = exclusive(pod, member).filter(|_| !has) else { return Ok(false) };
        let cpus = self.choose(count, &self.reusable(pod, member.name()), place)?;
        self.entries.entry(pod.uid.clone()).or_default().insert(member.name().to_owned(), cpus);
        Ok(true)
    }

    /// Where a container belongs.
    fn place(&self, pod: &PodModel, member: &Member) -> Cpus {
        let own = self.entries.get(&pod.uid).and_then(|of_pod| of_pod.get(member.name()));
        own.cloned().unwrap_or_else(|| self.shared())
    }
}

impl ExclusiveCpus {
    /// Reads the state of an earlier run. `folder` is the kubelet's.
    pub(crate) fn open(
        folder: &Path,
        settings: &KubeletConfiguration,
        machine: &NumaMachine,
    ) -> Result<Self, CpuError> {
        let path = folder.join("cpu_manager_state");
        let known: Option<State> = match fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice(&text).map_err(|source| {
                let path = path.clone();
                CpuError::Damaged { path, source }
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(file("read", &path)(error)),
        };
        if settings.cpu_manager_policy != "static" {
            return if known.is_none() { Ok(Self::default()) } else { Err(CpuError::Other { path }) };
        }
        let list = Path::new("/sys/devices/system/cpu/online");
        let online = fs::read_to_string(list).map_err(file("read", list))?;
        let online = parse(&online).ok_or_else(|| file("read", list)(io::ErrorKind::InvalidData.into()))?;
        let topology = topology(&online);
        let reserved = match settings.reserved_cpus() {
            Some(reserved) => reserved,
            None => take(&online, settings.reserved_cpu_count(), &topology).unwrap_or_else(|| online.clone()),
        };
        if !reserved.is_subset(&online) {
            return Err(CpuError::Reserved { reserved: text(&reserved), online: text(&online) });
        }
        let nodes = online.iter().map(|cpu| (*cpu, machine.of_cpu(*cpu))).collect();
        let is_set = |name: &str| settings.cpu_option(name) == Some("true");
        let options = Options {
            whole_cores: is_set("full-pcpus-only"),
            even: is_set("distribute-cpus-across-numa"),
            spread: is_set("distribute-cpus-across-cores"),
            by_socket: is_set("align-by-socket"),
            by_cache: is_set("prefer-align-cpus-by-uncorecache"),
            strict: is_set("strict-cpu-reservation"),
        };
        let entries = BTreeMap::new();
        let caches = caches(&topology);
        let mut given = Given { online, reserved, topology, caches, nodes, options, entries };
        if options.by_socket {
            let all = Mask::of(given.nodes.values().copied());
            if given.sockets_of(all).len() > all.set().len() {
                return Err(CpuError::MoreSockets);
            }
        }
        if let Some(known) = known {
            for (uid, pod) in &known.entries {
                let read = |(name, cpus): (&String, &String)| Some((name.clone(), parse(cpus)?));
                let pod: Option<BTreeMap<String, Cpus>> = pod.iter().map(read).collect();
                let fits = |pod: &BTreeMap<String, Cpus>| {
                    pod.values()
                        .all(|cpus| cpus.is_subset(&given.online) && cpus.is_disjoint(&given.reserved))
                };
                let pod = pod.filter(fits).ok_or_else(|| CpuError::Other { path: path.clone() })?;
                given.entries.insert(uid.clone(), pod);
            }
        }
        let given = Arc::new(Mutex::new(given));
        Kept::write(&path, &given)?;
        Ok(Self { kept: Some(Kept { given, file: StateFile::new(path) }), changed: Notify::new() })
    }

    fn given(&self) -> Option<&Mutex<Given>> {
        self.kept.as_ref().map(|kept| &*kept.given)
    }

    /// Whether containers can have processors for themselves.
    pub(crate) fn is_on(&self) -> bool {
        self.kept.is_some()
    }

    /// Where a container's own processors can be had.
    pub(crate) fn hints(&self, pod: &PodModel, member: &Member) -> Vec<Vec<Hint>> {
        self.given().map(|given| given.lock().hints(pod, member)).unwrap_or_default()
    }

    /// Where those of a whole pod can be had.
    pub(crate) fn hints_of_pod(&self, pod: &PodModel) -> Vec<Vec<Hint>> {
        self.given().map(|given| given.lock().hints_of_pod(pod)).unwrap_or_default()
    }

    /// Gives a container of a pod that is taken its own processors, at `place` where that is said. Who calls it gives the pod's
    /// back if that fails.
    pub(crate) async fn allocate(
        &self,
        pod: &PodModel,
        member: &Member,
        place: Option<Mask>,
    ) -> Result<(), CpuError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        if kept.given.lock().allocate(pod, member, place)? {
            self.changed.notify_one();
            kept.save().await?;
        }
        Ok(())
    }

    /// Takes back what a pod had that has ended; whether it had any, which is to be written down.
    pub(crate) fn release(&self, uid: &str) -> bool {
        let had = self.given().is_some_and(|given| given.lock().entries.remove(uid).is_some());
        if had {
            self.changed.notify_one();
        }
        had
    }

    /// The pods that have some.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.given().map(|given| given.lock().entries.keys().cloned().collect()).unwrap_or_default()
    }

    /// Writes down who has which now.
    pub(crate) async fn save(&self) -> Result<(), CpuError> {
        match &self.kept {
            Some(kept) => kept.save().await,
            None => Ok(()),
        }
    }

    /// The processors that a container has for itself.
    pub(crate) fn own(&self, uid: &str, container: &str) -> Cpus {
        let own = |given: &Mutex<Given>| given.lock().entries.get(uid)?.get(container).cloned();
        self.given().and_then(own).unwrap_or_default()
    }

    /// All that could be given to one alone if nobody had any.
    pub(crate) fn allocatable(&self) -> Cpus {
        let all = |given: &Mutex<Given>| {
            let given = given.lock();
            given.online.difference(&given.reserved).copied().collect()
        };
        self.given().map(all).unwrap_or_default()
    }

    /// Where a container belongs, as control groups have it; empty where it may be anywhere.
    pub(crate) fn place(&self, pod: &PodModel, member: &Member) -> String {
        self.given().map_or_else(String::new, |given| text(&given.lock().place(pod, member)))
    }

    /// Moves containers to where they belong, when that changes and from time to time, until the shutdown.
    pub(crate) async fn keep(&self, pods: Arc<Pods>, runtime: RuntimeClient, shutdown: CancellationToken) {
        if !self.is_on() {
            return;
        }
        let mut applied: HashMap<String, String> = HashMap::new();
        loop {
            let wait = tokio::time::timeout(INTERVAL, self.changed.notified());
            if shutdown.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let running = pods.running();
            applied.retain(|id, _| running.iter().any(|(_, one)| one.id == *id));
            for (pod, instance) in running {
                let Ok(pod) = PodModel::new(pod) else { continue };
                let Some(member) = pod.member(&instance.name) else { continue };
                let cpus = self.place(&pod, member);
                if applied.get(&instance.id) == Some(&cpus) {
                    continue;
                }
                let linux = v1::LinuxContainerResources { cpuset_cpus: cpus.clone(), ..Default::default() };
                let request = v1::UpdateContainerResourcesRequest {
                    container_id: instance.id.clone(),
                    linux: Some(linux),
                    ..v1::UpdateContainerResourcesRequest::default()
                };
                match runtime.update_container_resources(request).await {
                    Ok(_) => drop(applied.insert(instance.id.clone(), cpus)),
                    Err(error) => {
                        tracing::warn!(object = pod.object(), container = instance.name, %error, "a container is not moved to its processors");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, cpu: &str) -> PodModel {
        let limits = json!({ "cpu": cpu, "memory": "1Mi" });
        let resources = json!({ "requests": limits, "limits": limits });
        let pod = json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid }, "spec": {
            "initContainers": [{ "name": "i", "resources": resources }], "containers": [{ "name": "a", "resources": resources }] } });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    #[test]
    fn guaranteed_pods_have_whole_processors_for_themselves_and_others_share_the_rest() {
        let online: Cpus = (0..4).collect();
        let topology = online.iter().map(|cpu| (*cpu, (0, *cpu))).collect();
        let reserved = Cpus::from([0]);
        let nodes = online.iter().map(|cpu| (*cpu, cpu / 2)).collect();
        let (options, entries) = (Options::default(), BTreeMap::new());
        let caches = Caches::new();
        let mut given = Given { online, reserved, topology, caches, nodes, options, entries };
        let (two, part, more) = (pod("two", "2"), pod("part", "1500m"), pod("more", "2"));
        let allocate = |given: &mut Given, pod: &PodModel| {
            let mut one = pod.members.iter().map(|member| given.allocate(pod, member, None));
            one.try_fold(false, |any, one| one.map(|one| any | one))
        };
        assert!(allocate(&mut given, &two).unwrap() && !allocate(&mut given, &two).unwrap());
        assert!(!allocate(&mut given, &part).unwrap());
        let place = |given: &Given, pod: &PodModel, name| text(&given.place(pod, pod.member(name).unwrap()));
        assert_eq!((place(&given, &two, "a"), place(&given, &two, "i")), ("1-2".into(), "1-2".into()));
        assert_eq!(place(&given, &part, "a"), "0,3");
        let told = allocate(&mut given, &more).unwrap_err().to_string();
        assert_eq!(told, "not enough cpus available to satisfy request: requested=2, available=1");
        let state = given.state();
        assert_eq!((state.default_cpu_set.as_str(), state.entries["two"]["a"].as_str()), ("0,3", "1-2"));
    }

    #[test]
    fn who_comes_later_has_what_init_containers_had_and_never_what_a_sidecar_has() {
        let mut given = machine(Options::default());
        let container = |name: &str, cpu: &str| {
            let limits = json!({ "cpu": cpu, "memory": "1Mi" });
            json!({ "name": name, "resources": { "requests": limits, "limits": limits } })
        };
        let mut side = container("side", "1");
        side["restartPolicy"] = json!("Always");
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "p" }, "spec": {
            "initContainers": [container("first", "3"), side, container("second", "2")],
            "containers": [container("a", "1"), container("b", "2")] } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        assert_eq!(exclusive_of_pod(&pod), 4);
        for member in &pod.members {
            assert!(given.allocate(&pod, member, None).unwrap());
        }
        let has = |name: &str| text(&given.place(&pod, pod.member(name).unwrap()));
        assert_eq!((has("first"), has("side")), ("1-3".into(), "1".into()));
        assert_eq!(has("second"), "2-3", "the sidecar runs beside it");
        assert_eq!((has("a"), has("b")), ("2".into(), "3-4".into()));
        assert_eq!(text(&given.shared()), "0,5-7");
    }

    /// Two nodes of two cores of two threads each: 0 and 1 are one core; 0 to 3 are at node 0. Processor 0 is kept.
    fn machine(options: Options) -> Given {
        let online: Cpus = (0..8).collect();
        Given {
            topology: online.iter().map(|cpu| (*cpu, (cpu / 4, cpu / 2))).collect(),
            caches: Caches::new(),
            nodes: online.iter().map(|cpu| (*cpu, cpu / 4)).collect(),
            reserved: Cpus::from([0]),
            online,
            options,
            entries: BTreeMap::new(),
        }
    }

    #[test]
    fn processors_are_taken_where_the_container_is_to_be_and_then_elsewhere() {
        let mut given = machine(Options::default());
        let (four, two) = (pod("four", "4"), pod("two", "2"));
        let member = |pod: &PodModel| pod.member("a").unwrap().clone();
        let told = |hints: Vec<Vec<Hint>>| -> Vec<(Vec<u32>, bool)> {
            let one = |hint: &Hint| (hint.nodes.unwrap().nodes().collect(), hint.preferred);
            hints[0].iter().map(one).collect()
        };
        assert_eq!(told(given.hints(&four, &member(&four))), [(vec![1], true), (vec![0, 1], false)]);
        assert_eq!(told(given.hints_of_pod(&two)), [(vec![0], true), (vec![1], true), (vec![0, 1], false)]);
        assert!(given.allocate(&two, &member(&two), Some(Mask::of([0]))).unwrap());
        assert_eq!(text(&given.entries["two"]["a"]), "2-3");
        assert!(given.allocate(&four, &member(&four), Some(Mask::of([0]))).unwrap());
        assert_eq!(text(&given.entries["four"]["a"]), "1,4-6");
        assert_eq!(
            told(given.hints(&two, &member(&two))),
            [(vec![0], true), (vec![0, 1], false)],
            "what it has"
        );
    }

    #[test]
    fn who_needs_several_memory_nodes_has_as_many_of_each_where_that_is_wanted() {
        let mut given = machine(Options { even: true, ..Options::default() });
        let six = pod("six", "6");
        assert!(given.allocate(&six, six.member("a").unwrap(), None).unwrap());
        assert_eq!(text(&given.entries["six"]["a"]), "1-6");
    }

    /// A socket of two memory nodes of two processors each, and another.
    fn split_sockets(options: Options) -> Given {
        let online: Cpus = (0..8).collect();
        Given {
            topology: online.iter().map(|cpu| (*cpu, (cpu / 4, *cpu))).collect(),
            nodes: online.iter().map(|cpu| (*cpu, cpu / 2)).collect(),
            reserved: Cpus::from([0]),
            online,
            ..machine(options)
        }
    }

    #[test]
    fn what_is_at_one_socket_is_near_where_that_is_wanted() {
        let two = pod("two", "2");
        let member = two.member("a").unwrap();
        let preferred = |given: &Given| -> Vec<Vec<u32>> {
            let hints = given.hints(&two, member).remove(0);
            let preferred = hints.iter().filter(|hint| hint.preferred);
            preferred.map(|hint| hint.nodes.unwrap().nodes().collect()).collect()
        };
        let (mut plain, mut by_socket) = (
            split_sockets(Options::default()),
            split_sockets(Options { by_socket: true, ..Options::default() }),
        );
        assert_eq!(preferred(&plain), [vec![1], vec![2], vec![3]]);
        assert_eq!(preferred(&by_socket), [vec![1], vec![2], vec![3], vec![0, 1], vec![2, 3]]);
        // What is missing at the node comes from its socket rather than from the first that is free.
        let three = pod("three", "3");
        let member = three.member("a").unwrap();
        let give = |given: &mut Given| {
            assert!(given.allocate(&three, member, Some(Mask::of([2]))).unwrap());
            text(&given.entries["three"]["a"])
        };
        assert_eq!((give(&mut plain), give(&mut by_socket)), ("1,4-5".into(), "4-6".into()));
    }

    #[test]
    fn threads_are_of_many_cores_and_caches_are_few_where_that_is_wanted() {
        let give = |mut given: Given, count: &str| {
            let pod = pod("some", count);
            assert!(given.allocate(&pod, pod.member("a").unwrap(), None).unwrap());
            text(&given.entries["some"]["a"])
        };
        assert_eq!(give(machine(Options::default()), "2"), "2-3");
        assert_eq!(give(machine(Options { spread: true, ..Options::default() }), "2"), "1-2");
        let mut cached = machine(Options { by_cache: true, ..Options::default() });
        cached.caches = (0..8).map(|cpu| (cpu, (cpu / 4, 0))).collect();
        assert_eq!(give(machine(Options::default()), "3"), "1-3");
        assert_eq!(give(cached, "3"), "1-3");
    }

    #[test]
    fn whole_cores_alone_are_given_and_who_shares_keeps_off_what_is_kept_where_that_is_wanted() {
        let mut given = machine(Options { whole_cores: true, strict: true, ..Options::default() });
        let asks = |cpu: &str| pod(cpu, cpu);
        let give = |given: &mut Given, pod: &PodModel| given.allocate(pod, pod.member("a").unwrap(), None);
        let told = give(&mut given, &asks("3")).unwrap_err().to_string();
        assert_eq!(told, "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2");
        let told = give(&mut given, &asks("8")).unwrap_err().to_string();
        let text = "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2";
        assert_eq!(told, text);
        assert!(give(&mut given, &asks("2")).unwrap());
        assert_eq!(super::text(&given.entries["2"]["a"]), "2-3");
        assert_eq!(super::text(&given.shared()), "1,4-7");
    }
}
