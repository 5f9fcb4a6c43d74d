//! Does what was decided (client).

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keelson_operator_kit::controller::{api_status, is_not_found};
use keelson_operator_kit::owner::controller_of;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::{Fault, ObjectKey};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::decide::{NewSet, Plan, SetChange};
use crate::observe::World;
use crate::progress::CREATE_ERROR;
use crate::revision::REVISION;
use crate::template::{Fingerprint, POD_TEMPLATE_HASH};
use crate::validate::{Set, ValidatedDeployment};

const SCALING: &str = "ScalingReplicaSet";

/// What came of it.
#[derive(Debug)]
pub struct Applied {
    /// Whether all was done.
    pub outcome: Outcome,
    /// The version of the Deployment then.
    pub resource_version: Option<String>,
}

/// Whether all was done.
#[derive(Debug)]
pub enum Outcome {
    /// It was.
    Done,
    /// Another ReplicaSet has the name of the one to make; nothing else was done.
    NameTaken,
    /// The ReplicaSet for the template could not be made; nothing else was done.
    NotCreated(Error),
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Deployment could not be looked at before ReplicaSets are adopted.
    #[error("look whether the Deployment is still there")]
    Look(#[source] kube::Error),
    /// Another one has its name, or it is being deleted.
    #[error("the Deployment {0} is gone")]
    Gone(ObjectKey),
    /// A ReplicaSet could not be adopted or released.
    #[error("claim ReplicaSet {0}")]
    Claim(ObjectKey, #[source] kube::Error),
    /// A ReplicaSet could not be created.
    #[error("Failed to create new replica set {:?}: {}", .0.name(), said(.1))]
    Create(ObjectKey, #[source] kube::Error),
    /// The ReplicaSet that has the name of the one to make could not be looked at.
    #[error("look at ReplicaSet {0}")]
    LookAtSet(ObjectKey, #[source] kube::Error),
    /// A ReplicaSet could not be changed.
    #[error("change ReplicaSet {0}")]
    Change(ObjectKey, #[source] kube::Error),
    /// A ReplicaSet could not be deleted.
    #[error("delete ReplicaSet {0}")]
    Delete(ObjectKey, #[source] kube::Error),
    /// The revision could not be noted.
    #[error("note the revision")]
    Revision(#[source] kube::Error),
    /// The status could not be written.
    #[error("write the status")]
    Status(#[source] kube::Error),
}

impl Fault for Error {}

/// What the API answered, without what it adds for programs.
fn said(error: &kube::Error) -> String {
    api_status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// Does everything but write the status.
pub async fn act(world: &World, deployment: &ValidatedDeployment, plan: &Plan) -> Result<Applied, Error> {
    let namespace = deployment.key.namespace();
    let doer = Doer {
        world,
        deployment,
        deployments: Api::namespaced(world.client.clone(), namespace),
        sets: Api::namespaced(world.client.clone(), namespace),
    };
    let resource_version = deployment.object.metadata.resource_version.clone();
    doer.claim(plan).await?;
    if let Some(new) = &plan.create {
        match doer.create(new).await {
            Outcome::Done => {}
            outcome => return Ok(Applied { outcome, resource_version }),
        }
    }
    for change in &plan.changes {
        doer.change(change).await?;
    }
    for set in &plan.delete {
        doer.delete(set).await?;
    }
    let resource_version = match &plan.revision {
        Some(revision) => doer.note_revision(revision).await?,
        None => resource_version,
    };
    Ok(Applied { outcome: Outcome::Done, resource_version })
}

/// Writes the status over that of the version of the Deployment which was looked at.
pub async fn write_status(
    world: &World,
    deployment: &ValidatedDeployment,
    resource_version: &Option<String>,
    status: &DeploymentStatus,
) -> Result<(), Error> {
    let api: Api<Deployment> = Api::namespaced(world.client.clone(), deployment.key.namespace());
    let patch = json!({
        "metadata": {"uid": deployment.object.metadata.uid, "resourceVersion": resource_version},
        "status": {
            "observedGeneration": status.observed_generation,
            "replicas": status.replicas,
            "updatedReplicas": status.updated_replicas,
            "readyReplicas": status.ready_replicas,
            "availableReplicas": status.available_replicas,
            "unavailableReplicas": status.unavailable_replicas,
            "terminatingReplicas": status.terminating_replicas,
            "collisionCount": status.collision_count,
            "conditions": status.conditions,
        },
    });
    match api.patch_status(deployment.key.name(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::Status(error)),
    }
}

struct Doer<'a> {
    world: &'a World,
    deployment: &'a ValidatedDeployment,
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
}

impl Doer<'_> {
    fn uid(&self) -> &str {
        self.deployment.object.metadata.uid.as_deref().unwrap_or("")
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: self.deployment.key.name().to_owned(),
            uid: self.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    async fn claim(&self, plan: &Plan) -> Result<(), Error> {
        if !plan.adopt.is_empty() {
            self.look().await?;
        }
        for (key, set) in &plan.adopt {
            let patch = json!({"metadata": {"uid": set.uid, "ownerReferences": [self.owner()]}});
            self.claim_one(key, &patch).await?;
        }
        for (key, set) in &plan.release {
            let owner = json!({"$patch": "delete", "uid": self.uid()});
            let patch = json!({"metadata": {"uid": set.uid, "ownerReferences": [owner]}});
            match self.claim_one(key, &patch).await {
                // It is gone, or has become another one.
                Err(Error::Claim(_, kube::Error::Api(answer))) if matches!(answer.code, 404 | 409 | 422) => {}
                done => done?,
            }
        }
        Ok(())
    }

    async fn claim_one(&self, key: &ObjectKey, patch: &Value) -> Result<(), Error> {
        let done = self.sets.patch(key.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        done.map(drop).map_err(|error| Error::Claim(key.clone(), error))
    }

    /// What the watch says may be old: a ReplicaSet must not be given to a Deployment that is gone.
    async fn look(&self) -> Result<(), Error> {
        let key = &self.deployment.key;
        let now = self.deployments.get_metadata_opt(key.name()).await.map_err(Error::Look)?;
        let is_there = now.is_some_and(|now| {
            now.uid().as_deref() == Some(self.uid()) && now.metadata.deletion_timestamp.is_none()
        });
        if is_there { Ok(()) } else { Err(Error::Gone(key.clone())) }
    }

    async fn create(&self, new: &NewSet) -> Outcome {
        let key = self.deployment.key.sibling(&new.name);
        let regarding = reference(&*self.deployment.object);
        match self.sets.create(&PostParams::default(), &self.replica_set(new)).await {
            Ok(_) => {
                if new.replicas > 0 {
                    let message = format!("Scaled up replica set {} from 0 to {}", new.name, new.replicas);
                    self.world.recorder.normal(&regarding, SCALING, message);
                }
                Outcome::Done
            }
            Err(kube::Error::Api(answer)) if answer.is_already_exists() => match self.is_ours(&key).await {
                Ok(true) => Outcome::Done,
                Ok(false) => Outcome::NameTaken,
                Err(error) => Outcome::NotCreated(error),
            },
            Err(error) => {
                let is_ending = is_namespace_ending(&error);
                let error = Error::Create(key, error);
                // That a namespace goes nobody needs to be told.
                if !is_ending {
                    self.world.recorder.warning(&regarding, CREATE_ERROR, error.to_string());
                }
                Outcome::NotCreated(error)
            }
        }
    }

    /// Whether the ReplicaSet with the name of the one to make is that one, which the watch has not told of yet.
    async fn is_ours(&self, key: &ObjectKey) -> Result<bool, Error> {
        let there = self.sets.get_opt(key.name()).await;
        let Some(there) = there.map_err(|error| Error::LookAtSet(key.clone(), error))? else {
            // It has just gone: the next look makes it.
            return Ok(true);
        };
        let owner = controller_of(&there.metadata).map(|owner| owner.uid.as_str());
        let template = there.spec.and_then(|spec| spec.template).unwrap_or_default();
        Ok(owner == Some(self.uid()) && Fingerprint::of(&template) == self.deployment.fingerprint)
    }

    fn replica_set(&self, new: &NewSet) -> ReplicaSet {
        let label = || (POD_TEMPLATE_HASH.to_owned(), new.hash.clone());
        let mut template = self.deployment.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.extend([label()]);
        let labels = labels.clone();
        let spec = self.deployment.object.spec.as_ref();
        let mut selector = spec.map(|spec| spec.selector.clone()).unwrap_or_default();
        selector.match_labels.get_or_insert_default().extend([label()]);
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(new.name.clone()),
                namespace: Some(self.deployment.key.namespace().to_owned()),
                labels: Some(labels),
                annotations: Some(new.annotations.clone()),
                owner_references: Some(vec![self.owner()]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(new.replicas),
                min_ready_seconds: Some(self.deployment.min_ready_seconds).filter(|seconds| *seconds != 0),
                selector,
                template: Some(template),
            }),
            status: None,
        }
    }

    async fn change(&self, change: &SetChange) -> Result<(), Error> {
        let (key, view) = &change.set;
        let mut spec = serde_json::Map::new();
        if let Some(replicas) = change.replicas {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        if let Some(seconds) = change.min_ready_seconds {
            spec.insert("minReadySeconds".to_owned(), seconds.into());
        }
        let patch = json!({
            "metadata": {
                "uid": view.uid,
                "resourceVersion": view.resource_version,
                "annotations": change.annotations,
            },
            "spec": spec,
        });
        let done = self.sets.patch(key.name(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        done.map_err(|error| Error::Change(key.clone(), error))?;
        if let Some(to) = change.replicas {
            let from = view.replicas;
            let way = if to > from { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {} from {from} to {to}", key.name());
            self.world.recorder.normal(&reference(&*self.deployment.object), SCALING, message);
        }
        Ok(())
    }

    async fn delete(&self, (key, set): &Set) -> Result<(), Error> {
        let only = Preconditions {
            uid: Some(set.uid.clone()),
            resource_version: Some(set.resource_version.clone()),
        };
        match self.sets.delete(key.name(), &DeleteParams::background().preconditions(only)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::Delete(key.clone(), error)),
        }
    }

    async fn note_revision(&self, revision: &str) -> Result<Option<String>, Error> {
        let meta = &self.deployment.object.metadata;
        let patch = json!({"metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "annotations": {REVISION: revision},
        }});
        let name = self.deployment.key.name();
        let done = self.deployments.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        Ok(done.map_err(Error::Revision)?.resource_version())
    }
}

/// Whether a creation failed because its namespace is being deleted.
fn is_namespace_ending(error: &kube::Error) -> bool {
    let causes = api_status(error).and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    causes.into_iter().flatten().any(|cause| cause.reason == "NamespaceTerminating")
}
