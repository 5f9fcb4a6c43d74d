//! Connections to objects - exec, attach, port-forward, proxy - go through admission with their options.

use std::sync::Arc;

use keelson_api::{Object, ResourceInfo, Status};
use serde_json::{Map, Value};

use super::{ApiState, target};
use crate::admission::{Operation, Remarks};
use crate::identity::Identity;
use crate::registry::{Record, WriteOptions};
use crate::request_info::{RequestInfo, is_on};

/// Whether a request opens a connection. Logs are read, and so are not one.
pub(super) fn opens(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
}

/// Asks admission about a connection.
pub(super) async fn admit(
    state: &ApiState,
    identity: &Identity,
    info: &RequestInfo,
    resource: &Arc<ResourceInfo>,
    query: &str,
    remarks: Arc<Remarks>,
) -> Result<(), Status> {
    if !opens(info) {
        return Ok(());
    }
    let options = WriteOptions {
        identity: identity.clone(),
        manager: String::new(),
        served: None,
        record: Record::Kept,
        dry_run: false,
        admitted: false,
        remarks,
    };
    let mut object = connection(info, resource, query);
    state.registry.admit(Operation::Connect, &target(info, Arc::clone(resource)), &mut object, &options).await
}

/// The options of a connection, such as `PodExecOptions`, from its path and query.
fn connection(info: &RequestInfo, resource: &ResourceInfo, query: &str) -> Object {
    let mut fields = Map::new();
    if info.subresource == "proxy" {
        fields.insert("path".to_owned(), format!("/{}", info.rest).into());
    } else {
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "stdin" | "stdout" | "stderr" | "tty" => {
                    fields.insert(key.into_owned(), is_on(&value).into());
                }
                "container" => drop(fields.insert(key.into_owned(), value.into_owned().into())),
                "command" => push(&mut fields, "command", value.into_owned().into()),
                "ports" => {
                    for port in value.split(',').filter_map(|port| port.parse::<u16>().ok()) {
                        push(&mut fields, "ports", port.into());
                    }
                }
                _ => {}
            }
        }
    }
    let mut object = Object(fields);
    if let Some(subresource) = resource.subresource(&info.subresource) {
        object.set_gvk(&subresource.kind);
    }
    object
}

fn push(fields: &mut Map<String, Value>, field: &str, value: Value) {
    match fields.entry(field.to_owned()).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(list) => list.push(value),
        other => *other = value,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use keelson_api::Catalog;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_query_of_an_exec_is_its_options() {
        let query = "command=sh&command=-c&container=c&stdin=true&tty=0";
        let info = RequestInfo::parse(&Method::POST, "/api/v1/namespaces/a/pods/p/exec", Some(query));
        let catalog = Catalog::builtin();
        let found = connection(&info, catalog.find("", "v1", "pods").unwrap(), query);
        let expected = json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh", "-c"], "container": "c",
            "stdin": true, "tty": false});
        assert_eq!(found.into_value(), expected);
    }
}
