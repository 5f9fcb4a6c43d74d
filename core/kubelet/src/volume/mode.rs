//! Whether containers use a volume as what it is: a file system or a block device (pure).

use k8s_openapi::api::core::v1::PodSpec;

/// Whether a container has the volume as a block device.
pub(super) fn is_device(spec: &PodSpec, volume: &str) -> bool {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers).map(|it| &it.volume_devices);
    let all = all.chain(spec.ephemeral_containers.iter().flatten().map(|it| &it.volume_devices));
    all.flatten().flatten().any(|it| it.name == volume)
}

/// What is wrong with how containers use the volume behind a claim.
pub(super) fn misuse(spec: &PodSpec, volume: &str, block: bool) -> Option<String> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lists = all.map(|it| (it.volume_mounts.as_deref(), it.volume_devices.as_deref()));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let mut lists =
        lists.chain(ephemeral.map(|it| (it.volume_mounts.as_deref(), it.volume_devices.as_deref())));
    let wrong = lists.any(|(mounts, devices)| {
        if block {
            mounts.unwrap_or_default().iter().any(|it| it.name == volume)
        } else {
            devices.unwrap_or_default().iter().any(|it| it.name == volume)
        }
    });
    let (mode, list) = if block { ("Block", "volumeMounts") } else { ("Filesystem", "volumeDevices") };
    wrong.then(|| format!("volume {volume} has volumeMode {mode}, but is specified in {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn a_device_is_not_mounted_and_a_file_system_is_no_device() {
        let of = |containers: Value, block| misuse(&from_value(containers).unwrap(), "v", block);
        let mounts = json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let devices = json!({"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]});
        let text = "volume v has volumeMode Block, but is specified in volumeMounts";
        assert_eq!(of(json!({"containers": [mounts]}), true).as_deref(), Some(text));
        assert_eq!(of(json!({"containers": [mounts]}), false), None);
        assert!(!is_device(&from_value(json!({"containers": [mounts]})).unwrap(), "v"));
        for list in ["initContainers", "ephemeralContainers"] {
            let spec = json!({"containers": [], list: [devices]});
            let text = "volume v has volumeMode Filesystem, but is specified in volumeDevices";
            assert_eq!(of(spec.clone(), false).as_deref(), Some(text));
            assert_eq!(of(spec.clone(), true), None);
            let spec = from_value(spec).unwrap();
            assert!(is_device(&spec, "v") && !is_device(&spec, "other"));
        }
    }
}
