//! The plugins of a server, in their order.

use std::sync::Arc;

use keelson_api::{Object, Status};
use keelson_metrics::RegistryError;

use super::{Admission, Attributes, Reinvocation};
use crate::insight::admission::{Admissions, Pass, Step};
use crate::registry::Registry;

/// The plugins, in the order in which they run.
#[derive(Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Admission>>,
    metrics: Option<Admissions>,
}

impl Chain {
    /// A chain of these plugins.
    pub fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Chain { plugins, metrics: None }
    }

    /// Times every plugin from now on.
    pub fn measured(mut self, registry: &keelson_metrics::Registry) -> Result<Self, RegistryError> {
        self.metrics = Some(Admissions::new(registry, self.plugins.iter().map(|plugin| plugin.name()))?);
        Ok(self)
    }

    fn begin(&self, step: Step, attributes: &Attributes<'_>) -> Option<Pass<'_>> {
        self.metrics.as_ref().map(|metrics| metrics.begin(step, attributes.operation))
    }

    /// Whether any plugin cares for a write.
    pub fn handles(&self, attributes: &Attributes<'_>) -> bool {
        self.plugins.iter().any(|plugin| plugin.handles(attributes))
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
        let mut pass = self.begin(Step::Admit, attributes);
        for (at, plugin) in self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.handles(attributes)) {
            let outcome = plugin.mutate(registry, attributes, object).await;
            if let Some(pass) = &mut pass {
                pass.passed(at, &outcome);
            }
            outcome?;
        }
        pass.into_iter().for_each(Pass::admitted);
        Ok(())
    }

    /// Asks all plugins.
    pub async fn validate(
        &self,
        registry: &Registry,
        attributes: Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let mut pass = self.begin(Step::Validate, &attributes);
        for (at, plugin) in self.plugins.iter().enumerate().filter(|(_, plugin)| plugin.handles(&attributes))
        {
            let outcome = plugin.validate(registry, &attributes, object).await;
            if let Some(pass) = &mut pass {
                pass.passed(at, &outcome);
            }
            outcome?;
        }
        pass.into_iter().for_each(Pass::admitted);
        Ok(())
    }
}
