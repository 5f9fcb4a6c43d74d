//! The options of lists and watches, and which go together.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, GroupVersionKind, ResourceInfo, Status};
use serde::{Deserialize, Serialize};

use crate::request_info::RequestInfo;

/// How the revision that is asked for bounds the one that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The newest state.
    Newest,
    /// Any state.
    Any,
    /// A state that is at least as new.
    NotOlderThan(u64),
    /// That state.
    Exact(u64),
}

/// A list's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    /// Which state.
    pub at: Match,
    /// The most objects that one page has.
    pub limit: Option<usize>,
    /// Where the page begins.
    pub token: Option<Token>,
}

/// A watch's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// The revision that is asked for; 0 for any, `None` for the newest.
    pub revision: Option<u64>,
    /// Whether the state at the begin is sent, where the client says so.
    pub initial_events: Option<bool>,
    /// After how many seconds it ends; 0 for the server's choice.
    pub timeout_seconds: u64,
}

/// What a `continue` token holds: the revision of the list, and the first key of the next page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(rename = "v")]
    version: String,
    /// The revision; -1 for the newest.
    #[serde(rename = "rv")]
    revision: i64,
    /// The key.
    pub start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    /// The token of a page of a list at a revision; `None` for the rest of a list that is not consistent.
    pub fn new(revision: Option<u64>, start: &str) -> Self {
        let revision = revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1);
        Token { version: TOKEN_VERSION.to_owned(), revision, start: start.to_owned() }
    }

    /// The revision; `None` for the newest.
    pub fn revision(&self) -> Option<u64> {
        u64::try_from(self.revision).ok()
    }

    /// The token's text.
    pub fn encode(&self) -> Result<String, Status> {
        serde_json::to_vec(self).map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).map_err(Status::internal)
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let fault = |detail: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid{detail}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| fault(&format!(": {error}")))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|error| fault(&format!(": {error}")))?;
        if token.version != TOKEN_VERSION {
            return Err(fault(": server does not recognize this encoded version"));
        }
        if token.revision == 0 {
            return Err(fault(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(fault(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        Ok(token)
    }
}

/// A number of a query, as upstream's decoder of parameters reads it.
fn number(info: &RequestInfo, name: &str) -> Result<i64, Status> {
    info.parameter(name).filter(|text| !text.is_empty()).map_or(Ok(0), parse_number)
}

/// A number, or its refusal as upstream words it.
pub(crate) fn parse_number(text: &str) -> Result<i64, Status> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// The revision that a request names.
pub fn revision(info: &RequestInfo, about: &GroupResource) -> Result<Option<u64>, Status> {
    let Some(text) = info.parameter("resourceVersion").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let detail = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        let kind = GroupVersionKind::new(&about.group, "", &about.resource);
        Status::invalid(&kind, "", &[FieldError::invalid("resourceVersion", text, detail)])
    })
}

fn refused(faults: &[FieldError]) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions"), "", faults))
}

const MATCH: &str = "resourceVersionMatch";

fn with_continue(info: &RequestInfo) -> Option<FieldError> {
    let has = info.parameter("continue").is_some_and(|token| !token.is_empty());
    has.then(|| FieldError::forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"))
}

impl ListOptions {
    /// Reads those of a list.
    pub fn of(info: &RequestInfo, resource: &ResourceInfo) -> Result<Self, Status> {
        let limit = number(info, "limit")?;
        number(info, "timeoutSeconds")?;
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let rule = info.parameter(MATCH).unwrap_or_default();
        let text = info.parameter("resourceVersion").unwrap_or_default();
        let mut faults = Vec::new();
        if !rule.is_empty() {
            if text.is_empty() {
                let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                faults.push(FieldError::forbidden(MATCH, detail));
            }
            faults.extend(with_continue(info));
            if !matches!(rule, "Exact" | "NotOlderThan") {
                faults.push(FieldError::not_supported(MATCH, rule, &["Exact", "NotOlderThan", ""]));
            }
            if rule == "Exact" && text == "0" {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                faults.push(FieldError::forbidden(MATCH, detail));
            }
        }
        if info.parameter("sendInitialEvents").is_some() {
            let detail = "sendInitialEvents is forbidden for list";
            faults.push(FieldError::forbidden("sendInitialEvents", detail));
        }
        refused(&faults)?;
        let token = match info.parameter("continue").filter(|token| !token.is_empty()) {
            Some(_) if !text.is_empty() && text != "0" => {
                let text = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(text));
            }
            Some(token) => Some(Token::decode(token)?),
            None => None,
        };
        let at = match revision(info, &resource.group_resource())? {
            None => Match::Newest,
            Some(0) => Match::Any,
            // A page of a list was always of exactly that revision.
            Some(revision) if rule == "Exact" || (rule.is_empty() && limit.is_some()) => {
                Match::Exact(revision)
            }
            Some(revision) => Match::NotOlderThan(revision),
        };
        Ok(ListOptions { at, limit, token })
    }
}

impl WatchOptions {
    /// Reads those of a watch.
    pub fn of(info: &RequestInfo, resource: &ResourceInfo) -> Result<Self, Status> {
        let rule = info.parameter(MATCH).unwrap_or_default();
        let initial = info.parameter("sendInitialEvents").map(|_| info.flag("sendInitialEvents"));
        let mut faults = Vec::new();
        if initial.is_some() && rule != "NotOlderThan" {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            faults.push(FieldError::forbidden(MATCH, detail));
        }
        if !rule.is_empty() {
            if initial.is_none() {
                let detail =
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                faults.push(FieldError::forbidden(MATCH, detail));
            }
            if rule != "NotOlderThan" {
                faults.push(FieldError::not_supported(MATCH, rule, &["NotOlderThan"]));
            }
            faults.extend(with_continue(info));
        }
        refused(&faults)?;
        let seconds = number(info, "timeoutSeconds")?;
        Ok(WatchOptions {
            revision: revision(info, &resource.group_resource())?,
            initial_events: initial,
            timeout_seconds: u64::try_from(seconds).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use keelson_api::Catalog;

    use super::*;

    fn list(query: &str) -> Result<Match, String> {
        let catalog = Catalog::builtin();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", Some(query));
        let options = ListOptions::of(&info, catalog.find("", "v1", "pods").unwrap());
        options.map(|options| options.at).map_err(|status| format!("{} {}", status.code, status.message))
    }

    #[test]
    fn a_revision_means_what_its_match_and_limit_say() {
        assert_eq!(list(""), Ok(Match::Newest));
        assert_eq!(list("limit=5"), Ok(Match::Newest));
        assert_eq!(list("resourceVersion=0&limit=5"), Ok(Match::Any));
        assert_eq!(list("resourceVersion=7"), Ok(Match::NotOlderThan(7)));
        assert_eq!(list("resourceVersion=7&limit=5"), Ok(Match::Exact(7)));
        assert_eq!(
            list("resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan"),
            Ok(Match::NotOlderThan(7))
        );
        assert_eq!(list("resourceVersion=7&resourceVersionMatch=Exact"), Ok(Match::Exact(7)));
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let invalid = |detail: &str| Err(format!("422 ListOptions.meta.k8s.io \"\" is invalid: {detail}"));
        let prefix = "resourceVersionMatch: Forbidden: resourceVersionMatch";
        assert_eq!(
            list("resourceVersionMatch=Exact"),
            invalid(&format!("{prefix} is forbidden unless resourceVersion is provided"))
        );
        assert_eq!(
            list("resourceVersionMatch=Exact&resourceVersion=0"),
            invalid(&format!("{prefix} \"exact\" is forbidden for resourceVersion \"0\""))
        );
        assert!(
            list("resourceVersionMatch=Foo&resourceVersion=1")
                .unwrap_err()
                .contains("Unsupported value: \"Foo\"")
        );
        assert_eq!(list("limit=x"), Err("400 strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()));
        let wrong = "422 pods \"\" is invalid: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
        assert_eq!(list("resourceVersion=x"), Err(wrong.to_owned()));
        let token = Token::new(Some(7), "a/b").encode().unwrap();
        assert_eq!(
            list(&format!("continue={token}&resourceVersion=7")),
            Err("400 specifying resource version is not allowed when using continue".to_owned())
        );
        for text in ["x", "e30", "eyJ2IjoidjIiLCJydiI6MSwic3RhcnQiOiJhIn0"] {
            let refusal = list(&format!("continue={text}")).unwrap_err();
            assert!(
                refusal.starts_with("400 invalid continue token: continue key is not valid"),
                "{refusal}"
            );
        }
    }
}
