//! What the status of a pod may become.

use std::collections::HashSet;
use std::net::IpAddr;

use super::super::FieldError;
use super::super::at::At;
use crate::names;
use crate::object::Object;

/// A change of the status.
pub(in super::super) fn change(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (status, before, spec) = (At::of(new, "status"), At::of(old, "status"), At::of(old, "spec"));
    for condition in status.field("conditions").items() {
        let kind = condition.field("type");
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            let path = kind.path.replace("status.", "metadata.").replace(".type", ".Type");
            At { path, ..kind.clone() }.invalid_for(names::qualified_name(kind.text()), errors);
        }
    }
    let node = status.field("nominatedNodeName");
    if !node.is_empty() && node.value != before.field("nominatedNodeName").value {
        node.invalid_for(names::dns1123_subdomain(node.text()), errors);
    }
    let policy = spec.field("restartPolicy");
    if !may_begin_anew(&spec) {
        ended(&status, &before, "containerStatuses", policy.text(), &spec, errors);
        ended(&status, &before, "initContainerStatuses", policy.text(), &spec, errors);
    }
    ended(&status, &before, "ephemeralContainerStatuses", "Never", &spec, errors);
    claims(&status, &spec, errors);
    addresses(&status.field("podIPs"), errors);
    let hosts = status.field("hostIPs");
    if let Some(first) = hosts.items().next().map(|it| it.field("ip"))
        && first.text() != status.field("hostIP").text()
    {
        errors.push(first.invalid("must be equal to `hostIP`"));
    }
    addresses(&hosts, errors);
}

/// Whether a container's end may start all of them again.
fn may_begin_anew(spec: &At<'_>) -> bool {
    ["containers", "initContainers"].into_iter().any(|list| {
        spec.field(list).items().any(|container| {
            let restarts_all = |rule: At<'_>| rule.field("action").text() == "RestartAllContainers";
            container.field("restartPolicyRules").items().any(restarts_all)
        })
    })
}

/// What has ended and is not started again stays ended.
fn ended(
    status: &At<'_>,
    before: &At<'_>,
    list: &str,
    policy: &str,
    spec: &At<'_>,
    errors: &mut Vec<FieldError>,
) {
    if policy == "Always" {
        return;
    }
    for (place, old) in before.field(list).items().enumerate() {
        let (name, last) = (old.field("name"), old.field("state").field("terminated"));
        let failed = last.field("exitCode").number().unwrap_or(0) != 0;
        let own = |list: &str| spec.field(list).items().find(|it| it.field("name").text() == name.text());
        let container = own("containers").or_else(|| own("initContainers"));
        let restarts = container.is_some_and(|it| {
            it.field("restartPolicy").is_set() || !it.field("restartPolicyRules").is_empty()
        });
        if !last.is_set() || (failed && policy == "OnFailure") || restarts {
            continue;
        }
        let revived = status.field(list).items().any(|new| {
            new.field("name").text() == name.text() && !new.field("state").field("terminated").is_set()
        });
        if revived {
            let path = format!("{}.{list}[{place}].state", status.path);
            errors.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
}

fn claims(status: &At<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for name in status.field("resourceClaimStatuses").items().map(|it| it.field("name")) {
        if !spec.field("resourceClaims").items().any(|claim| claim.field("name").text() == name.text()) {
            errors.push(name.invalid("must match the name of an entry in `spec.resourceClaims`"));
        }
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

/// One address of each family.
fn addresses(list: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    let mut families = [0, 0];
    for item in list.items() {
        let ip = item.field("ip");
        At { path: item.path.clone(), ..ip.clone() }.address(errors);
        if let Ok(address) = ip.text().parse::<IpAddr>() {
            families[usize::from(address.is_ipv6())] += 1;
        }
        if !seen.insert(ip.text()) {
            errors.push(item.duplicate());
        }
    }
    if families.iter().any(|count| *count > 1) {
        errors.push(list.invalid("may specify no more than one IP for each IP family"));
    }
}
