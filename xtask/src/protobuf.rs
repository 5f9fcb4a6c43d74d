//! Reads the sources of k8s-pb, and the generated schemas for the JSON names, and writes
//! `core/api/data/protobuf.json.gz`: `{DEFINITION: {TAG: [JSON NAME, TYPE, MESSAGE, KEEPS ZERO]}}`.
//!
//! A message field that the schema does not know is one that Go embeds: its name is empty, and its fields are the
//! parent's.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use heck::{ToLowerCamelCase, ToSnakeCase};
use serde_json::{Map, Value, json};

/// Fields that are pointers in Go, or that JSON writes whatever they are: their zero was said and is kept. Every other
/// zero of an optional field means that nothing was said, because the format writes it all the same.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "adminAccess",
    "allNodes",
    "allocateLoadBalancerNodePorts",
    "allowMultipleAllocations",
    "allowPrivilegeEscalation",
    "allowVolumeExpansion",
    "attachRequired",
    "automountServiceAccountToken",
    "averageUtilization",
    "backoffLimit",
    "backoffLimitPerIndex",
    "bindsToNode",
    "blockOwnerDeletion",
    "borrowingLimitPercent",
    "collisionCount",
    "completions",
    "controller",
    "currentCPUUtilizationPercentage",
    "currentHealthy",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "desiredHealthy",
    "disruptionsAllowed",
    "enableServiceLinks",
    "endPort",
    "errorCode",
    "expectedPods",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "holderIdentity",
    "hostProcess",
    "hostUsers",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "immutable",
    "ingressClassName",
    "leaseDurationSeconds",
    "leaseTransitions",
    "lendablePercent",
    "limitBytes",
    "lun",
    "manualSelector",
    "maxExpirationSeconds",
    "maxFailedIndexes",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maxSurge",
    "maxUnavailable",
    "maximum",
    "minAvailable",
    "minDomains",
    "minItems",
    "minLength",
    "minProperties",
    "minReplicas",
    "minimum",
    "mode",
    "multipleOf",
    "nodeAllocatableUpdatePeriodSeconds",
    "nominalConcurrencyShares",
    "optional",
    "optionalOldSelf",
    "orphanDependents",
    "parallelism",
    "partition",
    "perDeviceNodeSelection",
    "podInfoOnMount",
    "podPidsLimit",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "recursiveReadOnlyMounts",
    "remainingItemCount",
    "replicas",
    "requiresRepublish",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seLinuxMount",
    "serviceAccountTokenInSecrets",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "sinceSeconds",
    "stabilizationWindowSeconds",
    "started",
    "startingDeadlineSeconds",
    "storageCapacity",
    "storageClassName",
    "succeededCount",
    "successfulJobsHistoryLimit",
    "supplementalGroupsPolicy",
    "suspend",
    "tailLines",
    "targetCPUUtilizationPercentage",
    "terminating",
    "terminatingReplicas",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "userNamespaces",
    "volumeAttributesClassName",
    "x-kubernetes-preserve-unknown-fields",
];

/// The same, of fields whose name is another message's plain field.
const POINTERS_OF: &[&str] = &[
    "api.admissionregistration.v1.MutatingWebhook.timeoutSeconds",
    "api.admissionregistration.v1.ServiceReference.port",
    "api.admissionregistration.v1.ValidatingWebhook.timeoutSeconds",
    "api.autoscaling.v1.HorizontalPodAutoscalerStatus.observedGeneration",
    "api.autoscaling.v2.HorizontalPodAutoscalerStatus.observedGeneration",
    "api.batch.v1.CronJobSpec.timeZone",
    "api.batch.v1.JobSpec.managedBy",
    "api.core.v1.AzureDiskVolumeSource.readOnly",
    "api.core.v1.ClientIPConfig.timeoutSeconds",
    "api.core.v1.EndpointPort.appProtocol",
    "api.core.v1.GRPCAction.service",
    "api.core.v1.HostPathVolumeSource.type",
    "api.core.v1.NodeSwapStatus.capacity",
    "api.core.v1.PodSpec.hostnameOverride",
    "api.core.v1.PodSpec.runtimeClassName",
    "api.core.v1.ServicePort.appProtocol",
    "api.core.v1.ServiceSpec.loadBalancerClass",
    "api.discovery.v1.EndpointPort.appProtocol",
    "api.discovery.v1.EndpointPort.name",
    "api.discovery.v1.EndpointPort.port",
    "api.resource.v1.DeviceAttribute.bool",
    "api.resource.v1.DeviceAttribute.int",
    "api.resource.v1.DeviceAttribute.string",
    "api.resource.v1.DeviceAttribute.version",
    "api.scheduling.v1.PriorityClass.value",
    "api.storage.v1.VolumeNodeResources.count",
    "apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference.port",
    "kube-aggregator.pkg.apis.apiregistration.v1.ServiceReference.port",
];

/// Messages that the published protocol does not have yet, and those of the version before, which they are copies of.
const GRADUATED: &[(&str, &str)] = &[
    (
        "io.k8s.api.admissionregistration.v1.ApplyConfiguration",
        "io.k8s.api.admissionregistration.v1beta1.ApplyConfiguration",
    ),
    ("io.k8s.api.admissionregistration.v1.JSONPatch", "io.k8s.api.admissionregistration.v1beta1.JSONPatch"),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicy",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBinding",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingList",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBindingList",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBindingSpec",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyList",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyList",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec",
        "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicySpec",
    ),
    ("io.k8s.api.admissionregistration.v1.Mutation", "io.k8s.api.admissionregistration.v1beta1.Mutation"),
];

/// Fields of 1.36 that the crate does not have yet: definition, tag, name, type, message.
const NEWER: &[(&str, &str, &str, &str, Option<&str>)] = &[
    ("io.k8s.api.core.v1.ImageVolumeStatus", "1", "imageRef", "s", None),
    ("io.k8s.api.core.v1.ResourceHealth", "6", "message", "s", None),
    (
        "io.k8s.api.core.v1.VolumeMountStatus",
        "5",
        "volumeStatus",
        "m",
        Some("io.k8s.api.core.v1.VolumeStatus"),
    ),
    ("io.k8s.api.core.v1.VolumeStatus", "1", "image", "m", Some("io.k8s.api.core.v1.ImageVolumeStatus")),
];

/// Whether a zero in a field of a definition was said, and so is kept, although the field is not required.
pub(crate) fn keeps_zero(definition: &str, field: &str) -> bool {
    let place = format!("{definition}.{field}");
    POINTERS.contains(&field) || POINTERS_OF.contains(&place.trim_start_matches("io.k8s."))
}

struct Field {
    name: String,
    tag: String,
    kind: String,
    message: Option<String>,
}

pub(crate) fn generate() -> Result<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/api/data");
    let definitions = definitions(&data.join("schemas.json.gz"))?;
    let root = super::schemas::package("k8s-pb")?.join("src");
    let mut messages: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    let mut files = Vec::new();
    super::schemas::collect(&root, &mut files)?;
    files.sort();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let module = file.strip_prefix(&root)?.parent().context("a file without a folder")?;
        let module: Vec<String> = module.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        read(&text, &module, &mut messages);
    }
    // Names differ in case alone: prost writes `AwsElastic..`, Kubernetes `AWSElastic..`.
    let canonical: HashMap<String, &String> =
        definitions.keys().map(|name| (name.to_lowercase(), name)).collect();
    let name_of =
        |name: &str| canonical.get(&name.to_lowercase()).map_or(name.to_owned(), |it| (*it).clone());
    let mut properties: HashMap<String, &Map<String, Value>> = HashMap::new();
    for name in messages.keys() {
        let definition = definitions.get(&name_of(name)).and_then(|it| it["properties"].as_object());
        properties.extend(definition.map(|it| (name.clone(), it)));
    }
    // An embedded message has no schema: its names are found among its parent's, however deep.
    for _ in 0..3 {
        for (name, fields) in &messages {
            let Some(own) = properties.get(name).copied() else { continue };
            for field in fields {
                if let Some(child) = &field.message
                    && field.kind == "m"
                    && json_name(&field.name, own).is_none()
                {
                    properties.entry(child.clone()).or_insert(own);
                }
            }
        }
    }
    let mut out = Map::new();
    for (name, fields) in &messages {
        let own = properties.get(name).copied();
        let required = definitions.get(&name_of(name)).and_then(|it| it["required"].as_array());
        let mut table = Map::new();
        for field in fields {
            let known = own.and_then(|own| json_name(&field.name, own));
            let json = match (known, own, &field.message) {
                (Some(known), _, _) => known,
                (None, Some(own), Some(child)) if field.kind == "m" => {
                    let inner = messages.get(child).map_or(&[][..], Vec::as_slice);
                    if !inner.iter().any(|it| json_name(&it.name, own).is_some()) {
                        // A field of another version.
                        continue;
                    }
                    String::new()
                }
                (None, _, _) => field.name.to_lower_camel_case(),
            };
            let keeps = keeps_zero(&name_of(name), &json)
                || required.is_some_and(|required| required.iter().any(|it| *it == json.as_str()))
                // Those of an object are always sent, though nobody has to.
                || (json == "metadata" && own.is_some_and(|own| own.contains_key("apiVersion")));
            table.insert(
                field.tag.clone(),
                json!([json, field.kind, field.message.as_deref().map(name_of), keeps]),
            );
        }
        out.insert(name_of(name), table.into());
    }
    for (name, before) in GRADUATED {
        let table = out.get(*before).with_context(|| format!("{before} is not published"))?.clone();
        out.entry(*name).or_insert(table);
    }
    for (name, tag, field, kind, message) in NEWER {
        let required = definitions.get(*name).and_then(|it| it["required"].as_array());
        let keeps = required.is_some_and(|required| required.iter().any(|it| it == field));
        let table = out.entry(*name).or_insert_with(|| Map::new().into());
        let table = table.as_object_mut().context("a table is an object")?;
        table.entry(*tag).or_insert_with(|| json!([field, kind, message, keeps]));
    }
    super::schemas::write(&data.join("protobuf.json.gz"), &out.into())
}

fn definitions(path: &Path) -> Result<Map<String, Value>> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).context("unpack the schemas")?;
    let mut data: Value = serde_json::from_str(&text).context("read the schemas")?;
    data["definitions"].as_object_mut().map(std::mem::take).context("no definitions")
}

fn json_name(field: &str, properties: &Map<String, Value>) -> Option<String> {
    // Plurals of abbreviations, such as `podIPs`, have no single snake case.
    let plain = field.replace('_', "");
    properties
        .keys()
        .find(|name| name.to_snake_case() == field)
        .or_else(|| properties.keys().find(|name| name.to_lowercase() == plain))
        .cloned()
}

/// The full name of a message from the module that it stands in.
fn full(module: &[String], name: &str) -> String {
    let path = module.join(".");
    let path = match path.strip_prefix("apiextensions_apiserver") {
        Some(rest) => format!("apiextensions-apiserver{rest}"),
        None => path.replacen("kube_aggregator", "kube-aggregator", 1),
    };
    format!("io.k8s.{path}.{name}")
}

fn read(text: &str, module: &[String], messages: &mut BTreeMap<String, Vec<Field>>) {
    let mut message: Option<String> = None;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.trim_end_matches(['{', '}', ' ']);
            messages.entry(full(module, name)).or_default();
            message = (!rest.ends_with("{}")).then(|| full(module, name));
        } else if line == "}" {
            message = None;
        } else if let (Some(rest), Some(message)) = (line.strip_prefix("#[prost("), &message) {
            let mut attribute = rest.to_owned();
            while !attribute.ends_with(")]")
                && let Some(more) = lines.next()
            {
                attribute.push_str(more);
            }
            let mut field = String::new();
            for more in lines.by_ref() {
                field.push_str(more);
                // A type of several parts goes on over commas until its brackets are closed.
                let closed = field.matches('<').count() == field.matches('>').count();
                if closed && more.ends_with(',') {
                    break;
                }
            }
            if let Some(field) = parse(&attribute, &field, module) {
                messages.entry(message.clone()).or_default().push(field);
            }
        }
    }
}

fn parse(attribute: &str, field: &str, module: &[String]) -> Option<Field> {
    let tag = attribute.split("tag = \"").nth(1)?.split('"').next()?.to_owned();
    let (name, kind_text) = field.strip_prefix("pub ")?.split_once(':')?;
    let name = name.trim().trim_start_matches("r#").trim_end_matches('_').to_owned();
    let scalar = |text: &str| match text.trim() {
        "string" => "s",
        "int32" | "int64" => "i",
        "bool" => "b",
        "double" => "d",
        "message" => "m",
        _ => "y",
    };
    let kind = match attribute.strip_prefix("btree_map = \"") {
        Some(rest) => {
            let value = rest.split('"').next()?.split(',').nth(1)?;
            format!("M{}", scalar(value))
        }
        None => {
            let first = attribute.split([',', ' ']).next()?;
            let repeated = attribute.contains(" repeated");
            format!("{}{}", if repeated { "R" } else { "" }, scalar(first))
        }
    };
    let message = kind.ends_with('m').then(|| {
        let inner = kind_text.trim().trim_end_matches([',', '>', ' ']);
        let path = inner.rsplit(['<', ',', ' ']).next().unwrap_or(inner).trim();
        resolve(path, module)
    });
    Some(Field { name, tag, kind, message })
}

fn resolve(path: &str, module: &[String]) -> String {
    let mut module = module.to_vec();
    let mut parts = path.split("::").peekable();
    while parts.next_if_eq(&"super").is_some() {
        module.pop();
    }
    let mut rest: Vec<String> = parts.map(str::to_owned).collect();
    let name = rest.pop().unwrap_or_default();
    module.extend(rest);
    full(&module, &name)
}
