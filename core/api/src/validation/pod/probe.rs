//! Probes and lifecycle hooks: exactly one handler, with what it needs.

use super::super::FieldError;
use super::super::at::At;
use super::Pod;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Which rules a probe follows beside those of all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Liveness,
    Readiness,
    Startup,
}

fn http_get(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if at.field("path").is_empty() {
        errors.push(at.field("path").required(""));
    }
    at.field("port").port(errors);
    at.field("scheme").one_of(&["HTTP", "HTTPS"], errors);
    for header in at.field("httpHeaders").items() {
        let name = header.field("name");
        let good = !name.text().is_empty()
            && name.text().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !good {
            errors.push(name.invalid(
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            ));
        }
    }
}

/// A hook that waits, but not longer than the pod is given to end.
fn sleep(at: &At<'_>, grace: i64, errors: &mut Vec<FieldError>) {
    let seconds = at.field("seconds").number().unwrap_or(0);
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(at.path.as_str(), seconds, detail));
    }
}

/// A handler of a probe or hook. Some kinds are for one of both alone.
fn handler(at: &At<'_>, known: &[&str], grace: Option<i64>, errors: &mut Vec<FieldError>) {
    let mut found = 0;
    for name in HANDLERS.iter().filter(|name| known.contains(name)) {
        let one = at.field(name);
        if !one.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(one.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *name {
            "exec" if one.field("command").is_empty() => errors.push(one.field("command").required("")),
            "httpGet" => http_get(&one, errors),
            "tcpSocket" => one.field("port").port(errors),
            "grpc" => one.field("port").port_number(errors),
            "sleep" => sleep(&one, grace.unwrap_or(i64::MAX), errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}

pub(super) fn probe(at: &At<'_>, kind: Kind, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    handler(at, &["exec", "httpGet", "tcpSocket", "grpc"], None, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        at.field(field).not_negative(errors);
    }
    let grace = at.field("terminationGracePeriodSeconds");
    if grace.is_set() && kind == Kind::Readiness {
        errors.push(grace.invalid("must not be set for readinessProbes"));
    } else if grace.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(grace.invalid("must be greater than 0"));
    }
    let threshold = at.field("successThreshold");
    if kind != Kind::Readiness && threshold.number().is_some_and(|number| number != 1) {
        errors.push(threshold.invalid("must be 1"));
    }
}

pub(super) fn lifecycle(at: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    stop_signal(&at.field("stopSignal"), pod.os, errors);
    for hook in ["postStart", "preStop"] {
        let hook = at.field(hook);
        if hook.is_set() {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], pod.grace, errors);
        }
    }
}

/// Signals of Linux that others than the kernel send, but for those of real time.
const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// A signal by which a container is asked to end, of those that the pod's operating system has.
fn stop_signal(at: &At<'_>, os: Option<&str>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    match os {
        None => errors.push(at.forbidden("may not be set for containers with empty `spec.os.name`")),
        Some("windows") => {
            if !["SIGKILL", "SIGTERM"].contains(&at.text()) {
                errors.push(FieldError::not_supported(at.path.as_str(), at.text(), &["SIGKILL", "SIGTERM"]));
            }
        }
        Some(_) => {
            let real_time = (1..=15).map(|place| format!("SIGRTMIN+{place}"));
            let real_time = real_time.chain((1..=14).map(|place| format!("SIGRTMAX-{place}")));
            let real_time: Vec<String> =
                real_time.chain(["SIGRTMIN", "SIGRTMAX"].map(str::to_owned)).collect();
            let mut known: Vec<&str> =
                SIGNALS.into_iter().chain(real_time.iter().map(String::as_str)).collect();
            known.sort_unstable();
            if !known.contains(&at.text()) {
                errors.push(FieldError::not_supported(at.path.as_str(), at.text(), &known));
            }
        }
    }
}
