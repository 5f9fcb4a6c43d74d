//! Named expressions that others use: `variables.name`. Each is evaluated when it is first looked at, and once.

use std::sync::{Arc, OnceLock};

use crate::declaration::Declaration;
use crate::error::{CompileError, EvalError};
use crate::eval::Budget;
use crate::program::{Environment, Program, compile};
use crate::types::Type;
use crate::value::{Fields, Map, Value};

/// The name of the variable that has the others for fields.
const VARIABLES: &str = "variables";

/// Named expressions, compiled in their order: each sees those before it.
#[derive(Debug, Default)]
pub struct Composition {
    programs: Vec<(String, Program)>,
}

impl Composition {
    /// Compiles one more expression. The environment is that of expressions without `variables`.
    ///
    /// # Errors
    /// The faults of the expression.
    pub fn add(&mut self, name: &str, source: &str, environment: &Environment) -> Result<(), CompileError> {
        let program = compile(source, &self.environment(environment))?;
        self.programs.push((name.to_owned(), program));
        Ok(())
    }

    /// An environment with the variable `variables`, whose fields are the expressions so far.
    #[must_use]
    pub fn environment(&self, environment: &Environment) -> Environment {
        let fields =
            self.programs.iter().map(|(name, program)| (name.clone(), Declaration::of(program.ty().clone())));
        environment.clone().variable(VARIABLES, Declaration::object("kubernetes.variables", fields))
    }

    /// The values of the expressions, which are found when they are looked at, for these values of the environment.
    pub fn values<'a>(&'a self, bindings: Vec<(&'a str, Value<'a>)>, budget: &'a Budget) -> Variables<'a> {
        let found = self.programs.iter().map(|_| OnceLock::new()).collect();
        Variables { composition: self, bindings, budget, found }
    }
}

/// The values of named expressions.
#[derive(Debug)]
pub struct Variables<'a> {
    composition: &'a Composition,
    bindings: Vec<(&'a str, Value<'a>)>,
    budget: &'a Budget,
    found: Vec<OnceLock<Result<Value<'a>, EvalError>>>,
}

impl<'a> Variables<'a> {
    /// All values for an expression of [`Composition::environment`]: those that were given, and `variables`.
    pub fn bindings(&'a self) -> Vec<(&'a str, Value<'a>)> {
        let mut bindings = self.bindings.clone();
        bindings.push((VARIABLES, Value::Map(Map::Lazy(self))));
        bindings
    }
}

impl<'a> Fields<'a> for Variables<'a> {
    fn field(&'a self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let index = self.composition.programs.iter().position(|(known, _)| *known == name)?;
        let program = &self.composition.programs[index].1;
        // An expression sees only those before it, and so never itself.
        let found = self.found[index].get_or_init(|| program.evaluate(&self.bindings(), self.budget));
        Some(found.clone())
    }
}

impl Environment {
    /// With a variable of a simple type.
    #[must_use]
    pub fn simple(self, name: &str, ty: Type) -> Self {
        let declaration: Arc<Declaration> = Declaration::of(ty);
        self.variable(name, declaration)
    }
}
