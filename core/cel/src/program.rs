//! Environments, and expressions that have been compiled in them.

use std::sync::Arc;

use cel::parser::Parser;

use crate::authorizer::{Authorizer, AuthorizerValue, Check};
use crate::check::Checker;
use crate::declaration::Declaration;
use crate::error::{CompileError, EvalError, ExpressionError, Fault};
use crate::eval::{self, Budget};
use crate::node::{Kind, Node};
use crate::types::Type;
use crate::value::{Opaque, Value};

/// The longest expression, in bytes.
const MAX_SOURCE: usize = 100_000;
/// The most operators, brackets and names: each may be a level of the parser's tree.
const MAX_TOKENS: usize = 20_000;
/// The stack on which an expression is parsed and checked. It is only touched as far as it is used.
const STACK: usize = 256 * 1024 * 1024;
/// Expressions of this length need no stack of their own.
const SHORT: usize = 64;

/// The variables of expressions.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(String, Arc<Declaration>)>,
    messages: bool,
}

impl Environment {
    /// An environment without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable. The authorizer is one of type `kubernetes.authorization.Authorizer`
    /// ([`Environment::authorizer`]).
    #[must_use]
    pub fn variable(mut self, name: &str, declaration: Arc<Declaration>) -> Self {
        self.variables.push((name.to_owned(), declaration));
        self
    }

    /// With a variable `authorizer`, and `authorizer.requestResource`.
    #[must_use]
    pub fn authorizer(self) -> Self {
        self.variable("authorizer", Declaration::of(Type::Opaque(AUTHORIZER)))
            .variable("authorizer.requestResource", Declaration::of(Type::Opaque(RESOURCE)))
    }

    /// With the types `Object`, `Object.spec` and so on, and `JSONPatch`, that expressions may make.
    #[must_use]
    pub fn messages(mut self) -> Self {
        self.messages = true;
        self
    }

    pub(crate) fn has_messages(&self) -> bool {
        self.messages
    }

    /// The place and declaration of a variable.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Arc<Declaration>)> {
        let found = self.variables.iter().enumerate().find(|(_, (known, _))| known == name);
        found.map(|(index, (_, declaration))| (index, declaration))
    }

    /// The declaration of the variable at a place.
    pub(crate) fn at(&self, index: usize) -> Option<&Declaration> {
        self.variables.get(index).map(|(_, declaration)| &**declaration)
    }

    /// The declaration of a variable, by which its value is read.
    pub fn declaration(&self, name: &str) -> Option<&Arc<Declaration>> {
        self.find(name).map(|(_, declaration)| declaration)
    }
}

const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";

impl<'a> Value<'a> {
    /// The value of the variable `authorizer`; that of `authorizer.requestResource` comes with it.
    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Self {
        Value::Opaque(Opaque::Authorizer(AuthorizerValue::Authorizer(authorizer, Arc::new(Check::default()))))
    }
}

/// An expression that has been compiled.
#[derive(Debug)]
pub struct Program {
    root: Node,
    slots: usize,
    variables: Vec<String>,
}

/// Compiles an expression.
///
/// # Errors
/// The faults of its syntax or its types, each with its place.
pub fn compile(source: &str, environment: &Environment) -> Result<Program, CompileError> {
    if source.len() > MAX_SOURCE {
        return Err(CompileError::single(
            source,
            format!("expression code point size exceeds limit: size: {}, limit {MAX_SOURCE}", source.len()),
        ));
    }
    let tokens = source.split(|it: char| it.is_alphanumeric() || it.is_whitespace() || it == '_');
    if tokens.map(str::len).sum::<usize>() > MAX_TOKENS {
        return Err(CompileError::single(source, format!("expression has more than {MAX_TOKENS} operators")));
    }
    if source.len() <= SHORT {
        return parse_and_check(source, environment);
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(STACK);
        match thread.spawn_scoped(scope, || parse_and_check(source, environment)).map(|thread| thread.join())
        {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(_)) => Err(CompileError::single(source, "internal error: the parser failed")),
            Err(error) => Err(CompileError::single(source, format!("internal error: {error}"))),
        }
    })
}

/// Compiles an expression whose value is of one of some types, and not only may be.
///
/// # Errors
/// Its faults, or its type.
pub fn compile_as(
    source: &str,
    environment: &Environment,
    wanted: &[Type],
) -> Result<Program, ExpressionError> {
    let program = compile(source, environment).map_err(ExpressionError::Compile)?;
    if wanted.contains(program.ty()) {
        return Ok(program);
    }
    Err(ExpressionError::Type { wanted: wanted.to_vec(), found: program.ty().clone() })
}

fn parse_and_check(source: &str, environment: &Environment) -> Result<Program, CompileError> {
    let parser = Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true);
    let (expression, places) = parser.parse_with_source_info(source).map_err(|errors| {
        let faults = errors
            .errors
            .into_iter()
            .map(|error| Fault { offset: offset(source, error.pos), message: error.msg });
        CompileError::new(source, faults.collect())
    })?;
    let mut checker = Checker::new(environment, &places);
    let root = checker.check(&expression);
    let (slots, faults) = (checker.slots, std::mem::take(&mut checker.faults));
    match root {
        Some(root) if faults.is_empty() => {
            let variables = environment.variables.iter().map(|(name, _)| name.clone()).collect();
            Ok(Program { root, slots, variables })
        }
        _ => Err(CompileError::new(source, faults)),
    }
}

/// The byte at a line and column, both of which count from one.
fn offset(source: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or_default();
    let column = usize::try_from(column - 1).unwrap_or_default();
    let before: usize = source.split('\n').take(line).map(|line| line.len() + 1).sum();
    let within = source.split('\n').nth(line).unwrap_or_default();
    before + within.char_indices().nth(column).map_or(within.len(), |(at, _)| at)
}

impl Program {
    /// The type of its value.
    pub fn ty(&self) -> &Type {
        &self.root.ty
    }

    /// Whether it looks at a variable.
    pub fn uses(&self, variable: &str) -> bool {
        let Some(index) = self.variables.iter().position(|name| name == variable) else { return false };
        let mut found = false;
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            found |= matches!(node.kind, Kind::Variable(at) if at == index);
            node.each(&mut |child| nodes.push(child));
        }
        found
    }

    /// Whether it looks at a field of a variable by its name.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let Some(index) = self.variables.iter().position(|name| name == variable) else { return false };
        let mut found = false;
        let mut nodes = vec![&self.root];
        while let Some(node) = nodes.pop() {
            if let Kind::Select(of, name) | Kind::Has(of, name) | Kind::OptionalSelect(of, name) = &node.kind
            {
                found |= name == field && matches!(of.kind, Kind::Variable(at) if at == index);
            }
            node.each(&mut |child| nodes.push(child));
        }
        found
    }

    /// Its tree, and the number of its local variables.
    pub(crate) fn parts(&self) -> (&Node, usize) {
        (&self.root, self.slots)
    }

    /// Evaluates it. A variable that has no value is a fault where it is looked at.
    ///
    /// # Errors
    /// What went wrong: a fault of the expression with these values, or it cost too much.
    pub fn evaluate<'a>(
        &'a self,
        values: &[(&str, Value<'a>)],
        budget: &Budget,
    ) -> Result<Value<'a>, EvalError> {
        let mut variables = vec![None; self.variables.len()];
        for (slot, name) in variables.iter_mut().zip(&self.variables) {
            *slot = values.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        }
        eval::evaluate(&self.root, self.slots, &self.variables, &variables, budget)
    }
}
