//! Every resource that Kubernetes 1.36 serves by default.

use std::sync::Arc;

use crate::kinds::{GroupVersion, GroupVersionKind, ResourceInfo, SubresourceInfo};

/// A set of resources, in the order in which discovery shows them.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    resources: Vec<Arc<ResourceInfo>>,
}

impl Catalog {
    /// The built-in resources.
    pub fn builtin() -> Self {
        let mut group_version = GroupVersion::parse("v1");
        let mut resources = Vec::with_capacity(90);
        for line in TABLE.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.strip_prefix('#') {
                Some(header) => group_version = GroupVersion::parse(header.trim()),
                None => resources.extend(row(&group_version, line).map(Arc::new)),
            }
        }
        Self { resources }
    }

    /// All resources.
    pub fn resources(&self) -> &[Arc<ResourceInfo>] {
        &self.resources
    }

    /// The resource with this plural name in a group and version.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceInfo>> {
        self.resources.iter().find(|it| it.plural == plural && it.group == group && it.version == version)
    }

    /// The resource of a kind.
    pub fn find_kind(&self, gvk: &GroupVersionKind) -> Option<&Arc<ResourceInfo>> {
        self.resources
            .iter()
            .find(|it| it.kind == gvk.kind && it.group == gvk.group && it.version == gvk.version)
    }

    /// The groups and versions, in order, each once; the first version of a group is the preferred one.
    pub fn group_versions(&self) -> Vec<GroupVersion> {
        let mut found: Vec<GroupVersion> = Vec::new();
        for resource in &self.resources {
            let group_version = resource.group_version();
            if !found.contains(&group_version) {
                found.push(group_version);
            }
        }
        found
    }

    /// Adds a resource, replacing one of the same group, version and plural.
    pub fn insert(&mut self, resource: Arc<ResourceInfo>) {
        self.resources.retain(|it| {
            it.plural != resource.plural || it.group != resource.group || it.version != resource.version
        });
        self.resources.push(resource);
    }
}

const ALL_VERBS: &str = "create,delete,deletecollection,get,list,patch,update,watch";

/// A line is: plural kind scope(N|C) shortNames categories subresources [verbs]; `-` is none.
fn row(group_version: &GroupVersion, line: &str) -> Option<ResourceInfo> {
    let mut fields = line.split_whitespace();
    let (plural, kind, scope) = (fields.next()?, fields.next()?, fields.next()?);
    let (short_names, categories) = (list(fields.next()?), list(fields.next()?));
    let subresources = list(fields.next()?);
    let verbs = list(fields.next().unwrap_or(ALL_VERBS));
    let GroupVersion { group, version } = group_version.clone();
    let own = GroupVersionKind::new(&group, &version, kind);
    let storage_version = if group == "autoscaling" { "v2".to_owned() } else { version.clone() };
    Some(ResourceInfo {
        list_kind: format!("{kind}List"),
        singular: kind.to_lowercase(),
        plural: plural.to_owned(),
        kind: kind.to_owned(),
        short_names,
        categories,
        namespaced: scope == "N",
        verbs,
        subresources: subresources.iter().map(|name| subresource(&own, plural, name)).collect(),
        storage_version,
        custom: None,
        group,
        version,
    })
}

fn subresource(own: &GroupVersionKind, plural: &str, name: &str) -> SubresourceInfo {
    let (kind, verbs) = match name {
        "scale" => (GroupVersionKind::new("autoscaling", "v1", "Scale"), "get,patch,update"),
        "eviction" => (GroupVersionKind::new("policy", "v1", "Eviction"), "create"),
        "binding" => (GroupVersionKind::new("", "v1", "Binding"), "create"),
        "token" => (GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"), "create"),
        "log" => (own.clone(), "get"),
        "exec" => (GroupVersionKind::new("", "v1", "PodExecOptions"), "create,get"),
        "attach" => (GroupVersionKind::new("", "v1", "PodAttachOptions"), "create,get"),
        "portforward" => (GroupVersionKind::new("", "v1", "PodPortForwardOptions"), "create,get"),
        "proxy" => {
            let kind = match plural {
                "nodes" => "NodeProxyOptions",
                "services" => "ServiceProxyOptions",
                _ => "PodProxyOptions",
            };
            (GroupVersionKind::new("", "v1", kind), "create,delete,get,patch,update")
        }
        "finalize" => (own.clone(), "update"),
        _ => (own.clone(), "get,patch,update"),
    };
    SubresourceInfo { name: name.to_owned(), kind, verbs: list(verbs) }
}

fn list(text: &str) -> Vec<String> {
    if text == "-" { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
}

const TABLE: &str = "
# v1
bindings Binding N - - - create
componentstatuses ComponentStatus C cs - - get,list
configmaps ConfigMap N cm - -
endpoints Endpoints N ep - -
events Event N ev - -
limitranges LimitRange N limits - -
namespaces Namespace C ns - finalize,status create,delete,get,list,patch,update,watch
nodes Node C no - proxy,status
persistentvolumeclaims PersistentVolumeClaim N pvc - status
persistentvolumes PersistentVolume C pv - status
pods Pod N po all attach,binding,ephemeralcontainers,eviction,exec,log,portforward,proxy,resize,status
podtemplates PodTemplate N - - -
replicationcontrollers ReplicationController N rc all scale,status
resourcequotas ResourceQuota N quota - status
secrets Secret N - - -
serviceaccounts ServiceAccount N sa - token
services Service N svc all proxy,status
# apiregistration.k8s.io/v1
apiservices APIService C - api-extensions status
# apps/v1
controllerrevisions ControllerRevision N - - -
daemonsets DaemonSet N ds all status
deployments Deployment N deploy all scale,status
replicasets ReplicaSet N rs all scale,status
statefulsets StatefulSet N sts all scale,status
# events.k8s.io/v1
events Event N ev - -
# authentication.k8s.io/v1
selfsubjectreviews SelfSubjectReview C - - - create
tokenreviews TokenReview C - - - create
# authorization.k8s.io/v1
localsubjectaccessreviews LocalSubjectAccessReview N - - - create
selfsubjectaccessreviews SelfSubjectAccessReview C - - - create
selfsubjectrulesreviews SelfSubjectRulesReview C - - - create
subjectaccessreviews SubjectAccessReview C - - - create
# autoscaling/v2
horizontalpodautoscalers HorizontalPodAutoscaler N hpa all status
# autoscaling/v1
horizontalpodautoscalers HorizontalPodAutoscaler N hpa all status
# batch/v1
cronjobs CronJob N cj all status
jobs Job N - all status
# certificates.k8s.io/v1
certificatesigningrequests CertificateSigningRequest C csr - approval,status
# networking.k8s.io/v1
ingressclasses IngressClass C - - -
ingresses Ingress N ing - status
ipaddresses IPAddress C ip - -
networkpolicies NetworkPolicy N netpol - -
servicecidrs ServiceCIDR C - - status
# policy/v1
poddisruptionbudgets PodDisruptionBudget N pdb - status
# rbac.authorization.k8s.io/v1
clusterrolebindings ClusterRoleBinding C - - -
clusterroles ClusterRole C - - -
rolebindings RoleBinding N - - -
roles Role N - - -
# storage.k8s.io/v1
csidrivers CSIDriver C - - -
csinodes CSINode C - - -
csistoragecapacities CSIStorageCapacity N - - -
storageclasses StorageClass C sc - -
volumeattachments VolumeAttachment C - - status
volumeattributesclasses VolumeAttributesClass C vac - -
# admissionregistration.k8s.io/v1
mutatingadmissionpolicies MutatingAdmissionPolicy C - api-extensions -
mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding C - api-extensions -
mutatingwebhookconfigurations MutatingWebhookConfiguration C - api-extensions -
validatingadmissionpolicies ValidatingAdmissionPolicy C - api-extensions status
validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding C - api-extensions -
validatingwebhookconfigurations ValidatingWebhookConfiguration C - api-extensions -
# apiextensions.k8s.io/v1
customresourcedefinitions CustomResourceDefinition C crd,crds api-extensions status
# scheduling.k8s.io/v1
priorityclasses PriorityClass C pc - -
# coordination.k8s.io/v1
leases Lease N - - -
# node.k8s.io/v1
runtimeclasses RuntimeClass C - - -
# discovery.k8s.io/v1
endpointslices EndpointSlice N - - -
# flowcontrol.apiserver.k8s.io/v1
flowschemas FlowSchema C - - status
prioritylevelconfigurations PriorityLevelConfiguration C - - status
# resource.k8s.io/v1
deviceclasses DeviceClass C - - -
resourceclaims ResourceClaim N - - status
resourceclaimtemplates ResourceClaimTemplate N - - -
resourceslices ResourceSlice C - - -
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_known_with_their_short_name_and_scale() {
        let catalog = Catalog::builtin();
        let deployments = catalog.find("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.short_names, ["deploy"]);
        assert_eq!(deployments.subresource("scale").unwrap().kind.kind, "Scale");
        assert!(deployments.is_stored());
        assert!(!catalog.find("", "v1", "bindings").unwrap().is_stored());
    }
}
