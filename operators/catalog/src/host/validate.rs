//! Whether an Operator object can be run (pure).

use std::sync::Arc;

use keelson_operator_kit as kit;
use serde_json::Value;

use super::observe::Observed;
use crate::kind::{CrdPolicy, Operator, Placement};

/// Holds an Operator object until what was installed for it is removed.
pub const FINALIZER: &str = "platform.keelson.io/operator-host";

/// An object, and what it comes down to.
pub struct Validated {
    /// The object.
    pub object: Arc<Operator>,
    /// What to aim at.
    pub aim: Aim,
}

/// What an object asks for.
pub enum Aim {
    /// It is to run.
    Run(Runnable),
    /// It cannot run as it is.
    Refused(Refusal),
    /// It is being deleted.
    Remove {
        /// The name in the catalog; `None` when it belongs to another object.
        name: Option<String>,
        /// The operator of that name; `None` when there is none.
        operator: Option<Arc<dyn kit::Operator>>,
        /// What becomes of its kinds.
        crd_policy: CrdPolicy,
    },
}

/// An operator that can run.
#[derive(Clone)]
pub struct Runnable {
    /// The operator.
    pub operator: Arc<dyn kit::Operator>,
    /// Its configuration: what the object says over the defaults.
    pub config: Value,
}

/// Why an object cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Reads what an object asks for.
pub fn validate(observed: Observed, catalog: &[Arc<dyn kit::Operator>]) -> Validated {
    let Observed { operator: object, older } = observed;
    let name = object.catalog_name();
    let found = catalog.iter().find(|operator| operator.definition().name == name).cloned();
    let aim = if object.metadata.deletion_timestamp.is_some() {
        let name = (older.is_none() && can_be_operator(name)).then(|| name.to_owned());
        let operator = found.filter(|_| name.is_some());
        Aim::Remove { name, operator, crd_policy: object.spec.crd_policy }
    } else {
        match runnable(&object, found, older, catalog) {
            Ok(runnable) => Aim::Run(runnable),
            Err(refusal) => Aim::Refused(refusal),
        }
    };
    Validated { object, aim }
}

/// Whether the catalog of any version can have had it: the name becomes a part of paths.
fn can_be_operator(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn runnable(
    object: &Operator,
    found: Option<Arc<dyn kit::Operator>>,
    older: Option<String>,
    catalog: &[Arc<dyn kit::Operator>],
) -> Result<Runnable, Refusal> {
    let name = object.catalog_name();
    let Some(operator) = found else {
        let known: Vec<_> = catalog.iter().map(|operator| operator.definition().name).collect();
        let message =
            format!("there is no operator {name:?} in the catalog, which has: {}", known.join(", "));
        return Err(Refusal { reason: "NotInCatalog", message });
    };
    if let Some(older) = older {
        let message = format!("the operator {name:?} is already installed by the object {older:?}");
        return Err(Refusal { reason: "DuplicateOperator", message });
    }
    if object.spec.placement == Placement::Deployment {
        let message =
            "placement Deployment is not supported yet: leave it out to run in the server's process";
        return Err(Refusal { reason: "PlacementNotSupported", message: message.to_owned() });
    }
    let config = configuration(&operator.definition().default_config, object.spec.config.as_ref())?;
    Ok(Runnable { operator, config })
}

fn configuration(defaults: &Value, own: Option<&Value>) -> Result<Value, Refusal> {
    let refused = |message: &str| Err(Refusal { reason: "InvalidConfig", message: message.to_owned() });
    match own {
        None | Some(Value::Null) => Ok(defaults.clone()),
        Some(Value::Object(fields)) if fields.is_empty() => Ok(defaults.clone()),
        Some(Value::Object(_)) if defaults.is_null() => refused("the operator has no configuration"),
        Some(own @ Value::Object(_)) => Ok(overlay(defaults.clone(), own)),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            refused("spec.config is not an object")
        }
    }
}

/// Objects are merged field by field; anything else is replaced.
fn overlay(mut under: Value, over: &Value) -> Value {
    match (&mut under, over) {
        (Value::Object(fields), Value::Object(own)) => {
            for (name, value) in own {
                let below = fields.remove(name).unwrap_or(Value::Null);
                fields.insert(name.clone(), overlay(below, value));
            }
            under
        }
        _ => over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_is_laid_over_the_defaults() {
        let defaults = json!({"a": {"b": 1, "c": [1, 2]}, "d": true});
        let own = json!({"a": {"c": [3]}, "e": "new"});
        let merged = configuration(&defaults, Some(&own)).unwrap();
        assert_eq!(merged, json!({"a": {"b": 1, "c": [3]}, "d": true, "e": "new"}));
        assert_eq!(configuration(&defaults, None).unwrap(), defaults);
    }

    #[test]
    fn a_configuration_for_an_operator_without_one_is_refused() {
        let refused = configuration(&Value::Null, Some(&json!({"a": 1}))).unwrap_err();
        assert_eq!(refused.reason, "InvalidConfig");
        assert_eq!(configuration(&Value::Null, Some(&json!({}))).unwrap(), Value::Null);
    }

    fn object(name: &str, spec: serde_json::Value) -> Operator {
        let document = json!({"apiVersion": "platform.keelson.io/v1alpha1", "kind": "Operator",
            "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(document).unwrap()
    }

    fn refusal(object: Operator, older: Option<&str>) -> Option<&'static str> {
        let observed = Observed { operator: Arc::new(object), older: older.map(str::to_owned) };
        match validate(observed, &crate::all()).aim {
            Aim::Refused(refusal) => Some(refusal.reason),
            Aim::Run(_) | Aim::Remove { .. } => None,
        }
    }

    #[test]
    fn a_name_that_no_operator_can_have_removes_nothing() {
        let removes = |name: &str| {
            let mut object = object("x", json!({"name": name}));
            object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ));
            match validate(Observed { operator: Arc::new(object), older: None }, &crate::all()).aim {
                Aim::Remove { name, .. } => name,
                Aim::Run(_) | Aim::Refused(_) => panic!("it is being deleted"),
            }
        };
        assert_eq!(removes("gone-since").as_deref(), Some("gone-since"));
        assert_eq!(removes("../../kube-system/serviceaccounts/default"), None);
        assert_eq!(removes("a?dryRun=All"), None);
    }

    #[test]
    fn what_cannot_run_says_why() {
        assert_eq!(refusal(object("no-such", json!({})), None), Some("NotInCatalog"));
        assert_eq!(refusal(object("serviceaccount", json!({})), None), None);
        assert_eq!(
            refusal(object("again", json!({"name": "serviceaccount"})), Some("serviceaccount")),
            Some("DuplicateOperator")
        );
        let placed = json!({"placement": "Deployment"});
        assert_eq!(refusal(object("serviceaccount", placed), None), Some("PlacementNotSupported"));
    }
}
