//! The expressions of a ValidatingAdmissionPolicy.

use keelson_cel::{Composition, Program, Type};
use serde_json::Value;

use super::super::expression::{Conditions, condition, typed};
use super::super::policies::{Common, ExpressionFault, Rules, items, text};

/// What must hold, and what is told of it.
pub struct Validations {
    /// When the policy applies.
    pub conditions: Conditions,
    /// Named expressions.
    pub variables: Composition,
    /// What must hold.
    pub validations: Vec<Validation>,
    /// Key, source and expression of audit annotations.
    pub annotations: Vec<(String, String, Program)>,
}

/// One thing that must hold.
pub struct Validation {
    /// The expression as it was written.
    pub source: String,
    /// The expression.
    pub program: Program,
    /// What is told when it does not hold; empty for the expression itself.
    pub message: String,
    /// What is told instead, if it gives a text.
    pub message_program: Option<Program>,
    /// The reason of the refusal; empty for `Invalid`.
    pub reason: String,
}

impl Rules for Validations {
    const POLICIES: &'static str = "validatingadmissionpolicies";
    const BINDINGS: &'static str = "validatingadmissionpolicybindings";

    fn read(spec: &Value) -> Result<Self, Vec<ExpressionFault>> {
        let mut common = Common::read(spec);
        let (mut validations, mut annotations) = (Vec::new(), Vec::new());
        for (at, it) in items(spec, "validations") {
            let message_program = match text(it, "messageExpression") {
                "" => None,
                written => typed(written, &common.environment, &[Type::String])
                    .map_err(|why| {
                        common.note(format!("validations[{at}].messageExpression"), written, why);
                    })
                    .ok(),
            };
            let written = text(it, "expression");
            match condition(written, &common.environment) {
                Ok(program) => validations.push(Validation {
                    source: written.to_owned(),
                    program,
                    message: text(it, "message").to_owned(),
                    message_program,
                    reason: text(it, "reason").to_owned(),
                }),
                Err(why) => common.note(format!("validations[{at}].expression"), written, why),
            }
        }
        for (at, it) in items(spec, "auditAnnotations") {
            let written = text(it, "valueExpression");
            match typed(written.trim(), &common.environment, &[Type::String, Type::Null]) {
                Ok(program) => annotations.push((text(it, "key").to_owned(), written.to_owned(), program)),
                Err(why) => common.note(format!("auditAnnotations[{at}].valueExpression"), written, why),
            }
        }
        let Common { conditions, variables, faults, .. } = common;
        match faults.is_empty() {
            true => Ok(Validations { conditions, variables, validations, annotations }),
            false => Err(faults),
        }
    }
}
