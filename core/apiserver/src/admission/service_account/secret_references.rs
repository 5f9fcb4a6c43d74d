//! Which Secrets a pod may refer to: a mirror pod none, and a pod of an account that enforces it those of the account.

use keelson_api::Object;
use keelson_api::resource_list::containers;
use serde_json::Value;

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

fn volumes(pod: &Object) -> impl Iterator<Item = &Value> {
    pod.get(&["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten()
}

fn is_set(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|it| !it.is_null())
}

/// Every container with what its kind is called.
fn all_containers(pod: &Object, only_ephemeral: bool) -> impl Iterator<Item = (&'static str, &Value)> {
    let kinds = [
        ("init container", "initContainers"),
        ("container", "containers"),
        ("ephemeral container", "ephemeralContainers"),
    ];
    let from = if only_ephemeral { 2 } else { 0 };
    kinds.into_iter().skip(from).flat_map(|(what, field)| containers(pod, field).map(move |it| (what, it)))
}

/// Names of variables of a container, with the Secrets that they come from; the name is empty for a whole Secret.
fn variables(container: &Value) -> Vec<(&str, &str)> {
    let list = |field: &str| container.get(field).and_then(Value::as_array).into_iter().flatten();
    let single = list("env").filter_map(|variable| {
        let secret = variable.pointer("/valueFrom/secretKeyRef/name")?.as_str()?;
        Some((variable["name"].as_str().unwrap_or_default(), secret))
    });
    let whole = list("envFrom").filter_map(|source| Some(("", source.pointer("/secretRef/name")?.as_str()?)));
    single.chain(whole).collect()
}

/// What a mirror pod must not refer to.
pub(super) fn mirror_fault(pod: &Object) -> Option<&'static str> {
    if pod.get_str(&["spec", "serviceAccountName"]).is_some_and(|name| !name.is_empty()) {
        return Some("a mirror pod may not reference service accounts");
    }
    let sources = |volume: &Value| {
        volume.pointer("/projected/sources").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let pull =
        pod.get(&["spec", "imagePullSecrets"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let mounted = volumes(pod)
        .any(|volume| is_set(volume, "secret") || sources(volume).iter().any(|it| is_set(it, "secret")));
    let named = all_containers(pod, false).any(|(_, container)| !variables(container).is_empty());
    if pull || mounted || named {
        return Some("a mirror pod may not reference secrets");
    }
    let token = volumes(pod).any(|volume| sources(volume).iter().any(|it| is_set(it, "serviceAccountToken")));
    token.then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// Whether an account's pods may refer to the Secrets of the account alone.
pub(super) fn is_enforced(account: &Object) -> bool {
    matches!(account.annotation(ENFORCE), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// What a pod refers to although its account does not.
pub(super) fn fault(account: &Object, pod: &Object, only_ephemeral: bool) -> Option<String> {
    let own = account.name().unwrap_or_default();
    let names = |field: &str| -> Vec<&str> {
        let list = account.get(&[field]).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|it| it.get("name")?.as_str()).collect()
    };
    let (secrets, pulls) = (names("secrets"), names("imagePullSecrets"));
    let tail = format!("is not allowed because service account {own} does not reference that");
    if !only_ephemeral {
        let mounted = volumes(pod).filter_map(|volume| volume.pointer("/secret/secretName")?.as_str());
        let mut foreign = mounted.filter(|secret| !secrets.contains(secret));
        if let Some(secret) = foreign.next() {
            return Some(format!("volume with secret.secretName=\"{secret}\" {tail} secret"));
        }
    }
    for (what, container) in all_containers(pod, only_ephemeral) {
        let name = container["name"].as_str().unwrap_or_default();
        let mut foreign = variables(container).into_iter().filter(|it| !secrets.contains(&it.1));
        if let Some((variable, secret)) = foreign.next() {
            let from = if variable.is_empty() { "envFrom".to_owned() } else { format!("envVar {variable}") };
            return Some(format!(
                "{what} {name} with {from} referencing secret.secretName=\"{secret}\" {tail} secret"
            ));
        }
    }
    if only_ephemeral {
        return None;
    }
    let list = pod.get(&["spec", "imagePullSecrets"]).and_then(Value::as_array).into_iter().flatten();
    let pulled = list.enumerate().filter_map(|(place, it)| Some((place, it.get("name")?.as_str()?)));
    let mut foreign = pulled.filter(|(_, name)| !pulls.contains(name));
    foreign
        .next()
        .map(|(place, name)| format!("imagePullSecrets[{place}].name=\"{name}\" {tail} imagePullSecret"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_that_enforces_it_lends_its_own_secrets_alone() {
        let account =
            Object::from_value(json!({"metadata": {"name": "robot", "annotations": {ENFORCE: "true"}},
            "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]}))
            .unwrap();
        assert!(is_enforced(&account));
        let table = [
            (
                json!({"volumes": [{"secret": {"secretName": "own"}}], "imagePullSecrets": [{"name": "pull"}]}),
                None,
            ),
            (
                json!({"volumes": [{"secret": {"secretName": "x"}}]}),
                Some(
                    r#"volume with secret.secretName="x" is not allowed because service account robot does not reference that secret"#,
                ),
            ),
            (
                json!({"containers": [{"name": "c", "env": [{"name": "V", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]}),
                Some(
                    r#"container c with envVar V referencing secret.secretName="x" is not allowed because service account robot does not reference that secret"#,
                ),
            ),
            (
                json!({"imagePullSecrets": [{"name": "pull"}, {"name": "x"}]}),
                Some(
                    r#"imagePullSecrets[1].name="x" is not allowed because service account robot does not reference that imagePullSecret"#,
                ),
            ),
        ];
        for (spec, text) in table {
            let pod = Object::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(fault(&account, &pod, false).as_deref(), text);
        }
    }

    #[test]
    fn a_mirror_pod_refers_to_nothing() {
        let pod = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(mirror_fault(&pod(json!({"containers": [{"name": "c"}]}))), None);
        assert!(
            mirror_fault(&pod(json!({"volumes": [{"secret": {"secretName": "x"}}]})))
                .unwrap()
                .ends_with("secrets")
        );
        let token =
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        assert!(mirror_fault(&pod(token)).unwrap().ends_with("projections"));
    }
}
