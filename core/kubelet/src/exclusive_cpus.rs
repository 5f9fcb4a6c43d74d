//! Processors for one container alone: those of Guaranteed pods that ask for whole ones. All others share the rest.
//!
//! Who has which is in the file `cpu_manager_state`, written before it holds. What is kept for the machine is shared, and never given
//! to one alone. Containers that share are moved away from what is given to another as soon as that is known.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write as _};
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

mod set;

pub(crate) use set::{Cpus, parse};
use set::{Topology, take, text};

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
    path: PathBuf,
    online: Cpus,
    reserved: Cpus,
    topology: Topology,
    entries: BTreeMap<String, BTreeMap<String, Cpus>>,
}

/// Who has which processors; nothing where the policy is `none`.
#[derive(Debug, Default)]
pub(crate) struct ExclusiveCpus {
    given: Option<Mutex<Given>>,
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

impl Given {
    fn shared(&self) -> Cpus {
        let taken: Cpus = self.entries.values().flat_map(BTreeMap::values).flatten().copied().collect();
        self.online.difference(&taken).copied().collect()
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

    fn save(&self) -> Result<(), CpuError> {
        let work = || -> io::Result<()> {
            let staged = self.path.with_extension("tmp");
            let mut file = fs::File::create(&staged)?;
            file.write_all(&serde_json::to_vec(&self.state())?)?;
            file.sync_all()?;
            fs::rename(&staged, &self.path)
        };
        work().map_err(file("write", &self.path))
    }

    /// Gives each container of a pod that has some for itself its own.
    fn allocate(&mut self, pod: &PodModel) -> Result<bool, CpuError> {
        if self.entries.contains_key(&pod.uid) || pod.qos_class() != QosClass::Guaranteed {
            return Ok(false);
        }
        let mut free: Cpus = self.shared().difference(&self.reserved).copied().collect();
        let mut own = BTreeMap::new();
        let lasting = pod.members.iter().filter(|one| matches!(one.kind, Kind::Sidecar | Kind::Regular));
        for (member, count) in lasting.filter_map(|member| Some((member, whole(member)?))) {
            let too_few = || CpuError::TooFew { requested: count, available: free.len() };
            let cpus = take(&free, count, &self.topology).ok_or_else(too_few)?;
            free.retain(|cpu| !cpus.contains(cpu));
            own.insert(member.name().to_owned(), cpus);
        }
        if own.is_empty() {
            return Ok(false);
        }
        self.entries.insert(pod.uid.clone(), own);
        self.save().inspect_err(|_| drop(self.entries.remove(&pod.uid)))?;
        Ok(true)
    }

    /// Where a container belongs. An init container has what those after it will have, if that is enough for it.
    fn place(&self, pod: &PodModel, member: &Member) -> Cpus {
        let Some(own) = self.entries.get(&pod.uid) else { return self.shared() };
        if let Some(cpus) = own.get(member.name()) {
            return cpus.clone();
        }
        let together: Cpus = own.values().flatten().copied().collect();
        match whole(member) {
            Some(count) if member.kind == Kind::Init && count <= together.len() => {
                together.into_iter().take(count).collect()
            }
            Some(_) | None => self.shared(),
        }
    }
}

impl ExclusiveCpus {
    /// Reads the state of an earlier run. `folder` is the kubelet's.
    pub(crate) fn open(folder: &Path, settings: &KubeletConfiguration) -> Result<Self, CpuError> {
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
        let online = Path::new("/sys/devices/system/cpu/online");
        let online = fs::read_to_string(online).map_err(file("read", online))?;
        let online = parse(&online).unwrap_or_default();
        let topology = topology(&online);
        let reserved = match settings.reserved_cpus() {
            Some(reserved) => reserved,
            None => take(&online, settings.reserved_cpu_count(), &topology).unwrap_or_else(|| online.clone()),
        };
        if !reserved.is_subset(&online) {
            return Err(CpuError::Reserved { reserved: text(&reserved), online: text(&online) });
        }
        let mut given = Given { path, online, reserved, topology, entries: BTreeMap::new() };
        if let Some(known) = known {
            let path = given.path.clone();
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
        given.save()?;
        Ok(Self { given: Some(Mutex::new(given)), changed: Notify::new() })
    }

    /// Whether containers can have processors for themselves.
    pub(crate) fn is_on(&self) -> bool {
        self.given.is_some()
    }

    /// Gives a pod that is taken its own processors.
    pub(crate) fn allocate(&self, pod: &PodModel) -> Result<(), CpuError> {
        let Some(given) = &self.given else { return Ok(()) };
        if given.lock().allocate(pod)? {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes back what a pod had that has ended.
    pub(crate) fn release(&self, uid: &str) {
        let Some(given) = &self.given else { return };
        let mut given = given.lock();
        if given.entries.remove(uid).is_some() {
            if let Err(error) = given.save() {
                tracing::warn!(%error, "who has which processors is not written down");
            }
            self.changed.notify_one();
        }
    }

    /// Keeps what those pods have that are still there.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let Some(given) = &self.given else { return };
        let gone: Vec<String> = given.lock().entries.keys().filter(|uid| !is_there(uid)).cloned().collect();
        gone.iter().for_each(|uid| self.release(uid));
    }

    /// Where a container belongs, as control groups have it; empty where it may be anywhere.
    pub(crate) fn place(&self, pod: &PodModel, member: &Member) -> String {
        self.given.as_ref().map_or_else(String::new, |given| text(&given.lock().place(pod, member)))
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
        let path = std::env::temp_dir().join(format!("keelson-cpus-{}", uuid::Uuid::new_v4()));
        let online: Cpus = (0..4).collect();
        let topology = online.iter().map(|cpu| (*cpu, (0, *cpu))).collect();
        let reserved = Cpus::from([0]);
        let mut given = Given { path: path.clone(), online, reserved, topology, entries: BTreeMap::new() };
        let (two, part, more) = (pod("two", "2"), pod("part", "1500m"), pod("more", "2"));
        assert!(given.allocate(&two).unwrap() && !given.allocate(&two).unwrap());
        assert!(!given.allocate(&part).unwrap());
        let place = |given: &Given, pod: &PodModel, name| text(&given.place(pod, pod.member(name).unwrap()));
        assert_eq!((place(&given, &two, "a"), place(&given, &two, "i")), ("1-2".into(), "1-2".into()));
        assert_eq!(place(&given, &part, "a"), "0,3");
        let told = given.allocate(&more).unwrap_err().to_string();
        assert_eq!(told, "not enough cpus available to satisfy request: requested=2, available=1");
        let state: State = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((state.default_cpu_set.as_str(), state.entries["two"]["a"].as_str()), ("0,3", "1-2"));
        fs::remove_file(&path).unwrap();
    }
}
