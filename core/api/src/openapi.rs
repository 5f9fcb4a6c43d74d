//! OpenAPI documents of what is served: version 3 by group and version, and version 2 in one piece.
//!
//! Both are made from the catalog, the generated definitions of built-in kinds and the schemas of custom ones, when they
//! are asked for. Version 2 is version 3 in other words ([`v2`]); clients in Go read it in a binary form ([`gnostic`]).
//!
//! - [`definition`]: the fields of kinds. [`operation`]: paths, verbs and parameters. [`merge`]: other servers' documents.

pub mod definition;
pub mod gnostic;
pub mod merge;
pub mod operation;
pub mod v2;

use serde_json::{Map, Value, json};

use crate::kinds::{GroupVersion, ResourceInfo};

pub use definition::Definitions;

/// A resource, as a document describes it.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The resource.
    pub info: &'a ResourceInfo,
    /// `openAPIV3Schema` of a custom resource's version.
    pub schema: Option<&'a Value>,
}

/// The path of a group and version, such as `apis/apps/v1`.
pub fn path(group_version: &GroupVersion) -> String {
    if group_version.group.is_empty() {
        format!("api/{}", group_version.version)
    } else {
        format!("apis/{group_version}")
    }
}

/// The version 3 document of some resources.
pub fn v3(resources: &[Served<'_>], definitions: &Definitions) -> Value {
    let mut paths = Map::new();
    for resource in resources {
        operation::paths(resource, definitions, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {
            "schemas": definitions.components(resources, definition::Form::V3),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header",
                "description": "Bearer Token authentication",
            }},
        },
    })
}

#[cfg(test)]
mod tests;
