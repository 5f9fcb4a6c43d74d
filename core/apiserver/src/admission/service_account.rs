//! ServiceAccount: a pod runs as an account of its namespace, whose token and authority its containers find mounted.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use rand::Rng;
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

mod secret_references;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A bit over an hour: the kubelet asks for a new token well before.
const LIFETIME: i64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The plugin.
#[derive(Debug, Default)]
pub struct ServiceAccount;

/// The volume with the token, the authority and the namespace.
fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": LIFETIME, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

/// Mounts the token into every container that mounts nothing at its place.
fn mount(pod: &mut Object) {
    let existing = pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let existing = existing.filter_map(|volume| volume.get("name")?.as_str());
    let existing = existing.into_iter().find(|name| name.starts_with("kube-api-access-")).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = rand::rng();
        let suffix: String =
            (0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
        format!("kube-api-access-{suffix}")
    });
    let mut used = false;
    for field in ["initContainers", "containers"] {
        let Some(mut containers) = pod.get(&["spec", field]).cloned() else { continue };
        for container in containers.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
        pod.set(&["spec", field], containers);
    }
    if used && existing.is_none() {
        let mut volumes =
            pod.get(&["spec", "volumes"]).and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.push(volume(&name));
        pod.set(&["spec", "volumes"], volumes.into());
    }
}

fn account(registry: &Registry, attributes: &Attributes<'_>, name: &str) -> Result<Object, Status> {
    let namespace = attributes.namespace.unwrap_or_default();
    let accounts = GroupResource::new("", "serviceaccounts");
    match registry.resource(&accounts).get(&format!("{namespace}/{name}")) {
        Some(found) => cache::decode(&found.bytes),
        None => Err(attributes.forbidden(&format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))),
    }
}

fn named(pod: &Object) -> Option<&str> {
    pod.get_str(&["spec", "serviceAccountName"]).filter(|name| !name.is_empty())
}

#[async_trait]
impl Admission for ServiceAccount {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_of("", "pods")
            && match attributes.operation {
                Operation::Create => attributes.subresource.is_empty(),
                Operation::Update => attributes.subresource == "ephemeralcontainers",
                Operation::Delete | Operation::Connect => false,
            }
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || object.annotation(MIRROR).is_some() {
            return Ok(());
        }
        let name = named(object).unwrap_or("default").to_owned();
        object.set(&["spec", "serviceAccountName"], name.as_str().into());
        object.set(&["spec", "serviceAccount"], name.as_str().into());
        let found = account(registry, attributes, &name)?;
        let automount = object
            .get(&["spec", "automountServiceAccountToken"])
            .or_else(|| found.get(&["automountServiceAccountToken"]))
            .and_then(Value::as_bool);
        if automount.unwrap_or(true) {
            mount(object);
        }
        let own = object.get(&["spec", "imagePullSecrets"]).and_then(Value::as_array);
        if own.is_none_or(Vec::is_empty)
            && let Some(secrets) = found.get(&["imagePullSecrets"]).filter(|secrets| secrets.is_array())
        {
            object.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        if pod.annotation(MIRROR).is_some() {
            return secret_references::mirror_fault(pod)
                .map_or(Ok(()), |text| Err(attributes.forbidden(text)));
        }
        let Some(name) = named(pod) else {
            let namespace = attributes.namespace.unwrap_or_default();
            let text = format!("no service account specified for pod {namespace}/{}", attributes.name);
            return Err(attributes.forbidden(&text));
        };
        let found = account(registry, attributes, name)?;
        if !secret_references::is_enforced(&found) {
            return Ok(());
        }
        let only_ephemeral = attributes.operation == Operation::Update;
        secret_references::fault(&found, pod, only_ephemeral)
            .map_or(Ok(()), |text| Err(attributes.forbidden(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_where_nothing_else_is() {
        let mut pod = Object::from_value(json!({"spec": {"containers": [
            {"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
        ]}}))
        .unwrap();
        mount(&mut pod);
        let once = pod.clone();
        assert_eq!(pod.get(&["spec", "volumes"]).unwrap().as_array().unwrap().len(), 1);
        let containers = pod.get(&["spec", "containers"]).unwrap();
        assert_eq!(containers[0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(containers[1]["volumeMounts"].as_array().unwrap().len(), 1);
        mount(&mut pod);
        assert_eq!(pod, once);
    }
}
