//! Why an expression cannot be compiled, or gave no value.

use std::fmt;

use crate::authorizer::Check;
use crate::types::Type;

/// Why the evaluation of an expression gave no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// A function has no variant for these values.
    #[error("no such overload")]
    NoSuchOverload,
    /// A map or object has no such key.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A list has no such index.
    #[error("index out of bounds: {0}")]
    OutOfBounds(String),
    /// Something is divided by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// The rest of a division by zero is asked for.
    #[error("modulus by zero")]
    ModulusByZero,
    /// A number is too large for its type.
    #[error("{0} overflow")]
    Overflow(&'static str),
    /// A variable has no value.
    #[error("no such attribute(s): {0}")]
    Unbound(String),
    /// A function failed.
    #[error("{0}")]
    Failed(String),
    /// This evaluation costs more than one may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallLimit,
    /// All evaluations together cost more than they may.
    #[error("running out of cost budget")]
    Budget,
    /// The authorizer has to be asked first; the evaluation can then be made again.
    #[error("the authorizer has not decided yet")]
    Undecided(Box<Check>),
}

impl EvalError {
    /// Whether no other part of the expression can make up for it.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::CallLimit | Self::Budget | Self::Undecided(_))
    }
}

/// Why an expression is none of those that are wanted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExpressionError {
    /// It has faults.
    #[error("compilation failed: {0}")]
    Compile(CompileError),
    /// Its value is of another type.
    #[error("must evaluate to {} but got {}", self::wanted(.wanted), .found.full_name())]
    Type {
        /// The types that it may have.
        wanted: Vec<Type>,
        /// The type that it has.
        found: Type,
    },
}

/// Types as messages name them: one, or `one of [...]`.
pub fn wanted(types: &[Type]) -> String {
    let names: Vec<String> = types.iter().map(Type::full_name).collect();
    match names.as_slice() {
        [one] => one.clone(),
        many => format!("one of [{}]", many.join(" ")),
    }
}

/// A fault of an expression: where and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The place in the source, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
}

/// The faults of an expression. Displayed, each has its place, and the line with a mark under that place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// The expression.
    pub source_text: String,
    /// The faults, in the order of their places.
    pub faults: Vec<Fault>,
}

impl CompileError {
    pub(crate) fn new(source: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.offset);
        faults.dedup();
        Self { source_text: source.to_owned(), faults }
    }

    pub(crate) fn single(source: &str, message: impl Into<String>) -> Self {
        Self::new(source, vec![Fault { offset: 0, message: message.into() }])
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            let mut start = 0;
            let mut place = (1, 0, "");
            for (number, line) in self.source_text.split('\n').enumerate() {
                let end = start + line.len();
                if fault.offset <= end {
                    let before = line.get(..fault.offset - start).unwrap_or(line);
                    place = (number + 1, before.chars().count(), line);
                    break;
                }
                start = end + 1;
            }
            let (line, column, text) = place;
            write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, fault.message)?;
            write!(f, "\n | {text}\n | {}^", ".".repeat(column))?;
        }
        Ok(())
    }
}
