//! Devices of the Container Device Interface, of which containers have names: runtimes that know such names are handed them; for those that do
//! not, the kubelet finds out itself what a container gets.
//!
//! - `support`: whether a runtime knows them (pure)
//! - `in_cri`: what a container gets, in the words that all runtimes know (pure, but for looking at what is there)

use keelson_cri::v1;

use crate::runtime_client::{RuntimeClient, RuntimeError};

mod in_cri;
mod support;

/// Why a container cannot have its devices.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They are not there, or cannot be said to the runtime.
    #[error(transparent)]
    Device(#[from] keelson_cdi::CdiError),
    /// The runtime does not say what it is.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Looking at files was given up.
    #[error("look for CDI devices: {0}")]
    Given(#[from] tokio::task::JoinError),
}

/// Sees to it that a container does not come up without the devices that its configuration names: what a runtime does not know
/// it would leave out in silence.
pub(crate) async fn provide(runtime: &RuntimeClient, config: &mut v1::ContainerConfig) -> Result<(), Error> {
    if config.cdi_devices.is_empty() {
        return Ok(());
    }
    let version = runtime.version(v1::VersionRequest::default()).await?;
    let status = runtime.status(v1::StatusRequest { verbose: true }).await?;
    if support::knows_names(&version, &status) {
        return Ok(());
    }
    let names: Vec<String> =
        std::mem::take(&mut config.cdi_devices).into_iter().map(|one| one.name).collect();
    let found = tokio::task::spawn_blocking(move || in_cri::Additions::new(&keelson_cdi::resolve(&names)?));
    found.await??.apply(config);
    Ok(())
}
