//! What an expression may cost at most, found before it has values.

use crate::cost::Cost;
use crate::declaration::{Declaration, Shape};
use crate::node::{Fold, Kind, Literal, Node};
use crate::program::{Environment, Program};
use crate::types::Type;

/// The most that something costs or measures; what is beyond any bound is the largest number.
type Most = u64;

/// What is known of a value: its declaration, or its size.
#[derive(Clone, Copy, Default)]
struct Known<'d> {
    declaration: Option<&'d Declaration>,
    size: Option<Most>,
    /// The size of each item, where it is known and no declaration says it.
    item: Option<Most>,
}

struct Estimate<'d> {
    environment: &'d Environment,
    locals: Vec<Known<'d>>,
}

impl Program {
    /// The most that one evaluation costs, by the sizes that the environment's declarations allow.
    pub fn most(&self, environment: &Environment) -> u64 {
        let (root, slots) = self.parts();
        Estimate { environment, locals: vec![Known::default(); slots] }.node(root).0
    }
}

fn tenth(size: Most) -> Most {
    size.div_ceil(10)
}

fn is_scalar(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Bool
            | Type::Int
            | Type::Uint
            | Type::Double
            | Type::Null
            | Type::Duration
            | Type::Timestamp
            | Type::Type
    )
}

/// The size of a value of a type of which no more is known.
fn size_of(ty: &Type, known: Known<'_>) -> Most {
    if let Some(size) = known.size {
        return size;
    }
    if let Some(max) = known.declaration.and_then(|declaration| declaration.max) {
        return max;
    }
    if is_scalar(ty) { 1 } else { Most::MAX }
}

impl<'d> Estimate<'d> {
    fn sum<'n>(&mut self, nodes: impl IntoIterator<Item = &'n Node>) -> Most {
        nodes.into_iter().fold(0, |sum, node| sum.saturating_add(self.node(node).0))
    }

    /// The cost of a node, and what is known of its value.
    fn node(&mut self, node: &Node) -> (Most, Known<'d>) {
        let sized = |size| Known { size: Some(size), ..Known::default() };
        match &node.kind {
            Kind::Literal(literal) => (
                0,
                sized(match literal {
                    Literal::String(text) => text.len() as Most,
                    Literal::Bytes(bytes) => bytes.len() as Most,
                    _ => 1,
                }),
            ),
            Kind::Local(slot) => (1, self.locals[*slot]),
            Kind::Variable(index) => {
                (1, Known { declaration: self.environment.at(*index), ..Known::default() })
            }
            Kind::Select(operand, field) | Kind::OptionalSelect(operand, field) => {
                let (cost, known) = self.node(operand);
                let declaration = known.declaration.and_then(|it| below(it, Some(field)));
                (cost.saturating_add(1), Known { declaration, ..Known::default() })
            }
            Kind::Has(operand, _) => (self.node(operand).0, Known::default()),
            Kind::And(left, right) | Kind::Or(left, right) => {
                (self.node(left).0.saturating_add(self.node(right).0), sized(1))
            }
            Kind::NotFalse(inner) => (self.node(inner).0, sized(1)),
            Kind::Conditional(parts) => {
                let condition = self.node(&parts.0).0;
                let (yes, first) = self.node(&parts.1);
                let (no, second) = self.node(&parts.2);
                let size = size_of(&parts.1.ty, first).max(size_of(&parts.2.ty, second));
                let known = Known { size: Some(size), ..first };
                (condition.saturating_add(yes.max(no)), known)
            }
            Kind::List(items) => {
                let mut item: Option<Most> = None;
                let mut cost: Most = 10;
                for (node, _) in items {
                    let (own, known) = self.node(node);
                    cost = cost.saturating_add(own);
                    item = item.max(Some(size_of(&node.ty, known)));
                }
                (cost, Known { item, ..sized(items.len() as Most) })
            }
            Kind::Map(entries) => {
                let cost = self.sum(entries.iter().flat_map(|(key, value, _)| [key, value]));
                (cost.saturating_add(30), sized(entries.len() as Most))
            }
            Kind::Message(_, fields) => {
                (self.sum(fields.iter().map(|(_, value, _)| value)).saturating_add(40), Known::default())
            }
            Kind::Call(function, args) => self.call(node, function.cost, args),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Append(_, item) => (self.node(item).0.saturating_add(12), Known::default()),
            Kind::Insert(_, key, value) => {
                let value = value.as_deref().map_or(0, |value| self.node(value).0);
                (self.node(key).0.saturating_add(value).saturating_add(1), Known::default())
            }
            Kind::Bind(slot, parts) | Kind::OptionalMap { slot, parts, .. } => {
                let (value, known) = self.node(&parts.0);
                self.locals[*slot] = known;
                let (body, known) = self.node(&parts.1);
                (value.saturating_add(body), known)
            }
        }
    }

    fn fold(&mut self, fold: &Fold) -> (Most, Known<'d>) {
        let (range, known) = self.node(&fold.range);
        let times = size_of(&fold.range.ty, known);
        let item = Known {
            declaration: known.declaration.and_then(|it| below(it, None)),
            size: known.item,
            item: None,
        };
        let is_list = matches!(fold.range.ty, Type::List(_));
        let number = Known { size: Some(1), ..Known::default() };
        match (fold.second, is_list) {
            (Some(second), _) => {
                self.locals[fold.item] = if is_list { number } else { Known::default() };
                self.locals[second] = item;
            }
            (None, true) => self.locals[fold.item] = item,
            // The keys of a map are texts of any length.
            (None, false) => self.locals[fold.item] = Known::default(),
        }
        let init = self.node(&fold.init).0;
        self.locals[fold.accumulator] = Known { size: Some(times), ..Known::default() };
        let each = self.node(&fold.condition).0.saturating_add(self.node(&fold.step).0);
        let result = self.node(&fold.result).0;
        let cost =
            range.saturating_add(init).saturating_add(times.saturating_mul(each)).saturating_add(result);
        let size = if matches!(fold.init.ty, Type::List(_) | Type::Map(_)) { times } else { 1 };
        (cost, Known { size: Some(size), ..Known::default() })
    }

    fn call(&mut self, node: &Node, cost: Cost, args: &[Node]) -> (Most, Known<'d>) {
        let mut known = Vec::with_capacity(args.len());
        let mut sum: Most = 0;
        for arg in args {
            let (cost, of) = self.node(arg);
            sum = sum.saturating_add(cost);
            known.push((&arg.ty, of));
        }
        let size = |at: usize| known.get(at).map_or(0, |(ty, known)| size_of(ty, *known));
        let (first, second) = (size(0), size(1));
        let is_text = matches!(args.first().map(|arg| &arg.ty), Some(Type::String | Type::Bytes));
        let item = known.first().map_or(Most::MAX, |(ty, known)| match ty {
            Type::List(item) => match known.item {
                Some(size) => size,
                None => {
                    let declaration = known.declaration.and_then(|it| below(it, None));
                    size_of(item, Known { declaration, ..Known::default() })
                }
            },
            _ => 1,
        });
        let own = match cost {
            Cost::Fixed(cost) => cost,
            Cost::Text(times) if is_text => tenth(first.saturating_mul(times)).max(1),
            Cost::Text(_) => 1,
            Cost::Second => tenth(second),
            Cost::Traverse if is_text => tenth(first),
            Cost::Traverse => match args.first().map(|arg| &arg.ty) {
                Some(Type::List(of)) if matches!(**of, Type::String | Type::Bytes) => {
                    first.saturating_mul(tenth(item).saturating_add(1))
                }
                _ => first,
            },
            Cost::Compare => tenth(first.min(second)).max(1),
            Cost::Join if is_text => tenth(first.saturating_add(second)),
            Cost::Join => 1,
            Cost::In => match args.get(1).map(|arg| &arg.ty) {
                Some(Type::Map(_)) => 1,
                _ => second,
            },
            Cost::Search => tenth(first).saturating_mul(tenth(second)),
            Cost::Regex => tenth(first.saturating_add(1)).saturating_mul(second.div_ceil(4)),
            Cost::Product => first.saturating_mul(second).max(1),
            Cost::Result => tenth(first.saturating_mul(item)),
            Cost::Network => 5_u64.saturating_add(if is_text { tenth(second) } else { 0 }),
        };
        let result = match (cost, &node.ty) {
            (Cost::Join, _) => Some(first.saturating_add(second)),
            (Cost::Text(_) | Cost::Traverse | Cost::Regex, Type::String | Type::Bytes | Type::List(_)) => {
                // Each character may be replaced by a longer text.
                let grows = args.get(2).is_some_and(|arg| arg.ty == Type::String);
                Some(if grows { first.saturating_add(1).saturating_mul(size(2).max(1)) } else { first })
            }
            (Cost::Result, _) => Some(first.saturating_mul(item)),
            _ => None,
        };
        let declaration = match (cost, args) {
            // What is optional is as large as what it may be.
            (Cost::Fixed(1), [first, ..]) if matches!(first.ty, Type::Optional(_)) => {
                known.first().and_then(|(_, known)| known.declaration)
            }
            // An item of a list or map.
            (Cost::Fixed(1), [container, _]) if matches!(container.ty, Type::List(_) | Type::Map(_)) => {
                known.first().and_then(|(_, known)| known.declaration).and_then(|it| below(it, None))
            }
            _ => None,
        };
        (sum.saturating_add(own), Known { declaration, size: result, item: None })
    }
}

/// The declaration of a field, or of the items or values.
fn below<'d>(declaration: &'d Declaration, field: Option<&str>) -> Option<&'d Declaration> {
    match (&declaration.shape, field) {
        (Shape::Object(object), Some(field)) => object.fields.get(field).map(|field| &*field.declaration),
        (Shape::List(items, _), None) | (Shape::Map(items), _) => Some(items),
        _ => None,
    }
}
