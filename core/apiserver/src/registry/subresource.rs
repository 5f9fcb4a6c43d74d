//! Subresources with a document of their own: `binding`, and a namespace's `finalize`.

use keelson_api::validation::FieldError;
use keelson_api::{GroupResource, GroupVersionKind, Object, Status};
use serde_json::{Value, json};

use super::{Record, Registry, Target, WriteOptions, Written};
use crate::admission::Operation;

impl Registry {
    /// Binds a pod to a node, once.
    pub async fn bind(
        &self,
        target: &Target,
        mut binding: Object,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        self.admit(Operation::Create, target, &mut binding, options).await?;
        if binding.name().unwrap_or_default() != target.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let faults = binding_faults(&binding);
        if !faults.is_empty() {
            let gvk = GroupVersionKind::new("", "v1", "Binding");
            return Err(Status::invalid(&gvk, &target.name, &faults));
        }
        let node = binding.get_str(&["target", "name"]).unwrap_or_default().to_owned();
        let version = binding.resource_version().filter(|version| !version.is_empty()).map(str::to_owned);
        let uid = binding.uid().filter(|uid| !uid.is_empty()).map(str::to_owned);
        let annotations = binding.annotations().cloned();
        let labels = binding.labels().cloned();
        // To which node a pod is bound is nobody's field.
        let options = WriteOptions { record: Record::Kept, admitted: true, ..options.clone() };
        self.update(target, &options, |live| {
            let bindings = GroupResource::new("", "pods/binding");
            let conflict = |detail: String| Status::conflict(&bindings, &target.name, &detail);
            if let (Some(asked), Some(own)) = (&version, live.resource_version())
                && asked != own
            {
                let detail = format!(
                    "Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {own}"
                );
                return Err(conflict(detail));
            }
            if let (Some(asked), Some(own)) = (&uid, live.uid())
                && asked != own
            {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {asked}, UID in object meta: {own}"
                )));
            }
            if live.deletion_timestamp().is_some() {
                return Err(conflict(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    target.name
                )));
            }
            if let Some(other) = live.get_str(&["spec", "nodeName"]).filter(|name| !name.is_empty()) {
                return Err(conflict(format!("pod {} is already assigned to node {other:?}", target.name)));
            }
            let gates = live.get(&["spec", "schedulingGates"]).and_then(Value::as_array);
            if gates.is_some_and(|gates| !gates.is_empty()) {
                return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", target.name)));
            }
            let mut pod = live.clone();
            pod.set(&["spec", "nodeName"], node.as_str().into());
            for (key, value) in annotations.iter().flatten() {
                pod.set(&["metadata", "annotations", key], value.clone());
            }
            for (key, value) in labels.iter().flatten() {
                pod.set(&["metadata", "labels", key], value.clone());
            }
            scheduled(&mut pod);
            Ok(pod)
        })
        .await
    }

    /// Replaces a namespace's own finalizers; without any it may go.
    pub async fn finalize(
        &self,
        target: &Target,
        object: &Object,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let finalizers = object.get(&["spec", "finalizers"]).cloned().unwrap_or_else(|| json!([]));
        let version = object.resource_version().map(str::to_owned);
        self.update(target, options, |live| {
            let mut namespace = live.clone();
            namespace.set(&["spec", "finalizers"], finalizers.clone());
            namespace.set_resource_version(version.as_deref().filter(|version| !version.is_empty()));
            Ok(namespace)
        })
        .await
    }
}

/// What is wrong with a Binding: it names a node.
fn binding_faults(binding: &Object) -> Vec<FieldError> {
    let text = |field: &str| binding.get_str(&["target", field]).unwrap_or_default();
    let mut faults = Vec::new();
    if !matches!(text("kind"), "" | "Node") {
        faults.push(FieldError::not_supported("target.kind", text("kind"), &["Node", "<empty>"]));
    }
    if text("name").is_empty() {
        faults.push(FieldError::required("target.name", ""));
    }
    faults
}

fn scheduled(pod: &mut Object) {
    let mut conditions =
        pod.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled", "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": keelson_api::object::format_time(jiff::Timestamp::now()),
    }));
    pod.set(&["status", "conditions"], conditions.into());
}
