//! What the API shows of static pods: of each a mirror, which is made again when somebody deletes it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::StaticPods;
use super::manifest::HASH;

/// Says of a pod of the API that it is a mirror, and of what.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The API is asked again after this, and twice as long each time, up to a minute.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Namespace and name.
pub(crate) type FullName = (String, String);

/// The full name of a pod.
pub(crate) fn full_name(pod: &Pod) -> FullName {
    let metadata = &pod.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether a pod of the API is a mirror.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Whether a mirror shows a pod, and is to stay.
fn shows(mirror: &Pod, pod: &Pod) -> bool {
    mirror.metadata.deletion_timestamp.is_none() && annotation(mirror, MIRROR) == annotation(pod, HASH)
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Create(Arc<Pod>),
    Delete { name: FullName, uid: String },
}

#[derive(Debug, Default)]
struct State {
    /// The static pods that there are to be.
    wanted: Arc<StaticPods>,
    /// The API's mirrors of this node.
    seen: HashMap<FullName, Arc<Pod>>,
    /// Mirrors that the list which is just coming has.
    listed: HashSet<FullName>,
    /// All mirrors are known.
    complete: bool,
    /// Static pods that run, or still end.
    working: HashSet<FullName>,
}

impl State {
    fn steps(&self) -> Vec<Step> {
        if !self.complete {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let names: HashMap<FullName, &Arc<Pod>> =
            self.wanted.values().map(|pod| (full_name(pod), pod)).collect();
        for (name, mirror) in &self.seen {
            let Some(uid) = mirror.metadata.uid.clone() else { continue };
            let is_needed = match names.get(name) {
                Some(pod) => shows(mirror, pod),
                // It shows the pod's end.
                None => self.working.contains(name) && mirror.metadata.deletion_timestamp.is_none(),
            };
            if !is_needed {
                steps.push(Step::Delete { name: name.clone(), uid });
            }
        }
        let missing = names.iter().filter(|(name, _)| !self.seen.contains_key(*name));
        steps.extend(missing.map(|(_, pod)| Step::Create(Arc::clone(pod))));
        steps
    }
}

/// The mirrors of a node's static pods.
pub(crate) struct Mirrors {
    client: kube::Client,
    node: String,
    state: Mutex<State>,
    changed: Notify,
}

/// The mirror that a static pod gets.
fn mirror(pod: &Pod, node: &str, uid: String) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(MIRROR.to_owned(), annotation(pod, HASH).unwrap_or_default().to_owned());
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid,
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

impl Mirrors {
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), state: Mutex::default(), changed: Notify::new() }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_one();
    }

    /// A list of the API begins.
    pub(crate) fn begin_list(&self) {
        self.state.lock().listed.clear();
    }

    /// The list is complete: what it did not have is gone.
    pub(crate) fn end_list(&self) {
        self.change(|state| {
            let listed = std::mem::take(&mut state.listed);
            state.seen.retain(|name, _| listed.contains(name));
            state.complete = true;
        });
    }

    /// The API has a mirror.
    pub(crate) fn see(&self, pod: Pod) {
        self.change(|state| {
            let name = full_name(&pod);
            state.listed.insert(name.clone());
            state.seen.insert(name, Arc::new(pod));
        });
    }

    /// The API has a mirror no more.
    pub(crate) fn forget(&self, pod: &Pod) {
        self.change(|state| {
            let name = full_name(pod);
            if state.seen.get(&name).is_some_and(|seen| seen.metadata.uid == pod.metadata.uid) {
                state.seen.remove(&name);
            }
        });
    }

    /// The static pods that there are to be, and the names of those that run or still end.
    pub(crate) fn want(&self, wanted: Arc<StaticPods>, working: HashSet<FullName>) {
        let is_known = {
            let state = self.state.lock();
            Arc::ptr_eq(&state.wanted, &wanted) && state.working == working
        };
        if !is_known {
            self.change(|state| (state.wanted, state.working) = (wanted, working));
        }
    }

    /// The mirror that shows a static pod.
    pub(crate) fn of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        let state = self.state.lock();
        state.seen.get(&full_name(pod)).filter(|mirror| shows(mirror, pod)).cloned()
    }

    /// Makes and deletes mirrors until the shutdown.
    pub(crate) async fn keep(&self, shutdown: CancellationToken) {
        let mut pause = RETRY;
        loop {
            let steps = self.state.lock().steps();
            let mut failed = false;
            for step in steps {
                if let Err(error) = self.take(&step).await {
                    tracing::warn!(%error, "a static pod's mirror is not as it should be");
                    failed = true;
                }
            }
            pause = if failed { (pause * 2).min(LONGEST) } else { RETRY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified(), if !failed => {}
                () = tokio::time::sleep(pause), if failed => {}
            }
        }
    }

    async fn take(&self, step: &Step) -> Result<(), kube::Error> {
        match step {
            Step::Create(pod) => {
                let node = Api::<Node>::all(self.client.clone()).get(&self.node).await?;
                let (namespace, _) = full_name(pod);
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
                let wanted = mirror(pod, &self.node, node.metadata.uid.unwrap_or_default());
                let made = api.create(&PostParams::default(), &wanted).await?;
                // The watch tells the same, or something newer already has.
                self.state.lock().seen.entry(full_name(pod)).or_insert_with(|| Arc::new(made));
                Ok(())
            }
            Step::Delete { name, uid } => {
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &name.0);
                let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
                let parameters = DeleteParams {
                    preconditions: Some(preconditions),
                    ..DeleteParams::default().grace_period(0)
                };
                match api.delete(&name.1, &parameters).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => return Err(error),
                }
                self.change(|state| {
                    if state.seen.get(name).is_some_and(|seen| seen.metadata.uid.as_ref() == Some(uid)) {
                        state.seen.remove(name);
                    }
                });
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, annotations: &serde_json::Value) -> Arc<Pod> {
        let pod =
            json!({ "metadata": { "namespace": "n", "name": name, "uid": uid, "annotations": annotations } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn state(seen: &[Arc<Pod>]) -> State {
        let own = pod("a", "h", &json!({ HASH: "h" }));
        State {
            wanted: Arc::new(StaticPods::from([("h".to_owned(), own)])),
            seen: seen.iter().map(|one| (full_name(one), Arc::clone(one))).collect(),
            complete: true,
            ..State::default()
        }
    }

    fn delete(name: &str, uid: &str) -> Step {
        Step::Delete { name: ("n".to_owned(), name.to_owned()), uid: uid.to_owned() }
    }

    #[test]
    fn each_static_pod_has_one_mirror_of_its_present_content() {
        let create = Step::Create(pod("a", "h", &json!({ HASH: "h" })));
        assert_eq!(state(&[]).steps(), std::slice::from_ref(&create));
        assert_eq!(State { complete: false, ..state(&[]) }.steps(), []);
        assert_eq!(state(&[pod("a", "1", &json!({ MIRROR: "h" }))]).steps(), []);
        assert_eq!(state(&[pod("a", "1", &json!({ MIRROR: "old" }))]).steps(), [delete("a", "1")]);
        let mut going = Pod::clone(&pod("a", "1", &json!({ MIRROR: "h" })));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(state(&[Arc::new(going)]).steps(), [delete("a", "1")]);
    }

    #[test]
    fn the_mirror_of_a_pod_that_is_no_more_goes_when_the_pod_has_ended() {
        let mut state =
            state(&[pod("a", "1", &json!({ MIRROR: "h" })), pod("b", "2", &json!({ MIRROR: "x" }))]);
        state.working.insert(("n".to_owned(), "b".to_owned()));
        assert_eq!(state.steps(), []);
        state.working.clear();
        assert_eq!(state.steps(), [delete("b", "2")]);
    }
}
