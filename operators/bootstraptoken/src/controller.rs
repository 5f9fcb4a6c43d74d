//! The driver.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::{Context, Error as KitError, Fault, Next, world};

use crate::observe::{Key, Known, World};
use crate::validate::{Expiry, expiry, signing};
use crate::{act, decide};

/// How many things are looked at at once.
const AT_ONCE: usize = 2;
/// A token is looked at again after so long at the latest: the clock may have been set.
const LOOK: Duration = Duration::from_secs(3600);

/// Why something is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An expired token is still there.
    #[error("delete an expired token")]
    Delete(#[source] kube::Error),
    /// `cluster-info` is not as it should be.
    #[error("write cluster-info")]
    Write(#[source] kube::Error),
}

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    let known = Known::new(context.cluster.ca_bundle.clone());
    world::run(context, known, AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, key: Key) -> Result<Next, Error> {
    let (now, known) = (Timestamp::now(), &world.known);
    match key {
        Key::Token(key) => {
            let Some(token) = known.token(&key) else { return Ok(Next::OnChange) };
            match expiry(&token, now) {
                Expiry::Never => {}
                Expiry::After(left) => return Ok(Next::After(left.min(LOOK))),
                Expiry::Passed => act::delete(&world.client, &token).await.map_err(Error::Delete)?,
            }
        }
        Key::ClusterInfo => {
            let tokens: Vec<_> = known.tokens().iter().filter_map(|token| signing(token, now)).collect();
            let (seen, server) = (known.cluster_info(), known.server());
            let plan = decide::cluster_info(seen.as_deref(), server.as_deref(), &known.ca_bundle, &tokens);
            act::write(&world.client, plan).await.map_err(Error::Write)?;
        }
    }
    Ok(Next::OnChange)
}
