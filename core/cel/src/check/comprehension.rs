//! Macros: what the parser expands of one variable, and those of two variables, of bindings and of optional values.

use std::sync::Arc;

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr};

use super::{Checked, Checker, Faulty, node};
use crate::node::{Fold, Kind, Literal, Node};
use crate::types::Type;

fn truth(value: bool) -> Node {
    node(Kind::Literal(Literal::Bool(value)), Type::Bool)
}

fn local(slot: usize, ty: &Type) -> Node {
    node(Kind::Local(slot), ty.clone())
}

fn call(name: &str, args: Vec<Node>, ty: Type) -> Result<Node, Faulty> {
    let function = crate::functions::find(name, false).ok_or(Faulty)?;
    Ok(node(Kind::Call(function, args), ty))
}

fn is_quantifier(name: &str) -> bool {
    matches!(name, "all" | "exists" | "existsOne" | "exists_one")
}

/// What a macro begins with, how long it goes on, what it does with each item, and what it gives.
struct Steps {
    init: Node,
    condition: Node,
    step: Node,
    result: Node,
}

impl Checker<'_> {
    /// The types of the first and second variable of a macro over a range.
    fn range_types(&mut self, id: u64, range: &Type, two: bool) -> Result<(Type, Type), Faulty> {
        let range = self.bound.resolve(range, false);
        Ok(match &range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Dyn),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Param(_) => (Type::Dyn, Type::Dyn),
            other => {
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(self.fault(id, text));
            }
        })
    }

    pub(super) fn comprehension(&mut self, it: &ComprehensionExpr) -> Checked {
        let range = self.expression(&it.iter_range)?;
        let (first, second) = self.range_types(it.iter_range.id, &range.ty, it.iter_var2.is_some())?;
        let init = self.expression(&it.accu_init)?;
        let depth = self.locals.len();
        let accumulator = self.declare(&it.accu_var, init.ty.clone());
        let item = self.declare(&it.iter_var, first);
        let second = it.iter_var2.as_ref().map(|name| self.declare(name, second));
        let parts =
            (self.expression(&it.loop_cond), self.expression(&it.loop_step), self.expression(&it.result));
        self.locals.truncate(depth);
        let (condition, step, result) = (parts.0?, parts.1?, parts.2?);
        if !self.bound.assign(&init.ty, &step.ty) {
            let (wanted, found) = (self.bound.resolve(&init.ty, true), self.bound.resolve(&step.ty, true));
            let text = format!("expected type '{wanted}' but found '{found}'");
            return Err(self.fault(it.loop_step.id, text));
        }
        let ty = result.ty.clone();
        let fold = Fold { range, item, second, accumulator, init, condition, step, result };
        Ok(node(Kind::Fold(Box::new(fold)), ty))
    }

    pub(super) fn macro_call(
        &mut self,
        id: u64,
        target: &IdedExpr,
        name: &str,
        args: &[IdedExpr],
    ) -> Option<Checked> {
        let is_namespace = matches!(&target.expr, Expr::Ident(name) if name == "cel");
        let is_transform = matches!(name, "transformList" | "transformMap" | "transformMapEntry");
        Some(match (name, args) {
            ("bind", [var, value, body]) if is_namespace => self.bind(var, value, body),
            (name, [first, second, body]) if is_transform || is_quantifier(name) => {
                self.two_variables(id, target, name, (first, second), None, body)
            }
            (name, [first, second, filter, body]) if is_transform => {
                self.two_variables(id, target, name, (first, second), Some(filter), body)
            }
            ("optMap", [var, body]) => self.optional_map(target, var, body, false),
            ("optFlatMap", [var, body]) => self.optional_map(target, var, body, true),
            _ => return None,
        })
    }

    fn name<'e>(&mut self, expression: &'e IdedExpr) -> Result<&'e str, Faulty> {
        match &expression.expr {
            Expr::Ident(name) => Ok(name),
            _ => Err(self.fault(expression.id, "argument must be a simple name")),
        }
    }

    fn bind(&mut self, var: &IdedExpr, value: &IdedExpr, body: &IdedExpr) -> Checked {
        let name = self.name(var)?;
        let value = self.expression(value)?;
        let slot = self.declare(name, value.ty.clone());
        let body = self.expression(body);
        self.locals.truncate(slot);
        let body = body?;
        let ty = body.ty.clone();
        Ok(node(Kind::Bind(slot, Box::new((value, body))), ty))
    }

    fn optional_map(&mut self, target: &IdedExpr, var: &IdedExpr, body: &IdedExpr, flat: bool) -> Checked {
        let name = self.name(var)?;
        let target_id = target.id;
        let target = self.expression(target)?;
        let inner = self.unwrapped(target_id, &target.ty, true)?;
        let slot = self.declare(name, inner);
        let body = self.expression(body);
        self.locals.truncate(slot);
        let body = body?;
        let ty = if flat { body.ty.clone() } else { Type::optional(body.ty.clone()) };
        Ok(node(Kind::OptionalMap { slot, parts: Box::new((target, body)), flat }, ty))
    }

    fn two_variables(
        &mut self,
        id: u64,
        target: &IdedExpr,
        name: &str,
        vars: (&IdedExpr, &IdedExpr),
        filter: Option<&IdedExpr>,
        body: &IdedExpr,
    ) -> Checked {
        let range_id = target.id;
        let range = self.expression(target)?;
        let (first, second) = self.range_types(range_id, &range.ty, true)?;
        let names = (self.name(vars.0)?.to_owned(), self.name(vars.1)?.to_owned());
        if names.0 == names.1 {
            return Err(self.fault(vars.1.id, "duplicate variable name"));
        }
        let depth = self.locals.len();
        let key = first.clone();
        let accumulator = self.declare("@accu", Type::Dyn);
        let item = self.declare(&names.0, first);
        let second = self.declare(&names.1, second);
        let parts = (filter.map(|filter| self.expression(filter)).transpose(), self.expression(body));
        self.locals.truncate(depth);
        let (filter, body) = (parts.0?, parts.1?);
        let conditions = filter.iter().chain(is_quantifier(name).then_some(&body));
        for ty in conditions.map(|condition| condition.ty.clone()).collect::<Vec<Type>>() {
            if !self.bound.assign(&Type::Bool, &ty) {
                let found = self.bound.resolve(&ty, true);
                return Err(self.fault(id, format!("expected type 'bool' but found '{found}'")));
            }
        }
        let Steps { init, condition, step, result } = match is_quantifier(name) {
            true => quantifier(name, accumulator, body)?,
            false => self.transform(name, accumulator, &key, body),
        };
        let step = match filter {
            Some(filter) => {
                let kept = local(accumulator, &init.ty);
                let ty = step.ty.clone();
                node(Kind::Conditional(Box::new((filter, step, kept))), ty)
            }
            None => step,
        };
        let ty = result.ty.clone();
        let fold = Fold { range, item, second: Some(second), accumulator, init, condition, step, result };
        Ok(node(Kind::Fold(Box::new(fold)), ty))
    }

    fn transform(&self, name: &str, accumulator: usize, key: &Type, body: Node) -> Steps {
        let (init, step, ty) = if name == "transformList" {
            let ty = Type::list(body.ty.clone());
            (Kind::List(Vec::new()), Kind::Append(accumulator, Box::new(body)), ty)
        } else if name == "transformMapEntry" {
            let ty = match self.bound.resolve(&body.ty, false) {
                map @ Type::Map(_) => map,
                _ => Type::map(Type::Dyn, Type::Dyn),
            };
            (Kind::Map(Vec::new()), Kind::Insert(accumulator, Box::new(body), None), ty)
        } else {
            let ty = Type::Map(Arc::new((key.clone(), body.ty.clone())));
            let entry = Box::new(local(accumulator + 1, key));
            (Kind::Map(Vec::new()), Kind::Insert(accumulator, entry, Some(Box::new(body))), ty)
        };
        Steps {
            init: node(init, ty.clone()),
            condition: truth(true),
            step: node(step, ty.clone()),
            result: local(accumulator, &ty),
        }
    }
}

fn quantifier(name: &str, accumulator: usize, body: Node) -> Result<Steps, Faulty> {
    let found = |ty: &Type| local(accumulator, ty);
    let not_false = |inner: Node| node(Kind::NotFalse(Box::new(inner)), Type::Bool);
    Ok(match name {
        "all" => Steps {
            init: truth(true),
            condition: not_false(found(&Type::Bool)),
            step: node(Kind::And(Box::new(found(&Type::Bool)), Box::new(body)), Type::Bool),
            result: found(&Type::Bool),
        },
        "exists" => Steps {
            init: truth(false),
            condition: not_false(call("!_", vec![found(&Type::Bool)], Type::Bool)?),
            step: node(Kind::Or(Box::new(found(&Type::Bool)), Box::new(body)), Type::Bool),
            result: found(&Type::Bool),
        },
        _ => {
            let number = |it| node(Kind::Literal(Literal::Int(it)), Type::Int);
            let more = call("_+_", vec![found(&Type::Int), number(1)], Type::Int)?;
            let step = Kind::Conditional(Box::new((body, more, found(&Type::Int))));
            Steps {
                init: number(0),
                condition: truth(true),
                step: node(step, Type::Int),
                result: call("_==_", vec![found(&Type::Int), number(1)], Type::Bool)?,
            }
        }
    })
}
