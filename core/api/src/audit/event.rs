//! What is recorded of a request at one of its stages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::policy::{Level, Stage};

#[cfg(test)]
mod tests;

/// How the document of an event begins.
const HEAD: &[u8] = b"{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",";
const LIST: &[u8] = b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[";
/// The longest name of a program that is recorded, in bytes.
const LONGEST_AGENT: usize = 1024;
/// A request that takes longer tells where its time went.
const SLOW: Duration = Duration::from_millis(500);

/// A caller, as `authentication.k8s.io/v1` `UserInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name; empty for nobody.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The UID; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What else is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// How a caller came to be who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    /// The verb by which it acts for somebody with limits, such as `impersonate:user-info`.
    pub impersonation_constraint: String,
}

/// The object or the collection that a request is about. Empty fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// The resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The UID that the request gives.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The group; empty for core.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The revision that the request gives.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// How a request was answered: the bounded fields of a `v1` `Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ResponseStatus {
    metadata: NoMetadata,
    /// `Success`, `Failure`, or empty for an answer that is no Status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The details; null for none.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
    /// The HTTP code.
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct NoMetadata {}

/// An `audit.k8s.io/v1` `Event`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// How much is recorded.
    pub level: Level,
    /// The request's id.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// When in the request this is.
    pub stage: Stage,
    /// Path and query as they were sent.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// The verb, as authorization knows it.
    pub verb: String,
    /// The caller.
    pub user: User,
    /// In whose place the caller acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    /// By which right it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    /// Whence it came: proxies first, as they say; the other end of the connection last.
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// The caller's program, as it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// What the request is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectReference>,
    /// How it was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    /// What was sent: JSON on one line.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    pub request_object: Option<Arc<RawValue>>,
    /// What was answered: JSON on one line.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    pub response_object: Option<Arc<RawValue>>,
    /// When the request came.
    #[serde(serialize_with = "micro_time")]
    pub request_received_timestamp: Timestamp,
    /// When it came to this stage.
    #[serde(serialize_with = "micro_time")]
    pub stage_timestamp: Timestamp,
    /// What parts of the server remark.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn micro_time<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.6}"))
}

fn raw<S: Serializer>(value: &Option<Arc<RawValue>>, to: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(to)
}

impl Event {
    /// The document, on one line.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = HEAD.to_vec();
        let at = out.len();
        serde_json::to_writer(&mut out, self)?;
        // Its own bracket is there already.
        out.remove(at);
        Ok(out)
    }

    /// The `EventList` of events that [`Event::to_json`] made.
    pub fn list<'a>(events: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut out = LIST.to_vec();
        for (at, event) in events.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'{');
            out.extend_from_slice(event.strip_prefix(HEAD).unwrap_or(event));
        }
        out.extend_from_slice(b"]}");
        out
    }

    /// The event without the two objects, which says so.
    pub fn truncated(&self) -> Self {
        let mut event = Event { request_object: None, response_object: None, ..self.clone() };
        event.annotate("audit.k8s.io/truncated", "true");
        event
    }

    /// Adds an annotation. The first value of a key stays.
    pub fn annotate(&mut self, key: &str, value: impl Into<String>) {
        self.annotations.entry(key.to_owned()).or_insert_with(|| value.into());
    }

    /// Tells where the time of a request went that took long until now; `parts` are names with times.
    pub fn annotate_latency(&mut self, parts: &[(&str, Duration)]) {
        let total = self.stage_timestamp.duration_since(self.request_received_timestamp).unsigned_abs();
        if total <= SLOW {
            return;
        }
        let spent = parts.iter().filter(|(_, time)| !time.is_zero());
        for (name, time) in spent.chain([&("total", total)]) {
            self.annotate(&format!("apiserver.latency.k8s.io/{name}"), duration(*time));
        }
    }

    /// About how many bytes the event takes: all of it that a client may choose the size of.
    pub fn weight(&self) -> usize {
        let object = |object: &Option<Arc<RawValue>>| object.as_ref().map_or(0, |object| object.get().len());
        let notes: usize = self.annotations.iter().map(|(key, value)| PART + key.len() + value.len()).sum();
        let texts = self.request_uri.len() + self.user_agent.len();
        let about =
            self.object_ref.as_ref().map_or(0, |it| it.namespace.len() + it.name.len() + it.uid.len());
        let answer = self.response_status.as_ref().map_or(0, ResponseStatus::weight);
        let users = self.user.weight() + self.impersonated_user.as_ref().map_or(0, User::weight);
        let whence = parts(&self.source_ips);
        let objects = object(&self.request_object) + object(&self.response_object);
        1024 + texts + notes + about + answer + users + whence + objects
    }

    /// The event as one line for people (the format `legacy`).
    pub fn to_line(&self) -> String {
        let list = |groups: &[String]| groups.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(",");
        let text = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        let groups = list(&self.user.groups);
        let other = self.impersonated_user.as_ref();
        let namespace = self.object_ref.as_ref().map_or("", |it| &it.namespace);
        let code = self.response_status.as_ref().map_or("<deferred>".to_owned(), |it| it.code.to_string());
        let mut line = format!("{} AUDIT:", self.request_received_timestamp);
        for (key, value) in [
            ("id", self.audit_id.clone()),
            ("stage", self.stage.name().to_owned()),
            ("ip", self.source_ips.first().map_or("<unknown>".to_owned(), Clone::clone)),
            ("method", self.verb.clone()),
            ("user", text(&self.user.username)),
            ("groups", text(&groups)),
            ("as", other.map_or("<self>".to_owned(), |it| it.username.clone())),
            ("asgroups", other.map_or("<lookup>".to_owned(), |it| list(&it.groups))),
            ("user-agent", self.user_agent.clone()),
            ("namespace", text(namespace)),
            ("uri", self.request_uri.clone()),
            ("response", code),
        ] {
            let _ = write!(line, " {key}={}", quoted(&value));
        }
        line
    }
}

/// What a text in a list takes beside its letters.
const PART: usize = 64;

fn parts(list: &[String]) -> usize {
    list.iter().map(|text| PART + text.len()).sum()
}

impl User {
    fn weight(&self) -> usize {
        let extra: usize = self.extra.iter().map(|(key, values)| PART + key.len() + parts(values)).sum();
        self.username.len() + self.uid.len() + parts(&self.groups) + extra
    }
}

impl ResponseStatus {
    fn weight(&self) -> usize {
        let details = if self.details.is_null() { 0 } else { 4 * self.details.to_string().len() };
        self.message.len() + self.reason.len() + details
    }

    /// The answer of a code that is no Status.
    pub fn of_code(code: u16) -> Self {
        ResponseStatus { code, ..ResponseStatus::default() }
    }

    /// Forgets what may repeat the content of the request: the faults of a document that cannot be read or is invalid.
    pub fn guard(&mut self) {
        if matches!(self.code, 400 | 422) {
            self.message.clear();
            self.details = Value::Null;
        }
    }
}

/// The name of a program, cut if it is too long.
pub fn user_agent(text: &str) -> String {
    if text.len() <= LONGEST_AGENT {
        return text.to_owned();
    }
    let end = (0..=LONGEST_AGENT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...TRUNCATED", &text[..end])
}

/// A text in double quotes, on one line.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A time as upstream writes it, such as `1m2.5s` or `12.3ms`.
fn duration(time: Duration) -> String {
    let fraction = |whole: u128, unit: u128| {
        let digits = unit.ilog10() as usize;
        let rest = format!("{:0digits$}", whole % unit);
        match rest.trim_end_matches('0') {
            "" => (whole / unit).to_string(),
            rest => format!("{}.{rest}", whole / unit),
        }
    };
    let nanos = time.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60 % 60);
            let seconds = format!("{}s", fraction(nanos % 60_000_000_000, 1_000_000_000));
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}
