//! (pure) How far a pull has come, where the runtime says so: the embedded one does, under the key `pull` of a verbose status of the
//! image; the interface has no other place for it.

use std::collections::HashMap;

use serde::Deserialize;

/// What the runtime says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    bytes_done: u64,
    bytes_total: u64,
    layers_done: u64,
    layers_total: u64,
}

/// Found in the words beside a status.
pub(super) fn of(info: &HashMap<String, String>) -> Option<Progress> {
    serde_json::from_str(info.get("pull")?).ok()
}

impl Progress {
    /// For people.
    pub(super) fn message(&self, image: &str) -> String {
        let Progress { bytes_done, bytes_total, layers_done, layers_total } = self;
        format!(
            "Pulling image {image:?}: {bytes_done} of {bytes_total} bytes, {layers_done} of {layers_total} layers done"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_where_the_runtime_knows_it() {
        let told = r#"{"bytesDone": 5, "bytesTotal": 10, "layersDone": 1, "layersTotal": 2}"#;
        let info = HashMap::from([("pull".to_owned(), told.to_owned())]);
        let message = of(&info).map(|progress| progress.message("app:1"));
        assert_eq!(message.as_deref(), Some("Pulling image \"app:1\": 5 of 10 bytes, 1 of 2 layers done"));
        assert_eq!(of(&HashMap::new()), None);
        assert_eq!(of(&HashMap::from([("pull".to_owned(), "?".to_owned())])), None);
    }
}
