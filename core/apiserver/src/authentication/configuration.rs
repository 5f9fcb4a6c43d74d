//! The file of kind AuthenticationConfiguration: issuers of tokens, and paths that need no credentials (pure).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::OPEN;
use super::oidc::{ALGORITHMS, IssuerConfig, Mapping};

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
    claim_validation_rules: Vec<Rule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<Value>,
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
struct Rule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
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
    extra: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

const LATER: &str = "Forbidden: expressions are not supported by this server yet";

fn mapping(at: &str, field: Prefixed) -> Result<Option<Mapping>, String> {
    if !field.expression.is_empty() {
        return Err(format!("{at}.expression: {LATER}"));
    }
    match (field.claim.is_empty(), field.prefix) {
        (true, None) => Ok(None),
        (true, Some(_)) => Err(format!("{at}.prefix: Invalid value: must not be set when claim is not")),
        (false, None) => Err(format!(
            "{at}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
        )),
        (false, Some(prefix)) => Ok(Some(Mapping { claim: field.claim, prefix })),
    }
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
    let mut required = BTreeMap::new();
    for (place, rule) in claim_validation_rules.into_iter().enumerate() {
        let at = format!("{at}.claimValidationRules[{place}]");
        if !rule.expression.is_empty() || !rule.message.is_empty() {
            return Err(format!("{at}.expression: {LATER}"));
        }
        if rule.claim.is_empty() {
            return Err(format!("{at}: Required value: claim or expression is required"));
        }
        if required.insert(rule.claim.clone(), rule.required_value).is_some() {
            return Err(format!("{at}.claim: Duplicate value: {:?}", rule.claim));
        }
    }
    if !user_validation_rules.is_empty() {
        return Err(format!("{at}.userValidationRules: {LATER}"));
    }
    if !claim_mappings.extra.is_empty() {
        return Err(format!("{at}.claimMappings.extra: {LATER}"));
    }
    if !claim_mappings.uid.expression.is_empty() || claim_mappings.uid.prefix.is_some() {
        return Err(format!("{at}.claimMappings.uid: {LATER}"));
    }
    let username = mapping(&format!("{at}.claimMappings.username"), claim_mappings.username)?;
    let uid = Some(claim_mappings.uid.claim).filter(|claim| !claim.is_empty());
    Ok(IssuerConfig {
        url: issuer.url,
        discovery_url: issuer.discovery_url,
        ca_bundle: issuer.certificate_authority.filter(|pem| !pem.is_empty()),
        audiences: issuer.audiences,
        algorithms: ALGORITHMS.to_vec(),
        username: username.ok_or_else(|| {
            format!("{at}.claimMappings.username: Required value: claim or expression is required")
        })?,
        groups: mapping(&format!("{at}.claimMappings.groups"), claim_mappings.groups)?,
        uid,
        required,
    })
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
        assert_eq!(issuer.username, Mapping { claim: "sub".into(), prefix: "a:".into() });
        assert_eq!((issuer.required["hd"].as_str(), issuer.uid.as_deref()), ("x", Some("id")));
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
        assert!(refused("{claim: sub, prefix: 'a:'}", "{expression: claims.sub}").contains("expressions"));
        assert!(refused("{claim: sub, prefix: 'a:'}", "{claim: sub}").contains("prefix: Required"));
        assert!(refused("requiredValue", "wanted").contains("wanted"));
    }
}
