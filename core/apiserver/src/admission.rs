//! What may change or refuse a write between its authorization and the store.

use async_trait::async_trait;
use keelson_api::{Object, ResourceInfo, Status};

use crate::identity::Identity;
use crate::registry::{Registry, Target, WriteOptions};

pub mod default_toleration_seconds;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod priority;
pub mod role_escalation;
pub mod runtime_class;
pub mod service_account;
pub mod service_allocation;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
}

/// A write, as plugins see it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// What is done.
    pub operation: Operation,
    /// By whom.
    pub identity: &'a Identity,
    /// The resource.
    pub resource: &'a ResourceInfo,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace.
    pub namespace: Option<&'a str>,
    /// The name.
    pub name: &'a str,
    /// The object before it.
    pub old: Option<&'a Object>,
    /// Whether nothing is stored.
    pub dry_run: bool,
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(
        operation: Operation,
        target: &'a Target,
        old: Option<&'a Object>,
        options: &'a WriteOptions,
    ) -> Self {
        Attributes {
            operation,
            identity: &options.identity,
            resource: &target.resource,
            subresource: &target.subresource,
            namespace: target.namespace.as_deref(),
            name: &target.name,
            old,
            dry_run: options.dry_run,
        }
    }
}

/// An admission plugin. Plugins run in upstream's order; all mutate before any validates.
#[async_trait]
pub trait Admission: Send + Sync {
    /// May change the object.
    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let _ = (registry, attributes, object);
        Ok(())
    }

    /// May refuse the write. A deletion has no object.
    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status>;
}
