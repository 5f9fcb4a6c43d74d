//! The rules of a CustomResourceDefinition: `x-kubernetes-validations`, at every level of its schema.
//!
//! [`Rules::compile`] finds the faults of a schema's rules and compiles them; it is called once for a definition's
//! spec. [`Rules::validate`] finds the faults of an object, in the light of its old state.

mod compile;
mod evaluate;

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::schema::ListType;
use keelson_api::validation::{ErrorKind, FieldError};
use serde_json::Value as Json;

use crate::declaration::Declaration;
use crate::eval::{Budget, OBJECT_LIMIT};
use crate::program::Program;

/// The rules of a schema.
#[derive(Debug)]
pub struct Rules {
    root: Level,
}

/// A level of a schema that has rules, or has some below it.
#[derive(Debug)]
struct Level {
    declaration: Option<Arc<Declaration>>,
    /// The JSON type, which faults show.
    kind: String,
    list: ListType,
    /// Whether fields keep their identity from one state to the next.
    is_correlatable: bool,
    rules: Vec<Rule>,
    all_of: Vec<Level>,
    items: Option<Box<Level>>,
    values: Option<Box<Level>>,
    properties: BTreeMap<String, Level>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    text: String,
    program: Program,
    /// It compares with the old state.
    is_transition: bool,
    /// The old state is an optional value.
    is_optional: bool,
    message: String,
    message_expression: Option<Program>,
    kind: ErrorKind,
    /// Where the fault is shown, below the rule's level; such as `.spec.name`.
    field_path: String,
}

impl Level {
    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.all_of.is_empty()
            && self.items.is_none()
            && self.values.is_none()
            && self.properties.is_empty()
    }
}

impl Rules {
    /// Compiles the rules of a schema: the value of `openAPIV3Schema`, which is at `path` in its definition. There are
    /// no rules where the schema has none. What cannot be compiled is a fault, and what would cost too much is.
    pub fn compile(schema: &Json, path: &str) -> (Option<Self>, Vec<FieldError>) {
        let (root, faults) = compile::compile(schema, path);
        (root.filter(|root| !root.is_empty()).map(|root| Self { root }), faults)
    }

    /// The faults of an object. Rules that compare with the old state are left out where there is none.
    pub fn validate(&self, new: &Json, old: Option<&Json>) -> Vec<FieldError> {
        let mut run = evaluate::Run { budget: Budget::new(OBJECT_LIMIT), faults: Vec::new() };
        // The faults of the last rule tell that no other was evaluated.
        let _ended = run.level(&self.root, new, old, false, String::new());
        run.faults
    }
}
