//! Under which rights a pod and its containers run.

use std::collections::HashSet;

use super::super::at::At;
use super::super::{ErrorKind, FieldError};
use super::container::local_path;
use crate::names;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The containers of every list, in the order in which they are visited.
pub(super) fn containers<'a>(spec: &At<'a>) -> impl Iterator<Item = At<'a>> + use<'a> {
    LISTS.map(|list| spec.field(list)).into_iter().flat_map(|list| list.items().collect::<Vec<_>>())
}

fn id(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.number().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        errors.push(at.invalid("must be between 0 and 2147483647, inclusive"));
    }
}

/// A value that may be missing, but is otherwise one of a few.
fn choice(at: &At<'_>, known: &[&str], errors: &mut Vec<FieldError>) {
    if at.is_set() && !known.contains(&at.text()) {
        errors.push(FieldError::not_supported(at.path.as_str(), at.value.clone(), known));
    }
}

/// The security context of a pod.
pub(super) fn pod(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let at = spec.field("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&at.field(field), errors);
    }
    at.field("supplementalGroups").items().for_each(|group| id(&group, errors));
    let share = spec.field("shareProcessNamespace");
    if share.is_true() && spec.field("hostPID").is_true() {
        let path = format!("{}.shareProcessNamespace", at.path);
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(path, true, detail));
    }
    sysctls(spec, &at.field("sysctls"), errors);
    choice(&at.field("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    seccomp(&at.field("seccompProfile"), errors);
    windows(&at.field("windowsOptions"), errors);
    app_armor(&at.field("appArmorProfile"), errors);
    choice(&at.field("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    choice(&at.field("seLinuxChangePolicy"), &["MountOption", "Recursive"], errors);
    host_users(spec, errors);
    host_process(spec, errors);
    system(spec, errors);
}

/// The security context of a container.
pub(super) fn container(at: &At<'_>, host_users: bool, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    id(&at.field("runAsUser"), errors);
    id(&at.field("runAsGroup"), errors);
    let mount = at.field("procMount");
    choice(&mount, &["Default", "Unmasked"], errors);
    if host_users && mount.text() == "Unmasked" {
        errors.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(&at.field("seccompProfile"), errors);
    if at.field("allowPrivilegeEscalation").value == false {
        if at.field("privileged").is_true() {
            errors
                .push(at.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        for added in at.field("capabilities").field("add").items() {
            if added.text() == "CAP_SYS_ADMIN" {
                errors.push(at.invalid(
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
                ));
            }
        }
    }
    windows(&at.field("windowsOptions"), errors);
    app_armor(&at.field("appArmorProfile"), errors);
}

fn seccomp(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.field("type"), at.field("localhostProfile"));
    if kind.is_empty() {
        errors.push(kind.required("type is required when seccompProfile is set"));
    } else {
        choice(&kind, &["Localhost", "RuntimeDefault", "Unconfined"], errors);
    }
    match (kind.text(), profile.is_set()) {
        ("Localhost", false) => errors.push(profile.required("must be set when seccomp type is Localhost")),
        ("Localhost", true) => local_path(&profile, errors),
        (_, true) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(profile.path.as_str(), at.value.clone(), detail));
        }
        (_, false) => {}
    }
}

fn app_armor(at: &At<'_>, errors: &mut Vec<FieldError>) {
    const MOST: usize = 4095;
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.field("type"), at.field("localhostProfile"));
    match kind.text() {
        "Localhost" => {
            if profile.text() != profile.text().trim() {
                errors.push(profile.invalid("must not be padded with whitespace"));
            } else if profile.is_empty() {
                errors.push(profile.required("must be set when AppArmor type is Localhost"));
            }
            if profile.text().len() > MOST {
                errors.push(profile.too_long(MOST));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.is_set() {
                errors.push(profile.invalid("can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(kind.required("type is required when appArmorProfile is set")),
        _ => choice(&kind, &["Localhost", "RuntimeDefault", "Unconfined"], errors),
    }
}

fn is_sysctl(name: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253 && name.split(['.', '/']).all(|part| {
        let bytes = part.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if lower(*first) && lower(*last))
            && bytes.iter().all(|byte| lower(*byte) || matches!(byte, b'-' | b'_'))
    })
}

fn sysctls(spec: &At<'_>, list: &At<'_>, errors: &mut Vec<FieldError>) {
    const FORM: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let mut seen = HashSet::new();
    for name in list.items().map(|control| control.field("name")) {
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.text()) {
            errors.push(name.invalid(FORM));
        } else if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        let dotted = name.text().replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|it| dotted.starts_with(it))
            || dotted == "kernel.sem";
        if dotted.starts_with("net.") && spec.field("hostNetwork").is_true() {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
        } else if ipc && spec.field("hostIPC").is_true() {
            errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
        }
    }
}

/// A pod with users of its own shares no other namespace with its node, and has no devices of it as volumes.
fn host_users(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    if spec.field("hostUsers").value != false {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.field(field).is_true() {
            let path = format!("{}.{shown}", spec.path);
            errors.push(FieldError::forbidden(path, "when `hostUsers` is false"));
        }
    }
    for devices in containers(spec).map(|it| it.field("volumeDevices")).filter(|it| !it.is_empty()) {
        errors.push(devices.forbidden("when `hostUsers` is false"));
    }
}

fn windows(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let name = at.field("gmsaCredentialSpecName");
    if name.is_set() {
        name.invalid_for(names::dns1123_subdomain(name.text()), errors);
    }
    let credentials = at.field("gmsaCredentialSpec");
    if credentials.is_set() && credentials.is_empty() {
        errors.push(credentials.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if credentials.text().len() > 64 * 1024 {
        errors.push(credentials.invalid("gmsaCredentialSpec size must be under 64 KiB"));
    }
    let user = at.field("runAsUserName");
    if user.is_set() {
        user.invalid_for(windows_user(user.text()), errors);
    }
}

fn windows_user(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if text.chars().any(|it| it.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = text.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut found = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        found.push("runAsUserName's Domain length must be under 256 characters".to_owned());
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        found.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        found.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > 104 {
        found.push("runAsUserName's User length must not be longer than 104 characters".to_owned());
    }
    if !user.is_empty() && user.chars().all(|it| matches!(it, '.' | ' ')) {
        found.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        found.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned(),
        );
    }
    found
}

fn is_net_bios(text: &str) -> bool {
    (1..=15).contains(&text.chars().count())
        && !text.starts_with('.')
        && !text.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(text: &str) -> bool {
    text.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Processes of a Windows node itself: all containers of a pod, or none.
fn host_process(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let process = |at: &At<'_>| {
        at.field("securityContext").field("windowsOptions").field("hostProcess").value.as_bool()
    };
    let own = process(spec);
    let (mut all, mut count) = (0, 0);
    for it in containers(spec) {
        all += 1;
        let asked = process(&it);
        if let (Some(own), Some(asked)) = (own, asked)
            && own != asked
        {
            let path = format!("{}.securityContext.windowsOptions.hostProcess", it.path);
            let detail = format!("pod hostProcess value must be identical if both are specified, was {own}");
            errors.push(FieldError::invalid(path, asked, detail));
        }
        count += usize::from(asked.or(own) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(spec.path.as_str(), "", detail));
    }
    let network = spec.field("hostNetwork");
    if !network.is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(network.path, false, detail));
    }
}

const NOT_OF_WINDOWS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
const NOT_OF_WINDOWS_PODS: [&str; 4] = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
const NOT_OF_WINDOWS_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// What a pod of an operating system cannot have.
fn system(spec: &At<'_>, errors: &mut Vec<FieldError>) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let os = spec.field("os");
    if !os.is_set() {
        return;
    }
    let context = spec.field("securityContext");
    match os.field("name").text() {
        "" => errors.push(os.field("name").required("cannot be empty")),
        "linux" => {
            for at in [context].into_iter().chain(containers(spec).map(|it| it.field("securityContext"))) {
                let options = at.field("windowsOptions");
                if options.is_set() {
                    errors.push(options.forbidden("windows options cannot be set for a linux pod"));
                }
            }
        }
        "windows" => {
            let own = NOT_OF_WINDOWS.into_iter().chain(["seLinuxChangePolicy"]);
            let of_pod = own.map(|field| context.field(field));
            let of_spec = NOT_OF_WINDOWS_PODS.into_iter().map(|field| spec.field(field));
            for at in of_pod.chain(of_spec) {
                // The namespaces of the node are plain switches.
                let is_off = at.value == false && at.path.contains(".hostP") | at.path.contains(".hostI");
                if !at.is_empty() && !is_off {
                    errors.push(at.forbidden(DETAIL));
                }
            }
            for it in containers(spec).map(|it| it.field("securityContext")) {
                for at in NOT_OF_WINDOWS_CONTAINERS.map(|field| it.field(field)) {
                    if at.is_set() {
                        errors.push(at.forbidden(DETAIL));
                    }
                }
            }
        }
        other => {
            let value = serde_json::Value::from(other);
            errors.push(FieldError::not_supported(os.path, value, &["linux", "windows"]));
        }
    }
}

/// Annotations of times before the fields must say the same as the fields.
pub(super) fn annotations(metadata: &At<'_>, spec: &At<'_>, errors: &mut Vec<FieldError>) {
    let annotations = metadata.field("annotations");
    let matches = |text: &str, profile: &At<'_>, what: &str, errors: &mut Vec<FieldError>| {
        let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
        let same = match (kind.text(), what) {
            ("Unconfined", _) => text == "unconfined",
            ("RuntimeDefault", "seccomp") => matches!(text, "runtime/default" | "docker/default"),
            ("RuntimeDefault", _) => text == "runtime/default",
            ("Localhost", _) => match text.strip_prefix("localhost/") {
                Some(name) if name == local.text() => return,
                Some(_) => {
                    let detail = format!("{what} profile in annotation and field must match");
                    return errors.push(local.forbidden(detail));
                }
                None => false,
            },
            _ => true,
        };
        if !same {
            errors.push(kind.forbidden(format!("{what} type in annotation and field must match")));
        }
    };
    let text = |key: &str| annotations.value.get(key).and_then(|value| value.as_str());
    let pod = spec.field("securityContext");
    if let Some(text) = text("seccomp.security.alpha.kubernetes.io/pod")
        && pod.field("seccompProfile").is_set()
    {
        matches(text, &pod.field("seccompProfile"), "seccomp", errors);
    }
    for it in containers(spec) {
        let (name, context) = (it.field("name"), it.field("securityContext"));
        let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", name.text());
        if let Some(text) = text(&key)
            && context.field("seccompProfile").is_set()
        {
            matches(text, &context.field("seccompProfile"), "seccomp", errors);
        }
        let key = format!("container.apparmor.security.beta.kubernetes.io/{}", name.text());
        let own = context.field("appArmorProfile");
        let value = if own.is_set() { own.value } else { pod.field("appArmorProfile").value };
        if let Some(text) = text(&key)
            && !value.is_null()
            && spec.field("os").field("name").text() != "windows"
        {
            matches(text, &At { path: own.path, value }, "apparmor", errors);
        }
    }
}

impl At<'_> {
    /// A text that is longer than a limit.
    pub(in super::super) fn too_long(&self, most: usize) -> FieldError {
        let (kind, value) = (ErrorKind::TooLong, serde_json::Value::Null);
        let detail = format!("may not be more than {most} bytes");
        FieldError { path: self.path.clone(), kind, value, detail }
    }
}
