//! Finding the image of a container, and pulling it when its policy says so.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Container;
use keelson_cri::v1;
use tokio_util::sync::CancellationToken;

use crate::credential_provider::Plugins;
use crate::event::{EventType, Recorder};
use crate::memory::{Image, Why};
use crate::objects::Objects;
use crate::pod::PodModel;
use crate::runtime_client::RuntimeClient;

mod credentials;
pub(crate) mod failure;
pub(crate) mod name;
mod progress;
pub(crate) mod records;
pub(crate) mod verification;

use records::{Access, Holder, Named, RecordError, Records};

/// When it is told how far a pull has come: after this, then after twice as long each time, so that enough events are left to the
/// pod for other news.
const PROGRESS: Duration = Duration::from_secs(30);
const SELDOM: Duration = Duration::from_secs(300);

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

fn policy(container: &Container, name: &name::Name) -> Policy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        Some(_) | None if name.is_latest() => Policy::Always,
        Some(_) | None => Policy::IfNotPresent,
    }
}

/// What is needed to find images.
#[derive(Clone, Copy)]
pub(crate) struct Finder<'a> {
    /// The pod, whose secrets may open the registry.
    pub(crate) pod: &'a PodModel,
    /// The container.
    pub(crate) container: &'a Container,
    /// The sandbox that it is for.
    pub(crate) sandbox: &'a v1::PodSandboxConfig,
    /// The runtime, which holds the images.
    pub(crate) runtime: &'a RuntimeClient,
    /// Secrets.
    pub(crate) objects: &'a Objects,
    /// The node's own credentials.
    pub(crate) credentials: &'a Path,
    /// Programs that provide credentials.
    pub(crate) plugins: &'a Plugins,
    /// Who pulled which image.
    pub(crate) records: &'a Records,
    /// Where it is counted.
    pub(crate) metrics: &'a crate::metrics::Metrics,
    /// Where it is told.
    pub(crate) recorder: &'a Recorder,
    /// Nobody waits for the image any more: a pull under way is given up.
    pub(crate) stop: &'a CancellationToken,
}

fn present(image: v1::Image) -> Image {
    Image::Present { id: image.id, uid: image.uid.map(|uid| uid.value), username: image.username }
}

impl Finder<'_> {
    fn image(&self) -> &str {
        self.container.image.as_deref().unwrap_or("")
    }

    fn tell(&self, kind: EventType, reason: &'static str, message: impl Into<String>) {
        self.recorder.tell(self.pod, Some(&self.container.name), kind, reason, message);
    }

    async fn look(&self, name: &str) -> Result<Option<v1::Image>, Why> {
        let image = v1::ImageSpec {
            image: name.to_owned(),
            user_specified_image: self.image().to_owned(),
            ..v1::ImageSpec::default()
        };
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        match self.runtime.image_status(request).await {
            Ok(answer) => Ok(answer.image),
            Err(error) => {
                let message = format!("Failed to inspect image {:?}: {}", self.image(), error.text());
                self.tell(EventType::Warning, "InspectFailed", message.clone());
                Err(Why::new("ImageInspectError", message))
            }
        }
    }

    /// The image, pulled if need be, or why it cannot be had.
    pub(crate) async fn find(&self) -> Result<Image, Why> {
        let name = name::Name::parse(self.image()).map_err(|fault| {
            let message = format!(
                "Failed to apply default image tag {:?}: couldn't parse image name {:?}: {fault}",
                self.image(),
                self.image()
            );
            self.tell(EventType::Warning, "InspectFailed", message.clone());
            Why::new("InvalidImageName", message)
        })?;
        let full = name.tagged(self.image());
        let named = Named { repository: name.repository(), image: full.clone() };
        let found = self.look(&full).await?;
        match (policy(self.container, &name), found) {
            (Policy::IfNotPresent | Policy::Never, Some(found))
                if self.may_use(&found, &name, &named).await =>
            {
                let image = self.image();
                let message = format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                );
                self.tell(EventType::Normal, "Pulled", message);
                Ok(present(found))
            }
            (Policy::Never, _) => {
                // Whether an image is there is nobody's business who may not use it.
                let message =
                    format!("Container image {:?} is not present with pull policy of Never", self.image());
                self.tell(EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(Why::new("ErrImageNeverPull", message))
            }
            (Policy::Always | Policy::IfNotPresent, found) => {
                self.pull(&name, &named, found.map(|found| found.id)).await
            }
        }
    }

    /// Whether the pod may use an image that is there without showing its credentials to the registry.
    async fn may_use(&self, found: &v1::Image, name: &name::Name, named: &Named) -> bool {
        // Most need no Secrets.
        if self.records.access(&found.id, named, Vec::new()).await == Access::Open {
            return true;
        }
        let (keys, _) = credentials::of_pod(self.pod, self.objects, name).await;
        let holders: Vec<Holder> = keys.into_iter().filter_map(|key| key.holder).collect();
        if !holders.is_empty() && self.records.access(&found.id, named, holders).await == Access::Open {
            return true;
        }
        if !self.plugins.ask_by_account(&named.repository) {
            return false;
        }
        let provided = self.stop.run_until_cancelled(self.plugins.find(&named.repository, self.pod)).await;
        let accounts = provided.into_iter().flatten().filter_map(|(_, account)| account);
        let holders: Vec<Holder> = accounts.map(Holder::Account).collect();
        !holders.is_empty() && self.records.access(&found.id, named, holders).await == Access::Open
    }

    /// Pulls the image. `before` is what is there under its name.
    async fn pull(&self, name: &name::Name, named: &Named, before: Option<String>) -> Result<Image, Why> {
        self.tell(EventType::Normal, "Pulling", format!("Pulling image {:?}", self.image()));
        let (mut keys, missing) = credentials::of_pod(self.pod, self.objects, name).await;
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.recorder.tell(
                self.pod,
                None,
                EventType::Warning,
                "FailedToRetrieveImagePullSecret",
                message,
            );
        }
        keys.extend(credentials::of_node(self.credentials, name).await);
        // The image is not asked for yet: there is nothing to be given up.
        let asked = self.plugins.find(&named.repository, self.pod);
        let Some(provided) = self.stop.run_until_cancelled(asked).await else {
            return Err(Why::new(failure::ERR_IMAGE_PULL, "the pod ends"));
        };
        keys.extend(provided.into_iter().map(credentials::Key::provided));
        let since = Instant::now();
        if let Err(error) = self.records.begin(&named.image).await {
            let text = format!("failed to record image pull intent: {error}: {}", source(&error));
            self.tell(
                EventType::Warning,
                "Failed",
                format!("Failed to pull image {:?}: {text}", self.image()),
            );
            return Err(Why::new(failure::ERR_IMAGE_PULL, text));
        }
        let mut failures = Vec::new();
        let tries: Vec<Option<credentials::Key>> =
            if keys.is_empty() { vec![None] } else { keys.into_iter().map(Some).collect() };
        for key in tries {
            let image = v1::ImageSpec {
                image: named.image.clone(),
                user_specified_image: self.image().to_owned(),
                ..v1::ImageSpec::default()
            };
            let sandbox_config = Some(self.sandbox.clone());
            let (auth, holder) = key.map_or((None, None), |key| (Some(key.auth), key.holder));
            let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config };
            let pull = self.telling(&named.image, self.runtime.pull_image(request));
            match self.stop.run_until_cancelled(pull).await {
                Some(Ok(_)) => return self.pulled(named, holder, since).await,
                Some(Err(error)) => failures.push(error),
                None => return Err(self.give_up(named, before).await),
            }
        }
        if let Err(error) = self.records.fails(&named.image).await {
            tracing::warn!(%error, image = named.image, "the end of a pull is not recorded");
        }
        self.metrics.lifecycle.pulled(&self.pod.uid, since, None);
        let text = failure::of_all(&failures);
        self.tell(EventType::Warning, "Failed", format!("Failed to pull image {:?}: {text}", self.image()));
        Err(failure::why(self.image(), &text))
    }

    /// Waits for a pull, and tells from time to time how far it has come.
    async fn telling<T>(&self, name: &str, pull: impl Future<Output = T>) -> T {
        let mut pull = std::pin::pin!(pull);
        let mut before = None;
        let mut pause = PROGRESS;
        loop {
            tokio::select! {
                answer = &mut pull => return answer,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(SELDOM),
            }
            let image = v1::ImageSpec { image: name.to_owned(), ..v1::ImageSpec::default() };
            let request = v1::ImageStatusRequest { image: Some(image), verbose: true };
            let status = tokio::select! {
                answer = &mut pull => return answer,
                status = self.runtime.image_status(request) => status,
            };
            let progress = status.ok().and_then(|status| progress::of(&status.info));
            if let Some(progress) = progress.filter(|progress| before.as_ref() != Some(progress)) {
                self.tell(EventType::Normal, "Pulling", progress.message(self.image()));
                before = Some(progress);
            }
        }
    }

    /// Records that a pull was given up. What it has brought all the same is open to nobody.
    async fn give_up(&self, named: &Named, before: Option<String>) -> Why {
        tracing::debug!(image = named.image, object = self.pod.object(), "a pull is given up: the pod ends");
        let image = v1::ImageSpec { image: named.image.clone(), ..v1::ImageSpec::default() };
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        match self.runtime.image_status(request).await {
            Ok(answer) => {
                let brought = answer.image.map(|image| image.id).filter(|id| Some(id) != before.as_ref());
                if brought.is_none() {
                    // What is not there yet may come in the next moment.
                    self.records.abandoned(&named.image);
                } else if let Err(error) = self.records.settle(&named.image, brought).await {
                    tracing::warn!(%error, image = named.image, "the end of a pull is not recorded");
                }
            }
            // The intent stays, and what may have come is open to nobody.
            Err(error) => tracing::warn!(%error, image = named.image, "the end of a pull is not recorded"),
        }
        Why::new(failure::ERR_IMAGE_PULL, "the pod ends")
    }

    async fn pulled(&self, named: &Named, holder: Option<Holder>, since: Instant) -> Result<Image, Why> {
        let took = go_seconds(since.elapsed());
        let Some(image) = self.look(&named.image).await? else {
            let text = format!("image {:?} is gone right after it was pulled", named.image);
            return Err(Why::new(failure::ERR_IMAGE_PULL, text));
        };
        self.metrics.lifecycle.pulled(&self.pod.uid, since, Some(image.size));
        if let Err(error) = self.records.pulled(&image.id, named, holder).await {
            // Until then the image is open to nobody.
            tracing::warn!(%error, image = named.image, "by whom an image was pulled is not recorded");
        }
        let message = format!(
            "Successfully pulled image {:?} in {took} ({took} including waiting). Image size: {} bytes.",
            self.image(),
            image.size
        );
        self.tell(EventType::Normal, "Pulled", message);
        Ok(present(image))
    }
}

fn source(error: &RecordError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// Settles pulls under way when the kubelet ended.
pub(crate) async fn settle(records: &Records, runtime: &RuntimeClient) {
    for name in records.interrupted().await {
        let image = v1::ImageSpec { image: name.clone(), ..v1::ImageSpec::default() };
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        let settled = match runtime.image_status(request).await {
            Ok(answer) => records.settle(&name, answer.image.map(|image| image.id)).await,
            // The intent stays, and the image is open to nobody.
            Err(error) => {
                tracing::warn!(%error, image = name, "a pull that was interrupted is not settled");
                continue;
            }
        };
        if let Err(error) = settled {
            tracing::warn!(%error, image = name, "a pull that was interrupted is not settled");
        }
    }
}

/// A duration in milliseconds, in Go's words.
fn go_seconds(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{self, Answer};

    #[test]
    fn a_pull_takes_as_long_as_go_would_say() {
        let of = |millis| go_seconds(std::time::Duration::from_millis(millis));
        assert_eq!([of(7), of(1000), of(1500), of(12345)], ["7ms", "1s", "1.5s", "12.345s"]);
    }

    #[test]
    fn without_a_policy_only_the_latest_image_is_always_pulled() {
        let of = |image: &str, own: Option<&str>| {
            let container = Container { image_pull_policy: own.map(str::to_owned), ..Container::default() };
            policy(&container, &name::Name::parse(image).unwrap())
        };
        assert_eq!(of("busybox", None), Policy::Always);
        assert_eq!(of("busybox:1.36", None), Policy::IfNotPresent);
        assert_eq!(of("busybox:latest", Some("Never")), Policy::Never);
    }

    #[tokio::test]
    async fn a_pull_is_given_up_when_the_pod_ends_and_what_it_may_bring_yet_stays_marked() {
        use futures::FutureExt as _;

        let (stop, folder) = (CancellationToken::new(), std::env::temp_dir());
        let folder = folder.join(format!("keelson-pull-{}", uuid::Uuid::new_v4()));
        let pod_ends = stop.clone();
        let (socket, _server) = testing::runtime(move |call| match call {
            "ImageStatus" => std::future::ready(Answer::one(&v1::ImageStatusResponse::default())).boxed(),
            "PullImage" => {
                pod_ends.cancel();
                std::future::pending().boxed()
            }
            other => panic!("{other} was called"),
        });
        let pod = serde_json::json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" },
            "spec": { "containers": [{ "name": "a", "image": "r.example/app:1" }] } });
        let pod = PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let client = testing::no_api();
        let finder = Finder {
            container: &pod.members[0].container,
            pod: &pod,
            sandbox: &v1::PodSandboxConfig::default(),
            runtime: &RuntimeClient::new(&socket, None),
            objects: &Objects::new(client.clone()),
            credentials: &folder.join("config.json"),
            metrics: &crate::metrics::Metrics::new("node-1", "v1.36.0", &Arc::default()).unwrap(),
            plugins: &Plugins::default(),
            records: &Records::new(folder.clone(), verification::Verification::default()),
            recorder: &Recorder::new(client, "node-1"),
            stop: &stop,
        };
        assert_eq!(finder.find().await, Err(Why::new(failure::ERR_IMAGE_PULL, "the pod ends")));
        assert_eq!(finder.records.interrupted().await, ["r.example/app:1"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
