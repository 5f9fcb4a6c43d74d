//! Volumes and claims, their classes, and what storage drivers say of themselves.

use std::collections::HashSet;

use super::FieldError;
use super::at::At;
use super::pod::resources::quantity;
use super::pod::scheduling::node_selector;
use super::selector::label_selector;
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const FIXED: &str = "field is immutable";

fn modes(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let list = spec.field("accessModes");
    if list.is_empty() {
        errors.push(list.required("at least 1 access mode is required"));
    }
    for mode in list.items() {
        if !MODES.contains(&mode.text()) {
            errors.push(FieldError::not_supported(list.path.as_str(), mode.text(), &MODES));
        }
    }
    let alone = list.items().any(|mode| mode.text() == "ReadWriteOncePod");
    if alone && list.items().count() > 1 {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(list.path, detail));
    }
}

fn volume_mode(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let mode = spec.field("volumeMode");
    if mode.is_set() && !VOLUME_MODES.contains(&mode.text()) {
        errors.push(FieldError::not_supported(mode.path.as_str(), mode.value.clone(), &VOLUME_MODES));
    }
}

fn class_name(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_empty() {
        at.invalid_for(names::dns1123_subdomain(at.text()), errors);
    }
}

pub(super) fn claim(object: &Object, errors: &mut Vec<FieldError>) {
    claim_spec(&At::of(object, "spec"), errors);
}

/// What is asked of a volume.
pub(super) fn claim_spec(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    modes(spec, errors);
    let requests = spec.field("resources").field("requests");
    let storage = At { path: format!("{}[storage]", requests.path), ..requests.field("storage") };
    if !storage.is_set() {
        errors.push(storage.required(""));
    } else if quantity(&storage, errors) == Some(Quantity::ZERO) {
        errors.push(storage.invalid("must be greater than zero"));
    }
    label_selector(&spec.field("selector"), errors);
    class_name(&spec.field("storageClassName"), errors);
    class_name(&spec.field("volumeAttributesClassName"), errors);
    volume_mode(spec, errors);
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.field(field);
        if !source.is_set() {
            continue;
        }
        for part in ["name", "kind"].map(|part| source.field(part)) {
            if part.is_empty() {
                errors.push(part.required(""));
            }
        }
        if source.field("apiGroup").is_empty() && source.field("kind").text() != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(source.invalid(detail));
        }
    }
}

/// The spec of a claim stays, but for what it asks for and where it is bound.
pub(super) fn claim_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    const DETAIL: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let differs = |field: &str| spec.field(field).value != before.field(field).value;
    let kept = ["accessModes", "selector", "volumeMode", "dataSource", "dataSourceRef"];
    // A claim gets its class later, where none was the default when it was made; and its volume.
    let class = differs("storageClassName") && before.field("storageClassName").is_set();
    let volume = differs("volumeName") && !before.field("volumeName").is_empty();
    if class || volume || kept.into_iter().any(differs) {
        errors.push(spec.forbidden(DETAIL));
    }
    let size =
        |at: &At<'_>| Quantity::parse(at.field("resources").field("requests").field("storage").text()).ok();
    let status = At::of(old, "status");
    let bound = status.field("phase").text() == "Bound";
    if let (Some(now), Some(was)) = (size(&spec), size(&before)) {
        let reached = Quantity::parse(status.field("capacity").field("storage").text()).ok();
        if now < was && reached.is_none_or(|reached| now <= reached) {
            let path = format!("{}.resources.requests.storage", spec.path);
            let detail = "field can not be less than status.capacity";
            errors.push(FieldError::forbidden(path, detail));
        } else if now > was && !bound {
            errors.push(spec.forbidden(DETAIL));
        }
    }
    let (class, was) = (spec.field("volumeAttributesClassName"), before.field("volumeAttributesClassName"));
    if was.is_set() && !class.is_set() && bound {
        errors.push(FieldError::forbidden(class.path, "update from non-nil value to nil is forbidden"));
    }
}

pub(super) fn volume(object: &Object, errors: &mut Vec<FieldError>) {
    const SOURCES: [&str; 22] = [
        "awsElasticBlockStore",
        "azureDisk",
        "azureFile",
        "cephfs",
        "cinder",
        "csi",
        "fc",
        "flexVolume",
        "flocker",
        "gcePersistentDisk",
        "glusterfs",
        "hostPath",
        "iscsi",
        "local",
        "nfs",
        "photonPersistentDisk",
        "portworxVolume",
        "quobyte",
        "rbd",
        "scaleIO",
        "storageos",
        "vsphereVolume",
    ];
    let spec = At::of(object, "spec");
    modes(&spec, errors);
    let capacity = spec.field("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    } else if capacity.value.get("storage").is_none() || capacity.entries().count() > 1 {
        errors.push(FieldError::not_supported(capacity.path.as_str(), capacity.value.clone(), &["storage"]));
    }
    for (_, size) in capacity.entries() {
        if quantity(&size, errors) == Some(Quantity::ZERO) {
            errors.push(size.invalid("must be greater than zero"));
        }
    }
    let policy = spec.field("persistentVolumeReclaimPolicy");
    if policy.is_set() {
        policy.one_of(&["Delete", "Recycle", "Retain"], errors);
    }
    let set: Vec<At<'_>> = SOURCES.map(|name| spec.field(name)).into_iter().filter(At::is_set).collect();
    if set.is_empty() {
        errors.push(spec.required("must specify a volume type"));
    }
    for extra in set.iter().skip(1) {
        errors.push(extra.forbidden("may not specify more than 1 volume type"));
    }
    let needs = |at: &At<'_>, fields: &[&str], errors: &mut Vec<FieldError>| {
        for field in fields.iter().map(|field| at.field(field)) {
            if at.is_set() && field.is_empty() {
                errors.push(field.required(""));
            }
        }
    };
    needs(&spec.field("csi"), &["driver", "volumeHandle"], errors);
    needs(&spec.field("hostPath"), &["path"], errors);
    needs(&spec.field("nfs"), &["server", "path"], errors);
    needs(&spec.field("local"), &["path"], errors);
    let required = spec.field("nodeAffinity").field("required");
    if spec.field("nodeAffinity").is_set() && !required.is_set() {
        errors.push(required.required("must specify required node constraints"));
    } else if required.is_set() {
        node_selector(&required, errors);
    }
    if spec.field("local").is_set() && !spec.field("nodeAffinity").is_set() {
        errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
    }
    let host = spec.field("hostPath").field("path");
    if host.text() == "/" && policy.text() == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(policy.path, detail));
    }
    class_name(&spec.field("storageClassName"), errors);
    let attributes = spec.field("volumeAttributesClassName");
    if attributes.is_set() {
        if attributes.is_empty() {
            errors.push(attributes.required("an empty string is disallowed"));
        } else {
            class_name(&attributes, errors);
        }
        if !spec.field("csi").is_set() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(spec.field("csi").required(detail));
        }
    }
    volume_mode(&spec, errors);
}

/// A volume stays what it is.
pub(super) fn volume_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    const OPEN: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    let source = |spec: &At<'_>| -> Vec<(String, serde_json::Value)> {
        let fields = spec.value.as_object().into_iter().flatten();
        let mut fields: Vec<_> = fields
            .filter(|(name, _)| !OPEN.contains(&name.as_str()))
            .map(|(name, value)| {
                let mut value = value.clone();
                // Which secret resizes a volume may be said later.
                if let (true, Some(csi)) = (name == "csi", value.as_object_mut()) {
                    csi.remove("controllerExpandSecretRef");
                    csi.remove("nodeExpandSecretRef");
                }
                (name.clone(), value)
            })
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    if source(&spec) != source(&before) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    let mode = spec.field("volumeMode");
    if mode.value != before.field("volumeMode").value {
        errors.push(mode.invalid(FIXED));
    }
    let (affinity, was) = (spec.field("nodeAffinity"), before.field("nodeAffinity"));
    if was.is_set() && affinity.value != was.value {
        errors.push(affinity.invalid(format!("{FIXED}, except for updating from beta label to GA")));
    }
}

pub(super) fn class(object: &Object, errors: &mut Vec<FieldError>) {
    provisioner(&At::of(object, "provisioner"), errors);
    parameters(&At::of(object, "parameters"), Needed::No, errors);
    At::of(object, "reclaimPolicy").one_of(&["Delete", "Retain"], errors);
    At::of(object, "volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"], errors);
    for term in At::of(object, "allowedTopologies").items() {
        let mut keys = HashSet::new();
        for expression in term.field("matchLabelExpressions").items() {
            let (key, values) = (expression.field("key"), expression.field("values"));
            if values.is_empty() {
                errors.push(values.required(""));
            }
            let mut seen = HashSet::new();
            for value in values.items().filter(|value| !seen.insert(value.text())) {
                errors.push(value.duplicate());
            }
            key.or_empty_for(names::qualified_name(key.text()), errors);
            if !keys.insert(key.text()) {
                errors.push(key.duplicate());
            }
        }
    }
}

fn provisioner(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
    } else {
        at.invalid_for(names::qualified_name(&at.text().to_lowercase()), errors);
    }
}

/// Whether there must be any.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    No,
    Yes,
}

fn parameters(at: &At<'_>, needed: Needed, errors: &mut Vec<FieldError>) {
    if at.entries().count() > 512 {
        let detail = "Too long: may not be more than 512 parameters";
        errors.push(FieldError::invalid(
            at.path.as_str(),
            "Provisioner Parameters exceeded max allowed",
            detail,
        ));
        return;
    }
    let size: usize = at.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if at.entries().any(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid(at.path.as_str(), "", "field can not be empty."));
    }
    if size > 256 * 1024 {
        errors.push(at.too_long(256 * 1024));
    }
    if needed == Needed::Yes && at.is_empty() {
        errors.push(at.required("must contain at least one key/value pair"));
    }
}

/// A class stays what it is; whether its volumes grow may change.
pub(super) fn class_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    for (field, detail) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ] {
        let (now, was) = (At::of(new, field), At::of(old, field));
        if now.value != was.value && !(now.is_empty() && was.is_empty()) {
            errors.push(FieldError::forbidden(field, detail));
        }
    }
    let mode = At::of(new, "volumeBindingMode");
    if mode.value != At::of(old, "volumeBindingMode").value {
        errors.push(mode.invalid(FIXED));
    }
}

pub(super) fn attributes_class(object: &Object, errors: &mut Vec<FieldError>) {
    provisioner(&At::of(object, "driverName"), errors);
    parameters(&At::of(object, "parameters"), Needed::Yes, errors);
}

/// A class of attributes never changes.
pub(super) fn attributes_class_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    for field in ["driverName", "parameters"] {
        let now = At::of(new, field);
        if now.value != At::of(old, field).value {
            errors.push(now.invalid(FIXED));
        }
    }
}

pub(super) fn driver(object: &Object, errors: &mut Vec<FieldError>) {
    let name = object.name().unwrap_or_default();
    if name.len() > 63 {
        errors.push(At { path: "metadata.name".into(), value: &serde_json::Value::Null }.too_long(63));
    }
    let spec = At::of(object, "spec");
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"].map(|field| spec.field(field)) {
        if !field.is_set() {
            errors.push(field.required(""));
        }
    }
    let policy = spec.field("fsGroupPolicy");
    if policy.is_set() {
        policy.one_of(&["File", "None", "ReadWriteOnceWithFSType"], errors);
    }
    let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|seconds| seconds < 10) {
        errors.push(period.invalid("must be greater than or equal to 10 seconds"));
    }
    let mut audiences = HashSet::new();
    for request in spec.field("tokenRequests").items() {
        let (audience, seconds) = (request.field("audience"), request.field("expirationSeconds"));
        if !audiences.insert(audience.text()) {
            errors.push(FieldError::duplicate(audience.path.as_str(), audience.text()));
        }
        if seconds.number().is_some_and(|seconds| seconds < 600) {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        if seconds.number().is_some_and(|seconds| seconds > 1 << 32) {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
    }
    for mode in spec.field("volumeLifecycleModes").items() {
        if !matches!(mode.text(), "Ephemeral" | "Persistent") {
            let known = ["Ephemeral", "Persistent"];
            errors.push(FieldError::not_supported(
                spec.field("volumeLifecycleModes").path,
                mode.text(),
                &known,
            ));
        }
    }
}

/// How a driver attaches stays, as do its modes.
pub(super) fn driver_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
    for field in
        ["attachRequired", "volumeLifecycleModes"].map(|field| (spec.field(field), before.field(field)))
    {
        if field.0.value != field.1.value {
            errors.push(field.0.invalid(FIXED));
        }
    }
}

pub(super) fn driver_node(object: &Object, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for driver in At::of(object, "spec").field("drivers").items() {
        let (name, id) = (driver.field("name"), driver.field("nodeID"));
        super::pod::driver_name(&name, errors);
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        if id.is_empty() {
            errors.push(id.required(""));
        } else if id.text().len() > 256 {
            errors.push(id.invalid("must be 256 characters or less"));
        }
        let count = driver.field("allocatable").field("count");
        if driver.field("allocatable").is_set() && count.number().is_some_and(|count| count < 0) {
            errors.push(count.invalid("must be greater than or equal to 0"));
        }
        let keys = driver.field("topologyKeys");
        let mut known = HashSet::new();
        for key in keys.items() {
            if !known.insert(key.text()) {
                errors.push(key.duplicate());
            }
            key.invalid_for(names::qualified_name(key.text()), errors);
        }
    }
}

pub(super) fn attachment(object: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(object, "spec");
    super::pod::driver_name(&spec.field("attacher"), errors);
    let (node, source) = (spec.field("nodeName"), spec.field("source"));
    if node.is_empty() {
        errors.push(node.required(""));
    } else {
        node.invalid_for(names::dns1123_subdomain(node.text()), errors);
    }
    let (inline, name) = (source.field("inlineVolumeSpec"), source.field("persistentVolumeName"));
    match (inline.is_set(), name.is_set()) {
        (false, false) => errors
            .push(source.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (true, true) => errors
            .push(source.forbidden("must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (false, true) if name.is_empty() => {
            errors.push(name.required("must specify non empty persistentVolumeName"));
        }
        (true, false) | (false, true) => {}
    }
}

/// What is attached where stays.
pub(super) fn attachment_change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let spec = At::of(new, "spec");
    if spec.value != At::of(old, "spec").value {
        errors.push(spec.invalid(FIXED));
    }
}

pub(super) fn capacity(object: &Object, errors: &mut Vec<FieldError>) {
    label_selector(&At::of(object, "nodeTopology"), errors);
    let class = At::of(object, "storageClassName");
    class.or_empty_for(names::dns1123_subdomain(class.text()), errors);
    let amount = At::of(object, "capacity");
    if amount.is_set() {
        quantity(&amount, errors);
    }
}
