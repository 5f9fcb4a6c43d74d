//! Which resources count their changes in `metadata.generation`.

use keelson_api::ResourceInfo;

/// What is counted of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// There is no generation.
    Nothing,
    /// The generation stays 1.
    Creation,
    /// Every change of anything but metadata and status.
    Changes,
}

/// The built-in resources with a generation, by group; all others have none. Custom resources always have one.
const COUNTED: &[(&str, &[&str])] = &[
    ("", &["pods", "podtemplates", "replicationcontrollers"]),
    (
        "admissionregistration.k8s.io",
        &[
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
    ("apiextensions.k8s.io", &["customresourcedefinitions"]),
    ("apps", &["daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("batch", &["cronjobs", "jobs"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("flowcontrol.apiserver.k8s.io", &["flowschemas", "prioritylevelconfigurations"]),
    ("networking.k8s.io", &["ingressclasses", "ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
    ("resource.k8s.io", &["deviceclasses", "resourceslices"]),
    ("storage.k8s.io", &["csidrivers"]),
];

pub(super) fn counts(resource: &ResourceInfo) -> Counts {
    let is_listed = |(group, plurals): &(&str, &[&str])| {
        *group == resource.group && plurals.contains(&resource.plural.as_str())
    };
    if resource.custom.is_some() || COUNTED.iter().any(is_listed) {
        Counts::Changes
    } else if resource.group == "scheduling.k8s.io" && resource.plural == "priorityclasses" {
        Counts::Creation
    } else {
        Counts::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::Catalog;

    #[test]
    fn every_line_is_a_resource_that_is_served() {
        let catalog = Catalog::builtin();
        for (group, plurals) in COUNTED {
            for plural in *plurals {
                assert!(catalog.find(group, "v1", plural).is_some(), "{group} {plural}");
            }
        }
    }

    #[test]
    fn requests_for_certificates_claims_and_addresses_have_no_generation() {
        let catalog = Catalog::builtin();
        let of = |group, plural| counts(catalog.find(group, "v1", plural).unwrap());
        assert_eq!(of("certificates.k8s.io", "certificatesigningrequests"), Counts::Nothing);
        assert_eq!(of("networking.k8s.io", "ipaddresses"), Counts::Nothing);
        assert_eq!(of("networking.k8s.io", "servicecidrs"), Counts::Nothing);
        assert_eq!(of("resource.k8s.io", "resourceclaims"), Counts::Nothing);
        assert_eq!(of("apiregistration.k8s.io", "apiservices"), Counts::Nothing);
        assert_eq!(of("scheduling.k8s.io", "priorityclasses"), Counts::Creation);
        assert_eq!(of("resource.k8s.io", "resourceslices"), Counts::Changes);
    }
}
