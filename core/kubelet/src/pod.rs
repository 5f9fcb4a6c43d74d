//! (pure) A pod as the worker sees it: the API's object with its containers in the order in which they start.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerStatus, EphemeralContainer, Pod, PodSpec, PodStatus,
    ResourceRequirements,
};
use keelson_cgroup::CgroupName;

use crate::allocation::{self, Allocation};
use crate::labels;

/// The rule by which the end of one container begins the whole pod anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// Pods of this priority and above belong to the system.
pub(crate) const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// What part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that restarts always, and runs beside the others from its turn on.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// Added to a running pod, for people who look for a fault.
    Ephemeral,
}

/// When a container that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    /// However it ended.
    Always,
    /// When it ended with another code than 0.
    OnFailure,
    /// Never.
    Never,
}

/// One container of the pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Its part.
    pub(crate) kind: Kind,
    /// Its specification.
    pub(crate) container: Container,
    /// [`labels::hash`] of it.
    pub(crate) hash: String,
    /// The container whose processes an ephemeral container sees.
    pub(crate) target: Option<String>,
}

impl Member {
    /// The container's name.
    pub(crate) fn name(&self) -> &str {
        &self.container.name
    }
}

/// How the pod's containers share the machine when it gets narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QosClass {
    /// Every container has limits for CPU and memory, and requests as much.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl QosClass {
    /// The API's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The pod and what is derived from it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodModel {
    /// The object.
    pub(crate) pod: Arc<Pod>,
    /// `metadata.uid`
    pub(crate) uid: String,
    /// `metadata.name`
    pub(crate) name: String,
    /// `metadata.namespace`
    pub(crate) namespace: String,
    /// Init containers and sidecars in order, the regular ones, the ephemeral ones.
    pub(crate) members: Vec<Member>,
    /// What it has been given as a whole, if it asks for something.
    whole: Option<ResourceRequirements>,
}

/// A pod from the API that cannot be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod has no {0}")]
pub(crate) struct Incomplete(&'static str);

impl PodModel {
    /// The model of a pod from the API, with what its containers have got by its status.
    pub(crate) fn new(pod: Arc<Pod>) -> Result<Self, Incomplete> {
        let known = allocation::known(&pod);
        Self::given(pod, &known)
    }

    fn asking(pod: Arc<Pod>) -> Result<Self, Incomplete> {
        let uid = pod.metadata.uid.clone().ok_or(Incomplete("uid"))?;
        let name = pod.metadata.name.clone().ok_or(Incomplete("name"))?;
        let namespace = pod.metadata.namespace.clone().ok_or(Incomplete("namespace"))?;
        let spec = pod.spec.as_ref().ok_or(Incomplete("spec"))?;
        let members = members(spec);
        Ok(Self { uid, name, namespace, members, whole: None, pod })
    }

    /// The same pod, whose containers have been given something else than they ask for.
    pub(crate) fn given(pod: Arc<Pod>, allocation: &Allocation) -> Result<Self, Incomplete> {
        let mut model = Self::asking(pod)?;
        for member in &mut model.members {
            allocation::apply(&mut member.container, allocation);
        }
        model.whole = allocation::of_whole(&model.pod, allocation);
        Ok(model)
    }

    /// What the pod has been given as a whole, beside what its containers have.
    pub(crate) fn resources(&self) -> Option<&ResourceRequirements> {
        self.whole.as_ref()
    }

    /// `namespace/name`
    pub(crate) fn object(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// `spec`; a model is made of pods that have one.
    pub(crate) fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// `status`, as the API has it.
    pub(crate) fn status(&self) -> &PodStatus {
        static EMPTY: std::sync::LazyLock<PodStatus> = std::sync::LazyLock::new(PodStatus::default);
        self.pod.status.as_ref().unwrap_or(&EMPTY)
    }

    /// Members of one kind.
    pub(crate) fn of(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |member| member.kind == kind)
    }

    /// Init containers and sidecars, in order.
    pub(crate) fn init(&self) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(|member| matches!(member.kind, Kind::Init | Kind::Sidecar))
    }

    /// The member of a name.
    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name() == name)
    }

    /// `spec.restartPolicy`
    pub(crate) fn restart_policy(&self) -> RestartPolicy {
        restart_policy(self.spec().restart_policy.as_deref())
    }

    /// Whether a container that ended with `code` is to run again.
    pub(crate) fn restarts(&self, member: &Member, code: i32) -> bool {
        if rule(member, code).is_some() {
            return true;
        }
        let policy = match (member.kind, member.container.restart_policy.as_deref()) {
            (Kind::Sidecar, _) => RestartPolicy::Always,
            (Kind::Ephemeral, _) => RestartPolicy::Never,
            (Kind::Regular | Kind::Init, Some(own)) => restart_policy(Some(own)),
            (Kind::Regular | Kind::Init, None) => self.restart_policy(),
        };
        match (policy, member.kind) {
            // An init container that has done its work is done.
            (RestartPolicy::Always | RestartPolicy::OnFailure, Kind::Init) => code != 0,
            (RestartPolicy::Always, Kind::Sidecar | Kind::Regular | Kind::Ephemeral) => true,
            (RestartPolicy::OnFailure, _) => code != 0,
            (RestartPolicy::Never, _) => false,
        }
    }

    /// Whether the end of a container with `code` begins the whole pod anew.
    pub(crate) fn restarts_all(&self, member: &Member, code: i32) -> bool {
        rule(member, code) == Some(RESTART_ALL)
    }

    /// Whether one of its containers could begin the whole pod anew.
    pub(crate) fn may_restart_all(&self) -> bool {
        let mut rules =
            self.members.iter().filter_map(|one| one.container.restart_policy_rules.as_ref()).flatten();
        rules.any(|rule| rule.action == RESTART_ALL)
    }

    /// Whether the pod has devices by claims.
    pub(crate) fn claims_devices(&self) -> bool {
        self.spec().resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
    }

    /// Whether the pod uses the node's network.
    pub(crate) fn host_network(&self) -> bool {
        self.spec().host_network == Some(true)
    }

    /// Whether the API has asked for the pod's end.
    pub(crate) fn deletion(&self) -> Option<Timestamp> {
        self.pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)
    }

    /// How long the containers have between their stop signal and their end.
    pub(crate) fn grace(&self) -> Duration {
        let deletion = self.pod.metadata.deletion_grace_period_seconds;
        let seconds = deletion.or(self.spec().termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
    }

    /// Whether the API already says that the pod is over.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.status().phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether it comes from elsewhere than the API.
    pub(crate) fn is_static(&self) -> bool {
        let annotations = self.pod.metadata.annotations.as_ref();
        let source = annotations.and_then(|all| all.get("kubernetes.io/config.source"));
        source.is_some_and(|source| source != "api")
    }

    /// Whether the node cannot do without it: pods of the node itself, mirrors of them, and those of the highest priorities.
    pub(crate) fn is_critical(&self) -> bool {
        let annotation = |name: &str| self.pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let of_node = annotation("kubernetes.io/config.source").is_some_and(|source| source != "api");
        let is_mirror = annotation("kubernetes.io/config.mirror").is_some();
        of_node || is_mirror || self.spec().priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL)
    }

    /// Whether the API knows the end of the pod and of all its containers.
    pub(crate) fn is_settled(&self) -> bool {
        let status = self.status();
        let all = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let running = |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
        self.is_over() && !all.into_iter().flatten().flatten().any(running)
    }

    /// `status.qosClass`, or what it has to be.
    pub(crate) fn qos_class(&self) -> QosClass {
        match self.status().qos_class.as_deref() {
            Some("Guaranteed") => QosClass::Guaranteed,
            Some("Burstable") => QosClass::Burstable,
            Some("BestEffort") => QosClass::BestEffort,
            Some(_) | None => qos_class(self.spec()),
        }
    }

    /// The folder of the pod's logs, below the logs' folder.
    pub(crate) fn log_folder(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }

    /// The pod's control group, below that of all pods.
    pub(crate) fn cgroup(&self, root: &CgroupName) -> CgroupName {
        let pod = format!("pod{}", self.uid);
        match self.qos_class() {
            QosClass::Guaranteed => root.child(&pod),
            QosClass::Burstable => root.child("burstable").child(&pod),
            QosClass::BestEffort => root.child("besteffort").child(&pod),
        }
    }
}

/// The action of the first rule of a container that is about an exit code.
fn rule(member: &Member, code: i32) -> Option<&str> {
    let mut rules = member.container.restart_policy_rules.iter().flatten();
    let applies = |rule: &&ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed)
        })
    };
    rules.find(applies).map(|rule| rule.action.as_str())
}

fn restart_policy(text: Option<&str>) -> RestartPolicy {
    match text {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some(_) | None => RestartPolicy::Always,
    }
}

fn members(spec: &PodSpec) -> Vec<Member> {
    let member = |kind: Kind, container: &Container, target: Option<String>| Member {
        kind,
        hash: labels::hash(container),
        container: container.clone(),
        target,
    };
    let init = spec.init_containers.iter().flatten().map(|one| {
        let sidecar = one.restart_policy.as_deref() == Some("Always");
        member(if sidecar { Kind::Sidecar } else { Kind::Init }, one, None)
    });
    let regular = spec.containers.iter().map(|one| member(Kind::Regular, one, None));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral =
        ephemeral.map(|one| member(Kind::Ephemeral, &plain(one), one.target_container_name.clone()));
    init.chain(regular).chain(ephemeral).collect()
}

/// An ephemeral container has the fields of a container, and a target.
fn plain(one: &EphemeralContainer) -> Container {
    let one = one.clone();
    Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        name: one.name,
        security_context: one.security_context,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_devices: one.volume_devices,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
        // The API server refuses the rest for ephemeral containers.
        ..Container::default()
    }
}

fn qos_class(spec: &PodSpec) -> QosClass {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<_> = match &spec.resources {
        // What the pod says for itself is all that counts.
        Some(own) => vec![own.clone()],
        None => all.map(|container| container.resources.clone().unwrap_or_default()).collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        let requests = resources.requests.unwrap_or_default();
        let limits = resources.limits.unwrap_or_default();
        for name in ["cpu", "memory"] {
            let amount = |quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
                quantity.and_then(crate::resources::amount).filter(|amount| *amount > 0)
            };
            let limit = amount(limits.get(name));
            let request = amount(requests.get(name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(yaml: serde_json::Value) -> PodModel {
        let pod = serde_json::json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": yaml
        });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    #[test]
    fn a_pod_is_guaranteed_only_when_every_limit_is_set_and_requested_in_full() {
        let container = |requests: serde_json::Value, limits: serde_json::Value| {
            model(serde_json::json!({ "containers": [
                { "name": "a", "resources": { "requests": requests, "limits": limits } }
            ]}))
            .qos_class()
        };
        use serde_json::json;
        assert_eq!(container(json!({}), json!({})), QosClass::BestEffort);
        assert_eq!(container(json!({"cpu": "1"}), json!({})), QosClass::Burstable);
        assert_eq!(container(json!({}), json!({"cpu": "1", "memory": "1Gi"})), QosClass::Guaranteed);
        let both = json!({"cpu": "1000m", "memory": "1024Mi"});
        assert_eq!(container(both.clone(), json!({"cpu": "1", "memory": "1Gi"})), QosClass::Guaranteed);
        let own = json!({ "resources": { "limits": both }, "containers": [{ "name": "a" }] });
        assert_eq!(model(own).qos_class(), QosClass::Guaranteed);
        let less = json!({"cpu": "500m", "memory": "1Gi"});
        assert_eq!(container(less, json!({"cpu": "1", "memory": "1Gi"})), QosClass::Burstable);
    }

    #[test]
    fn a_rule_of_the_container_restarts_it_where_the_pods_policy_would_not() {
        let pod = model(serde_json::json!({ "restartPolicy": "Never", "containers": [
            { "name": "a", "restartPolicy": "Never", "restartPolicyRules": [
                { "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }
            ] }
        ]}));
        let member = pod.member("a").unwrap();
        assert!(pod.restarts(member, 42));
        assert!(!pod.restarts(member, 1));
    }

    #[test]
    fn an_init_container_that_succeeded_is_not_run_again() {
        let pod = model(serde_json::json!({ "containers": [{ "name": "a" }], "initContainers": [
            { "name": "i" }, { "name": "s", "restartPolicy": "Always" }
        ]}));
        assert!(!pod.restarts(pod.member("i").unwrap(), 0));
        assert!(pod.restarts(pod.member("i").unwrap(), 1));
        assert!(pod.restarts(pod.member("s").unwrap(), 0));
    }
}
