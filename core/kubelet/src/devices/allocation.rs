//! Giving devices to the containers of a pod.

use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::CheckpointError;
use super::inventory::{Demand, Nodes, Shortage};
use super::plugin::{CallError, Plugin};
use super::{Devices, Injection};
use crate::pod::{Member, PodModel};

/// Why a container gets no devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// There are none for it.
    #[error("{0}")]
    Shortage(#[from] Shortage),
    /// The plugin was there before the restart, and is not back yet.
    #[error("device plugin of {0} has not registered since the kubelet was started")]
    Awaited(String),
    /// The plugin is gone.
    #[error("unknown Device Plugin {0}")]
    Gone(String),
    /// The plugin refuses.
    #[error("{0}")]
    Plugin(#[from] CallError),
    /// The same, before a start.
    #[error("device plugin PreStartContainer rpc failed with err: {0}")]
    PreStart(#[source] CallError),
    /// It cannot be written down.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
}

impl Devices {
    fn plugin(&self, resource: &str) -> Result<Arc<Plugin>, DeviceError> {
        let found = self.plugins.lock().get(resource).cloned();
        found.ok_or_else(|| DeviceError::Gone(resource.to_owned()))
    }

    /// Gives a container of a pod its devices, near `affinity` where that is said. Who calls it gives the pod's back if that
    /// fails.
    pub(crate) async fn allocate(
        &self,
        pod: &PodModel,
        member: &Member,
        affinity: Option<&Nodes>,
    ) -> Result<(), DeviceError> {
        let demands = self.inventory.lock().demands(member);
        let mut is_given = false;
        for demand in demands {
            is_given |= self.give(pod, member.name(), &demand, affinity).await?;
        }
        if is_given {
            self.save().await?;
        }
        Ok(())
    }

    async fn give(
        &self,
        pod: &PodModel,
        container: &str,
        demand: &Demand,
        affinity: Option<&Nodes>,
    ) -> Result<bool, DeviceError> {
        let resource = demand.resource.as_str();
        let turn = self.choosing.lock().await;
        let choice = {
            let inventory = self.inventory.lock();
            match inventory.choice(pod, container, demand, affinity) {
                Err(shortage) if inventory.is_awaited(resource, &shortage) => {
                    return Err(DeviceError::Awaited(resource.to_owned()));
                }
                choice => choice?,
            }
        };
        let Some(choice) = choice else { return Ok(false) };
        let plugin = self.plugin(resource)?;
        let preferred = plugin.prefer(choice.question()).await?;
        let ids = choice.take(&preferred);
        if !self.inventory.lock().reserve(pod, container, resource, &ids) {
            let (requested, resource) = (demand.count, resource.to_owned());
            return Err(Shortage::TooFew { resource, requested, available: 0 }.into());
        }
        drop(turn);
        let since = Instant::now();
        let answer = plugin.allocate(ids.into_iter().collect()).await;
        let took = since.elapsed().as_secs_f64();
        self.metrics.device_plugin_allocations.with_label_values(&[resource]).observe(took);
        match answer {
            Ok(response) => {
                if self.inventory.lock().grant(&pod.uid, container, resource, response) {
                    return Ok(true);
                }
                Err(DeviceError::Gone(resource.to_owned()))
            }
            Err(error) => {
                self.inventory.lock().withdraw(&pod.uid, container, resource);
                Err(error.into())
            }
        }
    }

    /// What a container gets with its devices, which their plugins have prepared for its start.
    pub(crate) async fn prepare(&self, pod: &PodModel, member: &Member) -> Result<Injection, DeviceError> {
        let demands = self.inventory.lock().demands(member);
        for Demand { resource, count: _ } in &demands {
            let given = {
                let inventory = self.inventory.lock();
                if !inventory.is_met(resource) {
                    return Err(DeviceError::Awaited(resource.clone()));
                }
                inventory.given(&pod.uid, member.name(), resource)
            };
            // The plugin was not known when the pod was taken.
            let Some(given) = given else {
                self.allocate(pod, member, None).await?;
                continue;
            };
            // One that has gone for good prepares nothing, and has given what there is.
            if let Ok(plugin) = self.plugin(resource) {
                plugin.prepare(given.into_iter().collect()).await.map_err(DeviceError::PreStart)?;
            }
        }
        let inventory = self.inventory.lock();
        let grants = inventory.grants(&pod.uid, member.name()).into_iter().flat_map(|grants| grants.values());
        let responses = grants.filter_map(|grant| grant.response.as_ref());
        Ok(Injection::new(responses, &self.data_dir))
    }
}
