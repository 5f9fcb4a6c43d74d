//! The file of kind AuthenticationConfiguration: issuers of tokens, and paths that need no credentials (pure).

use std::collections::BTreeMap;

use keelson_api::names;
use keelson_api::validation::FieldError;
use keelson_cel::{Environment, ExpressionError, Type, wanted};
use serde::Deserialize;

use super::OPEN;
use super::claims::{Mapping, Rule, Source, claims_environment, user_environment};
use super::oidc::{ALGORITHMS, IssuerConfig};
use crate::expression::Expression;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The issuers.
    pub issuers: Vec<IssuerConfig>,
    /// Paths that need no credentials; the usual ones if nothing is said of them.
    pub open: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Anonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: Issuer,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Issuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct UserRule {
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Extra {
    key: String,
    value_expression: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mappings {
    username: Prefixed,
    #[serde(default)]
    groups: Prefixed,
    #[serde(default)]
    uid: Prefixed,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

const BOTH: &str = "claim and expression can't both be set";

fn invalid(path: &str, value: &str, detail: &str) -> String {
    FieldError::invalid(path, value, detail).to_string()
}

/// Compiles an expression of the file.
fn compiled(
    path: &str,
    source: &str,
    environment: &Environment,
    types: &[Type],
) -> Result<Expression, String> {
    Expression::compile(source, environment, types).map_err(|error| {
        let why = match error {
            ExpressionError::Type { wanted: types, .. } => format!("must evaluate to {}", wanted(&types)),
            error @ ExpressionError::Compile(_) => error.to_string(),
        };
        invalid(path, source, &why)
    })
}

fn mapping(at: &str, field: Prefixed) -> Result<Option<Source>, String> {
    match (field.claim.is_empty(), field.expression.is_empty(), field.prefix) {
        (false, false, _) => Err(invalid(at, "", BOTH)),
        (true, false, Some(prefix)) => {
            Err(invalid(&format!("{at}.prefix"), &prefix, "may not be specified when expression is set"))
        }
        (true, false, None) => {
            let environment = claims_environment();
            let expression = compiled(&format!("{at}.expression"), &field.expression, &environment, &[])?;
            Ok(Some(Source::Expression(expression)))
        }
        (true, true, None) => Ok(None),
        (true, true, Some(_)) => {
            Err(format!("{at}.prefix: Invalid value: must not be set when claim is not"))
        }
        (false, true, None) => Err(format!(
            "{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
        )),
        (false, true, Some(prefix)) => Ok(Some(Source::Claim(Mapping { claim: field.claim, prefix }))),
    }
}

/// Claims that must have a value, and what else must hold of claims.
type ClaimRules = (BTreeMap<String, String>, Vec<Rule>);

fn claim_rules(at: &str, list: Vec<ClaimRule>) -> Result<ClaimRules, String> {
    let (mut required, mut rules): ClaimRules = Default::default();
    for (place, rule) in list.into_iter().enumerate() {
        let at = format!("{at}.claimValidationRules[{place}]");
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => return Err(invalid(&at, &rule.claim, BOTH)),
            (true, true) => return Err(format!("{at}: Required value: claim or expression is required")),
            (false, true) => {
                if !rule.message.is_empty() {
                    let detail = "may not be specified when claim is set";
                    return Err(invalid(&format!("{at}.message"), &rule.message, detail));
                }
                if required.insert(rule.claim.clone(), rule.required_value).is_some() {
                    return Err(format!("{at}.claim: Duplicate value: {:?}", rule.claim));
                }
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    let detail = "may not be specified when expression is set";
                    return Err(invalid(&format!("{at}.requiredValue"), &rule.required_value, detail));
                }
                let environment = claims_environment();
                add_rule(&mut rules, &at, &rule.expression, rule.message, &environment)?;
            }
        }
    }
    Ok((required, rules))
}

fn add_rule(
    rules: &mut Vec<Rule>,
    at: &str,
    source: &str,
    message: String,
    environment: &Environment,
) -> Result<(), String> {
    let path = format!("{at}.expression");
    if rules.iter().any(|rule| rule.expression.source() == source) {
        return Err(format!("{path}: Duplicate value: {source:?}"));
    }
    let expression = compiled(&path, source, environment, &[Type::Bool])?;
    rules.push(Rule { expression, message });
    Ok(())
}

fn user_rules(at: &str, list: Vec<UserRule>) -> Result<Vec<Rule>, String> {
    let (mut rules, environment) = (Vec::new(), user_environment());
    for (place, rule) in list.into_iter().enumerate() {
        let at = format!("{at}.userValidationRules[{place}]");
        if rule.expression.is_empty() {
            return Err(format!("{at}.expression: Required value"));
        }
        add_rule(&mut rules, &at, &rule.expression, rule.message, &environment)?;
    }
    Ok(rules)
}

fn extra(at: &str, list: Vec<Extra>) -> Result<Vec<(String, Expression)>, String> {
    let mut made: Vec<(String, Expression)> = Vec::new();
    for (place, Extra { key, value_expression }) in list.into_iter().enumerate() {
        let at = format!("{at}.extra[{place}]");
        let path = format!("{at}.key");
        let (domain, rest) = key.split_once('/').unwrap_or_default();
        if key.is_empty() {
            return Err(format!("{path}: Required value"));
        }
        if rest.is_empty() || !names::dns1123_subdomain(domain).is_empty() {
            return Err(invalid(&path, &key, "must be a domain-prefixed path (such as \"acme.io/foo\")"));
        }
        if key.chars().any(char::is_uppercase) {
            return Err(invalid(&path, &key, "must be lowercase"));
        }
        let is_below = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|it| it.ends_with('.'));
        if is_below("kubernetes.io") || is_below("k8s.io") {
            let detail = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            return Err(invalid(&path, &key, detail));
        }
        if made.iter().any(|(known, _)| *known == key) {
            return Err(format!("{path}: Duplicate value: {key:?}"));
        }
        let path = format!("{at}.valueExpression");
        if value_expression.is_empty() {
            return Err(format!("{path}: Required value"));
        }
        made.push((key, compiled(&path, &value_expression, &claims_environment(), &[])?));
    }
    Ok(made)
}

/// An address of mail counts as a name only where something looks at whether it is verified.
fn check_email(at: &str, config: &IssuerConfig) -> Result<(), String> {
    let Source::Expression(name) = &config.username else { return Ok(()) };
    let rules = config.claim_rules.iter().map(|rule| &rule.expression);
    let mut others = config.extra.iter().map(|(_, expression)| expression).chain(rules).chain([name]);
    if name.selects("claims", "email") && !others.any(|it| it.selects("claims", "email_verified")) {
        let detail = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        return Err(invalid(&format!("{at}.username.expression"), name.source(), detail));
    }
    Ok(())
}

fn issuer(at: &str, jwt: Jwt) -> Result<IssuerConfig, String> {
    let Jwt { issuer, claim_validation_rules, claim_mappings, user_validation_rules } = jwt;
    for (field, url) in [("url", Some(&issuer.url)), ("discoveryURL", issuer.discovery_url.as_ref())] {
        if url.is_some_and(|url| !url.starts_with("https://")) {
            return Err(format!(
                "{at}.issuer.{field}: Invalid value: {:?}: URL scheme must be https",
                url.map_or("", |url| url)
            ));
        }
    }
    if issuer
        .discovery_url
        .as_deref()
        .is_some_and(|url| url.trim_end_matches('/') == issuer.url.trim_end_matches('/'))
    {
        return Err(format!(
            "{at}.issuer.discoveryURL: Invalid value: discoveryURL must be different from URL"
        ));
    }
    match (issuer.audiences.len(), issuer.audience_match_policy.as_str()) {
        (0, _) => {
            return Err(format!(
                "{at}.issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required"
            ));
        }
        (1, "" | "MatchAny") | (2.., "MatchAny") => {}
        (_, other) => {
            return Err(format!(
                "{at}.issuer.audienceMatchPolicy: Invalid value: {other:?}: audienceMatchPolicy must be MatchAny for multiple audiences"
            ));
        }
    }
    if !issuer.egress_selector_type.is_empty() {
        return Err(format!(
            "{at}.issuer.egressSelectorType: Forbidden: this server has no egress selectors"
        ));
    }
    let (required, claim_rules) = claim_rules(at, claim_validation_rules)?;
    let mappings = format!("{at}.claimMappings");
    let username = mapping(&format!("{mappings}.username"), claim_mappings.username)?;
    let username = username
        .ok_or_else(|| format!("{mappings}.username: Required value: claim or expression is required"))?;
    let mut uid = claim_mappings.uid;
    if let Some(prefix) = &uid.prefix {
        return Err(invalid(&format!("{mappings}.uid.prefix"), prefix, "a UID has no prefix"));
    }
    uid.prefix = Some(String::new()).filter(|_| !uid.claim.is_empty());
    let config = IssuerConfig {
        url: issuer.url,
        discovery_url: issuer.discovery_url,
        ca_bundle: issuer.certificate_authority.filter(|pem| !pem.is_empty()),
        audiences: issuer.audiences,
        algorithms: ALGORITHMS.to_vec(),
        username,
        groups: mapping(&format!("{mappings}.groups"), claim_mappings.groups)?,
        uid: mapping(&format!("{mappings}.uid"), uid)?,
        extra: extra(&mappings, claim_mappings.extra)?,
        required,
        claim_rules,
        user_rules: user_rules(at, user_validation_rules)?,
    };
    check_email(&mappings, &config)?;
    Ok(config)
}

/// Reads a file. `own` are the issuers of service-account tokens, which belong to this server alone.
pub fn parse(text: &str, own: &[String]) -> Result<Configuration, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
    if !versions.contains(&file.api_version.as_str()) || file.kind != "AuthenticationConfiguration" {
        return Err("it is no AuthenticationConfiguration of apiserver.config.k8s.io/v1".to_owned());
    }
    let mut issuers: Vec<IssuerConfig> = Vec::new();
    for (place, jwt) in file.jwt.into_iter().enumerate() {
        let at = format!("jwt[{place}]");
        let made = issuer(&at, jwt)?;
        if own.contains(&made.url) {
            return Err(format!(
                "{at}.issuer.url: Invalid value: {:?}: URL must not overlap with disallowed issuers",
                made.url
            ));
        }
        if issuers.iter().any(|other| other.url == made.url) {
            return Err(format!("{at}.issuer.url: Duplicate value: {:?}", made.url));
        }
        issuers.push(made);
    }
    let open = match file.anonymous {
        None => None,
        Some(Anonymous { enabled: false, conditions }) if conditions.is_empty() => Some(Vec::new()),
        Some(Anonymous { enabled: false, .. }) => {
            return Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".to_owned());
        }
        Some(Anonymous { conditions, .. }) if conditions.is_empty() => {
            return Err(format!(
                "anonymous.conditions: Required value: this server lets nobody in without credentials but to paths that are listed, such as {OPEN:?}"
            ));
        }
        Some(Anonymous { conditions, .. }) => Some(conditions.into_iter().map(|it| it.path).collect()),
    };
    Ok(Configuration { issuers, open })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rest: &str) -> Result<Configuration, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n";
        parse(&format!("{head}{rest}"), &["https://own".to_owned()])
    }

    const GOOD: &str = "jwt:\n- issuer: {url: https://a, audiences: [kube]}\n  claimValidationRules: [{claim: hd, requiredValue: x}]\n  claimMappings: {username: {claim: sub, prefix: 'a:'}, groups: {claim: roles, prefix: ''}, uid: {claim: id}}\n";

    #[test]
    fn an_issuer_has_its_claims_and_rules() {
        let read = file(GOOD).unwrap();
        let issuer = &read.issuers[0];
        let claim =
            |claim: &str, prefix: &str| Source::Claim(Mapping { claim: claim.into(), prefix: prefix.into() });
        assert_eq!(issuer.username, claim("sub", "a:"));
        assert_eq!((issuer.required["hd"].as_str(), issuer.uid.clone()), ("x", Some(claim("id", ""))));
        assert_eq!(read.open, None);
    }

    #[test]
    fn nobody_comes_without_credentials_but_to_listed_paths() {
        assert!(file("anonymous: {enabled: true}").unwrap_err().contains("lets nobody in"));
        assert_eq!(file("anonymous: {enabled: false}").unwrap().open, Some(vec![]));
        let listed = file("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap();
        assert_eq!(listed.open, Some(vec!["/livez".to_owned()]));
    }

    #[test]
    fn what_is_wrong_or_cannot_be_done_is_refused() {
        let refused = |from: &str, to: &str| file(&GOOD.replace(from, to)).unwrap_err();
        assert!(refused("https://a", "http://a").contains("scheme must be https"));
        assert!(refused("https://a", "https://own").contains("disallowed"));
        assert!(refused("[kube]", "[]").contains("audiences: Required"));
        assert!(refused("[kube]", "[kube, other]").contains("audienceMatchPolicy"));
        assert!(refused("{claim: sub, prefix: 'a:'}", "{claim: sub}").contains("prefix: Required"));
        assert!(refused("requiredValue", "wanted").contains("wanted"));
    }

    #[test]
    fn expressions_are_compiled_when_the_file_is_read() {
        let name = |expression: &str| format!("{{expression: \"{expression}\"}}");
        let of = |rest: &str, expression: &str| {
            let text = GOOD.replace("{claim: sub, prefix: 'a:'}", &name(expression));
            file(&format!("{text}{rest}")).map(|read| read.issuers[0].clone())
        };
        let made =
            of("  userValidationRules: [{expression: \"user.username != 'a'\"}]\n", "claims.sub").unwrap();
        assert!(matches!(made.username, Source::Expression(_)) && made.user_rules.len() == 1);
        let fault = of("", "claims.sub +").unwrap_err();
        assert!(
            fault.starts_with("jwt[0].claimMappings.username.expression: Invalid value: \"claims.sub +\": compilation failed: ERROR: <input>:1:"),
            "{fault}"
        );
        assert!(of("", "user.name").unwrap_err().contains("undeclared reference to 'user'"));
        assert_eq!(
            of("  userValidationRules: [{expression: user.username}]\n", "claims.sub").unwrap_err(),
            "jwt[0].userValidationRules[0].expression: Invalid value: \"user.username\": must evaluate to bool"
        );
        let fault =
            of("  userValidationRules: [{expression: user.name == 'a'}]\n", "claims.sub").unwrap_err();
        assert!(fault.contains("undefined field 'name'"), "{fault}");
    }

    #[test]
    fn an_address_of_mail_is_a_name_only_where_it_is_verified() {
        let name = |expression: &str| {
            file(&GOOD.replace("{claim: sub, prefix: 'a:'}", &format!("{{expression: \"{expression}\"}}")))
        };
        let fault = name("claims.email").unwrap_err();
        assert!(fault.contains("claims.email_verified must be used"), "{fault}");
        name("claims.email_verified ? claims.email : 'nobody'").unwrap();
        name("claims.?email_verified.orValue(true) ? claims.?email.orValue('a') : 'b'").unwrap();
        let text = GOOD.replace("{claim: sub, prefix: 'a:'}", "{expression: claims.email}");
        file(&text.replace("{claim: hd, requiredValue: x}", "{expression: claims.email_verified == true}"))
            .unwrap();
    }

    #[test]
    fn keys_of_what_else_is_told_belong_to_somebody_elses_domain() {
        let key = |key: &str| {
            let extra = format!("uid: {{claim: id}}, extra: [{{key: {key}, valueExpression: claims.a}}]");
            file(&GOOD.replace("uid: {claim: id}", &extra))
        };
        key("example.com/tenant").unwrap();
        for (name, why) in [
            ("tenant", "domain-prefixed path"),
            ("Example.com/tenant", "domain-prefixed path"),
            ("example.com/Tenant", "must be lowercase"),
            ("x.k8s.io/tenant", "reserved"),
            ("kubernetes.io/tenant", "reserved"),
        ] {
            let fault = key(name).unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
    }
}
