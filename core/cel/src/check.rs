//! From the parser's tree to a checked one: names are resolved, types found out, macros of two variables expanded.

mod call;
mod comprehension;

use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};

use crate::Environment;
use crate::declaration::ObjectType;
use crate::error::Fault;
use crate::node::{Kind, Literal, Node};
use crate::types::{Bound, Type};

/// How deep an expression may nest.
const MAX_DEPTH: usize = 150;

/// A fault has been noted; the expression has no type.
pub(super) struct Faulty;

pub(super) type Checked = Result<Node, Faulty>;

struct Local {
    name: String,
    slot: usize,
    ty: Type,
}

pub(crate) struct Checker<'c> {
    environment: &'c Environment,
    places: &'c SourceInfo,
    bound: Bound,
    locals: Vec<Local>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) slots: usize,
    depth: usize,
    /// The items of a list that is to be formatted may be of any types.
    is_mixed: bool,
}

fn node(kind: Kind, ty: Type) -> Node {
    Node { kind, ty }
}

impl<'c> Checker<'c> {
    pub(crate) fn new(environment: &'c Environment, places: &'c SourceInfo) -> Self {
        Self {
            environment,
            places,
            bound: Bound::default(),
            locals: Vec::new(),
            faults: Vec::new(),
            slots: 0,
            depth: 0,
            is_mixed: false,
        }
    }

    /// Checks a whole expression.
    pub(crate) fn check(&mut self, expression: &IdedExpr) -> Option<Node> {
        let mut root = self.expression(expression).ok()?;
        self.settle(&mut root);
        Some(root)
    }

    /// Fills in the types that were found out.
    fn settle(&self, node: &mut Node) {
        node.ty = self.bound.resolve(&node.ty, true);
        match &mut node.kind {
            Kind::Literal(_) | Kind::Local(_) | Kind::Variable(_) => {}
            Kind::Select(node, _)
            | Kind::Has(node, _)
            | Kind::OptionalSelect(node, _)
            | Kind::NotFalse(node)
            | Kind::Append(_, node) => self.settle(node),
            Kind::And(left, right) | Kind::Or(left, right) => {
                self.settle(left);
                self.settle(right);
            }
            Kind::Conditional(parts) => {
                self.settle(&mut parts.0);
                self.settle(&mut parts.1);
                self.settle(&mut parts.2);
            }
            Kind::List(items) => items.iter_mut().for_each(|(item, _)| self.settle(item)),
            Kind::Map(entries) => entries.iter_mut().for_each(|(key, value, _)| {
                self.settle(key);
                self.settle(value);
            }),
            Kind::Message(_, fields) => fields.iter_mut().for_each(|(_, value, _)| self.settle(value)),
            Kind::Call(_, args) => args.iter_mut().for_each(|arg| self.settle(arg)),
            Kind::Fold(fold) => {
                let fold = &mut **fold;
                for part in
                    [&mut fold.range, &mut fold.init, &mut fold.condition, &mut fold.step, &mut fold.result]
                {
                    self.settle(part);
                }
            }
            Kind::Insert(_, key, value) => {
                self.settle(key);
                if let Some(value) = value {
                    self.settle(value);
                }
            }
            Kind::Bind(_, parts) | Kind::OptionalMap { parts, .. } => {
                self.settle(&mut parts.0);
                self.settle(&mut parts.1);
            }
        }
    }

    fn fault(&mut self, id: u64, message: impl Into<String>) -> Faulty {
        let offset = self.places.offset_for(id).map_or(0, |(start, _)| start as usize);
        self.faults.push(Fault { offset, message: message.into() });
        Faulty
    }

    fn declare(&mut self, name: &str, ty: Type) -> usize {
        let slot = self.locals.len();
        self.locals.push(Local { name: name.to_owned(), slot, ty });
        self.slots = self.slots.max(slot + 1);
        slot
    }

    fn expression(&mut self, expression: &IdedExpr) -> Checked {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.depth -= 1;
            return Err(
                self.fault(expression.id, format!("the expression nests deeper than {MAX_DEPTH} levels"))
            );
        }
        let checked = self.dispatch(expression);
        self.depth -= 1;
        checked
    }

    fn dispatch(&mut self, expression: &IdedExpr) -> Checked {
        let id = expression.id;
        match &expression.expr {
            Expr::Unspecified => Err(self.fault(id, "unexpected expression")),
            Expr::Literal(literal) => Ok(constant(literal)),
            Expr::Ident(name) => self.identifier(id, name),
            Expr::Select(select) => {
                if !select.test
                    && let Some(found) = self.qualified_type(expression)
                {
                    return Ok(found);
                }
                let operand = self.expression(&select.operand)?;
                if let Some(ty) = self.dotted_variable(expression) {
                    return Ok(node(Kind::Select(Box::new(operand), select.field.clone()), ty));
                }
                let ty = self.field_type(id, &operand.ty, &select.field)?;
                let operand = Box::new(operand);
                Ok(match select.test {
                    true => node(Kind::Has(operand, select.field.clone()), Type::Bool),
                    false => node(Kind::Select(operand, select.field.clone()), ty),
                })
            }
            Expr::List(list) => {
                let is_mixed = std::mem::take(&mut self.is_mixed);
                let mut item_type: Option<Type> = None;
                let mut items = Vec::new();
                for (at, element) in list.elements.iter().enumerate() {
                    let item = self.expression(element)?;
                    let is_optional = list.optional_indices.contains(&at);
                    let ty = self.unwrapped(element.id, &item.ty, is_optional)?;
                    if is_mixed {
                        item_type = Some(Type::Dyn);
                    } else {
                        self.join(element.id, &mut item_type, ty);
                    }
                    items.push((item, is_optional));
                }
                let item_type = item_type.unwrap_or_else(|| self.bound.fresh());
                Ok(node(Kind::List(items), Type::list(item_type)))
            }
            Expr::Map(map) => {
                let (mut key_type, mut value_type) = (None, None);
                let mut entries = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.fault(entry.id, "unexpected entry"));
                    };
                    let key = self.expression(&entry.key)?;
                    let value = self.expression(&entry.value)?;
                    let ty = self.unwrapped(entry.value.id, &value.ty, entry.optional)?;
                    self.join(entry.key.id, &mut key_type, key.ty.clone());
                    self.join(entry.value.id, &mut value_type, ty);
                    entries.push((key, value, entry.optional));
                }
                let key = key_type.unwrap_or_else(|| self.bound.fresh());
                let value = value_type.unwrap_or_else(|| self.bound.fresh());
                Ok(node(Kind::Map(entries), Type::map(key, value)))
            }
            Expr::Struct(message) => {
                let fields: Vec<(u64, &str, &IdedExpr, bool)> = message
                    .entries
                    .iter()
                    .filter_map(|entry| match &entry.expr {
                        EntryExpr::StructField(field) => {
                            Some((entry.id, field.field.as_str(), &field.value, field.optional))
                        }
                        EntryExpr::MapEntry(_) => None,
                    })
                    .collect();
                self.message(id, &message.type_name, fields)
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(id, call),
        }
    }

    /// What an optional item adds to a literal.
    fn unwrapped(&mut self, id: u64, ty: &Type, is_optional: bool) -> Result<Type, Faulty> {
        if !is_optional {
            return Ok(ty.clone());
        }
        match self.bound.resolve(ty, false) {
            Type::Optional(value) => Ok((*value).clone()),
            Type::Dyn => Ok(Type::Dyn),
            other => {
                Err(self.fault(id, format!("expected type 'optional_type({other})' but found '{other}'")))
            }
        }
    }

    /// All items of a literal have one type.
    fn join(&mut self, id: u64, found: &mut Option<Type>, ty: Type) {
        match found {
            None => *found = Some(ty),
            Some(known) => {
                if self.bound.resolve(&ty, false) == Type::Dyn
                    || self.bound.resolve(known, false) == Type::Dyn
                {
                    *known = Type::Dyn;
                } else if !self.bound.assign(known, &ty) {
                    let (known, ty) = (self.bound.resolve(known, true), self.bound.resolve(&ty, true));
                    self.fault(id, format!("expected type '{known}' but found '{ty}'"));
                }
            }
        }
    }

    fn identifier(&mut self, id: u64, name: &str) -> Checked {
        if let Some(local) = self.locals.iter().rev().find(|local| local.name == name) {
            return Ok(node(Kind::Local(local.slot), local.ty.clone()));
        }
        let plain = name.trim_start_matches('.');
        if let Some((index, declaration)) = self.environment.find(plain) {
            return Ok(node(Kind::Variable(index), declaration.ty.clone()));
        }
        match named_type(plain) {
            Some(ty) => Ok(node(Kind::Literal(Literal::Type(ty)), Type::Type)),
            None => Err(self.fault(id, format!("undeclared reference to '{name}' (in container '')"))),
        }
    }

    /// The type of a variable that is declared with a dot in its name: a field of another one.
    fn dotted_variable(&self, expression: &IdedExpr) -> Option<Type> {
        let name = qualified_name(expression)?;
        let root = name.split('.').next()?;
        if self.locals.iter().any(|local| local.name == root) {
            return None;
        }
        self.environment.find(&name).map(|(_, declaration)| declaration.ty.clone())
    }

    /// A type with dots in its name.
    fn qualified_type(&self, expression: &IdedExpr) -> Option<Node> {
        let name = qualified_name(expression)?;
        let root = name.split('.').next()?;
        if self.locals.iter().any(|local| local.name == root) || self.environment.find(root).is_some() {
            return None;
        }
        named_type(&name).map(|ty| node(Kind::Literal(Literal::Type(ty)), Type::Type))
    }

    /// The type of a field.
    fn field_type(&mut self, id: u64, operand: &Type, field: &str) -> Result<Type, Faulty> {
        let operand = self.bound.resolve(operand, false);
        match &operand {
            Type::Dyn | Type::Param(_) => Ok(Type::Dyn),
            Type::Map(entry) => {
                let entry = Arc::clone(entry);
                match self.bound.assign(&entry.0, &Type::String) {
                    true => Ok(entry.1.clone()),
                    false => {
                        Err(self.fault(id, format!("type '{operand}' does not support field selection")))
                    }
                }
            }
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => Ok(field.declaration.ty.clone()),
                None if is_open(object) => Ok(Type::Dyn),
                None => Err(self.fault(id, format!("undefined field '{field}'"))),
            },
            Type::Optional(value) => {
                let value = Arc::clone(value);
                self.field_type(id, &value, field).map(Type::optional)
            }
            other => Err(self.fault(id, format!("type '{other}' does not support field selection"))),
        }
    }

    fn message(&mut self, id: u64, name: &str, fields: Vec<(u64, &str, &IdedExpr, bool)>) -> Checked {
        let name = name.trim_start_matches('.');
        let is_patch = name == "JSONPatch";
        let is_object = name == "Object" || name.starts_with("Object.");
        if !self.environment.has_messages() || !(is_patch || is_object) {
            return Err(self.fault(id, format!("undeclared reference to '{name}' (in container '')")));
        }
        let mut checked = Vec::new();
        for (id, field, value, is_optional) in fields {
            let wanted = match (is_patch, field) {
                (true, "op" | "path" | "from") => Type::String,
                (true, "value") | (false, _) => Type::Dyn,
                (true, _) => return Err(self.fault(id, format!("undefined field '{field}'"))),
            };
            let value_node = self.expression(value)?;
            let ty = self.unwrapped(value.id, &value_node.ty, is_optional)?;
            if !self.bound.assign(&wanted, &ty) {
                let ty = self.bound.resolve(&ty, true);
                let text =
                    format!("expected type of field '{field}' is '{wanted}' but provided type is '{ty}'");
                return Err(self.fault(id, text));
            }
            checked.push((field.to_owned(), value_node, is_optional));
        }
        Ok(node(Kind::Message(name.to_owned(), checked), Type::message(name)))
    }
}

/// Whether an object's fields are found out at run time.
fn is_open(object: &ObjectType) -> bool {
    object.name == "JSONPatch" || object.name == "Object" || object.name.starts_with("Object.")
}

/// The name that an expression of names and dots spells.
pub(super) fn qualified_name(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.trim_start_matches('.').to_owned()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", qualified_name(&select.operand)?, select.field))
        }
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> Node {
    let (literal, ty) = match literal {
        LiteralValue::Null => (Literal::Null, Type::Null),
        LiteralValue::Boolean(it) => (Literal::Bool(*it.inner()), Type::Bool),
        LiteralValue::Int(it) => (Literal::Int(*it.inner()), Type::Int),
        LiteralValue::UInt(it) => (Literal::Uint(*it.inner()), Type::Uint),
        LiteralValue::Double(it) => (Literal::Double(*it.inner()), Type::Double),
        LiteralValue::String(it) => (Literal::String(it.inner().into()), Type::String),
        LiteralValue::Bytes(it) => (Literal::Bytes(it.inner().into()), Type::Bytes),
    };
    node(Kind::Literal(literal), ty)
}

fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "type" => Type::Type,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        "kubernetes.NamedFormat" => Type::Opaque("kubernetes.NamedFormat"),
        _ => return None,
    })
}

pub(super) const NOT_FALSE: &str = operators::NOT_STRICTLY_FALSE;
