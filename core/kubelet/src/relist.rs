//! Looking at everything that the runtime holds, and finding out which pods fare otherwise than at the last look.
//!
//! A runtime that tells its events is looked at each minute, in case one was lost. One that does not tell any (containerd
//! before 1.7) is looked at each second, by two calls whatever the number of pods.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keelson_cri::v1;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::labels;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Between two looks at a runtime that tells no events.
pub(crate) const DEAF: Duration = Duration::from_secs(1);
/// Between two looks at a runtime that tells its events.
pub(crate) const HEARING: Duration = Duration::from_secs(60);
/// When so much time has passed since the last look, nothing is known of the pods any more.
const THRESHOLD: Duration = Duration::from_secs(180);

/// What is known of one sandbox or container: whose it is, and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    pod: String,
    state: i32,
}

/// Everything that the runtime holds, by identifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Look(HashMap<String, Part>);

impl Look {
    /// (client) Looks.
    pub(crate) async fn take(runtime: &RuntimeClient) -> Result<Self, RuntimeError> {
        let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: None }).await?;
        let containers = runtime.list_containers(v1::ListContainersRequest { filter: None }).await?;
        Ok(Self::of(sandboxes.items, containers.containers))
    }

    fn of(sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Self {
        let part = |labels: &HashMap<String, String>, state: i32| {
            // What others run in the same runtime has no such label.
            labels.get(labels::POD_UID).map(|pod| Part { pod: pod.clone(), state })
        };
        let sandboxes = sandboxes.into_iter().map(|one| (part(&one.labels, one.state), one.id));
        let containers = containers.into_iter().map(|one| (part(&one.labels, one.state), one.id));
        Self(sandboxes.chain(containers).filter_map(|(part, id)| Some((id, part?))).collect())
    }

    /// (pure) The UIDs of the pods of which something came, went or changed its state since `before`.
    pub(crate) fn changes<'a>(&'a self, before: &'a Self) -> BTreeSet<&'a str> {
        let changed = self.0.iter().filter(|(id, part)| before.0.get(*id) != Some(part));
        let gone = before.0.iter().filter(|(id, _)| !self.0.contains_key(*id));
        changed.chain(gone).map(|(_, part)| part.pod.as_str()).collect()
    }
}

/// What is known of the runtime: when everything was last looked at, at the beginning when the node began, and why pods got no network
/// when that was last asked.
#[derive(Debug)]
pub(crate) struct Health {
    seen: Mutex<Instant>,
    network: Mutex<Option<String>>,
}

impl Health {
    /// As of now.
    pub(crate) fn new() -> Self {
        Self { seen: Mutex::new(Instant::now()), network: Mutex::default() }
    }

    /// It was looked at just now.
    pub(crate) fn seen(&self) {
        *self.seen.lock() = Instant::now();
    }

    /// The runtime has told how it is.
    pub(crate) fn learn(&self, status: &v1::StatusResponse) {
        *self.network.lock() = crate::node::network_fault(status);
    }

    /// Why pods got no network when that was last asked.
    pub(crate) fn network_fault(&self) -> Option<String> {
        self.network.lock().clone()
    }

    /// Why the node cannot know how its pods fare, in the words of other kubelets.
    pub(crate) fn fault(&self) -> Option<String> {
        let elapsed = self.seen.lock().elapsed();
        (elapsed > THRESHOLD).then(|| {
            let (minutes, seconds) = (elapsed.as_secs() / 60, elapsed.as_secs() % 60);
            format!(
                "PLEG is not healthy: pleg was last seen active {minutes}m{seconds}s ago; threshold is 3m0s"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, pod: &str, state: v1::ContainerState) -> v1::Container {
        v1::Container {
            id: id.to_owned(),
            state: state as i32,
            labels: HashMap::from([(labels::POD_UID.to_owned(), pod.to_owned())]),
            ..v1::Container::default()
        }
    }

    #[test]
    fn pods_are_looked_at_whose_containers_came_went_or_changed() {
        use v1::ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
        let before = Look::of(
            Vec::new(),
            vec![
                container("1", "same", Running),
                container("2", "ends", Running),
                container("3", "goes", Exited),
            ],
        );
        let foreign = v1::Container { id: "5".to_owned(), ..v1::Container::default() };
        let now = Look::of(
            Vec::new(),
            vec![
                container("1", "same", Running),
                container("2", "ends", Exited),
                container("4", "comes", Running),
                foreign,
            ],
        );
        assert_eq!(now.changes(&before), BTreeSet::from(["comes", "ends", "goes"]));
        assert!(now.changes(&now).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_was_not_looked_at_for_three_minutes_is_a_fault() {
        let health = Health::new();
        tokio::time::advance(THRESHOLD).await;
        assert_eq!(health.fault(), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        let text = "PLEG is not healthy: pleg was last seen active 3m5s ago; threshold is 3m0s";
        assert_eq!(health.fault().unwrap(), text);
    }
}
