//! How access reads stored objects.

use std::sync::Arc;

use keelson_api::Object;

/// The newest applied state of stored objects, in memory.
pub trait ObjectReader: Send + Sync + 'static {
    /// One object.
    fn get(&self, group: &str, resource: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Object>>;
    /// All objects of a resource, in one namespace or in all.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;
}
