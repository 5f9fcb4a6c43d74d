//! Which rules a kind has, a line for each.

use super::{
    FieldError, api_service, autoscaler, cluster, config, device, event, flow_control, network, pod, policy,
    rbac, service, status, storage, webhook, workload,
};
use crate::flow_control as flow;
use crate::kinds::GroupVersionKind;
use crate::names;
use crate::object::Object;

/// Rules of one state of an object.
type State = fn(&Object, &mut Vec<FieldError>);
/// Rules of a new state in the light of the old one.
type Change = fn(&Object, &Object, &mut Vec<FieldError>);

/// The rules of a kind.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    group: &'static str,
    kind: &'static str,
    /// The form of its names.
    name: fn(&str) -> Vec<String>,
    /// What every state of its own fields follows.
    state: Option<State>,
    /// What a new object follows beside that.
    create: Option<State>,
    /// What a change through the object itself follows beside that.
    change: Option<Change>,
    /// What writes through subresources follow.
    through: &'static [(&'static str, Change)],
    /// What a change of its metadata follows, by whatever path it is written.
    marks: Option<Change>,
    /// Fields that are fixed once an object exists, by whatever path it is written.
    fixed: &'static [&'static [&'static str]],
}

impl Rules {
    const fn of(group: &'static str, kind: &'static str) -> Self {
        Rules {
            group,
            kind,
            name: names::dns1123_subdomain,
            state: None,
            create: None,
            change: None,
            through: &[],
            marks: None,
            fixed: &[],
        }
    }

    const fn name(self, name: fn(&str) -> Vec<String>) -> Self {
        Rules { name, ..self }
    }

    const fn state(self, state: State) -> Self {
        Rules { state: Some(state), ..self }
    }

    const fn create(self, create: State) -> Self {
        Rules { create: Some(create), ..self }
    }

    const fn change(self, change: Change) -> Self {
        Rules { change: Some(change), ..self }
    }

    const fn through(self, through: &'static [(&'static str, Change)]) -> Self {
        Rules { through, ..self }
    }

    const fn marks(self, marks: Change) -> Self {
        Rules { marks: Some(marks), ..self }
    }

    const fn fixed(self, fixed: &'static [&'static [&'static str]]) -> Self {
        Rules { fixed, ..self }
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const SELECTOR: &[&[&str]] = &[&["spec", "selector"]];
const PLAIN: Rules = Rules::of("", "");

const RULES: &[Rules] = &[
    Rules::of("", "ConfigMap").state(config::config_map).change(config::sealed),
    Rules::of("", "Event").create(event::core),
    Rules::of("", "Endpoints").state(network::endpoints),
    Rules::of("", "LimitRange").state(cluster::limit_range),
    Rules::of("", "Namespace")
        .name(names::dns1123_label)
        .state(cluster::namespace)
        .through(&[("status", status::namespace)]),
    Rules::of("", "Node")
        .state(cluster::node)
        .create(status::node)
        .change(cluster::node_change)
        .through(&[("status", status::node_status)]),
    Rules::of("", "PersistentVolume").state(storage::volume).change(storage::volume_change),
    Rules::of("", "PersistentVolumeClaim")
        .state(storage::claim)
        .change(storage::claim_change)
        .through(&[("status", status::claim)]),
    Rules::of("", "Pod")
        .state(pod::pod)
        .create(pod::new)
        .change(pod::update::pod)
        .marks(pod::annotation::change)
        .through(&[
            ("ephemeralcontainers", pod::ephemeral::update),
            ("resize", pod::resize::change),
            ("status", pod::status::change),
        ]),
    Rules::of("", "PodTemplate").state(workload::pod_template),
    Rules::of("", "ReplicationController")
        .state(workload::replication_controller)
        .through(&[("status", status::replicas)]),
    Rules::of("", "ResourceQuota")
        .state(cluster::quota)
        .change(cluster::quota_change)
        .through(&[("status", status::quota)]),
    Rules::of("", "Secret").state(config::secret).change(config::secret_change),
    Rules::of("", "Service")
        .name(names::dns1035_label)
        .state(service::service)
        .change(service::update)
        .through(&[("status", service::status)]),
    Rules::of(ADMISSION, "MutatingAdmissionPolicy").state(policy::mutating),
    Rules::of(ADMISSION, "MutatingAdmissionPolicyBinding").state(policy::mutating_binding),
    Rules::of(ADMISSION, "MutatingWebhookConfiguration").state(webhook::mutating),
    Rules::of(ADMISSION, "ValidatingAdmissionPolicy")
        .state(policy::validating)
        .through(&[("status", status::policy)]),
    Rules::of(ADMISSION, "ValidatingAdmissionPolicyBinding").state(policy::validating_binding),
    Rules::of(ADMISSION, "ValidatingWebhookConfiguration").state(webhook::validating),
    Rules::of("apiregistration.k8s.io", "APIService")
        .name(names::path_segment)
        .state(api_service::api_service),
    Rules::of("apps", "DaemonSet")
        .state(workload::daemon_set)
        .fixed(SELECTOR)
        .through(&[("status", status::daemon_set)]),
    Rules::of("apps", "Deployment")
        .state(workload::deployment)
        .fixed(SELECTOR)
        .through(&[("status", status::deployment)]),
    Rules::of("apps", "ReplicaSet")
        .state(workload::replica_set)
        .fixed(SELECTOR)
        .through(&[("status", status::replicas)]),
    Rules::of("apps", "ControllerRevision")
        .state(workload::controller_revision)
        .change(workload::update::revision),
    Rules::of("apps", "StatefulSet")
        .state(workload::stateful_set)
        .change(workload::update::stateful_set)
        .through(&[("status", status::stateful_set)]),
    Rules::of("autoscaling", "HorizontalPodAutoscaler")
        .state(autoscaler::autoscaler)
        .through(&[("status", status::autoscaler)]),
    Rules::of("batch", "CronJob")
        .state(workload::job::cron_job)
        .create(workload::job::new_cron_job)
        .change(workload::job::cron_job_change),
    Rules::of("batch", "Job")
        .state(workload::job::job)
        .create(workload::job::new_job)
        .change(workload::update::job)
        .through(&[("status", workload::job::status::change)]),
    Rules::of("certificates.k8s.io", "CertificateSigningRequest").name(names::path_segment),
    Rules::of("coordination.k8s.io", "Lease").state(cluster::lease),
    Rules::of("discovery.k8s.io", "EndpointSlice")
        .state(network::endpoint_slice)
        .change(network::endpoint_slice_change),
    Rules::of(NETWORKING, "IPAddress")
        .name(network::address_name)
        .state(network::address)
        .fixed(&[&["spec", "parentRef"]]),
    Rules::of(NETWORKING, "Ingress").state(network::ingress).through(&[("status", status::ingress)]),
    Rules::of(NETWORKING, "IngressClass").state(network::ingress_class).fixed(&[&["spec", "controller"]]),
    Rules::of(NETWORKING, "NetworkPolicy").state(network::policy),
    Rules::of(NETWORKING, "ServiceCIDR").create(network::service_cidr).change(network::service_cidr_change),
    Rules::of("node.k8s.io", "RuntimeClass").state(cluster::runtime_class).fixed(&[&["handler"]]),
    Rules::of(flow::GROUP, "FlowSchema")
        .state(flow_control::schema)
        .through(&[("status", status::flow_control)]),
    Rules::of(flow::GROUP, "PriorityLevelConfiguration")
        .state(flow_control::level)
        .through(&[("status", status::flow_control)]),
    Rules::of("policy", "PodDisruptionBudget")
        .state(workload::disruption_budget)
        .through(&[("status", status::disruption_budget)]),
    Rules::of(RBAC, "ClusterRole").name(names::path_segment).state(rbac::cluster_role),
    Rules::of(RBAC, "ClusterRoleBinding")
        .name(names::path_segment)
        .state(rbac::cluster_role_binding)
        .change(rbac::binding_change),
    Rules::of(RBAC, "Role").name(names::path_segment).state(rbac::role),
    Rules::of(RBAC, "RoleBinding")
        .name(names::path_segment)
        .state(rbac::role_binding)
        .change(rbac::binding_change),
    Rules::of(DEVICES, "DeviceClass").state(device::class),
    Rules::of(DEVICES, "ResourceClaim")
        .create(device::claim)
        .through(&[("status", device::claim_status)])
        .fixed(&[&["spec"]]),
    Rules::of(DEVICES, "ResourceClaimTemplate").create(device::template).fixed(&[&["spec"]]),
    Rules::of(DEVICES, "ResourceSlice").state(device::slice).change(device::slice_change),
    Rules::of("scheduling.k8s.io", "PriorityClass")
        .state(cluster::priority_class)
        .change(cluster::priority_class_change),
    Rules::of(STORAGE, "CSIDriver").state(storage::driver).change(storage::driver_change),
    Rules::of(STORAGE, "CSINode").state(storage::driver_node),
    Rules::of(STORAGE, "CSIStorageCapacity")
        .state(storage::capacity)
        .fixed(&[&["nodeTopology"], &["storageClassName"]]),
    Rules::of(STORAGE, "StorageClass").state(storage::class).change(storage::class_change),
    Rules::of(STORAGE, "VolumeAttachment")
        .state(storage::attachment)
        .change(storage::attachment_change)
        .through(&[("status", status::attachment)]),
    Rules::of(STORAGE, "VolumeAttributesClass")
        .state(storage::attributes_class)
        .change(storage::attributes_class_change),
];

fn find(gvk: &GroupVersionKind) -> &'static Rules {
    RULES.iter().find(|rules| rules.kind == gvk.kind && rules.group == gvk.group).unwrap_or(&PLAIN)
}

/// What is wrong with a name of this kind.
pub(super) fn name(gvk: &GroupVersionKind, name: &str) -> Vec<String> {
    (find(gvk).name)(name)
}

/// The faults of a new object's own fields.
pub(super) fn create(gvk: &GroupVersionKind, object: &Object, errors: &mut Vec<FieldError>) {
    let rules = find(gvk);
    for check in [rules.create, rules.state].into_iter().flatten() {
        check(object, errors);
    }
}

/// The fields that must stay, and what metadata may become.
pub(super) fn fixed(gvk: &GroupVersionKind, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    if let Some(check) = find(gvk).marks {
        check(new, old, errors);
    }
    for path in find(gvk).fixed {
        if new.get(path) != old.get(path) {
            let value = new.get(path).cloned().unwrap_or_default();
            errors.push(FieldError::invalid(path.join("."), value, "field is immutable"));
        }
    }
}

/// The rules of a change through the object itself. What did not change is not judged again.
pub(super) fn change(gvk: &GroupVersionKind, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let own = |object: &Object, other: &Object| {
        object.0.iter().any(|(field, value)| {
            !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status")
                && other.0.get(field) != Some(value)
        })
    };
    if !own(new, old) && !own(old, new) {
        return;
    }
    let rules = find(gvk);
    if let Some(check) = rules.change {
        check(new, old, errors);
    }
    if let Some(check) = rules.state {
        newly(check, new, old, errors);
    }
}

/// The faults that an object has and had not before: one that was taken once, when there were fewer rules, can still be changed.
pub(super) fn newly(check: State, new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let mut found = Vec::new();
    check(new, &mut found);
    if !found.is_empty() {
        let mut before = Vec::new();
        check(old, &mut before);
        found.retain(|fault| !before.contains(fault));
    }
    errors.append(&mut found);
}

/// The rules of a change through a subresource.
pub(super) fn change_through(
    subresource: &str,
    gvk: &GroupVersionKind,
    new: &Object,
    old: &Object,
    errors: &mut Vec<FieldError>,
) {
    for (name, check) in find(gvk).through {
        if *name == subresource {
            check(new, old, errors);
        }
    }
}
