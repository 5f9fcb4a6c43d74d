//! `/statusz` and `/flagz` (KEP-4827, KEP-4828): what runs here and since when, and with which settings, for people who look for a fault.
//! Text, or an object of `config.k8s.io` for who asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Node;
use super::failure::Failure;
use crate::config::Config;

const COMPONENT: &str = "kubelet";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
/// The first folders of all paths.
const PATHS: [&str; 13] = [
    "/attach",
    "/configz",
    "/containerLogs",
    "/exec",
    "/flagz",
    "/healthz",
    "/logs",
    "/metrics",
    "/pods",
    "/portForward",
    "/runningpods",
    "/stats",
    "/statusz",
];

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    /// Of this version.
    Object(&'static str),
}

/// (pure) The first form of those that are asked for that there is; `None` for none.
fn form(accept: Option<&str>, kind: &str) -> Option<Form> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Some(Form::Text) };
    accept.split(',').find_map(|one| {
        let mut parts = one.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters: BTreeMap<&str, &str> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let is = |name: &str, value: &str| parameters.get(name) == Some(&value);
        match media {
            "text/plain" | "text/*" | "*/*" => Some(Form::Text),
            "application/json" if is("g", GROUP) && is("as", kind) => {
                VERSIONS.into_iter().find(|version| is("v", version)).map(Form::Object)
            }
            _ => None,
        }
    })
}

fn negotiate(headers: &HeaderMap, kind: &str) -> Result<Form, Failure> {
    let accept = headers.get(header::ACCEPT).map(|accept| accept.to_str().unwrap_or("?"));
    form(accept, kind).ok_or_else(|| {
        let text = format!(
            "only the following media types are accepted: text/plain, application/json;v=v1beta1;g={GROUP};as={kind}"
        );
        Failure::new(StatusCode::NOT_ACCEPTABLE, text)
    })
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn object(version: &str, kind: &str, fields: &[(&str, Value)]) -> Response {
    let mut object = json!({
        "kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": { "name": COMPONENT },
    });
    for (name, value) in fields {
        object[*name] = value.clone();
    }
    let content = format!("application/json;v={version};g={GROUP};as={kind}");
    ([(header::CONTENT_TYPE, content)], object.to_string()).into_response()
}

/// What is told of the process.
struct Status {
    since: Timestamp,
    now: Timestamp,
    /// As `1.36.0`.
    version: String,
}

impl Status {
    fn seconds(&self) -> i64 {
        self.now.duration_since(self.since).as_secs().max(0)
    }

    /// As `1.36`: none before it is emulated.
    fn emulated(&self) -> String {
        self.version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    fn text(&self) -> String {
        let up = self.seconds();
        let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
        let started = self.since.strftime("%a %b %e %H:%M:%S UTC %Y");
        let (version, emulated, paths) = (&self.version, self.emulated(), PATHS.join(" "));
        format!(
            "\n{COMPONENT} statusz\n{WARNING}\n\nStarted: {started}\nUp: {hours} hr {minutes:02} min {seconds:02} sec\n\
             Binary version: {version}\nEmulation version: {emulated}\nPaths: {paths}\n"
        )
    }

    fn fields(&self) -> [(&'static str, Value); 6] {
        [
            ("startTime", json!(self.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())),
            ("uptimeSeconds", json!(self.seconds())),
            // No Go is in it.
            ("goVersion", json!("")),
            ("binaryVersion", json!(self.version)),
            ("emulationVersion", json!(self.emulated())),
            ("paths", json!(PATHS)),
        ]
    }
}

/// `/statusz`
pub(super) async fn status(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<Response, Failure> {
    let version = node.config.version.trim_start_matches('v').to_owned();
    let status = Status { since: node.since, now: Timestamp::now(), version };
    Ok(match negotiate(&headers, "Statusz")? {
        Form::Text => text(status.text()),
        Form::Object(version) => object(version, "Statusz", &status.fields()),
    })
}

/// Flags whose names are not made of their settings'.
const NAMES: [(&str, &str); 14] = [
    ("authentication.anonymous.enabled", "anonymous-auth"),
    ("authentication.webhook.enabled", "authentication-token-webhook"),
    ("authentication.webhook.cacheTTL", "authentication-token-webhook-cache-ttl"),
    ("authorization.mode", "authorization-mode"),
    ("authorization.webhook.cacheAuthorizedTTL", "authorization-webhook-cache-authorized-ttl"),
    ("authorization.webhook.cacheUnauthorizedTTL", "authorization-webhook-cache-unauthorized-ttl"),
    ("cgroupsPerQOS", "cgroups-per-qos"),
    ("imageGCHighThresholdPercent", "image-gc-high-threshold"),
    ("imageGCLowThresholdPercent", "image-gc-low-threshold"),
    ("imageMaximumGCAge", "image-maximum-gc-age"),
    ("imageMinimumGCAge", "minimum-image-ttl-duration"),
    ("podPidsLimit", "pod-max-pids"),
    ("reservedSystemCPUs", "reserved-cpus"),
    ("staticPodPath", "pod-manifest-path"),
];

/// (pure) The flag of a setting: `maxPods` is `max-pods`.
fn flag(setting: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == setting) {
        return (*name).to_owned();
    }
    let mut out = String::new();
    let mut before = '-';
    for letter in setting.replace('.', "-").chars() {
        if letter.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
        before = letter;
    }
    out
}

/// (pure) A value as a command line has it; `None` for what is not said.
fn value(name: &str, value: &Value) -> Option<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => None,
        Value::Array(items) => Some(format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(","))),
        Value::Object(map) => {
            let sign = if matches!(name, "evictionHard" | "evictionSoft") { '<' } else { '=' };
            let one = |(name, value): (&String, &Value)| format!("{name}{sign}{}", plain(value));
            Some(map.iter().map(one).collect::<Vec<_>>().join(","))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(plain(value)),
    }
}

/// (pure) The settings in force, as upstream's flags.
fn flags(config: &Config) -> BTreeMap<String, String> {
    let settings = serde_json::to_value(&config.settings).unwrap_or_default();
    let mut found = BTreeMap::new();
    for (name, setting) in settings.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "authentication" | "authorization" => {
                for (below, setting) in setting.as_object().into_iter().flatten() {
                    let Some(parts) = setting.as_object() else {
                        found.extend(value(name, setting).map(|it| (flag(&format!("{name}.{below}")), it)));
                        continue;
                    };
                    for (part, setting) in parts {
                        let told =
                            value(name, setting).map(|it| (flag(&format!("{name}.{below}.{part}")), it));
                        found.extend(told);
                    }
                }
            }
            _ => found.extend(value(name, setting).map(|it| (flag(name), it))),
        }
    }
    let labels = config.labels.iter().map(|(name, value)| format!("{name}={value}"));
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    found.extend(
        [
            ("address", config.bind.ip().to_string()),
            ("cluster-dns", format!("[{}]", dns.join(","))),
            ("cluster-domain", config.cluster_domain.clone()),
            ("hostname-override", config.node_name.clone()),
            ("node-ip", config.node_ip.to_string()),
            ("node-labels", labels.collect::<Vec<_>>().join(",")),
            ("port", config.bind.port().to_string()),
            ("root-dir", config.data_dir.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    found
}

/// `/flagz`
pub(super) async fn settings(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<Response, Failure> {
    let form = negotiate(&headers, "Flagz")?;
    let flags = flags(&node.config);
    Ok(match form {
        Form::Text => {
            let lines: String = flags.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            text(format!("\n{COMPONENT} flagz\n{WARNING}\n\n{lines}"))
        }
        Form::Object(version) => object(version, "Flagz", &[("flags", json!(flags))]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_an_object_says_which_and_all_others_get_text() {
        let of = |accept: &str| form(Some(accept), "Statusz");
        assert_eq!(form(None, "Statusz"), Some(Form::Text));
        assert_eq!(of("application/json, */*"), Some(Form::Text));
        assert_eq!(
            of("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"),
            Some(Form::Object("v1beta1"))
        );
        assert_eq!(
            of("application/json; as=Statusz; g=config.k8s.io; v=v1alpha1, text/plain"),
            Some(Form::Object("v1alpha1"))
        );
        for wrong in [
            "application/json",
            "application/json;v=v2;g=config.k8s.io;as=Statusz",
            "application/json;v=v1beta1;g=config.k8s.io;as=Flagz",
            "text/html",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_status_says_since_when_and_what() {
        let since: Timestamp = "2026-01-05T09:07:03.5Z".parse().unwrap();
        let now = "2026-01-06T10:08:05Z".parse().unwrap();
        let status = Status { since, now, version: "1.36.2".to_owned() };
        let expected = "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
            guarantees and is for debugging purposes only.\n\nStarted: Mon Jan  5 09:07:03 UTC 2026\nUp: 25 hr 01 min 01 sec\n\
            Binary version: 1.36.2\nEmulation version: 1.36\nPaths: /attach /configz ";
        assert!(status.text().starts_with(expected), "{}", status.text());
        assert_eq!(status.fields()[0].1, "2026-01-05T09:07:03Z");
    }

    #[test]
    fn settings_are_told_by_the_names_of_flags() {
        let mut config = crate::testing::config();
        config.settings = serde_json::from_str(
            r#"{"evictionHard": {"memory.available": "100Mi", "nodefs.available": "5%"}, "systemReserved": {"cpu": "1", "memory": "1Gi"},
                "enforceNodeAllocatable": ["pods", "kube-reserved"], "kubeReservedCgroup": "/k", "podPidsLimit": 100}"#,
        )
        .unwrap();
        let flags = flags(&config);
        for (name, value) in [
            ("eviction-hard", "memory.available<100Mi,nodefs.available<5%"),
            ("system-reserved", "cpu=1,memory=1Gi"),
            ("enforce-node-allocatable", "[pods,kube-reserved]"),
            ("kube-reserved-cgroup", "/k"),
            ("pod-max-pids", "100"),
            ("max-pods", "110"),
            ("anonymous-auth", "false"),
            ("authorization-mode", "Webhook"),
            ("authentication-token-webhook", "true"),
            ("minimum-image-ttl-duration", "2m"),
        ] {
            assert_eq!(flags.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(
            (flag("cpuManagerPolicyOptions"), flag("imageMaximumGCAge")),
            ("cpu-manager-policy-options".into(), "image-maximum-gc-age".into())
        );
        assert!(!flags.contains_key("resolv-conf"));
    }
}
