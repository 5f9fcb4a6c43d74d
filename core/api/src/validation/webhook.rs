//! Webhooks: the configurations of admission webhooks, and where a webhook is reached.

use std::collections::BTreeSet;

use super::at::At;
use super::selector::label_selector;
use super::{FieldError, policy};
use crate::names;
use crate::object::Object;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const URL_FORM: &str = "; desired format: https://host[/path]";

/// A ValidatingWebhookConfiguration.
pub(super) fn validating(object: &Object, errors: &mut Vec<FieldError>) {
    configuration(object, errors);
}

/// A MutatingWebhookConfiguration.
pub(super) fn mutating(object: &Object, errors: &mut Vec<FieldError>) {
    configuration(object, errors);
    for hook in At::of(object, "webhooks").items() {
        known(&hook.field("reinvocationPolicy"), &["IfNeeded", "Never"], errors);
    }
}

fn configuration(object: &Object, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for hook in At::of(object, "webhooks").items() {
        webhook(&hook, errors);
        review_versions(&hook.field("admissionReviewVersions"), &REVIEW_VERSIONS, errors);
        let name = hook.field("name");
        if !name.is_empty() && !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

fn webhook(hook: &At<'_>, errors: &mut Vec<FieldError>) {
    qualified_name(&hook.field("name"), errors);
    for rule in hook.field("rules").items() {
        operations(&rule, errors);
        resources_of(&rule, errors);
    }
    known(&hook.field("failurePolicy"), &["Fail", "Ignore"], errors);
    known(&hook.field("matchPolicy"), &["Equivalent", "Exact"], errors);
    let side_effects = hook.field("sideEffects");
    if !side_effects.is_set() {
        errors.push(side_effects.required("must specify one of None, NoneOnDryRun"));
    }
    known(&side_effects, &["None", "NoneOnDryRun"], errors);
    let timeout = hook.field("timeoutSeconds");
    if timeout.is_set() && !timeout.number().is_some_and(|seconds| (1..=30).contains(&seconds)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    label_selector(&hook.field("namespaceSelector"), errors);
    label_selector(&hook.field("objectSelector"), errors);
    client_config(&hook.field("clientConfig"), errors);
    policy::conditions(&hook.field("matchConditions"), errors);
}

/// A value that may be missing, but is one of a few.
fn known(value: &At<'_>, known: &[&str], errors: &mut Vec<FieldError>) {
    if value.is_set() && !known.contains(&value.text()) {
        errors.push(FieldError::not_supported(value.path.as_str(), value.value.clone(), known));
    }
}

/// A domain of at least three parts.
fn qualified_name(name: &At<'_>, errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(name.required(""));
        return;
    }
    let faults = names::dns1123_subdomain(name.text());
    if !faults.is_empty() {
        name.invalid_for(faults, errors);
    } else if name.text().split('.').count() < 3 {
        errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
    }
}

/// The operations of a rule.
pub(super) fn operations(rule: &At<'_>, errors: &mut Vec<FieldError>) {
    let operations = rule.field("operations");
    if operations.is_empty() {
        errors.push(operations.required(""));
    }
    alone(&operations, "if '*' is present, must not specify other operations", errors);
    for operation in operations.items() {
        known(&operation, &OPERATIONS, errors);
    }
}

/// A list in which `*` stands alone.
fn alone(list: &At<'_>, detail: &str, errors: &mut Vec<FieldError>) {
    if list.items().count() > 1 && list.items().any(|item| item.text() == "*") {
        errors.push(list.invalid(detail));
    }
}

/// What of the API a rule is about.
pub(super) fn resources_of(rule: &At<'_>, errors: &mut Vec<FieldError>) {
    let (groups, versions) = (rule.field("apiGroups"), rule.field("apiVersions"));
    if groups.is_empty() {
        errors.push(groups.required(""));
    }
    alone(&groups, "if '*' is present, must not specify other API groups", errors);
    if versions.is_empty() {
        errors.push(versions.required(""));
    }
    alone(&versions, "if '*' is present, must not specify other API versions", errors);
    errors.extend(versions.items().filter(At::is_empty).map(|version| version.required("")));
    resources(&rule.field("resources"), errors);
    known(&rule.field("scope"), &SCOPES, errors);
}

/// Resources with subresources, where a wildcard allows nothing that it contains beside it.
fn resources(list: &At<'_>, errors: &mut Vec<FieldError>) {
    if list.is_empty() {
        errors.push(list.required(""));
    }
    let (mut of_resource, mut of_subresource) = (BTreeSet::new(), BTreeSet::new());
    let (mut everything, mut any, mut plain) = (false, false, false);
    for item in list.items() {
        let text = item.text();
        if text.is_empty() {
            errors.push(item.required(""));
            continue;
        }
        everything |= text == "*/*";
        any |= text == "*";
        let Some((resource, subresource)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if of_resource.contains(resource) {
            errors.push(item.invalid(format!("if '{resource}/*' is present, must not specify {text}")));
        }
        if of_subresource.contains(subresource) {
            errors.push(item.invalid(format!("if '*/{subresource}' is present, must not specify {text}")));
        }
        if subresource == "*" {
            of_resource.insert(resource);
        }
        if resource == "*" {
            of_subresource.insert(subresource);
        }
    }
    if everything && list.items().count() > 1 {
        errors.push(list.invalid("if '*/*' is present, must not specify other resources"));
    }
    if any && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(list.invalid(detail));
    }
}

/// The versions of the review that a webhook understands; one of those that this server speaks is among them.
fn review_versions(versions: &At<'_>, spoken: &[&str], errors: &mut Vec<FieldError>) {
    let all = spoken.join(", ");
    if versions.is_empty() {
        errors.push(versions.required(format!("must specify one of {all}")));
        return;
    }
    let (mut seen, mut is_spoken) = (BTreeSet::new(), false);
    for version in versions.items() {
        if !seen.insert(version.text()) {
            errors.push(version.invalid("duplicate version"));
            continue;
        }
        version.invalid_for(names::dns1035_label(version.text()), errors);
        is_spoken |= spoken.contains(&version.text());
    }
    if !is_spoken {
        errors.push(versions.invalid(format!("must include at least one of {all}")));
    }
}

/// Where a webhook is reached: one of a URL and a Service.
fn client_config(config: &At<'_>, errors: &mut Vec<FieldError>) {
    let (at, service) = (config.field("url"), config.field("service"));
    match (at.is_set(), service.is_set()) {
        (true, false) => url(&at, errors),
        (false, true) => self::service(&service, errors),
        (true, true) | (false, false) => {
            errors.push(config.required("exactly one of url or service is required"));
        }
    }
}

fn url(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let mut fault =
        |value: &str, detail: String| errors.push(FieldError::invalid(at.path.as_str(), value, detail));
    let text = at.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme != "https" {
        fault(scheme, format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if host.is_empty() {
        fault("", format!("host must be specified{URL_FORM}"));
    }
    if let Some(user) = user {
        fault(user, "user information is not permitted in the URL".to_owned());
    }
    if !fragment.is_empty() {
        fault(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if !query.is_empty() {
        fault(query, "query parameters are not permitted in the URL".to_owned());
    }
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        fault(text, "must be a valid URL".to_owned());
    }
}

fn service(service: &At<'_>, errors: &mut Vec<FieldError>) {
    for (field, detail) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        let field = service.field(field);
        if field.is_empty() {
            errors.push(field.required(detail));
        }
    }
    let port = service.field("port");
    if port.is_set() && !port.number().is_some_and(|port| (1..=65535).contains(&port)) {
        errors.push(port.invalid("port is not valid: must be between 1 and 65535, inclusive"));
    }
    let path = service.field("path");
    let text = path.text();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        errors.push(path.invalid("segment[0] may not be empty"));
        return;
    }
    if !text.starts_with('/') {
        errors.push(path.invalid("must start with a '/'"));
    }
    let inner = text.strip_prefix('/').unwrap_or(text);
    for (at, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.push(path.invalid(format!("segment[{at}] may not be empty")));
            continue;
        }
        let faults = names::dns1123_subdomain(step).into_iter();
        path.invalid_for(faults.map(|fault| format!("segment[{at}]: {fault}")).collect(), errors);
    }
}

/// The conversion of a definition: `None`, or a webhook and where it is. Whether the webhook's authority is looked at
/// is for who asks to say: a new definition may get it later.
pub(crate) fn conversion(definition: &Object, checks_authority: bool, errors: &mut Vec<FieldError>) {
    let conversion = At::of(definition, "spec").field("conversion");
    let (strategy, webhook) = (conversion.field("strategy"), conversion.field("webhook"));
    // Faults name the places where upstream's own form of a definition has them.
    let moved = |field: &str, path: &str| At {
        path: format!("{}.{path}", conversion.path),
        value: webhook.field(field).value,
    };
    let client = moved("clientConfig", "webhookClientConfig");
    let versions = moved("conversionReviewVersions", "conversionReviewVersions");
    strategy.one_of(&["None", "Webhook"], errors);
    if strategy.text() != "Webhook" {
        for unwanted in [client, versions].iter().filter(|field| !field.is_empty()) {
            errors.push(unwanted.forbidden("should not be set when strategy is not set to Webhook"));
        }
        return;
    }
    if client.is_set() {
        client_config(&client, errors);
        let bundle = client.field("caBundle");
        if checks_authority && let Err(why) = authority(bundle.text()) {
            errors.push(bundle.invalid(why));
        }
    } else {
        errors.push(client.required("required when strategy is set to Webhook"));
    }
    if versions.is_empty() {
        errors.push(versions.required(""));
    } else {
        review_versions(&versions, &REVIEW_VERSIONS, errors);
    }
}

/// Whether the authority of a definition's conversion webhook is none.
pub(crate) fn has_bad_authority(definition: &Object) -> bool {
    let path = ["spec", "conversion", "webhook", "clientConfig", "caBundle"];
    definition.get_str(&path).is_some_and(|bundle| authority(bundle).is_err())
}

const NO_AUTHORITY: &str = "unable to load root certificates: unable to parse bytes as PEM block";

/// Whether a text is one or more certificates in PEM, in base64; or nothing.
fn authority(bundle: &str) -> Result<(), &'static str> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    if bundle.is_empty() {
        return Ok(());
    }
    let pem = STANDARD.decode(bundle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let mut rest = pem.as_deref().unwrap_or_default();
    let mut count = 0;
    while let Some((_, block)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let (body, tail) = block.split_once("-----END CERTIFICATE-----").ok_or(NO_AUTHORITY)?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| NO_AUTHORITY)?;
        // A certificate is a sequence.
        if der.len() < 2 || der[0] != 0x30 {
            return Err(NO_AUTHORITY);
        }
        count += 1;
        rest = tail;
    }
    if count == 0 { Err(NO_AUTHORITY) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://localhost/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        change(&mut hook);
        let mut errors = Vec::new();
        mutating(&Object::from_value(json!({"webhooks": [hook]})).unwrap(), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_webhook_has_no_faults() {
        assert_eq!(faults(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn a_webhook_has_exactly_one_place_and_says_what_it_changes() {
        assert_eq!(
            faults(|hook| hook["clientConfig"]["service"] = json!({"name": "a", "namespace": "b"})),
            ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]
        );
        assert_eq!(
            faults(|hook| hook["clientConfig"]["url"] = "http://u@h/x?a=b#c".into()),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            faults(|hook| hook["sideEffects"] = "Some".into()),
            [
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""
            ]
        );
        assert_eq!(
            faults(|hook| hook["timeoutSeconds"] = 31.into()),
            [
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"
            ]
        );
        assert_eq!(
            faults(|hook| hook["name"] = "a.b".into()),
            [
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"
            ]
        );
    }

    #[test]
    fn a_wildcard_stands_alone() {
        assert_eq!(
            faults(|hook| hook["rules"][0]["resources"] = json!(["*", "pods"])),
            [
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources"
            ]
        );
        assert_eq!(
            faults(|hook| hook["rules"][0]["resources"] = json!(["pods/*", "pods/status"])),
            [
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status"
            ]
        );
        assert_eq!(
            faults(|hook| hook["rules"][0]["operations"] = json!(["*", "CREATE"])),
            [
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations"
            ]
        );
    }
}
