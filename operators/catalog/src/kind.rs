//! `kind: Operator`: one of the catalog, to be run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use keelson_operator_kit::condition;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The API group.
pub const GROUP: &str = "platform.keelson.io";

/// The CustomResourceDefinition's name.
pub const CRD_NAME: &str = "operators.platform.keelson.io";

/// What its definition brings is applied.
pub const INSTALLED: &str = "Installed";
/// It has begun to act, somewhere in the cluster.
pub const READY: &str = "Ready";
/// Something is wrong with it.
pub const DEGRADED: &str = "Degraded";

/// Which operator of the catalog to run, and how.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "platform.keelson.io",
    version = "v1alpha1",
    kind = "Operator",
    plural = "operators",
    singular = "operator",
    shortname = "op",
    category = "keelson",
    status = "OperatorStatus",
    derive = "PartialEq",
    doc = "A part of the platform that runs while this object exists.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether it has begun to act."}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version","description":"The version that runs."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct OperatorSpec {
    /// Its name in the catalog; the object's own name where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its configuration, laid over the operator's defaults. A change starts it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Value>,
    /// What becomes of the kinds that it brought when this object is deleted.
    #[serde(default)]
    pub crd_policy: CrdPolicy,
    /// Where it runs.
    #[serde(default)]
    pub placement: Placement,
}

/// What becomes of an operator's kinds when it is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CrdPolicy {
    /// They and their objects stay.
    #[default]
    Retain,
    /// They are deleted, and with them all objects of these kinds.
    Delete,
}

/// Where an operator runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Placement {
    /// In the process of a server.
    #[default]
    InProcess,
    /// In pods of a Deployment. Not available yet: such an object becomes Degraded with reason PlacementNotSupported.
    Deployment,
}

/// How it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version that was installed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `Installed`, `Ready` and `Degraded`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl OperatorStatus {
    /// Whether a condition is true.
    pub fn is(&self, type_: &str) -> bool {
        condition::find(&self.conditions, type_).is_some_and(|condition| condition.status == condition::TRUE)
    }
}

impl Operator {
    /// The name in the catalog.
    pub fn catalog_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.name.as_deref().unwrap_or(own)
    }
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Its configuration, laid over the operator's defaults. A change starts it again.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt;

    use super::*;

    #[test]
    fn the_definition_is_a_structural_schema_of_a_cluster_scoped_kind_with_a_status() {
        let crd = Operator::crd();
        assert_eq!(crd.metadata.name.as_deref(), Some(CRD_NAME));
        assert_eq!(crd.spec.scope, "Cluster");
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|it| it.status.is_some()));
        let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
        assert_eq!(spec["config"]["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(spec["crdPolicy"]["default"], "Retain");
        assert!(!schema.to_string().contains("$ref"));
    }
}
