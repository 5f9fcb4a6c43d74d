//! The expressions of a MutatingAdmissionPolicy.

use keelson_cel::{Composition, Program, Type};
use serde_json::Value;

use super::super::expression::{Conditions, typed};
use super::super::policies::{Common, ExpressionFault, Rules, items, text};

/// What a policy changes.
pub struct Mutations {
    /// When it applies.
    pub conditions: Conditions,
    /// Named expressions.
    pub variables: Composition,
    /// Its changes, in their order.
    pub mutations: Vec<Mutation>,
    /// Whether it is evaluated again when the object was changed after it.
    pub reinvokes: bool,
}

/// One change.
pub struct Mutation {
    /// The expression as it was written.
    pub source: String,
    /// The expression.
    pub program: Program,
    /// What its value is.
    pub patch: PatchType,
}

/// What the value of a mutation's expression is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// A part of an object, which is merged into it.
    ApplyConfiguration,
    /// A list of operations.
    JsonPatch,
}

impl PatchType {
    /// The field of a mutation of this type, and the type of its expression.
    fn form(self) -> (&'static str, Type) {
        match self {
            PatchType::ApplyConfiguration => ("applyConfiguration", Type::message("Object")),
            PatchType::JsonPatch => ("jsonPatch", Type::list(Type::message("JSONPatch"))),
        }
    }
}

impl Rules for Mutations {
    const POLICIES: &'static str = "mutatingadmissionpolicies";
    const BINDINGS: &'static str = "mutatingadmissionpolicybindings";

    fn read(spec: &Value) -> Result<Self, Vec<ExpressionFault>> {
        let mut common = Common::read(spec);
        let environment = common.environment.clone().messages();
        let mut mutations = Vec::new();
        for (at, it) in items(spec, "mutations") {
            let patch = match text(it, "patchType") {
                "JSONPatch" => PatchType::JsonPatch,
                _ => PatchType::ApplyConfiguration,
            };
            let (field, wanted) = patch.form();
            let source = text(&it[field], "expression");
            match typed(source.trim(), &environment, &[wanted]) {
                Ok(program) => mutations.push(Mutation { source: source.to_owned(), program, patch }),
                Err(why) => common.note(format!("mutations[{at}].{field}.expression"), source.trim(), why),
            }
        }
        let Common { conditions, variables, faults, .. } = common;
        let reinvokes = text(spec, "reinvocationPolicy") == "IfNeeded";
        match faults.is_empty() {
            true => Ok(Mutations { conditions, variables, mutations, reinvokes }),
            false => Err(faults),
        }
    }
}
