//! Which families of addresses a Service gets.

use std::fmt;

use keelson_api::Object;
use keelson_api::validation::FieldError;
use serde_json::{Value, json};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    pub(super) fn of(address: &str) -> Self {
        if address.contains(':') { Family::V6 } else { Family::V4 }
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }

    fn other(self) -> Self {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// What a Service gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) list: Vec<Family>,
    pub(super) is_headless: bool,
}

/// Settles `ipFamilies` and `ipFamilyPolicy`. `configured` are the families of the cluster; the first is its own.
pub(super) fn settle(
    service: &mut Object,
    old: Option<&Object>,
    configured: &[Family],
) -> Result<Families, Vec<FieldError>> {
    let texts = |service: &Object, field: &str| -> Vec<String> {
        let list = service.get(&["spec", field]).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let default = configured.first().copied().unwrap_or(Family::V4);
    if service.get_str(&["spec", "clusterIP"]).is_some_and(|text| !text.is_empty())
        && texts(service, "clusterIPs").is_empty()
    {
        let one = service.get_str(&["spec", "clusterIP"]).map(str::to_owned);
        service.set(&["spec", "clusterIPs"], json!([one]));
    }
    let ips = texts(service, "clusterIPs");
    let is_headless = ips.first().is_some_and(|text| text == "None");
    let mut list: Vec<Family> =
        texts(service, "ipFamilies").iter().filter_map(|text| Family::read(text)).collect();
    let mut policy = service.get_str(&["spec", "ipFamilyPolicy"]).map(str::to_owned);
    let selects = service
        .get(&["spec", "selector"])
        .and_then(Value::as_object)
        .is_some_and(|labels| !labels.is_empty());
    let is_free = is_headless && !selects;
    let mut errors = Vec::new();
    if !is_free {
        for (field, count) in [("clusterIPs", ips.len()), ("ipFamilies", list.len())] {
            let single = policy.as_deref().is_none_or(|policy| policy == "SingleStack");
            let shrinks = old.is_some_and(|old| texts(old, field).len() > 1);
            if count > 1 && single && !shrinks {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple '{field}' are specified"
                );
                let value = policy.as_deref().map_or(Value::Null, Value::from);
                errors.push(FieldError::invalid("spec.ipFamilyPolicy", value, detail));
            }
        }
        if policy.as_deref() == Some("RequireDualStack") && configured.len() < 2 {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", detail));
        }
        for (place, family) in list.iter().enumerate().filter(|(_, family)| !configured.contains(family)) {
            let path = format!("spec.ipFamilies[{place}]");
            errors.push(FieldError::invalid(path, family.to_string(), "not configured on this cluster"));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    if policy.as_deref() == Some("SingleStack") {
        list.truncate(1);
        if ips.len() > 1 {
            service.set(&["spec", "clusterIPs"], json!([ips[0]]));
        }
    }
    for ip in ips.iter().skip(list.len()).filter(|ip| !is_headless && ip.parse::<std::net::IpAddr>().is_ok())
    {
        list.push(Family::of(ip));
    }
    if list.is_empty() {
        list.push(default);
    }
    let dual = policy.as_deref().is_some_and(|policy| policy.ends_with("DualStack"));
    if dual && list.len() == 1 && (is_free || configured.len() > 1) {
        list.push(list[0].other());
    }
    policy.get_or_insert_with(|| {
        if list.len() > 1 { "RequireDualStack".to_owned() } else { "SingleStack".to_owned() }
    });
    let names: Vec<String> = list.iter().map(Family::to_string).collect();
    service.set(&["spec", "ipFamilies"], json!(names));
    service.set(&["spec", "ipFamilyPolicy"], policy.into());
    Ok(Families { list, is_headless })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(spec: Value, configured: &[Family]) -> Result<Value, String> {
        let mut service = Object::from_value(json!({"spec": spec})).unwrap();
        match settle(&mut service, None, configured) {
            Ok(_) => {
                Ok(json!([service.get(&["spec", "ipFamilyPolicy"]), service.get(&["spec", "ipFamilies"])]))
            }
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    #[test]
    fn a_service_gets_the_families_that_it_asks_for_and_the_cluster_has() {
        let (one, two) = ([Family::V4], [Family::V4, Family::V6]);
        assert_eq!(outcome(json!({}), &one).unwrap(), json!(["SingleStack", ["IPv4"]]));
        assert_eq!(
            outcome(json!({"ipFamilyPolicy": "PreferDualStack"}), &one).unwrap(),
            json!(["PreferDualStack", ["IPv4"]])
        );
        assert_eq!(
            outcome(json!({"ipFamilyPolicy": "PreferDualStack"}), &two).unwrap(),
            json!(["PreferDualStack", ["IPv4", "IPv6"]])
        );
        assert_eq!(
            outcome(json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}), &one).unwrap(),
            json!(["RequireDualStack", ["IPv4", "IPv6"]])
        );
        assert_eq!(
            outcome(json!({"ipFamilyPolicy": "RequireDualStack"}), &one).unwrap_err(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        assert_eq!(
            outcome(json!({"ipFamilies": ["IPv6"]}), &one).unwrap_err(),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
        );
    }
}
