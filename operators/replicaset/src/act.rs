//! Does what was decided (client).

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod as ApiPod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_operator_kit::controller::api_status;
use keelson_operator_kit::{Fault, ObjectKey};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::decide::{Plan, Scale};
use crate::observe::World;
use crate::replica_set::ReplicaSetView;
use crate::status::{FAILED_CREATE, FAILED_DELETE};
use crate::validate::{Pod, ValidatedReplicaSet};

/// How many requests are under way at once.
const AT_ONCE: usize = 32;

/// What came of it.
#[derive(Debug, Default)]
pub struct Applied {
    /// The pods that were adopted.
    pub adopted: Vec<Pod>,
    /// What went wrong with pods to create or delete.
    pub failure: Option<Failure>,
}

/// Pods could not be created or deleted.
#[derive(Debug)]
pub struct Failure {
    /// A word for programs.
    pub reason: &'static str,
    /// What went wrong first.
    pub error: Error,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ReplicaSet could not be looked at before pods are adopted.
    #[error("look whether the ReplicaSet is still there")]
    Look(#[source] kube::Error),
    /// Another one has its name, or it is being deleted.
    #[error("the ReplicaSet {0} is gone")]
    Gone(ObjectKey),
    /// A pod could not be adopted or released.
    #[error("claim pod {0}")]
    Claim(ObjectKey, #[source] kube::Error),
    /// A pod could not be created.
    #[error("{}", said(.0))]
    Create(#[source] kube::Error),
    /// A pod could not be deleted.
    #[error("{}", said(.0))]
    Delete(#[source] kube::Error),
    /// The ReplicaSet has nothing to make pods from.
    #[error("the ReplicaSet has no spec.template")]
    NoTemplate,
    /// The status could not be written.
    #[error("write the status")]
    Status(#[source] kube::Error),
}

impl Fault for Error {}

/// What the API answered, without what it adds for programs.
fn said(error: &kube::Error) -> String {
    api_status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// Adopts and releases first, so that no pod is created in the place of one that is there.
pub async fn act(world: &World, valid: &ValidatedReplicaSet, plan: Plan) -> Result<Applied, Error> {
    let Plan { adopt, release, scale } = plan;
    let doer = Doer { world, valid, pods: Api::namespaced(world.client.clone(), valid.key.namespace()) };
    if !adopt.is_empty() {
        doer.look().await?;
    }
    for pod in &adopt {
        doer.adopt(pod).await?;
    }
    for pod in &release {
        doer.release(pod).await?;
    }
    let failure = match scale {
        Scale::Reached | Scale::Unsettled | Scale::Deleted => None,
        Scale::Create(count) => {
            doer.create(count).await.err().map(|error| Failure { reason: FAILED_CREATE, error })
        }
        Scale::Delete(pods) => {
            doer.delete(pods).await.err().map(|error| Failure { reason: FAILED_DELETE, error })
        }
    };
    Ok(Applied { adopted: adopt, failure })
}

/// Writes the status.
pub async fn write_status(
    world: &World,
    valid: &ValidatedReplicaSet,
    status: &ReplicaSetStatus,
) -> Result<(), Error> {
    let api: Api<ReplicaSet> = Api::namespaced(world.client.clone(), valid.key.namespace());
    // Counts of zero are left out, as everywhere in Kubernetes.
    let counted = |count: Option<i32>| count.filter(|count| *count != 0);
    let patch = json!({
        "metadata": {"uid": valid.set.uid},
        "status": {
            "replicas": status.replicas,
            "fullyLabeledReplicas": counted(status.fully_labeled_replicas),
            "readyReplicas": counted(status.ready_replicas),
            "availableReplicas": counted(status.available_replicas),
            "terminatingReplicas": status.terminating_replicas,
            "observedGeneration": status.observed_generation,
            "conditions": status.conditions,
        },
    });
    match api.patch_status(valid.key.name(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}

struct Doer<'a> {
    world: &'a World,
    valid: &'a ValidatedReplicaSet,
    pods: Api<ApiPod>,
}

impl Doer<'_> {
    fn set(&self) -> &ReplicaSetView {
        &self.valid.set
    }

    /// What the watch says may be old: a pod must not be given to a ReplicaSet that is gone.
    async fn look(&self) -> Result<(), Error> {
        let api: Api<ReplicaSet> = Api::namespaced(self.world.client.clone(), self.valid.key.namespace());
        let now = api.get_metadata_opt(self.valid.key.name()).await.map_err(Error::Look)?;
        match now {
            Some(now)
                if now.uid().as_deref() == Some(&self.set().uid)
                    && now.metadata.deletion_timestamp.is_none() =>
            {
                Ok(())
            }
            Some(_) | None => Err(Error::Gone(self.valid.key.clone())),
        }
    }

    async fn adopt(&self, (key, pod): &Pod) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid, "ownerReferences": [self.owner()]}});
        self.claim(key, patch).await
    }

    async fn release(&self, (key, pod): &Pod) -> Result<(), Error> {
        let owner = json!({"$patch": "delete", "uid": self.set().uid});
        match self.claim(key, json!({"metadata": {"uid": pod.uid, "ownerReferences": [owner]}})).await {
            // It is gone, or has become another one.
            Err(Error::Claim(_, kube::Error::Api(answer))) if matches!(answer.code, 404 | 409 | 422) => {
                Ok(())
            }
            done => done,
        }
    }

    async fn claim(&self, key: &ObjectKey, patch: serde_json::Value) -> Result<(), Error> {
        let done = self.pods.patch(key.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
        done.map(drop).map_err(|error| Error::Claim(key.clone(), error))
    }

    /// Creates pods in batches of 1, 2, 4 and so on, so that what is refused is refused once and not hundreds of times.
    async fn create(&self, count: usize) -> Result<(), Error> {
        let template = self.set().template.as_ref().ok_or(Error::NoTemplate)?;
        let pod = from_template(template, &self.valid.key, self.owner());
        self.world.known.expectations.lock().expect_creations(&self.set().uid, count, Instant::now());
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let outcomes: Vec<Result<(), Error>> =
                stream::iter(0..now).map(|_| self.create_one(&pod)).buffer_unordered(AT_ONCE).collect().await;
            left -= now;
            batch *= 2;
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            if failed > 0 {
                self.world.known.expectations.lock().created(&self.set().uid, failed + left);
            }
            outcomes.into_iter().collect::<Result<(), Error>>()?;
        }
        Ok(())
    }

    async fn create_one(&self, pod: &ApiPod) -> Result<(), Error> {
        let reference = &self.set().reference;
        match self.pods.create(&PostParams::default(), pod).await {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name_any());
                self.world.recorder.normal(reference, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                if !is_namespace_ending(&error) {
                    let message = format!("Error creating: {}", said(&error));
                    self.world.recorder.warning(reference, FAILED_CREATE, message);
                }
                Err(Error::Create(error))
            }
        }
    }

    async fn delete(&self, pods: Vec<Pod>) -> Result<(), Error> {
        let uids: Vec<String> = pods.iter().map(|(_, pod)| pod.uid.clone()).collect();
        self.world.known.expectations.lock().expect_deletions(&self.set().uid, uids, Instant::now());
        let deletions: Vec<_> = pods.iter().map(|pod| self.delete_one(pod)).collect();
        let outcomes: Vec<Result<(), Error>> =
            stream::iter(deletions).buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().collect()
    }

    async fn delete_one(&self, (key, pod): &Pod) -> Result<(), Error> {
        let reference = &self.set().reference;
        let only = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        match self.pods.delete(key.name(), &DeleteParams::default().preconditions(only)).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", key.name());
                self.world.recorder.normal(reference, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                self.world.known.expectations.lock().deleted(&self.set().uid, &pod.uid);
                if api_status(&error).is_some_and(|answer| matches!(answer.code, 404 | 409)) {
                    return Ok(());
                }
                self.world.recorder.warning(
                    reference,
                    FAILED_DELETE,
                    format!("Error deleting: {}", said(&error)),
                );
                Err(Error::Delete(error))
            }
        }
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            name: self.valid.key.name().to_owned(),
            uid: self.set().uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// A pod of a template, with a name that the API completes.
fn from_template(template: &PodTemplateSpec, set: &ObjectKey, owner: OwnerReference) -> ApiPod {
    let meta = template.metadata.clone().unwrap_or_default();
    ApiPod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name())),
            namespace: Some(set.namespace().to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether a creation failed because its namespace is being deleted, which nobody needs to be told.
fn is_namespace_ending(error: &kube::Error) -> bool {
    let causes = api_status(error).and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    causes.into_iter().flatten().any(|cause| cause.reason == "NamespaceTerminating")
}
