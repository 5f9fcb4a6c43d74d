//! The driver.

use std::error::Error as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use keelson_operator_kit::controller::Next;
use keelson_operator_kit::{Context, Error as KitError, Fault, ObjectKey, Subject, world};

use crate::act::{self, Error};
use crate::decide::{decide_claim, decide_pod};
use crate::observe::{Kind, Known, PodView, World, users};

/// How many objects are looked at at once.
const AT_ONCE: usize = 4;

impl Fault for Error {}

/// Works until the operator has to end.
pub async fn run(context: Context) -> Result<(), KitError> {
    world::run(context, Known::default(), AT_ONCE, reconcile).await
}

async fn reconcile(world: Arc<World>, subject: Subject<Kind>) -> Result<Next, Error> {
    let Subject { kind, key } = subject;
    match kind {
        Kind::Pod => pod(&world, &key).await?,
        Kind::Claim => claim(&world, &key).await?,
    }
    Ok(Next::OnChange)
}

async fn pod(world: &World, key: &ObjectKey) -> Result<(), Error> {
    let Some(pod) = world.known.pods.get(key) else { return Ok(()) };
    let find = |name: &str| world.known.claims.get(&key.sibling(name)).map(|claim| (*claim).clone());
    let made = |name: &str| world.known.made(key, &pod.uid, name);
    let template =
        |name: &str| world.known.templates.get(&key.sibling(name)).map(|template| (*template).clone());
    let plan = decide_pod((key.namespace(), key.name()), &pod, find, made, template);
    let result = act::serve_pod(world, key, &pod, plan).await;
    if let Err(error @ (Error::Create { .. } | Error::Unmade(_))) = &result {
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        let about = reference(key, &pod);
        world.recorder.warning(&about, "FailedResourceClaimCreation", format!("{error}{cause}"));
    }
    result
}

async fn claim(world: &World, key: &ObjectKey) -> Result<(), Error> {
    let Some(claim) = world.known.claims.get(key) else { return Ok(()) };
    let users = users(world, key, &claim).await.map_err(Error::Ask)?;
    let owner = claim.owner.as_ref().and_then(|(name, _)| world.known.pods.get(&key.sibling(name)));
    let plan = decide_claim(&claim, users, owner.as_deref());
    act::free_claim(world, key, &claim, plan).await
}

fn reference(key: &ObjectKey, pod: &PodView) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(key.name().to_owned()),
        namespace: Some(key.namespace().to_owned()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}
