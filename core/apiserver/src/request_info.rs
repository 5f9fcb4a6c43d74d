//! What a request asks for, as far as its method and path tell.

/// A parsed request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method
    /// for a path that is no resource.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// Namespace.
    pub namespace: Option<String>,
    /// Object's name.
    pub name: Option<String>,
    /// The path as sent.
    pub path: String,
    /// Whether it asks for a resource.
    pub is_resource: bool,
}
