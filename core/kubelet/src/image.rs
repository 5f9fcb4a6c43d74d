//! Finding the image of a container, and pulling it when its policy says so.

use std::time::Instant;

use k8s_openapi::api::core::v1::Container;
use keelson_cri::v1;

use crate::event::{EventType, Recorder};
use crate::memory::{Image, Why};
use crate::objects::Objects;
use crate::pod::PodModel;
use crate::runtime_client::RuntimeClient;

mod credentials;
mod name;

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
    /// Where it is told.
    pub(crate) recorder: &'a Recorder,
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
        let found = self.look(&full).await?;
        match (policy(self.container, &name), found) {
            (Policy::IfNotPresent | Policy::Never, Some(found)) => {
                let image = self.image();
                let message = format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                );
                self.tell(EventType::Normal, "Pulled", message);
                Ok(present(found))
            }
            (Policy::Never, None) => {
                let message =
                    format!("Container image {:?} is not present with pull policy of Never", self.image());
                self.tell(EventType::Warning, "ErrImageNeverPull", message.clone());
                Err(Why::new("ErrImageNeverPull", message))
            }
            (Policy::Always, _) | (Policy::IfNotPresent, None) => self.pull(&name, &full).await,
        }
    }

    async fn pull(&self, name: &name::Name, full: &str) -> Result<Image, Why> {
        self.tell(EventType::Normal, "Pulling", format!("Pulling image {:?}", self.image()));
        let (keys, missing) = credentials::find(self.pod, self.objects, name).await;
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
        let since = Instant::now();
        let mut failure = None;
        let tries: Vec<Option<v1::AuthConfig>> =
            if keys.is_empty() { vec![None] } else { keys.into_iter().map(Some).collect() };
        for auth in tries {
            let image = v1::ImageSpec {
                image: full.to_owned(),
                user_specified_image: self.image().to_owned(),
                ..v1::ImageSpec::default()
            };
            let sandbox_config = Some(self.sandbox.clone());
            let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config };
            match self.runtime.pull_image(request).await {
                Ok(_) => return self.pulled(full, since).await,
                Err(error) => failure = Some(error),
            }
        }
        let text = failure.map(|error| error.text()).unwrap_or_default();
        self.tell(EventType::Warning, "Failed", format!("Failed to pull image {:?}: {text}", self.image()));
        Err(Why::new("ErrImagePull", text))
    }

    async fn pulled(&self, full: &str, since: Instant) -> Result<Image, Why> {
        let took = go_seconds(since.elapsed());
        let Some(image) = self.look(full).await? else {
            let text = format!("image {full:?} is gone right after it was pulled");
            return Err(Why::new("ErrImagePull", text));
        };
        let message = format!(
            "Successfully pulled image {:?} in {took} ({took} including waiting). Image size: {} bytes.",
            self.image(),
            image.size
        );
        self.tell(EventType::Normal, "Pulled", message);
        Ok(present(image))
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
    use super::*;

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
}
