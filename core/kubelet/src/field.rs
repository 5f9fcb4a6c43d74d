//! Fields of a pod and resources of a container, as the downward API names them (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_api::quantity::Quantity as Amount;

/// Why a field has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
    #[error("resource {resource}: {quantity:?} is no quantity")]
    Quantity { resource: String, quantity: String },
}

/// Addresses that are not part of the pod's object when its containers are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses<'a> {
    pub(crate) pod: &'a [IpAddr],
    pub(crate) host: IpAddr,
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A quoted text with the escapes of Go's `%q`, which upstream writes.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() && (c as u32) < 0x80 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `key="value"` lines, sorted by key.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// `metadata.labels['KEY']` taken apart.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

/// A field of the pod's metadata, as variables and volumes may have it.
pub(crate) fn metadata(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let at = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(at(&metadata.labels, key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(at(&metadata.annotations, key));
    }
    Ok(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        _ => return Err(FieldError::Path(path.to_owned())),
    })
}

/// A field of the pod, as a variable may have it.
pub(crate) fn value(pod: &Pod, path: &str, addresses: Addresses<'_>) -> Result<String, FieldError> {
    let spec = pod.spec.as_ref();
    Ok(match path {
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => addresses.host.to_string(),
        "status.podIP" => addresses.pod.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => joined(addresses.pod),
        _ => metadata(pod, path)?,
    })
}

/// What the node can give: a limit that is not set is this.
pub(crate) type Allocatable = BTreeMap<String, Quantity>;

fn amount(resource: &str, quantity: &Quantity) -> Result<Amount, FieldError> {
    Amount::parse(&quantity.0)
        .map_err(|_| FieldError::Quantity { resource: resource.to_owned(), quantity: quantity.0.clone() })
}

/// Rounded up, as upstream does.
fn divided(value: i128, divisor: i128) -> String {
    let divisor = divisor.max(1);
    (value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string()
}

/// A limit or request of a container in units of the divisor.
pub(crate) fn resource(
    selector: &ResourceFieldSelector,
    resources: Option<&ResourceRequirements>,
    allocatable: &Allocatable,
) -> Result<String, FieldError> {
    let whole = &selector.resource;
    let unsupported = || FieldError::Resource(whole.clone());
    let (kind, name) = whole.split_once('.').ok_or_else(unsupported)?;
    let is_known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !is_known {
        return Err(unsupported());
    }
    let of = |map: Option<&BTreeMap<String, Quantity>>| -> Result<Option<Amount>, FieldError> {
        let found = map.and_then(|map| map.get(name)).map(|quantity| amount(whole, quantity)).transpose()?;
        Ok(found.filter(|amount| amount.milli_value() != 0))
    };
    let found = match kind {
        "limits" => match of(resources.and_then(|it| it.limits.as_ref()))? {
            Some(found) => Some(found),
            None if name.starts_with("hugepages-") => None,
            None => of(Some(allocatable))?,
        },
        "requests" => of(resources.and_then(|it| it.requests.as_ref()))?,
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map(|divisor| amount(whole, divisor)).transpose()?;
    let divisor = divisor.filter(|divisor| divisor.milli_value() > 0);
    let Some(found) = found else { return Ok("0".to_owned()) };
    Ok(if name == "cpu" {
        divided(found.milli_value(), divisor.map_or(1000, Amount::milli_value))
    } else {
        divided(found.value(), divisor.map_or(1, Amount::value))
    })
}

/// A container of the pod by its name, of any list but the ephemeral ones.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container, FieldError> {
    let spec = pod.spec.as_ref();
    let mut all =
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    all.find(|container| container.name == name).ok_or_else(|| FieldError::Container(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let value = json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u",
                "labels": {"b": "two", "a": "o\"ne"}, "annotations": {"example.com/x": "1\n2"},
            },
            "spec": {"nodeName": "node", "serviceAccountName": "robot", "containers": []},
        });
        serde_json::from_value(value).unwrap()
    }

    fn read(path: &str) -> Result<String, FieldError> {
        let addresses = ["10.42.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        value(&pod(), path, Addresses { pod: &addresses, host: "192.0.2.1".parse().unwrap() })
    }

    #[test]
    fn every_documented_field_has_a_value() {
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels", "a=\"o\\\"ne\"\nb=\"two\""),
            ("metadata.labels['b']", "two"),
            ("metadata.labels['missing']", ""),
            ("metadata.annotations['example.com/x']", "1\n2"),
            ("metadata.annotations", "example.com/x=\"1\\n2\""),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "192.0.2.1"),
            ("status.hostIPs", "192.0.2.1"),
            ("status.podIP", "10.42.0.7"),
            ("status.podIPs", "10.42.0.7,fd00::7"),
        ] {
            assert_eq!(read(path).unwrap(), expected, "{path}");
        }
        assert_eq!(read("spec.hostname"), Err(FieldError::Path("spec.hostname".into())));
    }

    fn limit(resource_name: &str, divisor: Option<&str>) -> Result<String, FieldError> {
        let requirements: ResourceRequirements = serde_json::from_value(
            json!({"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "1M"}}),
        )
        .unwrap();
        let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]);
        let selector = ResourceFieldSelector {
            resource: resource_name.into(),
            divisor: divisor.map(|text| Quantity(text.into())),
            container_name: None,
        };
        resource(&selector, Some(&requirements), &allocatable)
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        assert_eq!(limit("requests.cpu", None).unwrap(), "1");
        assert_eq!(limit("requests.cpu", Some("1m")).unwrap(), "250");
        assert_eq!(limit("limits.memory", None).unwrap(), "67108864");
        assert_eq!(limit("limits.memory", Some("1Mi")).unwrap(), "64");
        assert_eq!(limit("requests.memory", Some("1Mi")).unwrap(), "1");
        assert_eq!(limit("limits.memory", Some("0")).unwrap(), "67108864");
    }

    #[test]
    fn a_missing_limit_is_what_the_node_can_give() {
        assert_eq!(limit("limits.cpu", None).unwrap(), "2");
        assert_eq!(limit("requests.ephemeral-storage", None).unwrap(), "0");
        assert_eq!(limit("limits.gpu", None), Err(FieldError::Resource("limits.gpu".into())));
    }
}
