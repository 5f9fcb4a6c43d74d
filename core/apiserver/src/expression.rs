//! Expressions in configuration files: compiled when a file is read, evaluated for requests.

use std::sync::Arc;

use keelson_cel::{
    Budget, Declaration, Environment, EvalError, ExpressionError, OBJECT_LIMIT, Program, Type, Value,
    compile, compile_as,
};

/// A compiled expression. Two are equal if their texts are.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

impl Expression {
    /// Compiles an expression whose value is of one of some types; of any, where none is said.
    ///
    /// # Errors
    /// Its faults, or its type.
    pub fn compile(
        source: &str,
        environment: &Environment,
        wanted: &[Type],
    ) -> Result<Self, ExpressionError> {
        let program = match wanted {
            [] => compile(source, environment).map_err(ExpressionError::Compile)?,
            wanted => compile_as(source, environment, wanted)?,
        };
        Ok(Expression { source: source.into(), program: Arc::new(program) })
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it looks at a field of a variable.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.program.selects(variable, field)
    }

    /// Its value for values of the variables.
    ///
    /// # Errors
    /// What went wrong, or it cost too much.
    pub fn evaluate<'a>(&'a self, values: &[(&str, Value<'a>)]) -> Result<Value<'a>, EvalError> {
        self.program.evaluate(values, &Budget::new(OBJECT_LIMIT))
    }
}

/// An object with these fields, for declaring variables.
pub fn record<const N: usize>(name: &str, fields: [(&str, Arc<Declaration>); N]) -> Arc<Declaration> {
    Declaration::object(name, fields.map(|(field, declaration)| (field.to_owned(), declaration)))
}

/// The declaration of a text.
pub fn text() -> Arc<Declaration> {
    Declaration::of(Type::String)
}

/// The declaration of a list of texts.
pub fn texts() -> Arc<Declaration> {
    Declaration::list(text())
}

/// The declaration of `authentication.k8s.io` `UserInfo`.
pub fn user_info() -> Arc<Declaration> {
    record(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", Declaration::map(texts()))],
    )
}
