//! The checks that the level `restricted` adds, in the order of their names.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{bad_seccomp, capability_list, proc_mount, volumes};
use super::{
    LevelVersion, Violation, all, bad, containers, context, has_own_users, is_windows, name, plural,
    pod_context, quoted, setters, those, violation,
};
use crate::object::Object;

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn evaluate(policy: LevelVersion, pod: &Object) -> Vec<Violation> {
    // What only Linux has is not asked of others.
    let linux = !(policy.at_least(25) && is_windows(pod));
    let any_user = policy.at_least(35) && has_own_users(pod);
    [
        if policy.at_least(8) && linux { privilege_escalation(pod) } else { None },
        if policy.at_least(22) && linux { capabilities(pod) } else { None },
        if policy.at_least(35) { proc_mount(pod) } else { None },
        restricted_volumes(pod),
        if any_user { None } else { run_as_non_root(pod) },
        if policy.at_least(23) && !any_user { run_as_user(pod) } else { None },
        if policy.at_least(19) && linux { seccomp(pod) } else { None },
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn privilege_escalation(pod: &Object) -> Option<Violation> {
    let found = those(pod, |it| context(it, "/allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    if found.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&found));
    violation("allowPrivilegeEscalation != false", detail)
}

fn capabilities(pod: &Object) -> Option<Violation> {
    let keeps = those(pod, |container| !capability_list(container, "drop").any(|it| it == "ALL"));
    let adds = bad(pod, |container| {
        capability_list(container, "add").filter(|it| *it != "NET_BIND_SERVICE").map(str::to_owned).collect()
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.names.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adds.names),
            quoted(&adds.values)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn restricted_volumes(pod: &Object) -> Option<Violation> {
    let source = |volume: &Value| -> String {
        let fields = volume.as_object().into_iter().flatten();
        let mut set = fields.filter(|(field, value)| *field != "name" && !value.is_null());
        set.next().map_or_else(|| "unknown".to_owned(), |(field, _)| field.clone())
    };
    let found: Vec<(&str, String)> = volumes(pod)
        .map(|volume| (name(volume), source(volume)))
        .filter(|(_, source)| !VOLUMES.contains(&source.as_str()))
        .collect();
    if found.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = found.iter().map(|(_, source)| source.as_str()).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", found.len()),
        quoted(found.iter().map(|(name, _)| name)),
        plural("uses", "use", found.len()),
        plural("restricted volume type", "restricted volume types", types.len()),
        quoted(&types)
    );
    violation("restricted volume types", detail)
}

/// Who says something bad, and who says nothing where the pod says nothing good either.
fn said<'a>(
    pod: &'a Object,
    path: &str,
    is_good: impl Fn(&Value) -> bool,
) -> (bool, Vec<&'a str>, Vec<&'a str>) {
    let own = pod_context(pod, path);
    let covered = own.is_some_and(&is_good);
    let (mut bad, mut silent) = (Vec::new(), Vec::new());
    for container in all(pod) {
        match context(container, path) {
            Some(value) if !is_good(value) => bad.push(name(container)),
            None if !covered => silent.push(name(container)),
            Some(_) | None => {}
        }
    }
    (own.is_some() && !covered, bad, silent)
}

fn run_as_non_root(pod: &Object) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let (is_pod, bad, silent) = said(pod, "/runAsNonRoot", |value| *value == Value::Bool(true));
    if let Some(who) = setters(is_pod, &bad) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

fn run_as_user(pod: &Object) -> Option<Violation> {
    let is_root = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let names = those(pod, |container| is_root(context(container, "/runAsUser")));
    let who = setters(is_root(pod_context(pod, "/runAsUser")), &names)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Object) -> Option<Violation> {
    const REASON: &str = "seccompProfile";
    const PATH: &str = "/seccompProfile/type";
    let (is_pod, bad_names, silent) = said(pod, PATH, |value| bad_seccomp(Some(value)).is_none());
    if let Some(who) = setters(is_pod, &bad_names) {
        let mut values = bad(pod, |it| bad_seccomp(context(it, PATH)).into_iter().collect()).values;
        values.extend(bad_seccomp(pod_context(pod, PATH)));
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values));
        return violation(REASON, detail);
    }
    if silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail = format!(
        "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
    );
    violation(REASON, detail)
}
