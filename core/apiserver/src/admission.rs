//! What may change or refuse a write between its authorization and the store.
//!
//! - [`plugins`]: the list of all plugins in upstream's order, and which of them run; [`chain`]: how they run.
//! - [`configuration`]: flags and the file that configures plugins.
//! - [`dynamic`]: webhooks, as they are configured while the server runs.
//! - [`remarks`]: warnings and audit annotations beside a plugin's yes or no.
//!
//! All plugins change the object before it is validated, and all refuse after it. A plugin says what it cares for
//! ([`Admission::handles`]) from the request's attributes alone, so that it costs other writes nothing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
pub use keelson_api::admission::Operation;
use keelson_api::{GroupResource, Object, ResourceInfo, Status};
use parking_lot::Mutex;

use crate::identity::Identity;
use crate::registry::{Registry, Target, WriteOptions};

pub use chain::Chain;
pub use configuration::Config;
pub use remarks::Remarks;

pub mod certificates;
pub mod chain;
pub mod configuration;
pub mod default_class;
pub mod default_toleration_seconds;
pub mod dynamic;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod persistent_volume_claim_resize;
pub mod plugins;
pub mod pod_security;
pub mod pod_topology_labels;
pub mod priority;
pub mod remarks;
pub mod resource_quota;
pub mod role_escalation;
pub mod runtime_class;
pub mod service_account;
pub mod service_allocation;
pub mod storage_object_in_use_protection;
pub mod taint_nodes_by_condition;

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
    /// How the write is made, with the place for remarks.
    pub options: &'a WriteOptions,
    /// While objects are changed: which pass it is.
    pub reinvocation: Option<&'a Reinvocation>,
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
            options,
            reinvocation: None,
        }
    }

    /// Whether the write is of a resource, through any of its subresources.
    pub fn is_of(&self, group: &str, plural: &str) -> bool {
        self.resource.plural == plural && self.resource.group == group
    }

    /// Whether the write is of a resource itself, through none of its subresources.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is_of(group, plural)
    }

    /// Whether an object is created or changed.
    pub fn is_write(&self) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update)
    }

    /// Where warnings and audit annotations go.
    pub fn remarks(&self) -> &'a Remarks {
        &self.options.remarks
    }

    /// A refusal: 403.
    pub fn forbidden(&self, detail: &str) -> Status {
        Status::forbidden(&self.group_resource(), self.name, detail)
    }

    /// Group and resource, for messages.
    pub fn group_resource(&self) -> GroupResource {
        self.resource.group_resource()
    }
}

/// Whether the plugins run a second time because a late one changed what earlier ones have seen.
#[derive(Debug, Default)]
pub struct Reinvocation {
    is_second: bool,
    asked: AtomicBool,
    marks: Mutex<BTreeSet<String>>,
}

impl Reinvocation {
    /// Whether this is the second pass.
    pub fn is_second(&self) -> bool {
        self.is_second
    }

    /// Asks for a second pass of all plugins; in the second one it asks for nothing more.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Remembers a name for the second pass.
    pub fn mark(&self, name: impl Into<String>) {
        self.marks.lock().insert(name.into());
    }

    /// Whether a name was remembered, in this pass or in the first.
    pub fn is_marked(&self, name: &str) -> bool {
        self.marks.lock().contains(name)
    }

    fn second(self) -> Option<Self> {
        let asked = self.asked.into_inner();
        asked.then(|| Reinvocation { is_second: true, asked: AtomicBool::new(false), marks: self.marks })
    }
}

/// An admission plugin.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Its name, as upstream's: that of its type.
    fn name(&self) -> &'static str {
        std::any::type_name::<Self>().rsplit("::").next().unwrap_or_default()
    }

    /// Whether the plugin cares for such a write at all. Cheap: it is asked for every plugin and write.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// May change the object, or refuse. The object of a deletion is empty; that of a connection is its options.
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
    ) -> Result<(), Status> {
        let _ = (registry, attributes, object);
        Ok(())
    }
}
