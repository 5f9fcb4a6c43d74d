//! All admission plugins, in upstream's order, and which of them run.

use std::sync::Arc;

use super::certificates::{
    CertificateApproval, CertificateRequests, CertificateSigning, CertificateSubjectRestriction,
};
use super::configuration::{Config, ConfigError, Configurations};
use super::default_class::DefaultClass;
use super::default_toleration_seconds::DefaultTolerationSeconds;
use super::dynamic::checks::ExpressionCheck;
use super::dynamic::hooks::Hooks;
use super::dynamic::metrics::PolicyMetrics;
use super::dynamic::mutating::MutatingWebhooks;
use super::dynamic::mutating_policy::MutatingPolicies;
use super::dynamic::policies::Policies;
use super::dynamic::validating::ValidatingWebhooks;
use super::dynamic::validating_policy::ValidatingPolicies;
use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::persistent_volume_claim_resize::PersistentVolumeClaimResize;
use super::pod_security::PodSecurity;
use super::pod_topology_labels::PodTopologyLabels;
use super::priority::Priority;
use super::resource_quota::ResourceQuota;
use super::role_escalation::RoleEscalation;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccount;
use super::service_allocation::ServiceAllocation;
use super::storage_object_in_use_protection::StorageObjectInUseProtection;
use super::taint_nodes_by_condition::TaintNodesByCondition;
use super::{Admission, Chain};
use crate::authorization::{Authorizer, rbac::Rbac};
use crate::cache::WatchCache;
use crate::insight::pod_security::Evaluations;
use crate::insight::webhooks::Webhooks;
use crate::remote::ServiceResolver;

/// When a plugin runs that no flag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unnamed {
    On,
    Off,
}

use Unnamed::{Off, On};

/// Every plugin that upstream knows, in the order in which they run.
const ORDER: [(&str, Unnamed); 41] = [
    ("AlwaysAdmit", Off),
    ("NamespaceAutoProvision", Off),
    ("NamespaceLifecycle", On),
    ("NamespaceExists", Off),
    ("LimitPodHardAntiAffinityTopology", Off),
    ("LimitRanger", On),
    ("ServiceAccount", On),
    // Off in upstream's list; every installer turns it on.
    ("NodeRestriction", On),
    ("TaintNodesByCondition", On),
    ("AlwaysPullImages", Off),
    ("ImagePolicyWebhook", Off),
    ("PodSecurity", On),
    ("PodNodeSelector", Off),
    ("Priority", On),
    ("DefaultTolerationSeconds", On),
    ("PodTolerationRestriction", Off),
    ("EventRateLimit", Off),
    ("ExtendedResourceToleration", Off),
    ("DefaultStorageClass", On),
    ("StorageObjectInUseProtection", On),
    ("PodGroupProtection", On),
    ("OwnerReferencesPermissionEnforcement", Off),
    ("PersistentVolumeClaimResize", On),
    ("RuntimeClass", On),
    ("CertificateApproval", On),
    ("CertificateSigning", On),
    ("ClusterTrustBundleAttest", On),
    ("CertificateSubjectRestriction", On),
    ("DefaultIngressClass", On),
    ("DenyServiceExternalIPs", Off),
    ("PodTopologyLabels", On),
    ("PodGroupWorkloadExists", On),
    ("NodeDeclaredFeatureValidator", On),
    ("JobValidation", On),
    ("PodResizeValidator", On),
    // What comes from outside is last, so that it has the final object; only quota counts behind it.
    ("MutatingAdmissionPolicy", On),
    ("MutatingAdmissionWebhook", On),
    ("ValidatingAdmissionPolicy", On),
    ("ValidatingAdmissionWebhook", On),
    ("ResourceQuota", On),
    ("AlwaysDeny", Off),
];

/// What plugins are made from.
pub struct Parts {
    /// The RBAC part of the authorizer.
    pub rbac: Arc<Rbac>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// What the store holds.
    pub cache: Arc<WatchCache>,
    /// The way to webhooks behind Services.
    pub resolver: Arc<ServiceResolver>,
    /// Where plugins count what is theirs alone.
    pub metrics: keelson_metrics::Registry,
    /// What is counted of webhooks.
    pub webhooks: Arc<Webhooks>,
    /// What is counted of PodSecurity.
    pub pod_security: Evaluations,
    /// The addresses and node ports of Services.
    pub allocations: Arc<super::service_allocation::Allocations>,
}

/// Whether upstream knows a plugin of this name.
pub fn is_known(name: &str) -> bool {
    ORDER.iter().any(|(known, _)| *known == name)
}

/// Makes one plugin; `None` where this server has none of that name.
fn make(
    name: &str,
    parts: &Parts,
    configurations: &Configurations,
) -> Result<Option<Arc<dyn Admission>>, ConfigError> {
    let hooks = |plural: &str| Hooks::new(plural, &parts.cache, Arc::clone(&parts.resolver));
    Ok(Some(match name {
        "NamespaceLifecycle" => Arc::new(NamespaceLifecycle),
        "LimitRanger" => Arc::new(LimitRanger),
        "ServiceAccount" => Arc::new(ServiceAccount),
        "NodeRestriction" => Arc::new(NodeRestriction),
        "TaintNodesByCondition" => Arc::new(TaintNodesByCondition),
        "PodSecurity" => Arc::new(PodSecurity::new(configurations, parts.pod_security.clone())?),
        "Priority" => Arc::new(Priority),
        "DefaultTolerationSeconds" => Arc::new(DefaultTolerationSeconds),
        "DefaultStorageClass" => Arc::new(DefaultClass::STORAGE),
        "StorageObjectInUseProtection" => Arc::new(StorageObjectInUseProtection),
        "PersistentVolumeClaimResize" => Arc::new(PersistentVolumeClaimResize),
        "RuntimeClass" => Arc::new(RuntimeClass),
        "DefaultIngressClass" => Arc::new(DefaultClass::INGRESS),
        "PodTopologyLabels" => Arc::new(PodTopologyLabels),
        "MutatingAdmissionPolicy" => Arc::new(MutatingPolicies::new(
            Policies::new(&parts.cache),
            Arc::clone(&parts.authorizer),
            PolicyMetrics::mutating(&parts.metrics)?,
        )),
        "MutatingAdmissionWebhook" => Arc::new(MutatingWebhooks::new(
            hooks("mutatingwebhookconfigurations"),
            Arc::clone(&parts.authorizer),
            Arc::clone(&parts.webhooks),
        )),
        "ValidatingAdmissionPolicy" => Arc::new(ValidatingPolicies::new(
            Policies::new(&parts.cache),
            Arc::clone(&parts.authorizer),
            PolicyMetrics::validating(&parts.metrics)?,
        )),
        "ValidatingAdmissionWebhook" => Arc::new(ValidatingWebhooks::new(
            hooks("validatingwebhookconfigurations"),
            Arc::clone(&parts.authorizer),
            Arc::clone(&parts.webhooks),
        )),
        "CertificateApproval" => Arc::new(CertificateApproval(parts.authorizer.clone())),
        "CertificateSigning" => Arc::new(CertificateSigning(parts.authorizer.clone())),
        "CertificateSubjectRestriction" => Arc::new(CertificateSubjectRestriction),
        "ResourceQuota" => Arc::new(ResourceQuota::new(configurations)?),
        _ => return Ok(None),
    }))
}

/// The plugins that the configuration asks for.
pub fn build(config: &Config, parts: &Parts) -> Result<Chain, ConfigError> {
    let configurations = Configurations::read(config.control_file.as_deref())?;
    for name in config.enable.iter().chain(&config.disable) {
        if !is_known(name) {
            return Err(ConfigError::Unknown(name.clone()));
        }
    }
    if let Some(both) = config.enable.iter().find(|name| config.disable.contains(name)) {
        return Err(ConfigError::Both(both.clone()));
    }
    let mut plugins: Vec<Arc<dyn Admission>> = Vec::new();
    for (name, default) in ORDER {
        let named = config.enable.iter().any(|it| it == name);
        let is_on = named || (default == On && !config.disable.iter().any(|it| it == name));
        if !is_on {
            continue;
        }
        match make(name, parts, &configurations)? {
            Some(plugin) => plugins.push(plugin),
            None if named => return Err(ConfigError::Unavailable(name.to_owned())),
            None => {}
        }
    }
    // What upstream does in its registry. No flag turns it off.
    plugins.push(Arc::new(ServiceAllocation::new(parts.allocations.clone())));
    plugins.push(Arc::new(CertificateRequests));
    plugins.push(Arc::new(ExpressionCheck::new(Arc::clone(&parts.authorizer))));
    plugins.push(Arc::new(RoleEscalation::new(parts.rbac.clone(), parts.authorizer.clone())));
    Ok(Chain::new(plugins))
}
