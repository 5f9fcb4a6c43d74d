//! The plugins of a server, in their order.

use std::sync::Arc;

use keelson_api::{Object, Status};

use super::{Admission, Attributes, Reinvocation};
use crate::registry::Registry;

/// The plugins, in the order in which they run.
#[derive(Default)]
pub struct Chain(Vec<Arc<dyn Admission>>);

impl Chain {
    /// A chain of these plugins.
    pub fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Chain(plugins)
    }

    /// Whether any plugin cares for a write.
    pub fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.0.iter().any(|plugin| plugin.handles(attributes))
    }

    /// Lets all plugins change the object, and once more when one of them asked for it.
    pub async fn mutate(
        &self,
        registry: &Registry,
        attributes: Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let first = Reinvocation::default();
        self.pass(registry, &Attributes { reinvocation: Some(&first), ..attributes }, object).await?;
        let Some(again) = first.second() else { return Ok(()) };
        self.pass(registry, &Attributes { reinvocation: Some(&again), ..attributes }, object).await
    }

    async fn pass(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|plugin| plugin.handles(attributes)) {
            plugin.mutate(registry, attributes, object).await?;
        }
        Ok(())
    }

    /// Asks all plugins.
    pub async fn validate(
        &self,
        registry: &Registry,
        attributes: Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|plugin| plugin.handles(&attributes)) {
            plugin.validate(registry, &attributes, object).await?;
        }
        Ok(())
    }
}
