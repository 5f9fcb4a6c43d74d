//! Devices of the Container Device Interface: what becomes of a container's configuration (pure, but for reading files and looking at
//! device nodes).

use keelson_cdi::{CdiError, Resolved};
use serde_json::Value;

use crate::pod_process::protocol::Identity;

mod edits;

/// Changes a container's OCI configuration and its program's identity as its devices ask for.
pub(crate) fn inject(names: &[String], oci: &mut Value, identity: &mut Identity) -> Result<(), CdiError> {
    if names.is_empty() {
        return Ok(());
    }
    apply(&keelson_cdi::resolve(names)?, oci, identity)
}

fn apply(devices: &[Resolved], oci: &mut Value, identity: &mut Identity) -> Result<(), CdiError> {
    for device in devices {
        device.check("this runtime")?;
        edits::apply(&device.edits, oci, identity)?;
    }
    edits::sort_mounts(oci);
    Ok(())
}

#[cfg(test)]
mod tests;
