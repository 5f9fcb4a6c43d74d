//! The checks of the level `baseline`, in the order of their names.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Level, LevelVersion, Violation, all, bad, containers, context, has_own_users, name, plural, pod_context,
    quoted, setters, those, violation,
};
use crate::object::Object;

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Safe sysctls, with the minor version since when they are.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

const SELINUX_TYPES: [(u32, &str); 5] = [
    (0, ""),
    (0, "container_t"),
    (0, "container_init_t"),
    (0, "container_kvm_t"),
    (31, "container_engine_t"),
];

/// What a pod does against the level. Where `restricted` has a stricter check of the same thing, that one speaks.
pub(super) fn evaluate(policy: LevelVersion, pod: &Object) -> Vec<Violation> {
    let restricted = policy.level == Level::Restricted;
    let unless_stricter = |since: u32| !(restricted && policy.at_least(since));
    [
        app_armor(pod),
        if unless_stricter(22) { capabilities(pod) } else { None },
        host_namespaces(pod),
        if unless_stricter(0) { host_path(pod) } else { None },
        host_ports(pod),
        if policy.at_least(34) { probe_hosts(pod) } else { None },
        privileged(pod),
        if unless_stricter(35) && !(policy.at_least(35) && has_own_users(pod)) {
            proc_mount(pod)
        } else {
            None
        },
        selinux(policy, pod),
        if unless_stricter(19) { seccomp(policy, pod) } else { None },
        sysctls(policy, pod),
        host_process(pod),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn annotations<'a>(pod: &'a Object, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = pod.annotations().into_iter().flatten();
    all.filter(move |(key, _)| key.starts_with(prefix))
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

fn app_armor(pod: &Object) -> Option<Violation> {
    let kind = |value: Option<&Value>| -> Vec<String> {
        let kind = value.and_then(Value::as_str).unwrap_or("RuntimeDefault");
        if matches!(kind, "RuntimeDefault" | "Localhost") { Vec::new() } else { vec![kind.to_owned()] }
    };
    let own = kind(pod_context(pod, "/appArmorProfile/type"));
    let mut found = bad(pod, |container| kind(context(container, "/appArmorProfile/type")));
    let is_pod = !own.is_empty();
    found.values.extend(own);
    let mut values: Vec<String> = found.values.into_iter().collect();
    let mut who: Vec<String> = Vec::new();
    who.extend(is_pod.then(|| "pod".to_owned()));
    who.extend((!found.names.is_empty()).then(|| containers(&found.names)));
    let allowed =
        |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let mut old: Vec<String> = annotations(pod, APP_ARMOR)
        .filter(|(_, value)| !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !old.is_empty() {
        old.sort();
        who.push(plural("annotation", "annotations", old.len()).to_owned());
        values.extend(old);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(
        reason,
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    )
}

/// The capabilities in a list of a container's security context.
pub(super) fn capability_list<'a>(container: &'a Value, which: &str) -> impl Iterator<Item = &'a str> {
    let list = context(container, "/capabilities").and_then(|it| it.get(which)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn capabilities(pod: &Object) -> Option<Violation> {
    let found = bad(pod, |container| {
        let added = capability_list(container, "add").filter(|it| !CAPABILITIES.contains(it));
        added.map(str::to_owned).collect()
    });
    if found.names.is_empty() {
        return None;
    }
    let who = containers(&found.names);
    let detail =
        format!("{who} must not include {} in securityContext.capabilities.add", quoted(&found.values));
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Object) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.get(&["spec", field]) == Some(&Value::Bool(true)))
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

/// The volumes of a pod.
pub(super) fn volumes(pod: &Object) -> impl Iterator<Item = &Value> {
    pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten()
}

fn host_path(pod: &Object) -> Option<Violation> {
    let found: Vec<&str> =
        volumes(pod).filter(|it| it.get("hostPath").is_some_and(|path| !path.is_null())).map(name).collect();
    if found.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", found.len()), quoted(found)))
}

fn host_ports(pod: &Object) -> Option<Violation> {
    let found = bad(pod, |container| {
        let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        let ports = ports.filter_map(|port| port.get("hostPort")?.as_u64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    });
    if found.names.is_empty() {
        return None;
    }
    let ports: Vec<String> = found.values.into_iter().collect();
    let uses = plural("uses", "use", found.names.len());
    let what = plural("hostPort", "hostPorts", ports.len());
    violation("hostPort", format!("{} {uses} {what} {}", containers(&found.names), ports.join(", ")))
}

fn probe_hosts(pod: &Object) -> Option<Violation> {
    const PLACES: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let found = bad(pod, |container| {
        let handlers = PLACES.iter().filter_map(|place| container.pointer(place));
        let hosts = handlers
            .flat_map(|handler| [handler.pointer("/httpGet/host"), handler.pointer("/tcpSocket/host")]);
        let hosts = hosts.flatten().filter_map(Value::as_str).filter(|host| !host.is_empty());
        hosts.map(str::to_owned).collect()
    });
    if found.names.is_empty() {
        return None;
    }
    let names: Vec<&str> = BTreeSet::from_iter(found.names).into_iter().collect();
    let uses = plural("uses", "use", names.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", found.values.len());
    let detail = format!("{} {uses} {what} {}", containers(&names), quoted(&found.values));
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Object) -> Option<Violation> {
    let found = those(pod, |container| context(container, "/privileged") == Some(&Value::Bool(true)));
    if found.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&found)))
}

/// Also the check of `restricted`.
pub(super) fn proc_mount(pod: &Object) -> Option<Violation> {
    let found = bad(pod, |container| {
        let mount = context(container, "/procMount").and_then(Value::as_str);
        mount.filter(|mount| *mount != "Default").map(str::to_owned).into_iter().collect()
    });
    if found.names.is_empty() {
        return None;
    }
    let who = containers(&found.names);
    violation(
        "procMount",
        format!("{who} must not set securityContext.procMount to {}", quoted(&found.values)),
    )
}

fn selinux(policy: LevelVersion, pod: &Object) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut is_bad = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let text = |field: &str| options.get(field).and_then(Value::as_str).unwrap_or_default();
        let known = SELINUX_TYPES.iter().any(|(since, it)| policy.at_least(*since) && *it == text("type"));
        if !known {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        !known || !text("user").is_empty() || !text("role").is_empty()
    };
    let is_pod = is_bad(pod_context(pod, "/seLinuxOptions"));
    let names: Vec<&str> = all(pod).filter(|it| is_bad(context(it, "/seLinuxOptions"))).map(name).collect();
    let who = setters(is_pod, &names)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

/// A profile that is neither the runtime's nor a file of the node.
pub(super) fn bad_seccomp(value: Option<&Value>) -> Option<String> {
    let kind = value.and_then(Value::as_str)?;
    (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
}

fn seccomp(policy: LevelVersion, pod: &Object) -> Option<Violation> {
    if !policy.at_least(19) {
        let allowed = |value: &str| {
            matches!(value, "" | "runtime/default" | "docker/default") || value.starts_with("localhost/")
        };
        let all = annotations(pod, SECCOMP_POD).chain(annotations(pod, SECCOMP_CONTAINER));
        let mut found: Vec<String> =
            all.filter(|(_, value)| !allowed(value)).map(|(key, value)| format!("{key}={value:?}")).collect();
        found.sort();
        if found.is_empty() {
            return None;
        }
        let word = plural("annotation", "annotations", found.len());
        return violation("seccompProfile", format!("forbidden {word} {}", found.join(", ")));
    }
    let own = bad_seccomp(pod_context(pod, "/seccompProfile/type"));
    let mut found = bad(pod, |it| bad_seccomp(context(it, "/seccompProfile/type")).into_iter().collect());
    let who = setters(own.is_some(), &found.names)?;
    found.values.extend(own);
    let detail =
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&found.values));
    violation("seccompProfile", detail)
}

fn sysctls(policy: LevelVersion, pod: &Object) -> Option<Violation> {
    let set = pod_context(pod, "/sysctls").and_then(Value::as_array).into_iter().flatten().map(name);
    let allowed = |it: &&str| SYSCTLS.iter().any(|(since, known)| policy.at_least(*since) && known == it);
    let found: Vec<&str> = set.filter(|it| !allowed(it)).collect();
    if found.is_empty() { None } else { violation("forbidden sysctls", found.join(", ")) }
}

fn host_process(pod: &Object) -> Option<Violation> {
    let is_set = |value: Option<&Value>| value == Some(&Value::Bool(true));
    let names = those(pod, |container| is_set(context(container, "/windowsOptions/hostProcess")));
    let who = setters(is_set(pod_context(pod, "/windowsOptions/hostProcess")), &names)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
