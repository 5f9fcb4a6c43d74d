//! (pure) From a file to a pod.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use keelson_api::{GroupVersionKind, Object, defaults, document, pod_references, validation};
use ring::digest;
use serde_json::Value;

/// Where a pod comes from: `file` or `api`.
const SOURCE: &str = "kubernetes.io/config.source";
/// What the manifest is, by its content and place.
pub(super) const HASH: &str = "kubernetes.io/config.hash";
/// When the manifest was read.
const SEEN: &str = "kubernetes.io/config.seen";

/// Why a file is no pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    /// It is neither YAML nor JSON, or more than one document.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// It is something else.
    #[error("it is no v1 Pod, but {0}")]
    Kind(String),
    /// The API would refuse it.
    #[error("invalid pod: {0}")]
    Invalid(String),
    /// It would need the API.
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

fn unreadable(error: impl ToString) -> ManifestError {
    ManifestError::Read(error.to_string())
}

/// The identity of a manifest, in the form of an MD5 sum.
fn identity(text: &[u8], path: &Path, node: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [node.as_bytes(), b"\0", path.as_os_str().as_encoded_bytes(), b"\0", text] {
        context.update(part);
    }
    hex::encode(&context.finish().as_ref()[..16])
}

/// The pod of a manifest.
pub(super) fn read(text: &[u8], path: &Path, node: &str) -> Result<Pod, ManifestError> {
    let value = document::read(serde_yaml_ng::Deserializer::from_slice(text)).map_err(unreadable)?;
    let mut object = Object::from_value(value).map_err(unreadable)?;
    let kind = GroupVersionKind::new("", "v1", "Pod");
    if object.gvk() != kind {
        return Err(ManifestError::Kind(format!("{} {}", object.api_version(), object.kind())));
    }
    // Its own UID would not tell one content from another, and is the name of folders.
    let hash = identity(text, path, node);
    let name = format!("{}-{}", object.name().unwrap_or_default(), node.to_lowercase());
    let namespace = object.namespace().unwrap_or("default").to_owned();
    object.set_name(&name);
    object.set_namespace(Some(&namespace));
    object.set_uid(&hash);
    object.set(&["spec", "nodeName"], node.into());
    object.remove(&["status"]);
    for field in [
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        object.metadata_mut().remove(field);
    }
    defaults::apply_defaults(&kind, &mut object);
    let faults = validation::validate_create(&kind, &object, true);
    if !faults.is_empty() {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(ManifestError::Invalid(faults.join(", ")));
    }
    if let Some(kind) = pod_references::forbidden_reference(&object) {
        return Err(ManifestError::Reference(kind));
    }
    object.set_annotation(SOURCE, "file");
    object.set_annotation(HASH, &hash);
    object.set_annotation(SEEN, &Timestamp::now().to_string());
    let mut pod: Pod = serde_json::from_value(Value::Object(object.0)).map_err(unreadable)?;
    // Node problems do not drive it away: it has nowhere else to go.
    let stays = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    if !tolerations.contains(&stays) {
        tolerations.push(stays);
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Pod, String> {
        read(text.as_bytes(), Path::new("/etc/m/web.yaml"), "node-1").map_err(|error| error.to_string())
    }

    fn pod(metadata: &str, spec: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n")
    }

    #[test]
    fn a_manifest_gets_its_nodes_name_and_the_apis_defaults() {
        let pod = of(&pod("name: web, uid: ../x", "containers: [{name: c, image: i}]")).unwrap();
        let metadata = &pod.metadata;
        assert_eq!(metadata.name.as_deref(), Some("web-node-1"));
        assert_eq!(metadata.namespace.as_deref(), Some("default"));
        let annotations = metadata.annotations.as_ref().unwrap();
        assert_ne!(metadata.uid.as_deref(), Some("../x"));
        assert_eq!((&annotations[SOURCE][..], Some(&annotations[HASH])), ("file", metadata.uid.as_ref()));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.tolerations.unwrap()[0].effect.as_deref(), Some("NoExecute"));
    }

    #[test]
    fn another_content_or_place_is_another_pod() {
        let uid = |text: &str, path: &str| identity(text.as_bytes(), Path::new(path), "n");
        assert_eq!(uid("a", "/p"), uid("a", "/p"));
        assert_ne!(uid("a", "/p"), uid("b", "/p"));
        assert_ne!(uid("a", "/p"), uid("a", "/q"));
    }

    #[test]
    fn what_is_no_pod_or_needs_the_api_is_refused() {
        assert!(
            of("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n").unwrap_err().contains("ConfigMap")
        );
        assert!(of("{").unwrap_err().starts_with("it cannot be read"));
        let none = of(&pod("name: web", "containers: []")).unwrap_err();
        assert!(none.contains("spec.containers"), "{none}");
        let volume = "containers: [{name: c, image: i}], volumes: [{name: v, secret: {secretName: s}}]";
        assert_eq!(of(&pod("name: web", volume)).unwrap_err(), "static pods may not reference secrets");
        let account = "serviceAccountName: a, containers: [{name: c, image: i}]";
        assert!(of(&pod("name: web", account)).unwrap_err().contains("a service account"));
    }
}
