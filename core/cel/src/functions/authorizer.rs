//! What expressions ask the authorizer.

use std::sync::Arc;

use super::{Arguments, Outcome};
use crate::authorizer::{AuthorizerValue, Check, Decision};
use crate::error::EvalError;
use crate::value::{Opaque, Value};

/// `authorizer.requestResource`.
pub(crate) fn field<'a>(value: &AuthorizerValue<'a>, name: &str) -> Option<Value<'a>> {
    match (value, name) {
        (AuthorizerValue::Authorizer(authorizer, check), "requestResource") => {
            let resource = authorizer.request_resource();
            let check = Check { service_account: check.service_account.clone(), ..resource };
            Some(wrap(AuthorizerValue::Resource(*authorizer, Arc::new(check))))
        }
        _ => None,
    }
}

fn wrap(value: AuthorizerValue<'_>) -> Value<'_> {
    Value::Opaque(Opaque::Authorizer(value))
}

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)
}

fn of<'a, 'v>(args: Arguments<'a, 'v>) -> Result<&'v AuthorizerValue<'a>, EvalError> {
    match args.first() {
        Some(Value::Opaque(Opaque::Authorizer(value))) => Ok(value),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn path<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let AuthorizerValue::Authorizer(authorizer, check) = of(args)? else {
        return Err(EvalError::NoSuchOverload);
    };
    let path = text(args, 1)?;
    if path.is_empty() {
        return Err(EvalError::Failed("path must not be empty".to_owned()));
    }
    let check = Check { path: Some(path.to_owned()), ..Check::clone(check) };
    Ok(wrap(AuthorizerValue::Path(*authorizer, Arc::new(check))))
}

pub(super) fn group<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let AuthorizerValue::Authorizer(authorizer, check) = of(args)? else {
        return Err(EvalError::NoSuchOverload);
    };
    let check = Check { group: text(args, 1)?.to_owned(), ..Check::clone(check) };
    Ok(wrap(AuthorizerValue::Group(*authorizer, Arc::new(check))))
}

pub(super) fn service_account<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let AuthorizerValue::Authorizer(authorizer, check) = of(args)? else {
        return Err(EvalError::NoSuchOverload);
    };
    let (namespace, name) = (text(args, 1)?, text(args, 2)?);
    if !keelson_api::names::dns1123_subdomain(name).is_empty() {
        return Err(EvalError::Failed(format!("Invalid service account name {name:?}")));
    }
    if !keelson_api::names::dns1123_label(namespace).is_empty() {
        return Err(EvalError::Failed(format!("Invalid service account namespace {namespace:?}")));
    }
    let account = Some((namespace.to_owned(), name.to_owned()));
    let check = Check { service_account: account, ..Check::clone(check) };
    Ok(wrap(AuthorizerValue::Authorizer(*authorizer, Arc::new(check))))
}

pub(super) fn resource<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let AuthorizerValue::Group(authorizer, check) = of(args)? else { return Err(EvalError::NoSuchOverload) };
    let check = Check { resource: text(args, 1)?.to_owned(), ..Check::clone(check) };
    Ok(wrap(AuthorizerValue::Resource(*authorizer, Arc::new(check))))
}

fn with<'a>(args: Arguments<'a, '_>, set: fn(&mut Check, String)) -> Outcome<'a> {
    let AuthorizerValue::Resource(authorizer, check) = of(args)? else {
        return Err(EvalError::NoSuchOverload);
    };
    let mut check = Check::clone(check);
    set(&mut check, text(args, 1)?.to_owned());
    Ok(wrap(AuthorizerValue::Resource(*authorizer, Arc::new(check))))
}

pub(super) fn subresource<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    with(args, |check, value| check.subresource = value)
}

pub(super) fn namespace<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    with(args, |check, value| check.namespace = value)
}

pub(super) fn name<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    with(args, |check, value| check.name = value)
}

pub(super) fn field_selector<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    with(args, |check, value| check.field_selector = Some(value))
}

pub(super) fn label_selector<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    with(args, |check, value| check.label_selector = Some(value))
}

pub(super) fn check<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let (AuthorizerValue::Path(authorizer, check) | AuthorizerValue::Resource(authorizer, check)) = of(args)?
    else {
        return Err(EvalError::NoSuchOverload);
    };
    let check = Check { verb: text(args, 1)?.to_owned(), ..Check::clone(check) };
    match authorizer.decide(&check) {
        Some(decision) => Ok(wrap(AuthorizerValue::Decision(Arc::new(decision)))),
        None => Err(EvalError::Undecided(Box::new(check))),
    }
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision, EvalError> {
    match args.first() {
        Some(Value::Opaque(Opaque::Authorizer(AuthorizerValue::Decision(decision)))) => Ok(decision),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn allowed<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    decision(args).map(|it| Value::Bool(it.allowed))
}

pub(super) fn reason<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    decision(args).map(|it| Value::text(it.reason.as_str()))
}

pub(super) fn errored<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    decision(args).map(|it| Value::Bool(it.error.is_some()))
}

pub(super) fn error<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    decision(args).map(|it| Value::text(it.error.as_deref().unwrap_or_default()))
}
