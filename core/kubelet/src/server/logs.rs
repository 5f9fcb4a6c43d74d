//! `GET /containerLogs/NAMESPACE/POD/CONTAINER`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};
use keelson_cri::v1;
use tokio_stream::wrappers::ReceiverStream;

use super::Node;
use super::failure::Failure;
use crate::logs::{self, IsRunning, Options};
use crate::pods::{ContainerRef, LookupError};
use crate::runtime_client::RuntimeClient;

/// What the pod's status says a container waits for.
fn waiting<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStateWaiting> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|one| one.name == container)?.state.as_ref()?.waiting.as_ref()
}

/// The instance that has ended and that the runtime has forgotten: its log may still be there (pure).
fn kept(pod: &Pod, container: &str, logs: &std::path::Path) -> Option<ContainerRef> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let known = lists.into_iter().flatten().flatten().find(|one| one.name == container)?;
    let ended = known.state.as_ref()?.terminated.as_ref()?;
    let metadata = &pod.metadata;
    let (namespace, name) = (metadata.namespace.as_deref()?, metadata.name.as_deref()?);
    let uid = metadata.uid.clone()?;
    let folder = logs.join(format!("{namespace}_{name}_{uid}")).join(container);
    let id = ended.container_id.as_deref()?;
    Some(ContainerRef {
        id: id.rsplit_once('/').map_or(id, |(_, id)| id).to_owned(),
        uid,
        log_path: folder.join(format!("{}.log", known.restart_count)),
        running: false,
        previous: None,
    })
}

/// The instance whose log is meant (pure).
fn choose(
    pod: &Pod,
    container: &str,
    found: Result<ContainerRef, LookupError>,
    previous: bool,
) -> Result<ContainerRef, Failure> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let waits = waiting(pod, container);
    let missing = || {
        Failure::bad_request(format!("previous terminated container {container:?} in pod {name:?} not found"))
    };
    match found {
        // One that waits to be started again is itself the one before.
        Ok(newest) if previous && !newest.running && waits.is_some() => Ok(newest),
        Ok(newest) if previous => newest.previous.map(|previous| *previous).ok_or_else(missing),
        Ok(newest) => Ok(newest),
        Err(LookupError::Waiting { .. }) if previous => Err(missing()),
        Err(LookupError::Waiting { .. }) => {
            let reason = match waits.and_then(|waits| waits.reason.as_deref()) {
                Some("ErrImagePull") => "image can't be pulled",
                Some("ImagePullBackOff") => "trying and failing to pull image",
                Some(reason) => reason,
                None => "ContainerCreating",
            };
            Err(Failure::bad_request(format!(
                "container {container:?} in pod {name:?} is waiting to start: {reason}"
            )))
        }
        Err(LookupError::Container { .. }) => {
            let text = format!("container {container:?} not found in pod {name:?}");
            Err(Failure::new(StatusCode::NOT_FOUND, text))
        }
        Err(error @ LookupError::Pod { .. }) => Err(error.into()),
    }
}

/// Asks the runtime. One that does not answer may know a running container.
fn is_running(runtime: RuntimeClient, id: String) -> IsRunning {
    Box::new(move || {
        let (runtime, container_id) = (runtime.clone(), id.clone());
        Box::pin(async move {
            let request = v1::ContainerStatusRequest { container_id, verbose: false };
            match runtime.container_status(request).await {
                Ok(found) => found.status.is_some_and(|status| {
                    matches!(
                        status.state(),
                        v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerCreated
                    )
                }),
                Err(error) => !error.is_not_found(),
            }
        })
    })
}

pub(super) async fn serve(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let options = Options::parse(parameters)?;
    let Ok(pod) = node.pods.pod(&namespace, &name, None) else {
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")));
    };
    let mut found = node.pods.container(&namespace, &name, None, &container);
    if let Err(LookupError::Waiting { .. }) = found
        && let Some(kept) = kept(&pod, &container, &node.config.log_dir)
        && tokio::fs::try_exists(&kept.log_path).await.unwrap_or(false)
    {
        found = Ok(kept);
    }
    let chosen = choose(&pod, &container, found, options.previous)?;
    let stream = logs::stream(chosen.log_path, options, is_running(node.runtime.clone(), chosen.id));
    let body = Body::from_stream(ReceiverStream::new(stream));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(state: serde_json::Value) -> Pod {
        let status = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let value = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}});
        serde_json::from_value(value).unwrap()
    }

    fn instance(id: &str, running: bool, previous: Option<ContainerRef>) -> ContainerRef {
        let previous = previous.map(Box::new);
        ContainerRef { id: id.into(), uid: "u".into(), log_path: "l".into(), running, previous }
    }

    fn chosen(state: serde_json::Value, newest: ContainerRef, previous: bool) -> Result<String, Failure> {
        choose(&pod(state), "c", Ok(newest), previous).map(|instance| instance.id)
    }

    #[test]
    fn the_instance_before_is_the_one_whose_end_the_status_tells() {
        let running = json!({"running": {}});
        let crashed = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let two = |running| instance("2", running, Some(instance("1", false, None)));
        assert_eq!(chosen(running.clone(), two(true), false).unwrap(), "2");
        assert_eq!(chosen(running.clone(), two(true), true).unwrap(), "1");
        assert_eq!(chosen(crashed.clone(), two(false), true).unwrap(), "2");
        assert_eq!(chosen(json!({"terminated": {"exitCode": 0}}), two(false), true).unwrap(), "1");
        let error = chosen(running, instance("1", true, None), true).unwrap_err();
        assert_eq!(error.text, "previous terminated container \"c\" in pod \"p\" not found");
    }

    #[test]
    fn a_container_that_was_never_made_says_what_it_waits_for() {
        for (reason, told) in [
            ("ErrImagePull", "image can't be pulled"),
            ("ImagePullBackOff", "trying and failing to pull image"),
            ("CreateContainerConfigError", "CreateContainerConfigError"),
        ] {
            let pod = pod(json!({"waiting": {"reason": reason}}));
            let none = || LookupError::Waiting { pod: "p_n".into(), container: "c".into() };
            let error = choose(&pod, "c", Err(none()), false).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert_eq!(error.text, format!("container \"c\" in pod \"p\" is waiting to start: {told}"));
        }
    }
}
