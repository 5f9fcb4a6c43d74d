//! What connects a request with what is written of it: its id, the trace that it belongs to (W3C Trace Context), and a
//! line in the log when it took long.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use keelson_metrics::{RegistryError, Source};
use serde_json::{Value, json};

/// The header by which a request and its records in logs and audit find each other.
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// The header of W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// A caller's own id may be so long.
const LONGEST_ID: usize = 64;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The `traceparent` of the request that is being served: what goes to others on its behalf carries it.
pub fn current() -> Option<HeaderValue> {
    CURRENT.try_with(HeaderValue::clone).ok()
}

/// What is known of a request for those who look at it later.
pub struct Trace {
    id: HeaderValue,
    method: Method,
    uri: Uri,
    agent: Option<HeaderValue>,
    parent: Option<HeaderValue>,
}

/// The trace id of a well-formed `traceparent` (version 00).
fn trace_id(parent: &HeaderValue) -> Option<&str> {
    let text = parent.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_some = |text: &str| text.bytes().any(|byte| byte != b'0');
    let good =
        is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    (good && is_some(trace) && is_some(span)).then_some(trace)
}

fn new_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

impl Trace {
    /// Reads what a request says of itself.
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let own = headers.get(AUDIT_ID).filter(|id| !id.is_empty() && id.len() <= LONGEST_ID);
        Trace {
            id: own.cloned().unwrap_or_else(new_id),
            method: request.method().clone(),
            uri: request.uri().clone(),
            agent: headers.get(header::USER_AGENT).cloned(),
            parent: headers.get(TRACEPARENT).filter(|parent| trace_id(parent).is_some()).cloned(),
        }
    }

    /// The request's id.
    pub fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// Serves a request in its trace, if it has one.
    pub async fn within<F: Future>(&self, serve: F) -> F::Output {
        use tracing::Instrument as _;
        let Some(parent) = &self.parent else { return serve.await };
        let trace_id = trace_id(parent).unwrap_or_default();
        let span = tracing::info_span!("request", trace_id, method = %self.method, path = self.uri.path());
        CURRENT.scope(parent.clone(), serve).instrument(span).await
    }

    /// Puts the id on the answer.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(AUDIT_ID, self.id.clone());
    }

    /// Tells of a request that took long. The query may hold what is nobody's business.
    pub fn warn_slow(&self, elapsed: Duration, waited: Duration, code: u16) {
        let text = |value: &Option<HeaderValue>| {
            value.as_ref().and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned()
        };
        tracing::warn!(
            audit_id = self.id.to_str().unwrap_or_default(),
            trace_id = self.parent.as_ref().and_then(trace_id).unwrap_or_default(),
            method = %self.method,
            path = self.uri.path(),
            user_agent = text(&self.agent),
            code,
            milliseconds = elapsed.as_millis(),
            waited_milliseconds = waited.as_millis(),
            "a request took long"
        );
    }
}

/// When the binary was built (RFC 3339) and of what, where the build says so; upstream's values for an unknown build
/// otherwise.
const BUILD_DATE: Option<&str> = option_env!("KEELSON_BUILD_DATE");
const COMMIT: Option<&str> = option_env!("KEELSON_GIT_COMMIT");

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/version` of a server of the given version, such as `v1.36.0`. It emulates no earlier one, and can stand beside
/// that of one minor version before.
pub fn version(git_version: &str) -> Value {
    let mut parts = git_version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let before =
        minor.parse::<u32>().map_or_else(|_| minor.to_owned(), |it| it.saturating_sub(1).to_string());
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": before,
        "gitVersion": git_version, "gitCommit": COMMIT.unwrap_or_default(), "gitTreeState": "clean",
        "buildDate": BUILD_DATE.unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    })
}

/// Adds `kubernetes_build_info`.
pub fn register_build(registry: &keelson_metrics::Registry, git_version: &str) -> Result<(), RegistryError> {
    const LABELS: [(&str, &str); 9] = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ];
    let document = version(git_version);
    let values = LABELS.map(|(_, field)| document[field].as_str().unwrap_or_default().to_owned()).to_vec();
    let help = "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    registry.add(Source::gauge("kubernetes_build_info", help, &LABELS.map(|(label, _)| label), move || {
        vec![(values.clone(), 1.0)]
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_parent_names_a_trace() {
        let id = |text: &'static str| trace_id(&HeaderValue::from_static(text)).map(str::to_owned);
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(id(good).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(id("00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
        assert_eq!(id("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), None);
        assert_eq!(id("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"), None);
        assert_eq!(id("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"), None);
    }

    #[test]
    fn the_version_tells_what_it_is_compatible_with() {
        let version = version("v1.36.2");
        assert_eq!(version["emulationMinor"], "36");
        assert_eq!(version["minCompatibilityMinor"], "35");
    }
}
