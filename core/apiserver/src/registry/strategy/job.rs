//! A Job finds its pods by its own UID, unless it says otherwise.

use keelson_api::Object;
use serde_json::json;

/// Sets the selector and the template's labels.
pub(super) fn before_create(job: &mut Object) {
    if job.get(&["spec", "manualSelector"]) == Some(&serde_json::Value::Bool(true)) {
        return;
    }
    let (Some(uid), Some(name)) = (job.uid().map(str::to_owned), job.name().map(str::to_owned)) else {
        return;
    };
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        job.set(&["spec", "template", "metadata", "labels", key], value.as_str().into());
    }
    if job.get(&["spec", "selector"]).is_none_or(serde_json::Value::is_null) {
        let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
        job.set(&["spec", "selector"], selector);
    }
}
