//! A checked expression, ready to be evaluated.

use std::sync::Arc;

use crate::functions::Function;
use crate::types::Type;

/// One node of a checked expression.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) ty: Type,
}

/// A constant.
#[derive(Clone, Debug)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Type(Type),
}

#[derive(Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    /// A variable of a macro, by its place.
    Local(usize),
    /// A variable of the environment, by its place.
    Variable(usize),
    Select(Box<Node>, String),
    Has(Box<Node>, String),
    OptionalSelect(Box<Node>, String),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// Whether a value is anything but false; a fault is.
    NotFalse(Box<Node>),
    Conditional(Box<(Node, Node, Node)>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Message(String, Vec<(String, Node, bool)>),
    Call(&'static Function, Vec<Node>),
    Fold(Box<Fold>),
    /// A local list with one more item.
    Append(usize, Box<Node>),
    /// A local map with one more entry, or with the entries of a map.
    Insert(usize, Box<Node>, Option<Box<Node>>),
    /// A value with a name of its own.
    Bind(usize, Box<(Node, Node)>),
    /// An optional value's change; flat where the change itself gives an optional value.
    OptionalMap {
        slot: usize,
        parts: Box<(Node, Node)>,
        flat: bool,
    },
}

/// A macro over the items of a list or map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) item: usize,
    pub(crate) second: Option<usize>,
    pub(crate) accumulator: usize,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
}

impl Node {
    /// Calls a function for each child.
    pub(crate) fn each<'n>(&'n self, visit: &mut dyn FnMut(&'n Node)) {
        match &self.kind {
            Kind::Literal(_) | Kind::Local(_) | Kind::Variable(_) => {}
            Kind::Select(node, _)
            | Kind::Has(node, _)
            | Kind::OptionalSelect(node, _)
            | Kind::NotFalse(node)
            | Kind::Append(_, node) => visit(node),
            Kind::And(left, right) | Kind::Or(left, right) => {
                visit(left);
                visit(right);
            }
            Kind::Conditional(parts) => {
                visit(&parts.0);
                visit(&parts.1);
                visit(&parts.2);
            }
            Kind::List(items) => items.iter().for_each(|(item, _)| visit(item)),
            Kind::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                visit(key);
                visit(value);
            }),
            Kind::Message(_, fields) => fields.iter().for_each(|(_, value, _)| visit(value)),
            Kind::Call(_, args) => args.iter().for_each(visit),
            Kind::Fold(fold) => {
                for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    visit(part);
                }
            }
            Kind::Insert(_, key, value) => {
                visit(key);
                if let Some(value) = value {
                    visit(value);
                }
            }
            Kind::Bind(_, parts) | Kind::OptionalMap { parts, .. } => {
                visit(&parts.0);
                visit(&parts.1);
            }
        }
    }
}
