//! `v1` `ComponentStatus`: what the control plane is made of here, and how that is. Nothing of it is stored.

use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::{Object, ResourceInfo, Status};
use serde_json::{Value, json};

use super::negotiation::{Endpoint, Form, wanted};
use super::{ApiState, encoding, json as answer, method_not_allowed, table};
use crate::request_info::RequestInfo;

/// How long the store may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers about all components, or about one.
pub(super) async fn serve(
    state: &ApiState,
    info: &RequestInfo,
    resource: &ResourceInfo,
    headers: &HeaderMap,
) -> Result<Response, Status> {
    if !resource.has_verb(&info.verb) || !info.subresource.is_empty() {
        return Err(method_not_allowed(resource, info));
    }
    let wanted = wanted(headers, info, Endpoint::Objects)?;
    let mut all = components(state).await;
    let row = |it: &Value| {
        let object = Object::from_value(it.clone()).unwrap_or_default();
        table::row(info, resource, object, Timestamp::now())
    };
    let document = match (&info.name, wanted.form) {
        (Some(name), form) => {
            let found = all.into_iter().find(|it| it["metadata"]["name"] == name.as_str());
            let text = || Status::new(500, "", format!("component not found: {name}"));
            let found = found.ok_or_else(text)?;
            match form {
                Form::Table => table::table(resource, json!({}), vec![row(&found)], table::Columns::Shown),
                Form::Metadata => table::metadata_of(&Object::from_value(found).unwrap_or_default()),
                Form::Object | Form::AggregatedDiscovery => found,
            }
        }
        (None, form) => {
            select(info, &mut all)?;
            match form {
                Form::Table => {
                    let rows = all.iter().map(row).collect();
                    table::table(resource, json!({}), rows, table::Columns::Shown)
                }
                Form::Metadata => {
                    let of = |it| table::metadata_of(&Object::from_value(it).unwrap_or_default());
                    let items: Vec<Value> = all.into_iter().map(of).collect();
                    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                        "metadata": {}, "items": items})
                }
                Form::Object | Form::AggregatedDiscovery => {
                    for item in all.iter_mut().filter_map(Value::as_object_mut) {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                    json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all})
                }
            }
        }
    };
    let mut response = encoding::finish(answer(StatusCode::OK, &document), wanted).await;
    if let Some(text) = keelson_api::warnings::deprecated(resource) {
        crate::admission::remarks::warn(response.headers_mut(), &[text.to_owned()]);
    }
    Ok(response)
}

/// Keeps what the selectors of a request select. None of it has labels.
fn select(info: &RequestInfo, all: &mut Vec<Value>) -> Result<(), Status> {
    let refused = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let labels = LabelSelector::parse(info.parameter("labelSelector").unwrap_or_default())
        .map_err(|error| refused(&error))?;
    let fields = FieldSelector::parse(info.parameter("fieldSelector").unwrap_or_default())
        .map_err(|error| refused(&error))?;
    let name = |it: &Value| it["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    all.retain(|it| {
        let name = name(it);
        labels.matches(None::<&serde_json::Map<String, Value>>)
            && fields.matches(|field| if field == "metadata.name" { name.as_str() } else { "" })
    });
    Ok(())
}

/// The store, and what runs in this process.
async fn components(state: &ApiState) -> Vec<Value> {
    let store = match tokio::time::timeout(PATIENCE, state.registry.store().barrier()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the store does not answer".to_owned()),
    };
    let parts = state.insight.components.all().into_iter().map(|(name, runs)| {
        let error = (!runs).then(|| "it does not run".to_owned());
        component(&name, error)
    });
    parts.chain([component("etcd-0", store)]).collect()
}

fn component(name: &str, error: Option<String>) -> Value {
    let condition = match error {
        None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Some(error) => json!({"type": "Healthy", "status": "False", "error": error}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [condition]})
}
