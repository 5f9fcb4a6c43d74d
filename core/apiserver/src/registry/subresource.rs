//! Subresources with a document of their own: `binding`, `scale`, and a namespace's `finalize`.

use keelson_api::{Object, Status};
use serde_json::{Value, json};

use super::{Registry, Target, WriteOptions, Written};

impl Registry {
    /// Binds a pod to a node, once.
    pub async fn bind(
        &self,
        target: &Target,
        binding: &Object,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let node = binding.get_str(&["target", "name"]).filter(|name| !name.is_empty());
        let Some(node) = node.map(str::to_owned) else {
            return Err(Status::bad_request("a binding names its node in target.name"));
        };
        if let Some(kind) =
            binding.get_str(&["target", "kind"]).filter(|kind| !kind.is_empty() && *kind != "Node")
        {
            return Err(Status::bad_request(format!("a binding's target is a Node, not a {kind}")));
        }
        let uid = binding.uid().filter(|uid| !uid.is_empty()).map(str::to_owned);
        let annotations = binding.annotations().cloned();
        self.update(target, options, |live| {
            let conflict = |detail: String| Status::conflict(&target.group_resource(), &target.name, &detail);
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
            let mut pod = live.clone();
            pod.set(&["spec", "nodeName"], node.as_str().into());
            for (key, value) in annotations.iter().flatten() {
                pod.set(&["metadata", "annotations", key], value.clone());
            }
            scheduled(&mut pod);
            Ok(pod)
        })
        .await
    }

    /// The scale of an object, as `autoscaling/v1` `Scale`.
    pub fn scale(&self, target: &Target) -> Result<Value, Status> {
        let found = self.get(target)?;
        let object = crate::cache::decode(&found.bytes)?;
        let selector = object.get(&["spec", "selector"]).cloned().unwrap_or(Value::Null);
        let metadata: serde_json::Map<String, Value> =
            ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
                .into_iter()
                .filter_map(|field| Some((field.to_owned(), object.metadata()?.get(field)?.clone())))
                .collect();
        Ok(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": object.get(&["spec", "replicas"]).cloned().unwrap_or(1.into())},
            "status": {
                "replicas": object.get(&["status", "replicas"]).cloned().unwrap_or(0.into()),
                "selector": selector_text(&selector),
            },
        }))
    }

    /// Sets the number of replicas.
    pub async fn set_scale(
        &self,
        target: &Target,
        scale: &Object,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let replicas = scale.get(&["spec", "replicas"]).cloned().unwrap_or(0.into());
        if replicas.as_i64().is_none_or(|number| !(0..=i64::from(i32::MAX)).contains(&number)) {
            return Err(Status::bad_request(format!(
                "spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"
            )));
        }
        let version = scale.resource_version().map(str::to_owned);
        let main = Target { subresource: String::new(), ..target.clone() };
        self.update(&main, options, |live| {
            let mut object = live.clone();
            object.set(&["spec", "replicas"], replicas.clone());
            object.set_resource_version(version.as_deref().filter(|version| !version.is_empty()));
            Ok(object)
        })
        .await?;
        self.scale(target)
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

/// A label selector in the form of a query.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let mut parts: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            Some(_) | None => key.to_owned(),
        });
    }
    parts.join(",")
}
