//! Proxies that vouch for their clients: a request that comes with a certificate of their authority names its user in
//! headers.

use std::path::PathBuf;

use http::HeaderMap;

use super::unescape;
use crate::identity::{AUTHENTICATED, Identity};

/// How proxies are trusted.
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// The bundle of their authorities, in PEM.
    pub ca_file: PathBuf,
    /// The names that their certificates may have; any if none is given.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Likewise with the user's UID.
    pub uid_headers: Vec<String>,
    /// Headers with groups; all of them count.
    pub group_headers: Vec<String>,
    /// Prefixes of headers with whatever else there is to say.
    pub extra_prefixes: Vec<String>,
}

fn texts<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|text| !text.is_empty())
        .collect()
}

impl RequestHeader {
    /// Whom the proxy of that name speaks for. The headers are taken out, so that nothing behind believes them twice.
    pub(super) fn identity(&self, proxy: &str, headers: &mut HeaderMap) -> Option<Identity> {
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|name| name == proxy) {
            return None;
        }
        let first = |names: &[String]| {
            names.iter().find_map(|name| texts(headers, name).first().map(|text| (*text).to_owned()))
        };
        let username = first(&self.username_headers)?;
        let uid = first(&self.uid_headers);
        let groups = self.group_headers.iter().flat_map(|name| texts(headers, name));
        let mut identity =
            Identity { username, uid, groups: groups.map(str::to_owned).collect(), ..Identity::default() };
        for prefix in &self.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for (name, value) in headers.iter() {
                let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix.as_str()), value.to_str())
                else {
                    continue;
                };
                identity.extra.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
        let anonymous = Identity::anonymous();
        if identity.username != anonymous.username && !identity.is_in(AUTHENTICATED) {
            identity.groups.push(AUTHENTICATED.to_owned());
        }
        for name in self.username_headers.iter().chain(&self.uid_headers).chain(&self.group_headers) {
            headers.remove(name.as_str());
        }
        let prefixed = |name: &str| {
            self.extra_prefixes.iter().any(|prefix| name.starts_with(prefix.to_ascii_lowercase().as_str()))
        };
        let extra: Vec<_> = headers.keys().filter(|name| prefixed(name.as_str())).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
        Some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(names: &[&str]) -> RequestHeader {
        RequestHeader {
            ca_file: PathBuf::new(),
            allowed_names: names.iter().map(|name| (*name).to_owned()).collect(),
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
        }
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.com%2fscope", "all"),
            ("x-remote-uid", "7"),
        ] {
            headers.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_proxy_of_an_allowed_name_speaks_for_its_client() {
        let mut sent = headers();
        let who = trust(&["front"]).identity("front", &mut sent).unwrap();
        assert_eq!(who.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!((who.username.as_str(), who.uid.as_deref()), ("ann", Some("7")));
        assert_eq!(who.extra["example.com/scope"], ["all"]);
        assert!(sent.is_empty());
    }

    #[test]
    fn a_proxy_of_another_name_or_without_a_user_says_nothing() {
        assert!(trust(&["front"]).identity("other", &mut headers()).is_none());
        let mut sent = headers();
        sent.remove("x-remote-user");
        assert!(trust(&[]).identity("front", &mut sent).is_none());
    }
}
