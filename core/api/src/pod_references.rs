//! What a pod refers to in its namespace, which its node may read for it.

use std::collections::HashSet;

use serde_json::Value;

use crate::Object;

/// Something in a pod's namespace that the pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A Secret.
    Secret(String),
    /// A ConfigMap.
    ConfigMap(String),
    /// A PersistentVolumeClaim.
    Claim(String),
    /// A ServiceAccount.
    ServiceAccount(String),
    /// A ResourceClaim.
    ResourceClaim(String),
}

/// All that the pod refers to.
pub fn references(pod: &Object) -> HashSet<Reference> {
    let mut found = HashSet::new();
    let text = |value: &Value, pointer: &str| value.pointer(pointer)?.as_str().map(str::to_owned);
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let service_account = pod.get_str(&["spec", "serviceAccountName"]).filter(|name| !name.is_empty());
    found.extend(service_account.map(|name| Reference::ServiceAccount(name.to_owned())));
    for secret in list(pod.get(&["spec", "imagePullSecrets"])) {
        found.extend(text(&secret, "/name").map(Reference::Secret));
    }
    for volume in list(pod.get(&["spec", "volumes"])) {
        found.extend(text(&volume, "/secret/secretName").map(Reference::Secret));
        found.extend(text(&volume, "/configMap/name").map(Reference::ConfigMap));
        found.extend(text(&volume, "/persistentVolumeClaim/claimName").map(Reference::Claim));
        for source in list(volume.pointer("/projected/sources")) {
            found.extend(text(&source, "/secret/name").map(Reference::Secret));
            found.extend(text(&source, "/configMap/name").map(Reference::ConfigMap));
        }
        for kind in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            found.extend(text(&volume, &format!("/{kind}/secretRef/name")).map(Reference::Secret));
        }
        found.extend(text(&volume, "/csi/nodePublishSecretRef/name").map(Reference::Secret));
        found.extend(text(&volume, "/azureFile/secretName").map(Reference::Secret));
        if volume.get("ephemeral").is_some()
            && let (Some(pod), Some(volume)) = (pod.name(), text(&volume, "/name"))
        {
            found.insert(Reference::Claim(format!("{pod}-{volume}")));
        }
    }
    for claim in list(pod.get(&["spec", "resourceClaims"])) {
        found.extend(text(&claim, "/resourceClaimName").map(Reference::ResourceClaim));
    }
    // Claims that were made of templates.
    for claim in list(pod.get(&["status", "resourceClaimStatuses"])) {
        found.extend(text(&claim, "/resourceClaimName").map(Reference::ResourceClaim));
    }
    let extended = pod.get_str(&["status", "extendedResourceClaimStatus", "resourceClaimName"]);
    found.extend(extended.map(|name| Reference::ResourceClaim(name.to_owned())));
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(pod.get(&["spec", field])) {
            for variable in list(container.get("env")) {
                found.extend(text(&variable, "/valueFrom/secretKeyRef/name").map(Reference::Secret));
                found.extend(text(&variable, "/valueFrom/configMapKeyRef/name").map(Reference::ConfigMap));
            }
            for source in list(container.get("envFrom")) {
                found.extend(text(&source, "/secretRef/name").map(Reference::Secret));
                found.extend(text(&source, "/configMapRef/name").map(Reference::ConfigMap));
            }
        }
    }
    found
}

/// The kind of objects that the pod refers to and its kubelet may then read; the first of several, as upstream names it.
fn referred_kind(pod: &Object) -> Option<&'static str> {
    const KINDS: [&str; 5] =
        ["a service account", "secrets", "configmaps", "persistentvolumeclaims", "resourceclaims"];
    let place = |reference: &Reference| match reference {
        Reference::ServiceAccount(_) => 0,
        Reference::Secret(_) => 1,
        Reference::ConfigMap(_) => 2,
        Reference::Claim(_) => 3,
        Reference::ResourceClaim(_) => 4,
    };
    references(pod).iter().map(place).min().map(|place: usize| KINDS[place])
}

/// What a pod of a kubelet's own may not refer to, as its kubelet could then read it.
pub fn forbidden_reference(pod: &Object) -> Option<&'static str> {
    const PROJECTED: [(&str, &str); 3] = [
        ("serviceAccountToken", "a service account"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let volumes = pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let sources = volumes.filter_map(|volume| volume.pointer("/projected/sources")?.as_array()).flatten();
    let mut projected = sources.filter_map(|source| {
        let found = PROJECTED.iter().find(|(field, _)| source.get(*field).is_some_and(|it| !it.is_null()));
        found.map(|(_, kind)| *kind)
    });
    referred_kind(pod).or_else(|| projected.next())
}
