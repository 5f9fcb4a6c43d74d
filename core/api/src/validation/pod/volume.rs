//! Volumes: a name, and exactly one source with what it needs.

use std::collections::{HashMap, HashSet};

use super::super::at::At;
use super::super::selector::labels;
use super::super::{FieldError, storage};
use super::container::local_path;
use super::env::{field_ref, resource_ref};
use super::resources::quantity;
use crate::names;

const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Sources that need some of their fields and have no other rule.
const NEEDED: [(&str, &[&str]); 17] = [
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["registry", "volume"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("flexVolume", &["driver"]),
];

/// All volumes, by name. `pod` is the name of the pod, where there is one.
pub(super) fn all<'a>(
    list: &At<'a>,
    pod: Option<&str>,
    errors: &mut Vec<FieldError>,
) -> HashMap<&'a str, At<'a>> {
    let mut seen = HashMap::new();
    let of_pod = |volume: &At<'_>| {
        let (pod, name) = (pod.filter(|pod| !pod.is_empty())?, volume.field("name").text());
        volume.field("ephemeral").is_set().then(|| format!("{pod}-{name}"))
    };
    let made: HashSet<String> = list.items().filter_map(|volume| of_pod(&volume)).collect();
    for volume in list.items() {
        let claim = volume.field("persistentVolumeClaim").field("claimName");
        if made.contains(claim.text()) {
            errors.push(claim.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
        let name = volume.field("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            name.invalid_for(names::dns1123_label(name.text()), errors);
        }
        source(&volume, pod, errors);
        if !name.is_empty() && seen.insert(name.text(), volume).is_some() {
            errors.push(name.duplicate());
        }
    }
    seen
}

fn needs(at: &At<'_>, field: &str, errors: &mut Vec<FieldError>) {
    if at.field(field).is_empty() {
        errors.push(at.field(field).required(""));
    }
}

fn source(volume: &At<'_>, pod: Option<&str>, errors: &mut Vec<FieldError>) {
    let fields = volume.value.as_object().into_iter().flatten();
    let sources: Vec<&str> = fields
        .filter(|(name, value)| *name != "name" && !value.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    if sources.is_empty() {
        errors.push(volume.required("must specify a volume type"));
    }
    for (place, name) in sources.iter().enumerate() {
        let at = volume.field(name);
        if place > 0 {
            errors.push(at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        let needed = NEEDED.iter().find(|(source, _)| source == name).map_or(&[][..], |(_, fields)| fields);
        needed.iter().for_each(|field| needs(&at, field, errors));
        one(name, &at, pod, errors);
        if *name == "ephemeral" {
            ephemeral(volume, &at, pod, errors);
        }
    }
}

fn one(name: &str, at: &At<'_>, pod: Option<&str>, errors: &mut Vec<FieldError>) {
    match name {
        "emptyDir" => {
            let size = at.field("sizeLimit");
            let mut faults = Vec::new();
            if size.is_set() && quantity(&size, &mut faults).is_none() {
                errors.push(size.forbidden("SizeLimit field must be a valid resource quantity"));
            }
        }
        "hostPath" => {
            needs(at, "path", errors);
            backstep(&at.field("path"), errors);
            let kind = at.field("type");
            if !HOST_PATHS.contains(&kind.text()) {
                errors.push(FieldError::not_supported(kind.path, kind.value.clone(), &HOST_PATHS));
            }
        }
        "secret" | "configMap" => {
            needs(at, if name == "secret" { "secretName" } else { "name" }, errors);
            mode(&at.field("defaultMode"), errors);
            items(&at.field("items"), errors);
        }
        "nfs" => {
            needs(at, "server", errors);
            needs(at, "path", errors);
            if !at.field("path").is_empty() && !at.field("path").text().starts_with('/') {
                errors.push(at.field("path").invalid("must be an absolute path"));
            }
        }
        "downwardAPI" => {
            mode(&at.field("defaultMode"), errors);
            downward(at, errors);
        }
        "projected" => {
            mode(&at.field("defaultMode"), errors);
            projected(at, errors);
        }
        "csi" => {
            driver_name(&at.field("driver"), errors);
            let secret = at.field("nodePublishSecretRef");
            if secret.is_set() {
                needs(&secret, "name", errors);
            }
        }
        "image" => {
            // Whoever makes pods of a template may say the image later.
            if pod.is_some() {
                needs(at, "reference", errors);
            }
            let policy = at.field("pullPolicy");
            if policy.is_set() {
                policy.one_of(&["Always", "IfNotPresent", "Never"], errors);
            }
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = at.field("partition");
            if partition.number().is_some_and(|number| !(0..=255).contains(&number)) {
                errors.push(partition.invalid("must be between 0 and 255, inclusive"));
            }
        }
        "gitRepo" => local_path(&at.field("directory"), errors),
        "fc" => {
            let (names, ids) = (at.field("targetWWNs"), at.field("wwids"));
            if names.is_empty() && ids.is_empty() {
                let detail = "must specify either targetWWNs or wwids, but not both";
                errors.push(names.required(detail));
            } else if !names.is_empty() && !ids.is_empty() {
                errors.push(names.invalid("targetWWNs and wwids can not be specified simultaneously"));
            }
        }
        _ => {}
    }
}

/// The name of a storage driver.
pub(in super::super) fn driver_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > 63 {
        errors.push(at.too_long(63));
    }
    let lower = at.text().to_lowercase();
    let faults = names::dns1123_subdomain(&lower).into_iter();
    errors.extend(faults.map(|fault| FieldError::invalid(at.path.as_str(), lower.as_str(), fault)));
}

/// A claim that comes and goes with the pod.
fn ephemeral(volume: &At<'_>, at: &At<'_>, pod: Option<&str>, errors: &mut Vec<FieldError>) {
    let template = at.field("volumeClaimTemplate");
    if !template.is_set() {
        errors.push(template.required(""));
        return;
    }
    template_metadata(&template.field("metadata"), errors);
    storage::claim_spec(&template.field("spec"), errors);
    if let Some(pod) = pod.filter(|pod| !pod.is_empty()) {
        let name = format!("{pod}-{}", volume.field("name").text());
        for fault in names::dns1123_subdomain(&name) {
            let detail = format!("PVC name {name:?}: {fault}");
            errors.push(FieldError::invalid(volume.field("name").path, volume.field("name").text(), detail));
        }
    }
}

/// Of a claim that is made its labels and annotations are the pod's to say.
fn template_metadata(at: &At<'_>, errors: &mut Vec<FieldError>) {
    labels(&at.field("labels"), errors);
    let annotations = at.field("annotations");
    for (key, _) in annotations.entries() {
        let faults = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(faults.map(|fault| FieldError::invalid(annotations.path.as_str(), key, fault)));
    }
    for field in at.value.as_object().into_iter().flatten().map(|(field, _)| at.field(field)) {
        let is_known =
            ["labels", "annotations"].iter().any(|known| field.path.ends_with(&format!(".{known}")));
        if !is_known && !field.is_empty() {
            errors.push(field.forbidden("cannot be set for an ephemeral volume"));
        }
    }
}

fn backstep(path: &At<'_>, errors: &mut Vec<FieldError>) {
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

fn mode(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.number().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(at.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// Keys that become files.
fn items(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for item in list.items() {
        for field in ["key", "path"] {
            if item.field(field).is_empty() {
                errors.push(item.field(field).required(""));
            }
        }
        file_path(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
    }
}

pub(super) fn file_path(path: &At<'_>, errors: &mut Vec<FieldError>) {
    local_path(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") && path.text() != ".." {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn downward(at: &At<'_>, errors: &mut Vec<FieldError>) {
    for item in at.field("items").items() {
        if item.field("path").is_empty() {
            errors.push(item.field("path").required(""));
        }
        file_path(&item.field("path"), errors);
        mode(&item.field("mode"), errors);
        let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
        match (field.is_set(), resource.is_set()) {
            (true, true) => errors.push(FieldError::invalid(
                item.path.as_str(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (true, false) => field_ref(&field, &FIELDS, errors),
            (false, true) => resource_ref(&resource, true, errors),
            (false, false) => errors.push(item.required("one of fieldRef and resourceFieldRef is required")),
        }
    }
}

const PROJECTIONS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

fn projected(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut paths = HashSet::new();
    for part in at.field("sources").items() {
        let set: Vec<&str> = PROJECTIONS.into_iter().filter(|name| part.field(name).is_set()).collect();
        if set.is_empty() {
            errors.push(part.required("must specify a projection type"));
        }
        for (place, name) in set.iter().enumerate() {
            let one = part.field(name);
            if place > 0 {
                errors.push(one.forbidden("may not specify more than 1 volume type"));
                continue;
            }
            projection(name, &one, errors);
            let listed = one.field("items").items().map(|item| item.field("path"));
            for path in listed.chain([one.field("path")]).filter(|path| !path.is_empty()) {
                if !paths.insert(path.text()) {
                    errors.push(FieldError::invalid(
                        at.path.as_str(),
                        path.text(),
                        "conflicting duplicate paths",
                    ));
                }
            }
        }
    }
}

fn projection(name: &str, one: &At<'_>, errors: &mut Vec<FieldError>) {
    match name {
        "secret" | "configMap" => {
            needs(one, "name", errors);
            items(&one.field("items"), errors);
        }
        "downwardAPI" => downward(one, errors),
        "serviceAccountToken" => {
            let seconds = one.field("expirationSeconds");
            if seconds.number().is_some_and(|seconds| seconds < 600) {
                errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
            }
            if seconds.number().is_some_and(|seconds| seconds > 1 << 32) {
                errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            needs(one, "path", errors);
            file_path(&one.field("path"), errors);
        }
        "clusterTrustBundle" => trust_bundle(one, errors),
        "podCertificate" => {
            needs(one, "signerName", errors);
            one.field("keyType")
                .one_of(&["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"], errors);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                file_path(&one.field(field), errors);
            }
        }
        _ => {}
    }
}

fn trust_bundle(one: &At<'_>, errors: &mut Vec<FieldError>) {
    let (name, signer, selector) = (one.field("name"), one.field("signerName"), one.field("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => {
            let detail = "only one of name and signerName may be used";
            errors.push(FieldError::invalid(one.path.as_str(), one.value.clone(), detail));
        }
        (true, false) if name.is_empty() => errors.push(name.required("must be a valid object name")),
        (true, false) if selector.is_set() => {
            errors.push(selector.invalid("labelSelector must be unset if name is specified"));
        }
        (false, true) if signer.is_empty() => errors.push(signer.required("must be a valid signer name")),
        (false, false) => errors.push(one.required("either name or signerName must be specified")),
        (true | false, _) => {}
    }
    needs(one, "path", errors);
    file_path(&one.field("path"), errors);
}

/// What to use in place of sources of volumes of which the nodes know nothing.
pub(crate) const REFUSED: [(&str, &str); 20] = [
    ("awsElasticBlockStore", "a claim of the CSI driver ebs.csi.aws.com"),
    ("azureDisk", "a claim of the CSI driver disk.csi.azure.com"),
    ("azureFile", "a volume of the CSI driver file.csi.azure.com"),
    ("cephfs", "a claim of the CSI driver cephfs.csi.ceph.com"),
    ("cinder", "a claim of the CSI driver cinder.csi.openstack.org"),
    ("fc", "a claim of a CSI driver"),
    ("flexVolume", "a volume of a CSI driver"),
    ("flocker", "a claim of a CSI driver"),
    ("gcePersistentDisk", "a claim of the CSI driver pd.csi.storage.gke.io"),
    ("gitRepo", "an init container that clones into an emptyDir"),
    ("glusterfs", "a claim of a CSI driver"),
    ("iscsi", "a claim of a CSI driver such as iscsi.csi.k8s.io"),
    ("nfs", "a volume of a CSI driver such as nfs.csi.k8s.io"),
    ("photonPersistentDisk", "a claim of a CSI driver"),
    ("portworxVolume", "a claim of the CSI driver pxd.portworx.com"),
    ("quobyte", "a claim of a CSI driver"),
    ("rbd", "a claim of the CSI driver rbd.csi.ceph.com"),
    ("scaleIO", "a claim of a CSI driver"),
    ("storageos", "a claim of a CSI driver"),
    ("vsphereVolume", "a claim of the CSI driver csi.vsphere.vmware.com"),
];

/// Volumes that no node can mount.
pub(super) fn refuse(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for volume in list.items() {
        for (source, instead) in REFUSED {
            let at = volume.field(source);
            if at.is_set() {
                errors
                    .push(at.forbidden(format!("volumes of type {source} are not supported; use {instead}")));
            }
        }
    }
}

/// Sources of projected volumes that upstream drops while it does not take them: without them a volume would not be what it says.
const GATED: [(&str, &str); 2] =
    [("clusterTrustBundle", "ClusterTrustBundleProjection"), ("podCertificate", "PodCertificateRequest")];

pub(super) fn refuse_gated(list: &At<'_>, errors: &mut Vec<FieldError>) {
    for part in list.items().flat_map(|volume| volume.field("projected").field("sources").items()) {
        for (source, gate) in GATED {
            let at = part.field(source);
            if at.is_set() {
                errors.push(
                    at.forbidden(format!("may not be set: this cluster is without the feature {gate}")),
                );
            }
        }
    }
}
