//! Writes finalizers (client).

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use keelson_operator_kit::Subject;
use keelson_operator_kit::controller::unless_changed;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::observe::{Kind, View, World};

/// Gives an object these finalizers, unless it has changed meanwhile.
pub async fn write(
    world: &World,
    subject: &Subject<Kind>,
    view: &View,
    finalizers: &[String],
) -> Result<(), kube::Error> {
    let (client, name) = (world.client.clone(), subject.key.name());
    match subject.kind {
        Kind::Claim => {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client, subject.key.namespace());
            patch(&api, name, view, finalizers).await
        }
        Kind::Volume => patch(&Api::<PersistentVolume>::all(client), name, view, finalizers).await,
        Kind::AttributesClass => {
            patch(&Api::<VolumeAttributesClass>::all(client), name, view, finalizers).await
        }
    }
}

async fn patch<K>(api: &Api<K>, name: &str, view: &View, finalizers: &[String]) -> Result<(), kube::Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let body = json!({"metadata": {"resourceVersion": view.resource_version, "finalizers": finalizers}});
    let written = api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await;
    unless_changed(written).map(drop)
}
