//! One look at the machine and its container runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerImage, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_cri::v1;
use tokio::time::Instant;

use super::machine::{self, MachineError};
use crate::config::Config;
use crate::devices::Counts;
use crate::relist::Health;
use crate::runtime_client::RuntimeClient;

/// A runtime that does not answer is taken to be as it was for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) capacity: BTreeMap<String, Quantity>,
    pub(super) allocatable: BTreeMap<String, Quantity>,
    pub(super) info: NodeSystemInfo,
    pub(super) images: Vec<ContainerImage>,
    /// What the runtime says of itself, or why it does not.
    pub(super) runtime: Result<v1::StatusResponse, String>,
    /// Why nothing is known of the pods.
    pub(super) blind: Option<String>,
    /// The machine is about to shut down.
    pub(super) leaving: bool,
}

/// Looks, and remembers what the runtime said before.
pub(super) struct Sampler {
    runtime: RuntimeClient,
    health: Arc<Health>,
    /// `NAME://VERSION`.
    version: Option<String>,
    status: Option<(v1::StatusResponse, Instant)>,
    images: Vec<ContainerImage>,
}

/// (pure) The largest images, under a few names each.
fn images(listed: Vec<v1::Image>) -> Vec<ContainerImage> {
    let mut found: Vec<ContainerImage> = listed
        .into_iter()
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            let names: Vec<String> = names.take(MAX_IMAGE_NAMES).collect();
            ContainerImage {
                names: Some(names),
                size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
            }
        })
        .collect();
    found.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    found.truncate(MAX_IMAGES);
    found
}

impl Sample {
    /// The same with devices of plugins.
    pub(super) fn with(mut self, devices: BTreeMap<String, Counts>) -> Self {
        for (name, Counts { capacity, allocatable }) in devices {
            self.capacity.insert(name.clone(), Quantity(capacity.to_string()));
            self.allocatable.insert(name, Quantity(allocatable.to_string()));
        }
        self
    }
}

impl Sampler {
    pub(super) fn new(runtime: RuntimeClient, health: Arc<Health>) -> Self {
        Sampler { runtime, health, version: None, status: None, images: Vec::new() }
    }

    async fn status(&mut self) -> Result<v1::StatusResponse, String> {
        match self.runtime.status(v1::StatusRequest { verbose: false }).await {
            Ok(status) => {
                self.health.learn(&status);
                self.status = Some((status.clone(), Instant::now()));
                Ok(status)
            }
            Err(error) => {
                tracing::warn!(%error, "the container runtime does not tell its status");
                // The one that comes back may be another version.
                self.version = None;
                let before = self.status.as_ref().filter(|(_, at)| at.elapsed() < PATIENCE);
                before.map(|(status, _)| status.clone()).ok_or_else(|| error.text())
            }
        }
    }

    async fn refresh(&mut self) {
        if self.version.is_none() {
            match self.runtime.version(v1::VersionRequest { version: "0.1.0".to_owned() }).await {
                Ok(found) => {
                    self.version = Some(format!("{}://{}", found.runtime_name, found.runtime_version));
                }
                Err(error) => tracing::warn!(%error, "the container runtime does not tell its version"),
            }
        }
        match self.runtime.list_images(v1::ListImagesRequest { filter: None }).await {
            Ok(found) => self.images = images(found.images),
            Err(error) => tracing::warn!(%error, "the container runtime does not list its images"),
        }
    }

    /// Looks at everything.
    pub(super) async fn take(&mut self, config: &Config) -> Result<Sample, MachineError> {
        let runtime = self.status().await;
        if runtime.is_ok() {
            self.refresh().await;
        }
        Ok(Sample {
            capacity: machine::capacity(config)?,
            allocatable: super::allocatable::allocatable(config)?,
            info: machine::system_info(config, self.version.clone().unwrap_or_default())?,
            images: self.images.clone(),
            runtime,
            blind: self.health.fault(),
            leaving: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_images_come_first_under_five_names() {
        let image = |name: &str, size| v1::Image {
            repo_tags: (0..9).map(|number| format!("{name}:{number}")).collect(),
            repo_digests: vec![format!("{name}@sha256:0")],
            size,
            ..v1::Image::default()
        };
        let found = images(vec![image("small", 1), image("large", 2)]);
        let names = |at: usize| found[at].names.clone().unwrap();
        assert_eq!(names(0), ["large@sha256:0", "large:0", "large:1", "large:2", "large:3"]);
        assert_eq!(names(1)[0], "small@sha256:0");
    }
}
