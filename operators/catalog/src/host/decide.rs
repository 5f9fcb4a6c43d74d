//! What to do about an Operator object (pure).

use std::sync::Arc;

use keelson_operator_kit as kit;
use serde_json::Value;

use super::validate::{Aim, FINALIZER, Refusal, Runnable, Validated};
use crate::kind::CrdPolicy;

/// What stands in this process for an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The UID of the object for which everything is installed.
    pub installed: Option<String>,
    /// The UID and the configuration with which it runs.
    pub running: Option<(String, Value)>,
}

/// What to do.
pub enum Plan {
    /// Make it run.
    Run {
        /// The operator and its configuration.
        runnable: Runnable,
        /// The object's UID.
        uid: String,
        /// Whether the object has to get its finalizer first.
        add_finalizer: bool,
        /// Whether kinds and rights have to be applied.
        install: bool,
        /// Whether it has to be started, or started again.
        start: bool,
    },
    /// Stop it, if it runs, and say why.
    Refuse(Refusal),
    /// Stop it, remove what was installed, and let the object go.
    Remove {
        /// The operator whose rights go; `None` where none were given.
        name: Option<String>,
        /// The operator whose kinds go, too.
        kinds_of: Option<Arc<dyn kit::Operator>>,
        /// Whether the object still has the finalizer.
        remove_finalizer: bool,
    },
}

/// Compares what an object asks for with what stands.
pub fn decide(validated: Validated, standing: &Standing) -> Plan {
    let Validated { object, aim } = validated;
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let finalizers = object.metadata.finalizers.as_deref().unwrap_or_default();
    let has_finalizer = finalizers.iter().any(|own| own == FINALIZER);
    match aim {
        Aim::Refused(refusal) => Plan::Refuse(refusal),
        // Without the finalizer nothing was ever installed for this object.
        Aim::Remove { name, operator, crd_policy } => Plan::Remove {
            name: name.filter(|_| has_finalizer),
            kinds_of: operator.filter(|_| has_finalizer && crd_policy == CrdPolicy::Delete),
            remove_finalizer: has_finalizer,
        },
        Aim::Run(runnable) => {
            let runs = standing.running.as_ref();
            let start = runs.is_none_or(|(of, config)| *of != uid || *config != runnable.config);
            Plan::Run {
                add_finalizer: !has_finalizer,
                install: standing.installed.as_ref() != Some(&uid),
                start,
                runnable,
                uid,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::observe::Observed;
    use crate::host::validate::validate;
    use crate::kind::Operator;

    fn plan(metadata: Value, standing: &Standing) -> Plan {
        let mut document = json!({"apiVersion": "platform.keelson.io/v1alpha1", "kind": "Operator",
            "metadata": {"name": "serviceaccount", "uid": "1"}, "spec": {}});
        for (field, value) in metadata.as_object().unwrap() {
            document["metadata"][field] = value.clone();
        }
        let operator: Operator = serde_json::from_value(document).unwrap();
        let observed = Observed { operator: Arc::new(operator), older: None };
        decide(validate(observed, &crate::all()), standing)
    }

    #[test]
    fn a_new_object_gets_its_finalizer_before_anything_is_installed_for_it() {
        let Plan::Run { add_finalizer, install, start, .. } = plan(json!({}), &Standing::default()) else {
            panic!("it must run");
        };
        assert!(add_finalizer && install && start);
    }

    #[test]
    fn what_runs_as_asked_is_left_alone_and_what_was_made_anew_is_started_again() {
        let standing = |uid: &str| Standing {
            installed: Some(uid.to_owned()),
            running: Some((uid.to_owned(), Value::Null)),
        };
        let held = json!({"finalizers": [FINALIZER]});
        let Plan::Run { add_finalizer, install, start, .. } = plan(held.clone(), &standing("1")) else {
            panic!("it must run");
        };
        assert!(!add_finalizer && !install && !start);
        let Plan::Run { install, start, .. } = plan(held, &standing("older")) else { panic!("it must run") };
        assert!(install && start);
    }

    #[test]
    fn a_deleted_object_takes_its_rights_along_but_keeps_its_kinds() {
        let deleted = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let Plan::Remove { name, kinds_of, remove_finalizer } = plan(deleted, &Standing::default()) else {
            panic!("it must go");
        };
        assert_eq!(name.as_deref(), Some("serviceaccount"));
        assert!(remove_finalizer && kinds_of.is_none());
    }
}
