//! Classes of devices.

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as resource;

use super::selector::Selector;

/// A DeviceClass.
#[derive(Debug, PartialEq)]
pub struct Class {
    /// Its name.
    pub name: Arc<str>,
    /// What its devices are like.
    pub selectors: Vec<Selector>,
    /// What drivers are told of claims to its devices.
    pub config: Vec<resource::DeviceClassConfiguration>,
}

impl Class {
    /// Reads a class; `None` where it has no name, which the API does not hand out.
    pub fn read(class: &resource::DeviceClass) -> Option<Self> {
        Some(Class {
            name: class.metadata.name.as_deref()?.into(),
            selectors: class.spec.selectors.iter().flatten().map(Selector::read).collect(),
            config: class.spec.config.clone().unwrap_or_default(),
        })
    }
}
