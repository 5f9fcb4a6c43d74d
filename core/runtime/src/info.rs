//! What verbose calls are told beside the messages, as JSON under the key `info`, in the words of other runtimes where they have some.

use std::collections::HashMap;
use std::fs;

use keelson_cri::v1;
use serde_json::{Value, json};

use crate::image::Image;
use crate::image::config::ImageConfig;
use crate::image::pull::UnderWay;
use crate::state::{Container, Phase, Runtime, Sandbox};

/// Names of the handler: nothing, and the runtime's own name.
pub(crate) const HANDLERS: [&str; 2] = ["", "keelson"];

fn under_info(value: &Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

/// What the kernel is told of the container.
pub(crate) fn container(container: &Container) -> HashMap<String, String> {
    let record = container.record.lock().clone();
    let pid = match container.phase() {
        Phase::Running { pid, .. } => Some(pid),
        Phase::Created | Phase::Exited { .. } => None,
    };
    let path = container.folder.join("config.json");
    let spec = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Value>(&text)?));
    // It has the container's environment: whoever may ask here is root. One that is gone meanwhile has none.
    let spec = spec.unwrap_or_else(|error| {
        tracing::debug!(%error, path = %path.display(), "a container's configuration cannot be read");
        Value::Null
    });
    under_info(&json!({
        "sandboxID": record.sandbox,
        "pid": pid.unwrap_or_default(),
        "cgroup": record.launch.cgroup,
        "layers": record.layers,
        "stopSignal": record.stop_signal,
        "runtimeSpec": spec,
    }))
}

/// Where the sandbox's namespaces are.
pub(crate) fn sandbox(runtime: &Runtime, sandbox: &Sandbox) -> HashMap<String, String> {
    let pid = *sandbox.pause.lock();
    let netns = (!sandbox.host_network()).then(|| runtime.netns_path(&sandbox.id));
    under_info(&json!({
        "pid": pid,
        "folder": sandbox.folder,
        "netns": netns,
        "cgroup": runtime.cgroup_of(sandbox, &sandbox.id),
        "runtimeHandler": sandbox.record.lock().runtime_handler,
    }))
}

/// How the runtime is configured.
pub(crate) fn runtime(runtime: &Runtime) -> HashMap<String, String> {
    let config = &runtime.config;
    under_info(&json!({
        "root": config.root,
        "socket": config.socket,
        "cgroupRoot": config.cgroup_root,
        "handlers": HANDLERS,
        "sandboxes": runtime.sandboxes.read().len(),
        "containers": runtime.containers.read().len(),
    }))
}

/// What the image says of itself.
pub(crate) fn image(image: &Image, config: &ImageConfig) -> HashMap<String, String> {
    let defaults = config.config.clone().unwrap_or_default();
    under_info(&json!({
        "chainIDs": image.layers.iter().map(|layer| layer.chain_id.as_str()).collect::<Vec<_>>(),
        "manifest": image.manifest,
        "imageSpec": { "config": {
            "User": defaults.user,
            "Env": defaults.env,
            "Entrypoint": defaults.entrypoint,
            "Cmd": defaults.cmd,
            "WorkingDir": defaults.working_dir,
            "StopSignal": defaults.stop_signal,
        } },
    }))
}

/// How far the pull of an image has come, if one is under way, as JSON under the key `pull`.
pub(crate) fn pull(under_way: &UnderWay, name: &str) -> Option<(String, String)> {
    let told = under_way.of(&crate::image::normalize(name).ok()?.whole())?;
    let value = json!({
        "bytesDone": told.bytes,
        "bytesTotal": told.total,
        "layersDone": told.unpacked,
        "layersTotal": told.layers,
    });
    Some(("pull".to_owned(), value.to_string()))
}

/// Pieces of a list that are sent one after the other.
const PIECE: usize = 100;

/// A list in pieces, each made a message.
pub(crate) fn pieces<T, M>(
    list: Vec<T>,
    message: impl Fn(Vec<T>) -> M,
) -> impl Iterator<Item = Result<M, tonic::Status>> {
    let mut rest = list.into_iter();
    let mut out = Vec::new();
    loop {
        let piece: Vec<T> = rest.by_ref().take(PIECE).collect();
        if piece.is_empty() {
            return out.into_iter();
        }
        out.push(Ok(message(piece)));
    }
}

/// The handler that a sandbox asks for, if it is there.
pub(crate) fn is_handler(name: &str) -> bool {
    HANDLERS.contains(&name)
}

/// All handlers, which can do the same.
pub(crate) fn handlers(features: v1::RuntimeHandlerFeatures) -> Vec<v1::RuntimeHandler> {
    let handler = |name: &str| v1::RuntimeHandler { name: name.to_owned(), features: Some(features) };
    HANDLERS.into_iter().map(handler).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_of_a_list_is_in_one_piece_and_no_piece_is_empty() {
        let told: Vec<Vec<usize>> = pieces((0..250).collect(), |piece| piece).map(Result::unwrap).collect();
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(told.concat(), (0..250).collect::<Vec<_>>());
        assert_eq!(pieces(Vec::<u8>::new(), |piece| piece).count(), 0);
    }
}
