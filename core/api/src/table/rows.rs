//! Headings and cells by kind. A heading that ends with `+` is shown with `-o wide` only.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row::Row;
use super::{cluster, network, pod, storage, workload};
use crate::kinds::GroupVersionKind;
use crate::object::Object;

const REPLICA_SET: &str = "Name,Desired,Current,Ready,Age,Containers+,Images+,Selector+";
const NAME_AND_AGE: &str = "Name,Age";

pub(super) fn headings(gvk: &GroupVersionKind) -> &'static str {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => "Name,Ready,Status,Restarts,Age,IP+,Node+,Nominated Node+,Readiness Gates+",
        ("", "PodTemplate") => "Name,Containers,Images,Pod Labels",
        ("", "ReplicationController") | ("apps", "ReplicaSet") => REPLICA_SET,
        ("apps", "Deployment") => "Name,Ready,Up-to-date,Available,Age,Containers+,Images+,Selector+",
        ("apps", "DaemonSet") => {
            "Name,Desired,Current,Ready,Up-to-date,Available,Node Selector,Age,Containers+,Images+,Selector+"
        }
        ("apps", "StatefulSet") => "Name,Ready,Age,Containers+,Images+",
        ("apps", "ControllerRevision") => "Name,Controller,Revision,Age",
        ("batch", "Job") => "Name,Status,Completions,Duration,Age,Containers+,Images+,Selector+",
        ("batch", "CronJob") => {
            "Name,Schedule,Timezone,Suspend,Active,Last Schedule,Age,Containers+,Images+,Selector+"
        }
        ("autoscaling", "HorizontalPodAutoscaler") => "Name,Reference,Targets,MinPods,MaxPods,Replicas,Age",
        ("policy", "PodDisruptionBudget") => "Name,Min Available,Max Unavailable,Allowed Disruptions,Age",
        ("", "Service") => "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector+",
        ("", "Endpoints") => "Name,Endpoints,Age",
        ("discovery.k8s.io", "EndpointSlice") => "Name,AddressType,Ports,Endpoints,Age",
        ("networking.k8s.io", "Ingress") => "Name,Class,Hosts,Address,Ports,Age",
        ("networking.k8s.io", "IngressClass") => "Name,Controller,Parameters,Age",
        ("networking.k8s.io", "NetworkPolicy") => "Name,Pod-Selector,Age",
        ("networking.k8s.io", "IPAddress") => "Name,ParentRef",
        ("networking.k8s.io", "ServiceCIDR") => "Name,CIDRs,Age",
        ("", "Node") => {
            "Name,Status,Roles,Age,Version,Internal-IP+,External-IP+,OS-Image+,Kernel-Version+,Container-Runtime+"
        }
        ("", "Namespace") => "Name,Status,Age",
        ("", "ComponentStatus") => "Name,Status,Message,Error",
        ("autoscaling", "Scale") => "Name,Desired,Available,Age",
        ("", "ConfigMap") => "Name,Data,Age",
        ("", "Secret") => "Name,Type,Data,Age",
        ("", "ServiceAccount") => "Name,Secrets,Age",
        ("", "Event") => "Last Seen,Type,Reason,Object,Subobject+,Source+,Message,First Seen+,Count+,Name+",
        ("", "PersistentVolume") => {
            "Name,Capacity,Access Modes,Reclaim Policy,Status,Claim,StorageClass,VolumeAttributesClass,Reason,Age,VolumeMode+"
        }
        ("", "PersistentVolumeClaim") => {
            "Name,Status,Volume,Capacity,Access Modes,StorageClass,VolumeAttributesClass,Age,VolumeMode+"
        }
        ("", "ResourceQuota") => "Name,Request,Limit,Age",
        ("storage.k8s.io", "StorageClass") => {
            "Name,Provisioner,ReclaimPolicy,VolumeBindingMode,AllowVolumeExpansion,Age"
        }
        ("storage.k8s.io", "VolumeAttachment") => "Name,Attacher,PV,Node,Attached,Age",
        ("storage.k8s.io", "VolumeAttributesClass") => "Name,DriverName,Age",
        ("storage.k8s.io", "CSINode") => "Name,Drivers,Age",
        ("storage.k8s.io", "CSIDriver") => {
            "Name,AttachRequired,PodInfoOnMount,StorageCapacity,TokenRequests,RequiresRepublish,Modes,Age"
        }
        ("storage.k8s.io", "CSIStorageCapacity") => "Name,StorageClassName,Capacity",
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            "Name,Role,Age,Users+,Groups+,ServiceAccounts+"
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            "Name,Age,SignerName,Requestor,RequestedDuration,Condition"
        }
        ("coordination.k8s.io", "Lease") => "Name,Holder,Age",
        ("scheduling.k8s.io", "PriorityClass") => "Name,Value,Global-Default,Age,PreemptionPolicy",
        ("node.k8s.io", "RuntimeClass") => "Name,Handler,Age",
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => "Name,Webhooks,Age",
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => "Name,Validations,ParamKind,Age",
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => "Name,Mutations,ParamKind,Age",
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicyBinding",
        ) => "Name,PolicyName,ParamRef,Age",
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            "Name,PriorityLevel,MatchingPrecedence,DistinguisherMethod,Age,MissingPL"
        }
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            "Name,Type,NominalConcurrencyShares,Queues,HandSize,QueueLengthLimit,Age"
        }
        ("apiregistration.k8s.io", "APIService") => "Name,Service,Available,Age",
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => NAME_AND_AGE,
        ("resource.k8s.io", "ResourceClaim") => "Name,State,Age",
        ("resource.k8s.io", "ResourceSlice") => "Name,Node,Driver,Pool,Age",
        _ => "Name,Created At",
    }
}

pub(super) fn cells(gvk: &GroupVersionKind, it: &Object, now: Timestamp) -> Vec<Value> {
    let row = &Row { it, now };
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::cells(it, now),
        ("", kind) => core(kind, row),
        ("apps", "Deployment") => workload::deployment(row),
        ("apps", "ReplicaSet") => workload::replica_set(row),
        ("apps", "DaemonSet") => workload::daemon_set(row),
        ("apps", "StatefulSet") => workload::stateful_set(row),
        ("apps", "ControllerRevision") => workload::controller_revision(row),
        ("batch", "Job") => workload::job(row),
        ("batch", "CronJob") => workload::cron_job(row),
        ("autoscaling", "HorizontalPodAutoscaler") => workload::autoscaler(row),
        ("autoscaling", "Scale") => vec![
            row.name(),
            json!(row.number(&["spec", "replicas"])),
            json!(row.number(&["status", "replicas"])),
            row.age(),
        ],
        ("policy", "PodDisruptionBudget") => workload::disruption_budget(row),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(row),
        ("networking.k8s.io", kind) => networking(kind, row),
        ("storage.k8s.io", kind) => storage(kind, row),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => cluster::binding(row),
        ("certificates.k8s.io", "CertificateSigningRequest") => cluster::signing_request(row),
        ("coordination.k8s.io", "Lease") => {
            vec![row.name(), json!(row.text(&["spec", "holderIdentity"])), row.age()]
        }
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class(row),
        ("node.k8s.io", "RuntimeClass") => vec![row.name(), json!(row.text(&["handler"])), row.age()],
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => {
            vec![row.name(), json!(row.count(&["webhooks"])), row.age()]
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            cluster::admission_policy(row, "validations")
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => {
            cluster::admission_policy(row, "mutations")
        }
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicyBinding",
        ) => cluster::admission_policy_binding(row),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => cluster::flow_schema(row),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => cluster::priority_level(row),
        ("apiregistration.k8s.io", "APIService") => api_service(row),
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => vec![row.name(), row.age()],
        ("resource.k8s.io", "ResourceClaim") => claim_state(row),
        ("resource.k8s.io", "ResourceSlice") => vec![
            row.name(),
            json!(row.text(&["spec", "nodeName"])),
            json!(row.text(&["spec", "driver"])),
            json!(row.text(&["spec", "pool", "name"])),
            row.age(),
        ],
        _ => created(row),
    }
}

fn created(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.it.creation_timestamp().unwrap_or(""))]
}

fn core(kind: &str, row: &Row<'_>) -> Vec<Value> {
    match kind {
        "PodTemplate" => {
            let [names, images] = row.containers(&["template", "spec"]);
            let labels = super::row::pairs(row.get(&["template", "metadata", "labels"]));
            vec![row.name(), names, images, json!(labels)]
        }
        "ReplicationController" => workload::replica_set(row),
        "Service" => network::service(row),
        "Endpoints" => network::endpoints(row),
        "Node" => cluster::node(row),
        "Namespace" => vec![row.name(), json!(row.text(&["status", "phase"])), row.age()],
        "ConfigMap" => {
            vec![row.name(), json!(row.count(&["data"]) + row.count(&["binaryData"])), row.age()]
        }
        "Secret" => {
            vec![row.name(), json!(row.text(&["type"])), json!(row.count(&["data"])), row.age()]
        }
        "ServiceAccount" => vec![row.name(), json!(row.count(&["secrets"])), row.age()],
        "ComponentStatus" => cluster::component(row),
        "Event" => cluster::event(row),
        "PersistentVolume" => storage::volume(row),
        "PersistentVolumeClaim" => storage::claim(row),
        "ResourceQuota" => cluster::quota(row),
        _ => created(row),
    }
}

fn networking(kind: &str, row: &Row<'_>) -> Vec<Value> {
    match kind {
        "Ingress" => network::ingress(row),
        "IngressClass" => network::ingress_class(row),
        "NetworkPolicy" => network::network_policy(row),
        "IPAddress" => {
            let part = |field: &str| row.text(&["spec", "parentRef", field]);
            let resource = match part("group") {
                "" => part("resource").to_lowercase(),
                group => format!("{}.{group}", part("resource")).to_lowercase(),
            };
            let text = match (row.get(&["spec", "parentRef"]), part("namespace")) {
                (None, _) => "<none>".to_owned(),
                (Some(_), "") => format!("{resource}/{}", part("name")),
                (Some(_), namespace) => format!("{resource}/{namespace}/{}", part("name")),
            };
            vec![row.name(), json!(text)]
        }
        "ServiceCIDR" => {
            let all = row.items(&["spec", "cidrs"]).iter().filter_map(Value::as_str);
            vec![row.name(), json!(all.collect::<Vec<_>>().join(",")), row.age()]
        }
        _ => created(row),
    }
}

fn storage(kind: &str, row: &Row<'_>) -> Vec<Value> {
    match kind {
        "StorageClass" => storage::storage_class(row),
        "VolumeAttachment" => storage::attachment(row),
        "VolumeAttributesClass" => storage::attributes_class(row),
        "CSINode" => vec![row.name(), json!(row.count(&["spec", "drivers"])), row.age()],
        "CSIDriver" => storage::driver(row),
        "CSIStorageCapacity" => vec![
            row.name(),
            json!(row.text(&["storageClassName"])),
            json!(row.written(&["capacity"], "<unset>")),
        ],
        _ => created(row),
    }
}

fn api_service(row: &Row<'_>) -> Vec<Value> {
    let part = |field: &str| row.text(&["spec", "service", field]);
    let service = if part("name").is_empty() {
        "Local".to_owned()
    } else {
        format!("{}/{}", part("namespace"), part("name"))
    };
    let available = row.items(&["status", "conditions"]).iter().find(|it| it["type"] == "Available");
    let text = |it: &Value, field: &str| it[field].as_str().unwrap_or("").to_owned();
    let available = match available {
        None => "Unknown".to_owned(),
        Some(it) if it["status"] == "True" => "True".to_owned(),
        Some(it) => format!("{} ({})", text(it, "status"), text(it, "reason")),
    };
    vec![row.name(), json!(service), json!(available), row.age()]
}

fn claim_state(row: &Row<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if row.it.deletion_timestamp().is_some() {
        states.push("deleted");
    }
    match (row.get(&["status", "allocation"]), row.count(&["status", "reservedFor"])) {
        (None, _) if states.is_empty() => states.push("pending"),
        (None, _) => {}
        (Some(_), 0) => states.push("allocated"),
        (Some(_), _) => states.extend(["allocated", "reserved"]),
    }
    vec![row.name(), json!(states.join(",")), row.age()]
}
