//! Calls: operators, functions, and the macros that the parser leaves alone.

use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Checked, Checker, Faulty, NOT_FALSE, node, qualified_name};
use crate::functions::{self, Function};
use crate::node::{Kind, Literal, Node};
use crate::types::{Bound, Type};

impl Checker<'_> {
    pub(super) fn call(&mut self, id: u64, call: &CallExpr) -> Checked {
        if let Some(checked) = self.special(id, call) {
            return checked;
        }
        let Some(target) = &call.target else {
            let args = self.arguments(&call.args)?;
            let name = call.func_name.trim_start_matches('.');
            return self.apply(id, name, functions::find(name, false), args);
        };
        // A function may have dots in its name.
        if let Some(prefix) = qualified_name(target) {
            let root = prefix.split('.').next().unwrap_or_default();
            let is_variable =
                self.locals.iter().any(|local| local.name == root) || self.environment.find(root).is_some();
            let name = format!("{prefix}.{}", call.func_name);
            let is_hidden = prefix == "jsonpatch" && !self.environment.has_messages();
            if let (Some(function), false) = (functions::find(&name, false), is_variable || is_hidden) {
                let args = self.arguments(&call.args)?;
                return self.apply(id, &name, Some(function), args);
            }
        }
        let target = self.expression(target)?;
        let mut args = vec![target];
        self.is_mixed = call.func_name == "format"
            && matches!(call.args.as_slice(), [IdedExpr { expr: Expr::List(_), .. }]);
        args.extend(self.arguments(&call.args)?);
        self.apply(id, &call.func_name, functions::find(&call.func_name, true), args)
    }

    fn arguments(&mut self, args: &[IdedExpr]) -> Result<Vec<Node>, Faulty> {
        // All arguments are looked at, so that all their faults are told.
        let checked: Vec<Checked> = args.iter().map(|arg| self.expression(arg)).collect();
        checked.into_iter().collect()
    }

    /// Operators that do not evaluate all that they are given, and macros.
    fn special(&mut self, id: u64, call: &CallExpr) -> Option<Checked> {
        let args = call.args.as_slice();
        if let Some(target) = &call.target {
            return self.macro_call(id, target, &call.func_name, args);
        }
        Some(match (call.func_name.as_str(), args) {
            (name @ (operators::LOGICAL_AND | operators::LOGICAL_OR), [left, right]) => {
                self.logical(id, name, left, right)
            }
            (NOT_FALSE, [arg]) => {
                self.expression(arg).map(|arg| node(Kind::NotFalse(Box::new(arg)), Type::Bool))
            }
            (operators::CONDITIONAL, [condition, yes, no]) => self.conditional(id, condition, yes, no),
            (operators::OPT_SELECT, [operand, field]) => self.optional_select(id, operand, field),
            (operators::ADD, [left, right]) => return self.append(left, right),
            _ => return None,
        })
    }

    fn logical(&mut self, id: u64, name: &str, left: &IdedExpr, right: &IdedExpr) -> Checked {
        let (left, right) = (self.expression(left), self.expression(right));
        let (left, right) = (left?, right?);
        if !(self.bound.assign(&Type::Bool, &left.ty) && self.bound.assign(&Type::Bool, &right.ty)) {
            return Err(self.no_overload(id, name, false, &[left, right]));
        }
        let (left, right) = (Box::new(left), Box::new(right));
        Ok(match name == operators::LOGICAL_AND {
            true => node(Kind::And(left, right), Type::Bool),
            false => node(Kind::Or(left, right), Type::Bool),
        })
    }

    fn conditional(&mut self, id: u64, condition: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Checked {
        let parts = (self.expression(condition), self.expression(yes), self.expression(no));
        let (condition, yes, no) = (parts.0?, parts.1?, parts.2?);
        if !(self.bound.assign(&Type::Bool, &condition.ty) && self.bound.assign(&yes.ty, &no.ty)) {
            return Err(self.no_overload(id, operators::CONDITIONAL, false, &[condition, yes, no]));
        }
        let is_dyn = [&yes, &no].iter().any(|it| self.bound.resolve(&it.ty, false) == Type::Dyn);
        let ty = match self.bound.resolve(&yes.ty, false) {
            _ if is_dyn => Type::Dyn,
            Type::Null => no.ty.clone(),
            _ => yes.ty.clone(),
        };
        Ok(node(Kind::Conditional(Box::new((condition, yes, no))), ty))
    }

    fn optional_select(&mut self, id: u64, operand: &IdedExpr, field: &IdedExpr) -> Checked {
        let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
            return Err(self.fault(id, "unsupported optional field selection"));
        };
        let field = field.inner().to_owned();
        let operand = self.expression(operand)?;
        let ty = match self.field_type(id, &operand.ty, &field)? {
            ty @ Type::Optional(_) => ty,
            ty => Type::optional(ty),
        };
        Ok(node(Kind::OptionalSelect(Box::new(operand), field), ty))
    }

    /// The step of a macro that gathers items; they are added in place.
    fn append(&mut self, left: &IdedExpr, right: &IdedExpr) -> Option<Checked> {
        let (Expr::Ident(name), Expr::List(list)) = (&left.expr, &right.expr) else { return None };
        let [item] = list.elements.as_slice() else { return None };
        let (slot, list_type) = match self.locals.iter().rev().find(|local| local.name == *name) {
            Some(local) if name.starts_with('@') => (local.slot, local.ty.clone()),
            _ => return None,
        };
        let Type::List(wanted) = self.bound.resolve(&list_type, false) else { return None };
        let item = match self.expression(item) {
            Ok(item) => item,
            Err(faulty) => return Some(Err(faulty)),
        };
        self.bound.assign(&wanted, &item.ty);
        Some(Ok(node(Kind::Append(slot, Box::new(item)), list_type)))
    }

    /// A fault that shows the types of the arguments.
    fn no_overload(&mut self, id: u64, name: &str, is_member: bool, args: &[Node]) -> Faulty {
        let shown: Vec<String> =
            args.iter().map(|arg| self.bound.resolve(&arg.ty, true).to_string()).collect();
        let shown = match (is_member, shown.split_first()) {
            (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.fault(id, format!("found no matching overload for '{name}' applied to '{shown}'"))
    }

    fn apply(
        &mut self,
        id: u64,
        name: &str,
        function: Option<&'static Function>,
        args: Vec<Node>,
    ) -> Checked {
        let Some(function) = function else {
            // A function of that name that is called in the other way is known, but does not fit.
            let is_member = functions::find(name, false).is_some();
            if is_member || functions::find(name, true).is_some() {
                return Err(self.no_overload(id, name, is_member, &args));
            }
            return Err(self.fault(id, format!("undeclared reference to '{name}' (in container '')")));
        };
        let mut result: Option<(Type, Bound)> = None;
        let mut is_ambiguous = false;
        for overload in function.overloads.iter().filter(|overload| overload.params.len() == args.len()) {
            let mut bound = self.bound.clone();
            let base = bound.reserve(overload.variables);
            let mut pairs = overload.params.iter().zip(&args);
            if !pairs.all(|(param, arg)| bound.assign(&Bound::instance(param, base), &arg.ty)) {
                continue;
            }
            let ty = Bound::instance(&overload.result, base);
            match &result {
                None => result = Some((ty, bound)),
                // Several fit: what it gives shows at run time.
                Some((known, first)) => {
                    is_ambiguous |= first.resolve(known, true) != bound.resolve(&ty, true);
                }
            }
        }
        let Some((ty, bound)) = result else {
            return Err(self.no_overload(id, name, function.is_member, &args));
        };
        if !is_ambiguous {
            self.bound = bound;
        }
        self.literals(id, name, &args)?;
        Ok(node(Kind::Call(function, args), if is_ambiguous { Type::Dyn } else { ty }))
    }

    /// Constants that a function could never read are faults of the expression.
    fn literals(&mut self, id: u64, name: &str, args: &[Node]) -> Result<(), Faulty> {
        let text = |at: usize| match args.get(at).map(|arg| &arg.kind) {
            Some(Kind::Literal(Literal::String(text))) => Some(Arc::clone(text)),
            _ => None,
        };
        let is_faulty = match name {
            "duration" => text(0).is_some_and(|text| keelson_api::duration::parse(&text).is_none()),
            "timestamp" => text(0).is_some_and(|text| crate::value::parse_timestamp(&text).is_none()),
            "matches" => text(1).is_some_and(|text| functions::regex(&text).is_err()),
            _ => false,
        };
        if is_faulty {
            return Err(self.fault(id, format!("invalid {name} argument")));
        }
        Ok(())
    }
}
