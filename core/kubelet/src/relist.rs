//! Looking at everything that the runtime holds, and finding out which pods fare otherwise than at the last look.
//!
//! A runtime that tells its events is looked at each minute, in case one was lost. One that does not tell any (containerd
//! before 1.7) is looked at each second, by two calls whatever the number of pods.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keelson_cri::v1;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::labels;
use crate::runtime_client::{RuntimeClient, RuntimeError};

/// Between two looks at a runtime that tells no events.
pub(crate) const DEAF: Duration = Duration::from_secs(1);
/// Between two looks at a runtime that tells its events.
pub(crate) const HEARING: Duration = Duration::from_secs(60);
/// Between two questions for the runtime's conditions.
const CONDITIONS: Duration = Duration::from_secs(5);
/// The same while there is no network, for which pods wait.
const IMPATIENT: Duration = Duration::from_millis(500);
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
/// when that was last asked. One asks for all pods.
#[derive(Debug)]
pub(crate) struct Health {
    seen: Mutex<Instant>,
    network: watch::Sender<Option<String>>,
}

impl Health {
    /// As of now. Of the network nothing is known yet, in the words of other kubelets.
    pub(crate) fn new() -> Self {
        let network = watch::Sender::new(Some("network state unknown".to_owned()));
        Self { seen: Mutex::new(Instant::now()), network }
    }

    /// Asks the runtime how it is, again and again, until the shutdown. While it does not answer, it is as it was.
    pub(crate) async fn keep(&self, runtime: RuntimeClient, shutdown: CancellationToken) {
        let asking = async {
            loop {
                match runtime.status(v1::StatusRequest::default()).await {
                    Ok(status) => self.learn(&status),
                    Err(error) => tracing::debug!(%error, "the runtime does not say how it is"),
                }
                let pause = if self.network_fault().is_some() { IMPATIENT } else { CONDITIONS };
                tokio::time::sleep(pause).await;
            }
        };
        shutdown.run_until_cancelled(asking).await;
    }

    /// It was looked at just now.
    pub(crate) fn seen(&self) {
        *self.seen.lock() = Instant::now();
    }

    /// The runtime has told how it is.
    pub(crate) fn learn(&self, status: &v1::StatusResponse) {
        let found = crate::node::network_fault(status);
        self.network.send_if_modified(|known| {
            let is_other = *known != found;
            *known = found;
            is_other
        });
    }

    /// Changes when there is a network, or none, or for another reason.
    pub(crate) fn news_of_network(&self) -> watch::Receiver<Option<String>> {
        self.network.subscribe()
    }

    /// Why pods got no network when that was last asked.
    pub(crate) fn network_fault(&self) -> Option<String> {
        self.network.borrow().clone()
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

    #[test]
    fn news_of_the_network_come_when_it_is_another() {
        let told = |ready: bool| {
            let condition = v1::RuntimeCondition {
                r#type: "NetworkReady".to_owned(),
                status: ready,
                reason: "NetworkPluginNotReady".to_owned(),
                message: "no bridge".to_owned(),
            };
            let status = v1::RuntimeStatus { conditions: vec![condition] };
            v1::StatusResponse { status: Some(status), ..v1::StatusResponse::default() }
        };
        let health = Health::new();
        let mut news = health.news_of_network();
        assert_eq!(health.network_fault().as_deref(), Some("network state unknown"));
        let mut learned = |ready| {
            health.learn(&told(ready));
            let is_new = news.has_changed().unwrap();
            (is_new, news.borrow_and_update().clone())
        };
        let fault = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                     message:no bridge";
        assert_eq!(learned(false), (true, Some(fault.to_owned())));
        assert_eq!(learned(false), (false, Some(fault.to_owned())));
        assert_eq!(learned(true), (true, None));
        assert_eq!(learned(true), (false, None));
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
