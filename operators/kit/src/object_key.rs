//! Namespace and name of an object.

use std::fmt;
use std::sync::Arc;

use kube::Resource;

/// Namespace and name of an object of a kind that is known otherwise; shown as `namespace/name`, or `name` alone where
/// the kind has no namespaces. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ObjectKey {
    /// An object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// An object of a kind without namespaces.
    pub fn cluster(name: &str) -> Self {
        ObjectKey::new("", name)
    }

    /// The key of an object that the API has returned; `None` for one without a name.
    pub fn of<K: Resource>(object: &K) -> Option<Self> {
        let meta = object.meta();
        Some(ObjectKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref()?))
    }

    /// The namespace; empty where the kind has none.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another object in the same namespace.
    pub fn sibling(&self, name: &str) -> Self {
        ObjectKey { namespace: Arc::clone(&self.namespace), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
