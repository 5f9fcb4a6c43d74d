//! Makes claims (client). It makes no choices.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use keelson_operator_kit::recorder::reference;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::decide::Plan;
use crate::observe::World;

/// Makes what a pod lacks.
pub async fn act(world: &World, pod: &Pod, plan: Plan) -> Result<(), kube::Error> {
    let Plan { make, foreign } = plan;
    let about = reference(pod);
    for name in foreign {
        let told = format!("PVC {name:?} was not created for the pod");
        world.recorder.warning(&about, "PersistentVolumeClaimNotOwned", told);
    }
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(world.client.clone(), &namespace);
    for claim in make {
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => {}
            // Whose it is will be seen when its watch has told of it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                let told = format!("ephemeral volume {}: create PVC: {error}", claim.name_any());
                world.recorder.warning(&about, "FailedCreate", told);
                return Err(error);
            }
        }
    }
    Ok(())
}
