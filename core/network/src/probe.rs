//! Whether this kernel can connect pods: tried in a network namespace that goes with a thread.

use std::collections::HashMap;

use keelson_nftables::Connection;
use rtnetlink::LinkVeth;

use crate::config::Config;
use crate::pod_network::{Error, connect};
use crate::{link, rules};

/// The kernel cannot connect pods.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A namespace to try it in.
    #[error("make a network namespace")]
    Unshare(#[source] nix::Error),
    /// What netlink is read with.
    #[error("start a runtime")]
    Runtime(#[source] std::io::Error),
    /// A pair of interfaces.
    #[error("make a veth pair")]
    Veth(#[source] rtnetlink::Error),
    /// The bridge or the rules.
    #[error(transparent)]
    Network(#[from] Error),
    /// The check did not come to its end.
    #[error("the check itself failed")]
    Panicked,
}

/// Makes a bridge, a veth pair and the network's rules, where nobody sees them. Needs the right to administer the machine.
pub fn probe() -> Result<(), ProbeError> {
    std::thread::spawn(in_a_namespace_of_its_own).join().unwrap_or(Err(ProbeError::Panicked))
}

fn in_a_namespace_of_its_own() -> Result<(), ProbeError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(ProbeError::Unshare)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ProbeError::Runtime)?.block_on(async {
        let layout = Config::default().layout().map_err(Error::from)?;
        let handle = connect()?;
        let pair = LinkVeth::new("probe0", "probe1").build();
        handle.link().add(pair).execute().await.map_err(ProbeError::Veth)?;
        link::ensure_bridge(&handle, &layout, 1500).await.map_err(Error::from)?;
        let mut kernel = Connection::open().map_err(Error::from)?;
        Ok(kernel.commit(rules::install(&layout, &HashMap::new())).map_err(Error::from)?)
    })
}
