//! The environment of a container.
//!
//! Services' variables come first, then `envFrom`, then `env`, whose later entries replace earlier ones and may use
//! what stands before them by `$(NAME)`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, FileKeySelector, Pod};

use crate::config::Config;
use crate::field::{self, Addresses, FieldError};
use crate::node::machine;
use crate::objects::{MASTER_SERVICE, MASTER_SERVICE_NAMESPACE, ObjectError, Objects};
use crate::volume;

mod expansion;
mod file;
mod service;

pub(crate) use expansion::{expand, expand_known};

/// Why a container's environment cannot be made. The texts are those of `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// A ConfigMap or Secret that is not optional is not there.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key that was asked for.
        key: String,
    },
    /// A value of a Secret or file is no text.
    #[error("the value of key {key} in {kind} {namespace}/{name} is no valid UTF-8")]
    NoText {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key that was asked for.
        key: String,
    },
    /// An object cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A field of the pod.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// What the node can give is needed for a limit that is not set.
    #[error("the node's resources cannot be read")]
    Machine(#[from] machine::MachineError),
    /// A file of variables lies in an emptyDir of the pod.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    Volume(String),
    /// A file of variables is not there, or has no such key.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    FileKey {
        /// The key that was asked for.
        key: String,
        /// The file, below its volume.
        path: String,
    },
    /// A file of variables cannot be read.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// Reading one broke off.
    #[error("reading an env file broke off: {0}")]
    Broken(String),
}

/// Variables with their places: a name that comes again keeps its first place and gets the new value.
#[derive(Default)]
struct Variables {
    places: BTreeMap<String, usize>,
    list: Vec<(String, String)>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name) {
            Some(place) => self.list[*place].1 = value,
            None => {
                self.places.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| self.list[*place].1.as_str())
    }
}

struct Source<'a> {
    pod: &'a Pod,
    namespace: &'a str,
    addresses: Addresses<'a>,
    config: &'a Config,
    container: &'a Container,
    objects: &'a Objects,
}

impl Source<'_> {
    async fn services(&self, into: &mut Variables) -> Result<(), EnvironmentError> {
        let links = self.pod.spec.as_ref().is_none_or(|spec| spec.enable_service_links != Some(false));
        let mut chosen = BTreeMap::new();
        let master = self.objects.services(MASTER_SERVICE_NAMESPACE).await?;
        for one in master.iter().filter(|one| one.metadata.name.as_deref() == Some(MASTER_SERVICE)) {
            chosen.insert(MASTER_SERVICE.to_owned(), one.clone());
        }
        if links {
            for one in self.objects.services(self.namespace).await?.iter() {
                chosen.insert(one.metadata.name.clone().unwrap_or_default(), one.clone());
            }
        }
        for one in chosen.values() {
            for (name, value) in service::variables(one) {
                into.set(name, value);
            }
        }
        Ok(())
    }

    async fn all_keys(&self, into: &mut Variables) -> Result<(), EnvironmentError> {
        for source in self.container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let mut found = BTreeMap::new();
            if let Some(reference) = &source.config_map_ref {
                match self.objects.config_map(self.namespace, &reference.name).await? {
                    Some(map) => found.extend(map.data.clone().unwrap_or_default()),
                    None if reference.optional == Some(true) => {}
                    None => return Err(not_found("configmap", &reference.name)),
                }
            }
            if let Some(reference) = &source.secret_ref {
                match self.objects.secret(self.namespace, &reference.name).await? {
                    Some(secret) => {
                        for (key, value) in secret.data.iter().flatten() {
                            found.insert(key.clone(), self.text("Secret", &reference.name, key, &value.0)?);
                        }
                    }
                    None if reference.optional == Some(true) => {}
                    None => return Err(not_found("secret", &reference.name)),
                }
            }
            // Whatever an object may have as a key is a name (KEP-4369): none is skipped.
            for (key, value) in found {
                into.set(format!("{prefix}{key}"), value);
            }
        }
        Ok(())
    }

    fn text(
        &self,
        kind: &'static str,
        name: &str,
        key: &str,
        bytes: &[u8],
    ) -> Result<String, EnvironmentError> {
        String::from_utf8(bytes.to_vec()).map_err(|_| EnvironmentError::NoText {
            kind,
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }

    fn no_key(&self, kind: &'static str, name: &str, key: &str) -> EnvironmentError {
        let (namespace, name, key) = (self.namespace.to_owned(), name.to_owned(), key.to_owned());
        EnvironmentError::Key { kind, namespace, name, key }
    }

    /// The value in a file that containers of the pod wrote.
    async fn file_value(&self, selector: &FileKeySelector) -> Result<Option<String>, EnvironmentError> {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut of_name = volumes.iter().filter(|volume| volume.name == selector.volume_name);
        let volume = of_name.next().filter(|volume| volume.empty_dir.is_some());
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let local =
            volume::local_volumes(&self.config.data_dir, uid, volume.map_or(&[], std::slice::from_ref));
        let missing = || EnvironmentError::Volume(selector.volume_name.clone());
        let folder = local.into_iter().next().ok_or_else(missing)?.folder;
        let FileKeySelector { key, path, .. } = selector.clone();
        let read = tokio::task::spawn_blocking(move || file::read(&folder, &path, &key)).await;
        let found = read.map_err(|error| EnvironmentError::Broken(error.to_string()))??;
        if found.is_none() && selector.optional != Some(true) {
            let (key, path) = (selector.key.clone(), selector.path.clone());
            return Err(EnvironmentError::FileKey { key, path });
        }
        Ok(found)
    }

    /// The value of a source; `None` when it is optional and absent.
    async fn value(&self, source: &EnvVarSource) -> Result<Option<String>, EnvironmentError> {
        if let Some(selector) = &source.field_ref {
            return Ok(Some(field::value(self.pod, &selector.field_path, self.addresses)?));
        }
        if let Some(selector) = &source.resource_field_ref {
            let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
            let container = named.map_or(Ok(self.container), |name| field::container(self.pod, name))?;
            let allocatable = crate::node::allocatable::allocatable(self.config)?;
            return Ok(Some(field::resource(selector, container.resources.as_ref(), &allocatable)?));
        }
        if let Some(selector) = &source.config_map_key_ref {
            let optional = selector.optional == Some(true);
            let found = self.objects.config_map(self.namespace, &selector.name).await?;
            let Some(found) = found else {
                return if optional { Ok(None) } else { Err(not_found("configmap", &selector.name)) };
            };
            let value = found.data.as_ref().and_then(|data| data.get(&selector.key)).cloned();
            return match value {
                None if !optional => Err(self.no_key("ConfigMap", &selector.name, &selector.key)),
                value => Ok(value),
            };
        }
        if let Some(selector) = &source.secret_key_ref {
            let optional = selector.optional == Some(true);
            let found = self.objects.secret(self.namespace, &selector.name).await?;
            let Some(found) = found else {
                return if optional { Ok(None) } else { Err(not_found("secret", &selector.name)) };
            };
            return match found.data.as_ref().and_then(|data| data.get(&selector.key)) {
                Some(value) => self.text("Secret", &selector.name, &selector.key, &value.0).map(Some),
                None if optional => Ok(None),
                None => Err(self.no_key("Secret", &selector.name, &selector.key)),
            };
        }
        if let Some(selector) = &source.file_key_ref {
            return self.file_value(selector).await;
        }
        Ok(Some(String::new()))
    }
}

fn not_found(kind: &'static str, name: &str) -> EnvironmentError {
    EnvironmentError::NotFound { kind, name: name.to_owned() }
}

/// The variables of a container of a registered pod, in order.
pub(crate) async fn environment(
    pod: &Pod,
    pod_ips: &[IpAddr],
    config: &Config,
    container: &Container,
    objects: &Objects,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let addresses = Addresses { pod: pod_ips, host: config.node_ip };
    let source = Source { pod, namespace, addresses, config, container, objects };
    let mut services = Variables::default();
    source.services(&mut services).await?;
    let mut own = Variables::default();
    source.all_keys(&mut own).await?;
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref().filter(|value| !value.is_empty()), &variable.value_from)
        {
            (Some(value), _) => {
                Some(expansion::with(value, |name| own.get(name).or_else(|| services.get(name))))
            }
            (None, Some(from)) => source.value(from).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            own.set(variable.name.clone(), value);
        }
    }
    let mut all = services.list;
    all.retain(|(name, _)| own.get(name).is_none());
    all.extend(own.list);
    Ok(all)
}
