//! What a request asks for, read from its method, path and query.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::Method;
use keelson_api::selector::FieldSelector;

/// The attributes of a request that authorization and the handlers go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The authorization verb: get, list, watch, create, update, patch, delete, deletecollection; of a path that is
    /// no resource, the method in lower case.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Namespace, if the path names one.
    pub namespace: Option<String>,
    /// Object name, if the path names one.
    pub name: Option<String>,
    /// What follows the subresource, for proxies.
    pub rest: String,
    /// The whole path.
    pub path: String,
    /// Whether the path is that of a resource.
    pub is_resource: bool,
    /// The query.
    pub query: BTreeMap<String, String>,
}

impl RequestInfo {
    /// Reads a request line. The path may be percent-encoded, in which case a slash may be too; of a parameter that is
    /// repeated the first one counts.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let mut parameters = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned() {
            parameters.entry(name).or_insert(value);
        }
        let query = parameters;
        let path = &*percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let mut info = RequestInfo {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
            query,
            ..RequestInfo::default()
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        // The older way to ask for a watch.
        let is_watch = matches!(rest, ["watch", _, ..]) && matches!(*method, Method::GET | Method::HEAD);
        info.take_resource(if is_watch { &rest[1..] } else { rest });
        info.verb = if is_watch { "watch".to_owned() } else { info.resource_verb(method) };
        info
    }

    fn take_resource(&mut self, parts: &[&str]) {
        let parts = match parts {
            // A namespace's own subresources look like resources in it.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => parts,
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                self.namespace = Some((*namespace).to_owned());
                rest
            }
            _ => parts,
        };
        let mut parts = parts.iter();
        self.resource = parts.next().map_or_else(String::new, |part| (*part).to_owned());
        self.name = parts.next().map(|part| (*part).to_owned());
        self.subresource = parts.next().map_or_else(String::new, |part| (*part).to_owned());
        self.rest = parts.copied().collect::<Vec<_>>().join("/");
    }

    fn resource_verb(&self, method: &Method) -> String {
        let named = self.name.is_some();
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            Method::DELETE => "deletecollection",
            Method::GET | Method::HEAD if named => "get",
            Method::GET | Method::HEAD if self.flag("watch") => "watch",
            Method::GET | Method::HEAD => "list",
            ref other => return other.as_str().to_ascii_lowercase(),
        };
        verb.to_owned()
    }

    /// The name by which authorization decides: the path's, or the one that a list or watch selects alone.
    pub fn object_name(&self) -> Option<Cow<'_, str>> {
        if let Some(name) = &self.name {
            return Some(Cow::Borrowed(name));
        }
        if !matches!(self.verb.as_str(), "list" | "watch") {
            return None;
        }
        let selector = FieldSelector::parse(self.parameter("fieldSelector")?).ok()?;
        selector
            .exact("metadata.name")
            .filter(|name| !name.is_empty())
            .map(|name| Cow::Owned(name.to_owned()))
    }

    /// A query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Whether a boolean query parameter is set.
    pub fn flag(&self, name: &str) -> bool {
        self.parameter(name).is_some_and(is_on)
    }
}

/// What a boolean parameter says: whatever is not `0` or `false`, in any case of letters, is true. So clients may write
/// `watch=True`.
pub fn is_on(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boolean_may_be_written_as_other_languages_do() {
        let verb = |query| RequestInfo::parse(&Method::GET, "/api/v1/pods", Some(query)).verb;
        assert_eq!(verb("watch=True"), "watch");
        assert_eq!(verb("watch=1"), "watch");
        assert_eq!(verb("watch"), "watch");
        assert_eq!(verb("watch=False"), "list");
        assert_eq!(verb("watch=0"), "list");
    }

    fn parse(method: Method, path: &str, query: Option<&str>) -> (String, String, String, String, String) {
        let info = RequestInfo::parse(&method, path, query);
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        (info.verb, info.resource, text(info.namespace), text(info.name), info.subresource)
    }

    fn expected(
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> (String, String, String, String, String) {
        (verb.into(), resource.into(), namespace.into(), name.into(), subresource.into())
    }

    #[test]
    fn paths_name_resources_namespaces_and_subresources() {
        assert_eq!(parse(Method::GET, "/api/v1/pods", None), expected("list", "pods", "-", "-", ""));
        assert_eq!(
            parse(Method::GET, "/api/v1/namespaces/a/pods", Some("watch=true")),
            expected("watch", "pods", "a", "-", "")
        );
        assert_eq!(
            parse(Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/web/scale", None),
            expected("patch", "deployments", "a", "web", "scale")
        );
        assert_eq!(
            parse(Method::PUT, "/api/v1/namespaces/a/finalize", None),
            expected("update", "namespaces", "-", "a", "finalize")
        );
        assert_eq!(
            parse(Method::DELETE, "/api/v1/namespaces/a/pods", None),
            expected("deletecollection", "pods", "a", "-", "")
        );
    }

    #[test]
    fn what_is_encoded_in_a_path_is_decoded_once() {
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode%2541";
        assert_eq!(
            parse(Method::GET, path, None),
            expected("get", "clusterroles", "-", "system:node%41", "")
        );
        let path = "/api/v1/namespaces/a/pods%2fb";
        assert_eq!(parse(Method::GET, path, None), expected("get", "pods", "a", "b", ""));
    }

    #[test]
    fn of_a_repeated_parameter_the_first_counts() {
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", Some("limit=1&limit=2&watch=0&watch=1"));
        assert_eq!((info.parameter("limit"), info.verb.as_str()), (Some("1"), "list"));
    }

    #[test]
    fn a_list_of_one_object_has_its_name() {
        let name = |query| {
            let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/secrets", query);
            info.object_name().map(Cow::into_owned)
        };
        assert_eq!(name(Some("fieldSelector=metadata.name%3Dkeys&watch=1")).as_deref(), Some("keys"));
        assert_eq!(name(Some("fieldSelector=metadata.name!%3Dkeys")), None);
        assert_eq!(name(None), None);
    }

    #[test]
    fn a_watch_of_one_object_has_a_path_of_its_own() {
        let path = "/api/v1/watch/namespaces/a/pods/b";
        assert_eq!(parse(Method::GET, path, None), expected("watch", "pods", "a", "b", ""));
        let path = "/apis/apps/v1/watch/deployments";
        assert_eq!(parse(Method::GET, path, None), expected("watch", "deployments", "-", "-", ""));
        let path = "/api/v1/namespaces/a/pods/b";
        assert_eq!(parse(Method::GET, path, Some("watch=true")), expected("get", "pods", "a", "b", ""));
    }

    #[test]
    fn other_paths_are_no_resources() {
        let info = RequestInfo::parse(&Method::GET, "/apis/apps/v1", None);
        assert!(!info.is_resource);
        assert_eq!(info.verb, "get");
    }
}
