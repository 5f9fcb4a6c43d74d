//! The Common Expression Language as Kubernetes speaks it, without IO.
//!
//! An [`Environment`] names the variables of an expression and their [`Declaration`]s. [`compile`] parses and checks an
//! expression; the [`Program`] is kept, and evaluated with the variables' values under a [`Budget`]:
//!
//! ```
//! use keelson_cel::{Budget, Declaration, Environment, Value, compile};
//!
//! let environment = Environment::new().variable("object", Declaration::dynamic());
//! let program = compile("object.spec.replicas <= 5", &environment)?;
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let value = program.evaluate(&[("object", Value::dynamic(&object))], &Budget::new(10_000_000))?;
//! assert!(value.is_true());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`declaration`], [`types`]: what is known before there is a value; from a schema, or nothing at all.
//! - `check`, `node`: names resolved, types found out, macros expanded. The parser is that of the crate `cel`.
//! - `eval`, `cost`: evaluation, which ends when it costs too much.
//! - [`value`]: values; those of a document are read where they are looked at.
//! - `functions`: the functions, a table.
//! - [`device`]: what claims say of the devices that they ask for.
//! - [`Composition`]: named expressions that others use.
//! - [`rules`]: the rules of a CustomResourceDefinition; `estimate`: what they may cost.
//! - [`authorizer`]: what expressions ask the authorizer.

pub mod authorizer;
mod check;
mod cost;
pub mod declaration;
pub mod device;
mod error;
mod estimate;
mod eval;
mod functions;
mod node;
mod program;
mod quantity;
pub mod rules;
pub mod types;
pub mod value;
mod variables;

pub use declaration::Declaration;
pub use error::{CompileError, EvalError, ExpressionError, Fault, wanted};
pub use eval::{Budget, CALL_LIMIT, OBJECT_LIMIT};
pub use functions::Format;
pub use program::{Environment, Program, compile, compile_as};
pub use quantity::Quantity;
pub use types::Type;
pub use value::Value;
pub use variables::{Composition, Variables};

#[cfg(test)]
mod tests;
