//! What `cluster-info` is to say (pure).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::observe::{ClusterInfo, KUBECONFIG, SIGNATURE};
use crate::signature::detached;
use crate::validate::SigningToken;

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is right, or it is not known yet what it is to say.
    Keep,
    /// It is to be made.
    Make(BTreeMap<String, String>),
    /// It is to say this, if it has not changed since.
    Replace {
        /// All of its data.
        data: BTreeMap<String, String>,
        /// At which revision.
        resource_version: String,
    },
}

/// A kubeconfig that tells where a cluster is, and of nobody in it.
fn kubeconfig(server: &str, ca_bundle: &str) -> String {
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: \"\"\ncontexts: []\ncurrent-context: \"\"\nkind: Config\nusers: []\n",
        STANDARD.encode(ca_bundle)
    )
}

/// Decides. A ConfigMap that somebody else has made keeps what it tells, and is signed all the same.
pub fn cluster_info(
    seen: Option<&ClusterInfo>,
    server: Option<&str>,
    ca_bundle: &str,
    tokens: &[SigningToken],
) -> Plan {
    let own = server.map(|server| kubeconfig(server, ca_bundle));
    let told = seen.and_then(|seen| seen.data.get(KUBECONFIG).cloned());
    let content = match seen {
        Some(seen) if !seen.is_own => told,
        Some(_) | None => own.or(told),
    };
    let Some(content) = content else { return Plan::Keep };
    let others = seen.into_iter().flat_map(|seen| &seen.data);
    let others = others.filter(|(key, _)| !key.starts_with(SIGNATURE));
    let mut data: BTreeMap<String, String> =
        others.map(|(key, value)| (key.clone(), value.clone())).collect();
    for token in tokens {
        data.insert(format!("{SIGNATURE}{}", token.id), detached(&content, token));
    }
    data.insert(KUBECONFIG.to_owned(), content);
    match seen {
        None => Plan::Make(data),
        Some(seen) if seen.data == data => Plan::Keep,
        Some(seen) => Plan::Replace { data, resource_version: seen.resource_version.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str) -> SigningToken {
        SigningToken { id: id.to_owned(), secret: "0123456789abcdef".to_owned() }
    }

    fn seen(data: BTreeMap<String, String>, is_own: bool) -> ClusterInfo {
        ClusterInfo { data, is_own, resource_version: "7".to_owned() }
    }

    #[test]
    fn it_is_made_when_the_server_is_known_and_then_kept() {
        assert_eq!(cluster_info(None, None, "CA", &[]), Plan::Keep);
        let Plan::Make(data) = cluster_info(None, Some("https://a:1"), "CA", &[token("abcdef")]) else {
            panic!("it is not made")
        };
        assert!(data[KUBECONFIG].contains("server: https://a:1\n"));
        assert_eq!(data.keys().collect::<Vec<_>>(), ["jws-kubeconfig-abcdef", "kubeconfig"]);
        let own = seen(data, true);
        assert_eq!(cluster_info(Some(&own), Some("https://a:1"), "CA", &[token("abcdef")]), Plan::Keep);
        assert_eq!(cluster_info(Some(&own), None, "CA", &[token("abcdef")]), Plan::Keep);
        let moved = cluster_info(Some(&own), Some("https://b:1"), "CA", &[token("abcdef")]);
        assert!(matches!(moved, Plan::Replace { data, .. } if data[KUBECONFIG].contains("https://b:1")));
    }

    #[test]
    fn a_token_that_is_gone_takes_its_signature_along() {
        let Plan::Make(data) = cluster_info(None, Some("https://a:1"), "CA", &[token("aaaaaa")]) else {
            panic!("it is not made")
        };
        let own = seen(data, true);
        let Plan::Replace { data, resource_version } =
            cluster_info(Some(&own), Some("https://a:1"), "CA", &[token("bbbbbb")])
        else {
            panic!("it is kept")
        };
        assert_eq!(data.keys().collect::<Vec<_>>(), ["jws-kubeconfig-bbbbbb", "kubeconfig"]);
        assert_eq!(resource_version, "7");
    }

    #[test]
    fn what_somebody_else_tells_is_signed_and_not_changed() {
        let theirs = |keys: &[(&str, &str)]| {
            seen(keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(), false)
        };
        let map = theirs(&[(KUBECONFIG, "theirs"), ("more", "x")]);
        let Plan::Replace { data, .. } =
            cluster_info(Some(&map), Some("https://a:1"), "CA", &[token("aaaaaa")])
        else {
            panic!("it is kept")
        };
        assert_eq!((data[KUBECONFIG].as_str(), data["more"].as_str()), ("theirs", "x"));
        assert_eq!(data["jws-kubeconfig-aaaaaa"], detached("theirs", &token("aaaaaa")));
        let empty = theirs(&[("more", "x")]);
        assert_eq!(cluster_info(Some(&empty), Some("https://a:1"), "CA", &[token("aaaaaa")]), Plan::Keep);
    }
}
