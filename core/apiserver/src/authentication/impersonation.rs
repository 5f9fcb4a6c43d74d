//! For whom a caller acts: the `Impersonate-*` headers (KEP-5284).
//!
//! There are modes, tried one after the other. In the constrained ones a caller needs two rights: to be somebody, such as
//! `impersonate:user-info`, and to do as somebody what is asked for, such as `impersonate-on:user-info:list`. The last is
//! the older one, in which the verb `impersonate` suffices for everything.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use keelson_api::Status;

use crate::authorization::{Authorizer, Decision};
use crate::identity::{AUTHENTICATED, Identity, NODES};
use crate::request_info::RequestInfo;

mod mode;

use mode::{Check, Mode};

/// As whom a request is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acting {
    /// The user.
    pub identity: Identity,
    /// The verb by which the caller may be that user, such as `impersonate:user-info`; `None` if it is itself.
    pub by: Option<String>,
}

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
/// Characters of a fault that repeats what was sent.
const MOST_TOLD: usize = 1024;
const UNAUTHENTICATED: &str = "system:unauthenticated";

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Status> {
    let value = headers.get(name).map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    let value = value.map_err(|_| Status::bad_request(format!("the header {name} is no text")))?;
    Ok(value.filter(|value| !value.is_empty()))
}

/// Takes out of the headers whom the caller wants to be; nobody else if there are none.
fn wanted(headers: &mut HeaderMap) -> Result<Option<Identity>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(None);
    }
    let texts = |name: &HeaderName| -> Result<Vec<String>, Status> {
        let all = headers.get_all(name).iter().map(|value| String::from_utf8(value.as_bytes().to_vec()));
        all.collect::<Result<_, _>>()
            .map_err(|_| Status::bad_request(format!("the header {name} is no text")))
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        extra.entry(super::unescape(key)).or_default().extend(texts(name)?);
    }
    let wanted = Identity {
        username: text(headers, "impersonate-user")?.unwrap_or_default().to_owned(),
        uid: text(headers, "impersonate-uid")?.map(str::to_owned),
        groups: texts(&HeaderName::from_static("impersonate-group"))?,
        extra,
    };
    if wanted.username.is_empty() {
        if wanted == Identity::default() {
            return Ok(None);
        }
        let Identity { uid, groups, extra, .. } = &wanted;
        let uid = uid.as_deref().unwrap_or_default();
        let whom = format!("uid {uid:?}, groups {groups:?}, extra {extra:?}");
        let whom: String = whom.chars().take(MOST_TOLD).collect();
        let text = format!("requested {whom} without impersonating a user name");
        return Err(Status::bad_request(text));
    }
    let own: Vec<HeaderName> = headers.keys().filter(|it| it.as_str().starts_with(PREFIX)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
    Ok(Some(wanted))
}

async fn may(authorizer: &dyn Authorizer, who: &Identity, info: &RequestInfo) -> Result<(), Status> {
    if authorizer.authorize(who, info).await == Decision::Allow {
        return Ok(());
    }
    let opinion = authorizer.explain(who, info).await;
    Err(crate::http::forbidden(who, info, &opinion.reason))
}

async fn passes(authorizer: &dyn Authorizer, who: &Identity, check: &Check) -> Result<(), Status> {
    match check {
        Check::May(info) => may(authorizer, who, info).await,
        Check::MayAll { at_once, each } => {
            if let Some(at_once) = at_once
                && authorizer.authorize(who, at_once).await == Decision::Allow
            {
                return Ok(());
            }
            for info in each {
                may(authorizer, who, info).await?;
            }
            Ok(())
        }
        Check::Never { info, reason } => Err(crate::http::forbidden(who, info, reason)),
    }
}

/// Whether the caller may be who it wants in a mode, in which this is asked for.
async fn attempt(
    authorizer: &dyn Authorizer,
    mode: Mode,
    who: &Identity,
    wanted: &Identity,
    info: &RequestInfo,
) -> Result<(), Status> {
    let who = &mode.asker(who);
    for check in mode.checks(wanted, info) {
        passes(authorizer, who, &check).await?;
    }
    Ok(())
}

/// The identity in whose place a request is to be served, as its `Impersonate-*` headers say and the authorizer allows. The
/// headers are taken out: nothing behind this acts by them.
pub async fn impersonate(
    authorizer: &dyn Authorizer,
    who: Identity,
    headers: &mut HeaderMap,
    info: &RequestInfo,
) -> Result<Acting, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(Acting { identity: who, by: None }) };
    let mut first = None;
    for mode in Mode::ALL.into_iter().filter(|mode| mode.applies(&who, &wanted)) {
        match attempt(authorizer, mode, &who, &wanted, info).await {
            Ok(()) => return Ok(Acting { identity: mode.becomes(wanted), by: Some(mode.verb()) }),
            Err(status) => {
                first.get_or_insert(status);
            }
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Adds the group that says whether a user was authenticated.
fn with_default_group(mut user: Identity) -> Identity {
    let anonymous = user.username == Identity::anonymous().username;
    let default = if anonymous { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(default) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(default.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn who_is_wanted_is_taken_out_of_the_headers() {
        let mut sent = headers(&[
            ("Impersonate-User", "ann"),
            ("Impersonate-Group", "a"),
            ("Impersonate-Group", "b"),
            ("Impersonate-Uid", ""),
            ("Impersonate-Extra-Example.com%2fScope", "x"),
            ("accept", "*/*"),
        ]);
        let who = wanted(&mut sent).unwrap().unwrap();
        assert_eq!((who.username.as_str(), who.uid.as_deref()), ("ann", None));
        assert_eq!(who.groups, ["a", "b"]);
        assert_eq!(who.extra["example.com/scope"], ["x"]);
        assert_eq!(sent.len(), 1);
        assert_eq!(wanted(&mut sent), Ok(None));
    }

    #[test]
    fn groups_without_a_user_are_refused_and_empty_headers_say_nothing() {
        let refused = wanted(&mut headers(&[("impersonate-group", "a")])).unwrap_err();
        assert_eq!(refused.code, 400);
        assert!(refused.message.ends_with("without impersonating a user name"), "{}", refused.message);
        assert_eq!(wanted(&mut headers(&[("impersonate-uid", "")])), Ok(None));
    }
}
