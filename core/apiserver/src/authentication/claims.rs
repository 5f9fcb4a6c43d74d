//! What the claims of a token say of its holder: by the names of claims, or by expressions (pure).

use std::sync::{Arc, LazyLock};

use keelson_cel::{Declaration, Environment, Value as Cel};
use serde_json::{Value, json};

use super::oidc::IssuerConfig;
use crate::expression::{Expression, user_info};
use crate::identity::{AUTHENTICATED, Identity};

/// The key under which it is told which token somebody has shown.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

static CLAIMS: LazyLock<Arc<Declaration>> = LazyLock::new(|| Declaration::map(Declaration::dynamic()));
static USER: LazyLock<Arc<Declaration>> = LazyLock::new(user_info);

/// The variables of expressions about claims: `claims`.
pub(super) fn claims_environment() -> Environment {
    Environment::new().variable("claims", Arc::clone(&CLAIMS))
}

/// The variables of expressions about a user: `user`.
pub(super) fn user_environment() -> Environment {
    Environment::new().variable("user", Arc::clone(&USER))
}

/// A claim that becomes part of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Which claim.
    pub claim: String,
    /// What is put before its values.
    pub prefix: String,
}

/// Where a part of an identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a claim.
    Claim(Mapping),
    /// From what an expression makes of all claims.
    Expression(Expression),
}

/// What must hold of claims or of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// True where it holds.
    pub expression: Expression,
    /// What is told where it does not.
    pub message: String,
}

impl Rule {
    fn check<'a>(&'a self, value: (&'static str, Cel<'a>)) -> Result<(), String> {
        match evaluate(&self.expression, value)? {
            Cel::Bool(true) => Ok(()),
            Cel::Bool(false) => {
                let source = self.expression.source();
                Err(format!("validation expression '{source}' failed: {}", self.message))
            }
            _ => Err("validation expression must return a boolean".to_owned()),
        }
    }
}

fn evaluate<'a>(expression: &'a Expression, value: (&'static str, Cel<'a>)) -> Result<Cel<'a>, String> {
    let failed = |error| format!("expression '{}' resulted in error: {error}", expression.source());
    expression.evaluate(&[value]).map_err(failed)
}

/// A claim's texts: one, or a list.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The texts that an expression gives. Empty ones are none.
fn texts_of(value: &Cel<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let all: Vec<String> = match value {
        Cel::Null => Vec::new(),
        Cel::String(text) => vec![text.as_str().to_owned()],
        Cel::List(list) => {
            let items = list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong));
            items.collect::<Result<_, String>>()?
        }
        _ => return Err(wrong()),
    };
    Ok(all.into_iter().filter(|text| !text.is_empty()).collect())
}

/// The claims of a token whose signature was verified.
struct Verified<'a>(&'a Value);

impl<'a> Verified<'a> {
    fn get(&self, claim: &str) -> Option<&'a Value> {
        self.0.get(claim)
    }

    fn variable<'v>(&self) -> (&'static str, Cel<'v>)
    where
        'a: 'v,
    {
        ("claims", Cel::from_json(self.0, &CLAIMS))
    }

    /// The text that an expression gives.
    fn text(&self, expression: &Expression, what: &str) -> Result<String, String> {
        let failed = |why: String| format!("oidc: error evaluating {what} claim expression: {why}");
        let value = evaluate(expression, self.variable()).map_err(failed)?;
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| failed(format!("{what} claim expression must return a string")))
    }

    fn username(&self, source: &Source) -> Result<String, String> {
        let Mapping { claim, prefix } = match source {
            Source::Claim(mapping) => mapping,
            Source::Expression(expression) => return self.text(expression, "username"),
        };
        let name = self.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("oidc: parse username claims {claim:?}: claim not present"))?;
        if claim == "email" && self.get("email_verified").is_some_and(|verified| verified != true) {
            return Err("oidc: email not verified".to_owned());
        }
        Ok(format!("{prefix}{name}"))
    }

    fn groups(&self, source: &Source) -> Result<Vec<String>, String> {
        let Mapping { claim, prefix } = match source {
            Source::Claim(mapping) => mapping,
            Source::Expression(expression) => {
                let failed = |why| format!("oidc: error evaluating group claim expression: {why}");
                return evaluate(expression, self.variable()).and_then(|it| texts_of(&it)).map_err(failed);
            }
        };
        let Some(value) = self.get(claim).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        let own = texts(value).ok_or_else(|| format!("oidc: parse groups claim {claim:?}"))?;
        Ok(own.into_iter().map(|group| format!("{prefix}{group}")).collect())
    }

    fn uid(&self, source: &Source) -> Result<String, String> {
        match source {
            Source::Claim(Mapping { claim, prefix }) => {
                let uid = self.get(claim).and_then(Value::as_str);
                let uid = uid.ok_or_else(|| format!("oidc: parse uid claim {claim:?}: claim not present"))?;
                Ok(format!("{prefix}{uid}"))
            }
            Source::Expression(expression) => self.text(expression, "uid"),
        }
    }

    fn extra(&self, config: &IssuerConfig, identity: &mut Identity) -> Result<(), String> {
        for (key, expression) in &config.extra {
            let failed = |why: String| {
                format!("oidc: error evaluating extra claim expression: {}: {why}", expression.source())
            };
            let values =
                evaluate(expression, self.variable()).and_then(|it| texts_of(&it)).map_err(failed)?;
            if !values.is_empty() {
                identity.extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = self.get("jti").and_then(Value::as_str) {
            identity.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        Ok(())
    }
}

/// Who the claims say that the holder is, an object of all of them.
pub(super) fn identity(config: &IssuerConfig, claims: &Value) -> Result<Identity, String> {
    let claims = Verified(claims);
    let mut identity = Identity { username: claims.username(&config.username)?, ..Identity::default() };
    if identity.username.is_empty() {
        return Err("oidc: the username is empty".to_owned());
    }
    if let Some(source) = &config.groups {
        identity.groups = claims.groups(source)?;
    }
    let uid = config.uid.as_ref().map(|source| claims.uid(source)).transpose()?;
    identity.uid = uid.filter(|uid| !uid.is_empty());
    claims.extra(config, &mut identity)?;
    for (claim, value) in &config.required {
        match claims.get(claim) {
            Some(Value::String(own)) if own == value => {}
            Some(_) => return Err(format!("oidc: required claim {claim} value does not match")),
            None => return Err(format!("oidc: required claim {claim} not present in ID token")),
        }
    }
    for rule in &config.claim_rules {
        let failed = |why| format!("oidc: error evaluating claim validation expression: {why}");
        rule.check(claims.variable()).map_err(failed)?;
    }
    if !config.user_rules.is_empty() {
        let uid = identity.uid.as_deref().unwrap_or_default();
        let user = json!({"username": identity.username, "uid": uid, "groups": identity.groups,
            "extra": identity.extra});
        for rule in &config.user_rules {
            let failed = |why| format!("oidc: error evaluating user info validation rule: {why}");
            rule.check(("user", Cel::from_json(&user, &USER))).map_err(failed)?;
        }
    }
    if !identity.is_in(AUTHENTICATED) {
        identity.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::super::oidc::ALGORITHMS;
    use super::*;

    fn claim(claim: &str, prefix: &str) -> Source {
        Source::Claim(Mapping { claim: claim.into(), prefix: prefix.into() })
    }

    fn expression(source: &str) -> Expression {
        Expression::compile(source, &claims_environment(), &[]).unwrap()
    }

    fn config() -> IssuerConfig {
        IssuerConfig {
            url: "https://issuer".into(),
            audiences: vec!["kube".into()],
            algorithms: ALGORITHMS.to_vec(),
            groups: Some(claim("roles", "oidc:")),
            uid: Some(claim("sub", "")),
            required: [("hd".to_owned(), "example.com".to_owned())].into(),
            ..IssuerConfig::named_by(claim("email", "oidc:"))
        }
    }

    fn who(claims: Value) -> Result<Identity, String> {
        identity(&config(), &claims)
    }

    #[test]
    fn claims_become_an_identity_with_prefixes() {
        let ann =
            who(json!({"email": "ann@x", "hd": "example.com", "roles": ["a", "b"], "sub": "7"})).unwrap();
        assert_eq!((ann.username.as_str(), ann.uid.as_deref()), ("oidc:ann@x", Some("7")));
        assert_eq!(ann.groups, ["oidc:a", "oidc:b", "system:authenticated"]);
        let one = who(json!({"email": "ann@x", "hd": "example.com", "roles": "a", "sub": "7"})).unwrap();
        assert!(one.is_in("oidc:a"));
    }

    #[test]
    fn claims_that_are_missing_or_wrong_are_refused() {
        for claims in [
            json!({"hd": "example.com", "sub": "7"}),
            json!({"email": "a", "hd": "other", "sub": "7"}),
            json!({"email": "a", "sub": "7"}),
            json!({"email": "a", "hd": "example.com"}),
            json!({"email": "a", "hd": "example.com", "sub": "7", "email_verified": false}),
            json!({"email": "a", "hd": "example.com", "sub": "7", "roles": [1]}),
            json!({"email": 1, "hd": "example.com", "sub": "7"}),
        ] {
            assert!(who(claims.clone()).is_err(), "{claims}");
        }
    }

    #[test]
    fn expressions_make_an_identity_and_say_what_must_hold() {
        let user = |source: &str| Expression::compile(source, &user_environment(), &[]).unwrap();
        let rule = |expression, message: &str| Rule { expression, message: message.to_owned() };
        let config = IssuerConfig {
            groups: Some(Source::Expression(expression("claims.roles.map(r, 'role:' + r) + ['']"))),
            uid: Some(Source::Expression(expression("string(claims.id)"))),
            extra: vec![
                ("x.io/tenant".into(), expression("claims.?tenant.orValue('')")),
                ("x.io/all".into(), expression("claims.roles")),
            ],
            claim_rules: vec![rule(expression("claims.exp - claims.nbf <= 60"), "lives too long")],
            user_rules: vec![rule(
                user("!user.username.startsWith('system:') && 'role:a' in user.groups"),
                "no",
            )],
            ..IssuerConfig::named_by(Source::Expression(expression("claims.name + '@x'")))
        };
        let claims = json!({"name": "ann", "roles": ["a", "b"], "id": 7, "exp": 100, "nbf": 50});
        let ann = identity(&config, &claims).unwrap();
        assert_eq!((ann.username.as_str(), ann.uid.as_deref()), ("ann@x", Some("7")));
        assert_eq!(ann.groups, ["role:a", "role:b", "system:authenticated"]);
        assert_eq!(ann.extra, [("x.io/all".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into());
        let refused = |field: &str, value: Value| {
            let mut claims = claims.clone();
            claims[field] = value;
            identity(&config, &claims).unwrap_err()
        };
        assert_eq!(
            refused("exp", json!(200)),
            "oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.nbf <= 60' failed: lives too long"
        );
        assert!(refused("name", json!("system:admin")).ends_with("in user.groups' failed: no"));
        assert!(refused("name", json!(1)).starts_with("oidc: error evaluating username claim expression: "));
        assert!(refused("roles", json!([1])).contains("group claim expression"));
    }
}
