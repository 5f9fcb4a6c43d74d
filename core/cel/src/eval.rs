//! Evaluates checked expressions, and stops when they cost too much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::EvalError;
use crate::node::{Fold, Kind, Literal, Node};
use crate::value::{Key, List, Map, Message, Text, Value};

/// What one evaluation may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all rules of a custom resource may cost for one object.
pub const OBJECT_LIMIT: u64 = 10_000_000;

/// What the evaluations of one request may still cost together.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
    call: u64,
}

impl Budget {
    /// A budget for several evaluations.
    pub fn new(total: u64) -> Self {
        Self { left: AtomicU64::new(total), call: CALL_LIMIT }
    }

    /// A budget whose single evaluations may cost no more than this.
    pub fn with_call_limit(total: u64, call: u64) -> Self {
        Self { left: AtomicU64::new(total), call }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    fn spend(&self, cost: u64) -> Result<(), EvalError> {
        let spent =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost));
        if spent.is_err() {
            self.left.store(0, Ordering::Relaxed);
            return Err(EvalError::Budget);
        }
        Ok(())
    }
}

type Evaluated<'a> = Result<Value<'a>, EvalError>;

struct Evaluation<'a, 'v> {
    variables: &'v [Option<Value<'a>>],
    names: &'a [String],
    locals: Vec<Evaluated<'a>>,
    spent: u64,
    limit: u64,
}

/// Evaluates an expression with the values of its environment's variables. What it cost is taken from the budget,
/// whether or not it gave a value.
pub(crate) fn evaluate<'a>(
    root: &'a Node,
    slots: usize,
    names: &'a [String],
    variables: &[Option<Value<'a>>],
    budget: &Budget,
) -> Evaluated<'a> {
    let limit = budget.call.min(budget.left());
    let locals = vec![Ok(Value::Null); slots];
    let mut evaluation = Evaluation { variables, names, locals, spent: 0, limit };
    let result = evaluation.node(root);
    let spent = evaluation.spent;
    match (budget.spend(spent), result) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(EvalError::CallLimit)) if limit < budget.call => Err(EvalError::Budget),
        (Ok(()), result) => result,
    }
}

impl<'a> Evaluation<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvalError::CallLimit) } else { Ok(()) }
    }

    fn node(&mut self, node: &'a Node) -> Evaluated<'a> {
        match &node.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::Local(slot) => {
                self.charge(1)?;
                self.locals[*slot].clone()
            }
            Kind::Variable(index) => self.variable(*index),
            Kind::Select(operand, field) => {
                let operand = self.node(operand)?;
                self.charge(1)?;
                select(&operand, field)
            }
            Kind::Has(operand, field) => {
                let operand = self.node(operand)?;
                has(&operand, field).map(Value::Bool)
            }
            Kind::OptionalSelect(operand, field) => {
                let operand = self.node(operand)?;
                self.charge(1)?;
                optional_select(&operand, field)
            }
            Kind::And(left, right) => self.logical(left, right, false),
            Kind::Or(left, right) => self.logical(left, right, true),
            Kind::NotFalse(inner) => match self.node(inner) {
                Ok(value) => Ok(Value::Bool(!matches!(value, Value::Bool(false)))),
                Err(error) if error.is_final() => Err(error),
                Err(_) => Ok(Value::Bool(true)),
            },
            Kind::Conditional(parts) => match self.node(&parts.0)? {
                Value::Bool(true) => self.node(&parts.1),
                Value::Bool(false) => self.node(&parts.2),
                _ => Err(EvalError::NoSuchOverload),
            },
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Message(name, fields) => self.message(name, fields),
            Kind::Call(function, args) => self.call(function, args),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Append(slot, item) => self.append(*slot, item),
            Kind::Insert(slot, key, value) => self.insert(*slot, key, value.as_deref()),
            Kind::Bind(slot, parts) => {
                // A fault of the value is one only where the value is used.
                self.locals[*slot] = self.node(&parts.0);
                self.node(&parts.1)
            }
            Kind::OptionalMap { slot, parts, flat } => self.optional_map(*slot, parts, *flat),
        }
    }

    #[inline(never)]
    fn variable(&mut self, index: usize) -> Evaluated<'a> {
        self.charge(1)?;
        match self.variables.get(index) {
            Some(Some(value)) => Ok(value.clone()),
            _ => Err(EvalError::Unbound(self.names.get(index).cloned().unwrap_or_default())),
        }
    }

    /// `decisive` is the value of one side that makes the other side's value and faults irrelevant.
    #[inline(never)]
    fn logical(&mut self, left: &'a Node, right: &'a Node, decisive: bool) -> Evaluated<'a> {
        let first = self.node(left);
        match &first {
            Ok(Value::Bool(it)) if *it == decisive => return first,
            Err(error) if error.is_final() => return first,
            _ => {}
        }
        let second = self.node(right);
        match (first, second) {
            (_, Ok(Value::Bool(it))) if it == decisive => Ok(Value::Bool(decisive)),
            (_, Err(error)) if error.is_final() => Err(error),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(it))) => Ok(Value::Bool(it)),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    #[inline(never)]
    fn list(&mut self, items: &'a [(Node, bool)]) -> Evaluated<'a> {
        self.charge(10)?;
        let mut values = Vec::with_capacity(items.len());
        for (item, is_optional) in items {
            let value = self.node(item)?;
            match (is_optional, value) {
                (false, value) => values.push(value),
                (true, Value::Optional(value)) => values.extend(value.map(|it| (*it).clone())),
                (true, _) => return Err(EvalError::NoSuchOverload),
            }
        }
        Ok(Value::list(values))
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Evaluated<'a> {
        self.charge(30)?;
        let mut map = BTreeMap::new();
        for (key, value, is_optional) in entries {
            let key = self.node(key)?;
            let key = Key::of(&key)
                .ok_or_else(|| EvalError::Failed(format!("unsupported key type: {}", key.type_of())))?;
            let value = match (is_optional, self.node(value)?) {
                (false, value) => value,
                (true, Value::Optional(Some(value))) => (*value).clone(),
                (true, Value::Optional(None)) => continue,
                (true, _) => return Err(EvalError::NoSuchOverload),
            };
            if map.contains_key(&key) {
                return Err(EvalError::Failed(format!("Failed with repeated key: {key}")));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(Map::Owned(Arc::new(map))))
    }

    #[inline(never)]
    fn message(&mut self, name: &str, entries: &'a [(String, Node, bool)]) -> Evaluated<'a> {
        self.charge(40)?;
        let mut fields = BTreeMap::new();
        for (field, value, is_optional) in entries {
            let value = match (is_optional, self.node(value)?) {
                (false, value) => value,
                (true, Value::Optional(Some(value))) => (*value).clone(),
                (true, Value::Optional(None)) => continue,
                (true, _) => return Err(EvalError::NoSuchOverload),
            };
            fields.insert(field.clone(), value);
        }
        Ok(Value::Map(Map::Message(Arc::new(Message { name: name.to_owned(), fields }))))
    }

    #[inline(never)]
    fn call(&mut self, function: &'static crate::functions::Function, args: &'a [Node]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.node(arg)?);
        }
        // What is costly by the size of what it is given is paid before it is done.
        let cost = function.cost.before(&values, self.limit.saturating_sub(self.spent));
        self.charge(cost)?;
        let result = (function.run)(&values)?;
        self.charge(function.cost.after(&result))?;
        Ok(result)
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Fold) -> Evaluated<'a> {
        let range = self.node(&fold.range)?;
        let init = self.node(&fold.init);
        self.locals[fold.accumulator] = init;
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let place = i64::try_from(index).unwrap_or(i64::MAX);
                    let (first, second) = match fold.second {
                        Some(_) => (Value::Int(place), Some(item)),
                        None => (item, None),
                    };
                    if !self.step(fold, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let second = match fold.second {
                        Some(_) => map.get(&key)?,
                        None => None,
                    };
                    if !self.step(fold, key.value(), second)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::NoSuchOverload),
        }
        self.node(&fold.result)
    }

    /// One item; whether to go on.
    fn step(
        &mut self,
        fold: &'a Fold,
        first: Value<'a>,
        second: Option<Value<'a>>,
    ) -> Result<bool, EvalError> {
        self.locals[fold.item] = Ok(first);
        if let (Some(slot), Some(second)) = (fold.second, second) {
            self.locals[slot] = Ok(second);
        }
        if !self.node(&fold.condition)?.is_true() {
            return Ok(false);
        }
        let next = self.node(&fold.step);
        if let Err(error) = &next
            && error.is_final()
        {
            return Err(error.clone());
        }
        self.locals[fold.accumulator] = next;
        Ok(true)
    }

    #[inline(never)]
    fn append(&mut self, slot: usize, item: &'a Node) -> Evaluated<'a> {
        self.charge(12)?;
        let item = self.node(item)?;
        match std::mem::replace(&mut self.locals[slot], Ok(Value::Null))? {
            Value::List(List::Owned(mut items)) => {
                Arc::make_mut(&mut items).push(item);
                Ok(Value::List(List::Owned(items)))
            }
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    #[inline(never)]
    fn insert(&mut self, slot: usize, key: &'a Node, value: Option<&'a Node>) -> Evaluated<'a> {
        self.charge(1)?;
        let key = self.node(key)?;
        let entries = match (value, &key) {
            (Some(value), key) => {
                let key = Key::of(key).ok_or(EvalError::NoSuchOverload)?;
                vec![(key, self.node(value)?)]
            }
            (None, Value::Map(map)) => map.entries()?,
            (None, _) => return Err(EvalError::NoSuchOverload),
        };
        let Value::Map(Map::Owned(mut map)) = std::mem::replace(&mut self.locals[slot], Ok(Value::Null))?
        else {
            return Err(EvalError::NoSuchOverload);
        };
        for (key, value) in entries {
            if map.contains_key(&key) {
                return Err(EvalError::Failed(format!("insert failed: key '{key}' already exists")));
            }
            Arc::make_mut(&mut map).insert(key, value);
        }
        Ok(Value::Map(Map::Owned(map)))
    }

    #[inline(never)]
    fn optional_map(&mut self, slot: usize, parts: &'a (Node, Node), flat: bool) -> Evaluated<'a> {
        let Value::Optional(target) = self.node(&parts.0)? else { return Err(EvalError::NoSuchOverload) };
        let Some(value) = target else { return Ok(Value::Optional(None)) };
        self.locals[slot] = Ok((*value).clone());
        let result = self.node(&parts.1)?;
        Ok(if flat { result } else { Value::optional(Some(result)) })
    }
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(it) => Value::Bool(*it),
        Literal::Int(it) => Value::Int(*it),
        Literal::Uint(it) => Value::Uint(*it),
        Literal::Double(it) => Value::Double(*it),
        Literal::String(it) => Value::String(Text::Borrowed(it)),
        Literal::Bytes(it) => Value::Bytes(Arc::clone(it)),
        Literal::Type(it) => Value::Type(it.clone()),
    }
}

pub(crate) fn select<'a>(operand: &Value<'a>, field: &str) -> Evaluated<'a> {
    match operand {
        Value::Map(map) => map.field(field)?.ok_or_else(|| EvalError::NoSuchKey(field.to_owned())),
        Value::Optional(_) => optional_select(operand, field),
        Value::Opaque(crate::value::Opaque::Authorizer(value)) => {
            crate::functions::authorizer_field(value, field).ok_or(EvalError::NoSuchOverload)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn has(operand: &Value<'_>, field: &str) -> Result<bool, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.field(field)?.is_some()),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(value)) => has(value, field),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn optional_select<'a>(operand: &Value<'a>, field: &str) -> Evaluated<'a> {
    match operand {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(value)) => optional_select(value, field),
        Value::Map(map) => map.field(field).map(Value::optional),
        _ => Err(EvalError::NoSuchOverload),
    }
}
