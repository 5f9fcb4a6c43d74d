//! Who asks, as this server tells it to extension API servers in headers, and what they need in order to believe it.
//!
//! They believe it of who has a certificate of the front proxy's authority alone. The ConfigMap
//! `kube-system/extension-apiserver-authentication` says so to them.

use http::{HeaderMap, HeaderName, HeaderValue};
use keelson_api::Status;
use serde_json::{Value, json};

use crate::identity::Identity;

/// As whom this server comes to extension API servers.
pub const CLIENT: &str = "front-proxy-client";

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");

/// A key as part of a header's name: what cannot stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Sets the headers that name the caller.
pub(super) fn tell(headers: &mut HeaderMap, who: &Identity) -> Result<(), Status> {
    let value = |text: &str| {
        HeaderValue::from_bytes(text.as_bytes())
            .map_err(|_| Status::internal("the caller's name cannot be told in a header"))
    };
    headers.insert(USER, value(&who.username)?);
    if let Some(uid) = &who.uid {
        headers.insert(UID, value(uid)?);
    }
    for group in &who.groups {
        headers.append(REMOTE_GROUP, value(group)?);
    }
    for (key, values) in &who.extra {
        let name = format!("x-remote-extra-{}", escaped(key).to_lowercase());
        let name: HeaderName = name.parse().map_err(Status::internal)?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// The ConfigMap in `kube-system` that tells extension API servers whom to believe.
pub(crate) const CONFIG_MAP: &str = "extension-apiserver-authentication";

/// The ConfigMap that extension API servers read, with the authorities in PEM of clients and of the front proxy.
pub fn config_map(clients: &str, front_proxy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": "kube-system"},
        "data": {
            "client-ca-file": clients,
            "requestheader-allowed-names": json!([CLIENT]).to_string(),
            "requestheader-client-ca-file": front_proxy,
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        },
    })
}

/// The role of who reads it, and whom it is given.
pub fn readers() -> [Value; 2] {
    const ROLE: &str = "extension-apiserver-authentication-reader";
    const GROUP: &str = "rbac.authorization.k8s.io";
    let metadata = |name: &str| {
        json!({
            "name": name, "namespace": "kube-system",
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        })
    };
    let user = |name: &str| json!({"kind": "User", "apiGroup": GROUP, "name": name});
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"],
        "resourceNames": [CONFIG_MAP]});
    [
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": metadata(ROLE), "rules": [rule]}),
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding",
            "metadata": metadata("system::extension-apiserver-authentication-reader"),
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": ROLE},
            "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler")],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_with_all_that_is_known() {
        let mut who = Identity::user("ann", &["a", "b"]);
        who.uid = Some("7".to_owned());
        who.extra.insert("example.com/Scope".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        let mut headers = HeaderMap::new();
        tell(&mut headers, &who).unwrap();
        assert_eq!(
            (&headers["x-remote-user"], &headers["x-remote-uid"]),
            (&HeaderValue::from_static("ann"), &HeaderValue::from_static("7"))
        );
        let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["a", "b", "system:authenticated"]);
        assert_eq!(headers.get_all("x-remote-extra-example.com%2fscope").iter().count(), 2);
        assert!(tell(&mut HeaderMap::new(), &Identity::user("a\nb", &[])).is_err());
    }
}
