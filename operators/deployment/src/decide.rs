//! Which ReplicaSets a Deployment makes, changes and deletes (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DeploymentStatus;
use k8s_openapi::jiff::Timestamp;

use crate::replica_set::SetView;
use crate::revision::{self, Annotations};
use crate::status::{self, Report, Stage};
use crate::template::{POD_TEMPLATE_HASH, hash};
use crate::validate::{Set, Strategy, ValidatedDeployment};
use crate::{rollout, scaling};

/// What to do, in this order.
#[derive(Debug)]
pub struct Plan {
    /// ReplicaSets that nobody manages and that the selector selects.
    pub adopt: Vec<Set>,
    /// ReplicaSets that the selector no longer selects.
    pub release: Vec<Set>,
    /// The ReplicaSet to make for the template.
    pub create: Option<NewSet>,
    /// What to change in those that are there.
    pub changes: Vec<SetChange>,
    /// ReplicaSets of old revisions that nobody needs any more.
    pub delete: Vec<Set>,
    /// The revision to note in the Deployment, if it is not there yet.
    pub revision: Option<String>,
    /// What the Deployment says of itself then.
    pub report: Report,
}

/// A ReplicaSet to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSet {
    /// Its name.
    pub name: String,
    /// The text that tells it from others.
    pub hash: String,
    /// How many pods it asks for at first.
    pub replicas: i32,
    /// Its annotations.
    pub annotations: Annotations,
}

/// What to change in a ReplicaSet.
#[derive(Clone, Debug)]
pub struct SetChange {
    /// Which.
    pub set: Set,
    /// The annotations that are new or different.
    pub annotations: Annotations,
    /// How long a pod has to be ready before it is available, in seconds.
    pub min_ready_seconds: Option<i32>,
    /// How many pods it is to ask for.
    pub replicas: Option<i32>,
}

/// A ReplicaSet as it is to be.
#[derive(Clone, Debug)]
pub struct Working {
    /// As it is.
    pub set: Set,
    /// How many pods it asks for.
    pub replicas: i32,
    /// Its annotations.
    pub annotations: Annotations,
    /// How long a pod has to be ready before it is available, in seconds.
    pub min_ready_seconds: i32,
}

impl Working {
    fn of(set: Set) -> Self {
        Working {
            replicas: set.1.replicas,
            annotations: set.1.annotations.clone(),
            min_ready_seconds: set.1.min_ready_seconds,
            set,
        }
    }

    /// What is known of it.
    pub fn view(&self) -> &SetView {
        &self.set.1
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.set.0.name()
    }

    /// Asks for another number of pods; whether that is one.
    pub fn scale(&mut self, deployment: &ValidatedDeployment, replicas: i32) -> bool {
        if self.replicas == replicas {
            return false;
        }
        self.replicas = replicas;
        self.note_sizes(deployment);
        true
    }

    /// Notes how many pods the Deployment asks for.
    pub fn note_sizes(&mut self, deployment: &ValidatedDeployment) {
        let desired = deployment.replicas;
        revision::note_sizes(&mut self.annotations, desired, desired.saturating_add(deployment.max_surge()));
    }

    fn change(&self) -> Option<SetChange> {
        let view = self.view();
        let annotations: Annotations = self
            .annotations
            .iter()
            .filter(|(key, value)| view.annotations.get(*key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let min_ready_seconds =
            Some(self.min_ready_seconds).filter(|seconds| *seconds != view.min_ready_seconds);
        let replicas = Some(self.replicas).filter(|replicas| *replicas != view.replicas);
        let any = !annotations.is_empty() || min_ready_seconds.is_some() || replicas.is_some();
        any.then(|| SetChange { set: self.set.clone(), annotations, min_ready_seconds, replicas })
    }
}

/// All ReplicaSets of a Deployment.
#[derive(Clone, Debug)]
pub struct Sets {
    /// The one of the template, if there is one.
    pub new: Option<Working>,
    /// Whether it has still to be made.
    pub is_created: bool,
    /// The others, by age.
    pub old: Vec<Working>,
}

impl Sets {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Working> {
        self.old.iter().chain(&self.new)
    }

    /// All of them.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Working> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// How many pods they ask for.
    pub fn total(&self) -> i32 {
        self.all().map(|set| set.replicas).sum()
    }

    /// How many of their pods are available.
    pub fn available(&self) -> i32 {
        self.all().map(|set| set.view().available()).sum()
    }
}

/// Decides.
pub fn decide(deployment: &ValidatedDeployment, now: Timestamp) -> Plan {
    let selects = |set: &Set| deployment.selection.matches(&set.1.labels);
    let living = !deployment.terminating;
    let adopt: Vec<Set> = deployment
        .orphans
        .iter()
        .filter(|set| living && !set.1.terminating && selects(set))
        .cloned()
        .collect();
    let release: Vec<Set> = deployment.own.iter().filter(|set| living && !selects(set)).cloned().collect();
    let own = deployment.own.iter().filter(|set| selects(set));
    let mut sets = sort(deployment, own.chain(&adopt).cloned());

    let mut create = None;
    let mut delete = Vec::new();
    let mut stage = Stage::Resting;
    if living {
        take_over(deployment, &mut sets);
        if deployment.paused {
            scaling::scale(deployment, &mut sets);
            delete = expendable(deployment, &sets);
        } else if is_resized(deployment, &sets) {
            scaling::scale(deployment, &mut sets);
        } else {
            let step = match deployment.strategy {
                Strategy::Recreate => rollout::recreate(deployment, &mut sets),
                Strategy::RollingUpdate { .. } => rollout::rolling(deployment, &mut sets),
            };
            stage = Stage::Rollout;
            if step == rollout::Step::Settled && status::is_complete_before(deployment) {
                delete = expendable(deployment, &sets);
            }
        }
        if sets.is_created {
            create = sets.new.as_ref().map(|set| new_set(deployment, set));
        }
    }
    let existing_new = sets.new.as_ref().filter(|_| !sets.is_created);
    let changes = sets.old.iter().chain(existing_new).filter_map(Working::change).collect();
    let revision = sets.new.as_ref().and_then(|set| set.annotations.get(revision::REVISION)).cloned();
    let noted = deployment.object.metadata.annotations.as_ref().and_then(|all| all.get(revision::REVISION));
    let revision = revision.filter(|revision| living && Some(revision) != noted);
    let report = status::report(deployment, &sets, stage, now);
    Plan { adopt, release, create, changes, delete, revision, report }
}

/// Tells the ReplicaSet of the template from the others. Of several, the oldest is it.
fn sort(deployment: &ValidatedDeployment, sets: impl Iterator<Item = Set>) -> Sets {
    let mut old: Vec<Working> = sets.map(Working::of).collect();
    old.sort_by(|a, b| (a.view().created, a.name()).cmp(&(b.view().created, b.name())));
    let new = old.iter().position(|set| set.view().template == deployment.fingerprint);
    let new = new.map(|at| old.remove(at));
    Sets { new, is_created: false, old }
}

/// Brings the ReplicaSet of the template up to date with what the Deployment says beside the template.
fn take_over(deployment: &ValidatedDeployment, sets: &mut Sets) {
    let revision = next_revision(sets);
    if let Some(new) = &mut sets.new {
        copy_annotations(deployment, &mut new.annotations);
        revision::advance(&mut new.annotations, revision);
        new.min_ready_seconds = deployment.min_ready_seconds;
    }
}

fn next_revision(sets: &Sets) -> i64 {
    sets.old.iter().map(|set| revision::revision(&set.annotations)).max().unwrap_or(0) + 1
}

fn copy_annotations(deployment: &ValidatedDeployment, to: &mut Annotations) {
    if let Some(from) = &deployment.object.metadata.annotations {
        revision::copy(from, to);
    }
}

/// Puts the ReplicaSet of the template, which is not there yet, among the others.
pub fn begin(deployment: &ValidatedDeployment, sets: &mut Sets) {
    let hash = hash(&deployment.template, collisions(deployment));
    let mut annotations = Annotations::new();
    copy_annotations(deployment, &mut annotations);
    revision::advance(&mut annotations, next_revision(sets));
    let key = deployment.key.sibling(&format!("{}-{hash}", deployment.key.name()));
    let view = SetView {
        uid: String::new(),
        resource_version: String::new(),
        owner: None,
        labels: BTreeMap::from([(POD_TEMPLATE_HASH.to_owned(), hash)]),
        annotations: Annotations::new(),
        created: Timestamp::MAX,
        terminating: false,
        generation: 0,
        template: deployment.fingerprint,
        replicas: 0,
        min_ready_seconds: deployment.min_ready_seconds,
        status: k8s_openapi::api::apps::v1::ReplicaSetStatus::default(),
    };
    let mut new = Working {
        set: (key, Arc::new(view)),
        replicas: 0,
        annotations,
        min_ready_seconds: deployment.min_ready_seconds,
    };
    new.note_sizes(deployment);
    new.replicas = rollout::wanted_of_new(deployment, sets.total(), 0);
    sets.new = Some(new);
    sets.is_created = true;
}

fn new_set(deployment: &ValidatedDeployment, set: &Working) -> NewSet {
    NewSet {
        name: set.name().to_owned(),
        hash: hash(&deployment.template, collisions(deployment)),
        replicas: set.replicas,
        annotations: set.annotations.clone(),
    }
}

fn collisions(deployment: &ValidatedDeployment) -> Option<i32> {
    deployment.object.status.as_ref().and_then(|status: &DeploymentStatus| status.collision_count)
}

/// Whether the Deployment asks for another number of pods than when its ReplicaSets were last changed.
fn is_resized(deployment: &ValidatedDeployment, sets: &Sets) -> bool {
    sets.all().filter(|set| set.replicas > 0).any(|set| {
        let noted = set.annotations.get(revision::DESIRED_REPLICAS).and_then(|text| text.parse().ok());
        noted.is_some_and(|noted: i32| noted != deployment.replicas)
    })
}

/// The empty ReplicaSets of the oldest revisions beyond the number that is kept.
fn expendable(deployment: &ValidatedDeployment, sets: &Sets) -> Vec<Set> {
    let Some(limit) = deployment.history_limit else { return Vec::new() };
    let mut old: Vec<&Working> = sets.old.iter().filter(|set| !set.view().terminating).collect();
    old.sort_by_key(|set| revision::revision(&set.annotations));
    let surplus = old.len().saturating_sub(limit);
    let is_idle = |set: &&Working| {
        let view = set.view();
        let observed = view.status.observed_generation.unwrap_or(0);
        set.replicas == 0 && view.replicas == 0 && view.status.replicas == 0 && view.generation <= observed
    };
    old.into_iter().take(surplus).filter(is_idle).map(|set| set.set.clone()).collect()
}

#[cfg(test)]
mod tests;
