//! (pure) What a container gets with its devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keelson_cri::v1;
use keelson_devices::v1beta1::ContainerAllocateResponse;

/// What plugins say of a container, together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Injection {
    envs: BTreeMap<String, String>,
    mounts: BTreeMap<String, v1::Mount>,
    devices: BTreeMap<String, v1::Device>,
    annotations: BTreeMap<String, String>,
    cdi: BTreeSet<String>,
}

/// Adds what is not there yet; what is there and says something else stays, and is told.
fn add<T: PartialEq>(into: &mut BTreeMap<String, T>, key: &str, value: T, what: &'static str) {
    match into.get(key) {
        Some(known) if *known != value => {
            tracing::warn!(what, key, "device plugins contradict each other");
        }
        Some(_) => {}
        None => {
            into.insert(key.to_owned(), value);
        }
    }
}

impl Injection {
    /// What several plugins say. Paths below the folder that kubelets elsewhere have lead to this one's, `data_dir`.
    pub(super) fn new<'a>(
        responses: impl IntoIterator<Item = &'a ContainerAllocateResponse>,
        data_dir: &Path,
    ) -> Self {
        let host = |path: &str| {
            let own = crate::plugins::translated(data_dir, Path::new(path));
            own.map_or_else(|| path.to_owned(), |own| own.display().to_string())
        };
        let mut all = Injection::default();
        for response in responses {
            for (key, value) in &response.envs {
                add(&mut all.envs, key, value.clone(), "variable");
            }
            for (key, value) in &response.annotations {
                add(&mut all.annotations, key, value.clone(), "annotation");
            }
            for mount in &response.mounts {
                let given = v1::Mount {
                    container_path: mount.container_path.clone(),
                    host_path: host(&mount.host_path),
                    readonly: mount.read_only,
                    ..v1::Mount::default()
                };
                add(&mut all.mounts, &mount.container_path, given, "mount");
            }
            for device in &response.devices {
                let given = v1::Device {
                    container_path: device.container_path.clone(),
                    host_path: device.host_path.clone(),
                    permissions: device.permissions.clone(),
                };
                add(&mut all.devices, &device.container_path, given, "device");
            }
            all.cdi.extend(response.cdi_devices.iter().map(|device| device.name.clone()));
        }
        all
    }

    /// Adds variables before the container's own, which go before.
    pub(crate) fn environment(&self, own: &mut Vec<(String, String)>) {
        let missing = self.envs.iter().filter(|(key, _)| !own.iter().any(|(name, _)| name == *key));
        let missing: Vec<_> = missing.map(|(key, value)| (key.clone(), value.clone())).collect();
        own.splice(0..0, missing);
    }

    /// Adds mounts before the container's own, where it has none of its own.
    pub(crate) fn mounts(&self, own: &mut Vec<v1::Mount>) {
        let is_own = |path: &str| own.iter().any(|mount| mount.container_path == path);
        let missing: Vec<_> =
            self.mounts.values().filter(|one| !is_own(&one.container_path)).cloned().collect();
        own.splice(0..0, missing);
    }

    /// Adds all the rest.
    pub(crate) fn complete(self, config: &mut v1::ContainerConfig) {
        config.devices.extend(self.devices.into_values());
        config.cdi_devices.extend(self.cdi.into_iter().map(|name| v1::CdiDevice { name }));
        for (key, value) in self.annotations {
            config.annotations.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use keelson_devices::v1beta1 as api;
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_container_gets_what_its_plugins_say_and_keeps_its_own() {
        let words = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let one = ContainerAllocateResponse {
            envs: words(&[("GPU", "1"), ("PATH", "/gpu")]),
            mounts: vec![api::Mount {
                container_path: "/gpu".to_owned(),
                host_path: "/var/lib/kubelet/device-plugins/gpu".to_owned(),
                read_only: true,
            }],
            devices: vec![api::DeviceSpec {
                container_path: "/dev/gpu".to_owned(),
                host_path: "/dev/null".to_owned(),
                permissions: "rw".to_owned(),
            }],
            annotations: words(&[("gpu", "1")]),
            cdi_devices: vec![api::CdiDevice { name: "example.com/gpu=1".to_owned() }],
        };
        let other = ContainerAllocateResponse {
            envs: words(&[("GPU", "2")]),
            cdi_devices: one.cdi_devices.clone(),
            ..ContainerAllocateResponse::default()
        };
        let found = Injection::new([&one, &other], Path::new("/d"));
        let mut env = vec![("PATH".to_owned(), "/bin".to_owned())];
        found.environment(&mut env);
        assert_eq!(env, [("GPU".to_owned(), "1".to_owned()), ("PATH".to_owned(), "/bin".to_owned())]);
        let mut mounts = Vec::new();
        found.mounts(&mut mounts);
        assert_eq!((mounts[0].host_path.as_str(), mounts[0].readonly), ("/d/device-plugins/gpu", true));
        let mut config = v1::ContainerConfig::default();
        found.complete(&mut config);
        assert_eq!((config.devices[0].permissions.as_str(), config.annotations["gpu"].as_str()), ("rw", "1"));
        assert_eq!(config.cdi_devices, [v1::CdiDevice { name: "example.com/gpu=1".to_owned() }]);
    }
}
