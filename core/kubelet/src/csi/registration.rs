//! Drivers that make themselves known (`plugins`).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use keelson_csi::registration::PluginInfo;

use super::Drivers;
use super::driver::{CsiError, Driver};
use super::node_object;
use crate::plugins::{Handler, check_name};

#[async_trait]
impl Handler for Drivers {
    fn kind(&self) -> &'static str {
        "CSIPlugin"
    }

    async fn meet(&self, socket: &Path, info: &PluginInfo) -> Result<(), String> {
        check_name(&info.name)?;
        take_up(self, socket, info).await.map_err(|error| error.to_string())
    }

    async fn forget(&self, _socket: &Path, name: &str) -> Result<(), String> {
        self.known.lock().remove(name);
        let written = node_object::write(&self.client, &self.config.node_name, name, None).await;
        written.map_err(|error| error.to_string())
    }
}

async fn take_up(drivers: &Drivers, socket: &Path, info: &PluginInfo) -> Result<(), CsiError> {
    let fits = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(fits) {
        let versions = info.supported_versions.join(", ");
        return Err(CsiError::Refused(format!(
            "driver {} speaks none of the versions 1.x: {versions}",
            info.name
        )));
    }
    let endpoint = if info.endpoint.is_empty() { socket } else { Path::new(&info.endpoint) };
    let driver = Driver::meet(&info.name, endpoint, &drivers.config.data_dir).await?;
    node_object::write(&drivers.client, &drivers.config.node_name, &info.name, Some(&driver)).await?;
    drivers.known.lock().insert(info.name.clone(), Arc::new(driver));
    Ok(())
}
