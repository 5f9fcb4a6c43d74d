//! Deletes the objects of kinds in a namespace, and counts those that are still there (client).

use futures::StreamExt;
use keelson_operator_kit::discovery::Served;
use keelson_operator_kit::operator::chain;
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta, Preconditions};
use kube::{Api, Client};

use crate::conditions::Findings;

type Metadata = PartialObjectMeta<DynamicObject>;

/// How many kinds are worked on at the same time.
const KINDS_AT_ONCE: usize = 8;

/// How many objects are read in one answer. What is behind them is only counted.
const PAGE: u32 = 500;

/// Why the objects of a kind could not be deleted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("delete all {0}")]
    DeleteAll(String, #[source] kube::Error),
    #[error("delete {0} {1}")]
    Delete(String, String, #[source] kube::Error),
    #[error("list {0}")]
    List(String, #[source] kube::Error),
}

/// What is left of a kind.
#[derive(Default)]
struct Remaining {
    objects: Vec<ObjectMeta>,
    /// How many more there are.
    unread: i64,
}

/// Deletes all objects of these kinds in a namespace.
pub async fn delete(client: &Client, namespace: &str, kinds: Vec<Served>, findings: &mut Findings) {
    let looks: Vec<_> = kinds
        .into_iter()
        .map(|kind| {
            let api: Api<Metadata> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
            async move {
                let outcome = delete_kind(&api, &kind).await;
                (kind, outcome)
            }
        })
        .collect();
    let mut looks = futures::stream::iter(looks).buffer_unordered(KINDS_AT_ONCE);
    while let Some((kind, outcome)) = looks.next().await {
        match outcome {
            Ok(remaining) => count(&kind, &remaining, findings),
            Err(error) => findings.failed(chain(&error)),
        }
    }
}

/// Deletes all objects of one kind; what remains of them is still there for a reason of its own, or has only begun to end.
async fn delete_kind(api: &Api<Metadata>, kind: &Served) -> Result<Remaining, Error> {
    let deleted = kind.supports("deletecollection") && delete_all(api, kind).await?;
    let remaining = list(api, kind).await?;
    if deleted || remaining.objects.is_empty() {
        return Ok(remaining);
    }
    for object in remaining.objects {
        let only = Preconditions { uid: object.uid, resource_version: None };
        let name = object.name.unwrap_or_default();
        match api.delete(&name, &DeleteParams::background().preconditions(only)).await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Error::Delete(kind.to_string(), name, error)),
        }
    }
    list(api, kind).await
}

/// Whether the server can delete all objects of this kind at once, and did.
async fn delete_all(api: &Api<Metadata>, kind: &Served) -> Result<bool, Error> {
    match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
        Ok(_) => Ok(true),
        // Some servers say that they can and cannot.
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(Error::DeleteAll(kind.to_string(), error)),
    }
}

async fn list(api: &Api<Metadata>, kind: &Served) -> Result<Remaining, Error> {
    if !kind.supports("list") {
        return Ok(Remaining::default());
    }
    match api.list(&ListParams::default().limit(PAGE)).await {
        Ok(list) => Ok(Remaining {
            unread: list.metadata.remaining_item_count.unwrap_or(0),
            objects: list.items.into_iter().map(|object| object.metadata).collect(),
        }),
        // The kind itself has gone meanwhile.
        Err(error) if is_absent(&error) => Ok(Remaining::default()),
        Err(error) => Err(Error::List(kind.to_string(), error)),
    }
}

/// No such object or kind, or no such verb.
fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.code == 405)
}

fn count(kind: &Served, remaining: &Remaining, findings: &mut Findings) {
    let number = remaining.objects.len() + usize::try_from(remaining.unread).unwrap_or(0);
    findings.remains(kind.to_string(), number);
    for finalizer in remaining.objects.iter().flat_map(|object| object.finalizers.iter().flatten()) {
        findings.held(finalizer.clone());
    }
}
