//! Which objects a pod refers to (pure).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec};

use super::Key;

/// The Service whose variables every container gets.
pub(crate) const MASTER_SERVICE: &str = "kubernetes";
/// Where it is.
pub(crate) const MASTER_SERVICE_NAMESPACE: &str = "default";

/// Everything of a pod's namespace that its volumes and environment need.
pub(super) fn of(pod: &Pod) -> BTreeSet<Key> {
    let (Some(namespace), Some(spec)) = (&pod.metadata.namespace, &pod.spec) else { return BTreeSet::new() };
    let mut found = Found { namespace, keys: BTreeSet::new() };
    found.volumes(spec);
    let of_containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in of_containers {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.secret(&secret.name);
    }
    if spec.enable_service_links != Some(false) {
        found.keys.insert(Key::Services { namespace: namespace.clone() });
    }
    found.keys.insert(Key::Services { namespace: MASTER_SERVICE_NAMESPACE.to_owned() });
    found.keys
}

struct Found<'a> {
    namespace: &'a String,
    keys: BTreeSet<Key>,
}

impl Found<'_> {
    fn config_map(&mut self, name: &str) {
        if !name.is_empty() {
            self.keys.insert(Key::ConfigMap { namespace: self.namespace.clone(), name: name.to_owned() });
        }
    }

    fn secret(&mut self, name: &str) {
        if !name.is_empty() {
            self.keys.insert(Key::Secret { namespace: self.namespace.clone(), name: name.to_owned() });
        }
    }

    fn volumes(&mut self, spec: &PodSpec) {
        for volume in spec.volumes.iter().flatten() {
            if let Some(source) = &volume.config_map {
                self.config_map(&source.name);
            }
            if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.as_ref()) {
                self.secret(name);
            }
            let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
            for source in sources.into_iter().flatten() {
                if let Some(source) = &source.config_map {
                    self.config_map(&source.name);
                }
                if let Some(source) = &source.secret {
                    self.secret(&source.name);
                }
            }
        }
    }

    fn environment(&mut self, env: Option<&[EnvVar]>, env_from: Option<&[EnvFromSource]>) {
        for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(selector) = &source.config_map_key_ref {
                self.config_map(&selector.name);
            }
            if let Some(selector) = &source.secret_key_ref {
                self.secret(&selector.name);
            }
        }
        for source in env_from.into_iter().flatten() {
            if let Some(source) = &source.config_map_ref {
                self.config_map(&source.name);
            }
            if let Some(source) = &source.secret_ref {
                self.secret(&source.name);
            }
        }
    }
}
