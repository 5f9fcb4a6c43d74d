use super::*;

const SECRETS: &str = "/registry/core/secrets/default/keys";

fn encryption(providers: &str) -> Encryption {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: {providers}"
    );
    let encryption = Encryption::default();
    encryption.replace(configuration::parse(text.as_bytes()).unwrap());
    encryption
}

fn key(algorithm: &str, names: &[&str]) -> String {
    // Each name has a secret of its own.
    let secret = |name: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode([name.as_bytes()[name.len() - 1]; 32])
    };
    let keys: Vec<String> =
        names.iter().map(|name| format!("{{name: {name}, secret: {}}}", secret(name))).collect();
    format!("{{{algorithm}: {{keys: [{}]}}}}", keys.join(", "))
}

fn document() -> Value {
    Value::stamped(&br#"{"metadata":{"resourceVersion":""},"data":"c2VjcmV0"}"#[..], 32)
}

fn sealed(encryption: &Encryption) -> Bytes {
    let value = encryption.seal(SECRETS, document()).unwrap();
    assert_eq!(value.stamp, None);
    value.bytes
}

#[test]
fn a_value_is_opened_with_its_revision_and_holds_nothing_readable_before() {
    for algorithm in ["aesgcm", "secretbox"] {
        let encryption = encryption(&format!("[{}]", key(algorithm, &["key1"])));
        let stored = sealed(&encryption);
        assert!(stored.starts_with(format!("k8s:enc:{algorithm}:v1:key1:").as_bytes()));
        assert!(!stored.windows(8).any(|it| it == b"c2VjcmV0"));
        assert_ne!(stored, sealed(&encryption), "every value has a nonce of its own");
        let opened = encryption.unseal(SECRETS, &stored, 17).unwrap();
        assert_eq!(&opened.bytes[..], br#"{"metadata":{"resourceVersion":"17"},"data":"c2VjcmV0"}"#);
        assert!(!opened.stale);
    }
}

#[test]
fn a_value_that_was_changed_or_moved_does_not_open() {
    for algorithm in ["aesgcm", "secretbox"] {
        let encryption = encryption(&format!("[{}]", key(algorithm, &["key1"])));
        let stored = sealed(&encryption);
        let elsewhere = "/registry/core/secrets/default/other";
        assert_eq!(encryption.unseal(elsewhere, &stored, 1), Err(EncryptionError::Damaged));
        for place in 28..stored.len() {
            let mut changed = stored.to_vec();
            changed[place] ^= 1;
            let outcome = encryption.unseal(SECRETS, &changed.into(), 1);
            assert_eq!(outcome, Err(EncryptionError::Damaged), "byte {place}");
        }
        for length in 28..stored.len() {
            assert!(encryption.unseal(SECRETS, &stored.slice(..length), 1).is_err());
        }
    }
}

#[test]
fn a_key_that_is_no_longer_the_first_opens_and_seals_nothing_any_more() {
    let before = encryption(&format!("[{}]", key("aesgcm", &["key1"])));
    let stored = sealed(&before);
    let after = encryption(&format!("[{}, {{identity: {{}}}}]", key("aesgcm", &["key2", "key1"])));
    assert!(after.unseal(SECRETS, &stored, 1).unwrap().stale);
    assert!(sealed(&after).starts_with(b"k8s:enc:aesgcm:v1:key2:"));
    let plain = Bytes::from_static(b"{}");
    assert!(after.unseal(SECRETS, &plain, 1).unwrap().stale, "what was written before encryption is stale");
    let gone = encryption(&format!("[{}]", key("secretbox", &["key1"])));
    let missing = gone.unseal(SECRETS, &stored, 1).unwrap_err();
    assert_eq!(missing.to_string(), "no provider of secrets has the key \"aesgcm:v1:key1\"");
    assert_eq!(gone.unseal(SECRETS, &plain, 1), Err(EncryptionError::Plain("secrets".into())));
}

#[test]
fn resources_that_are_not_named_stay_as_they_are() {
    let encryption = encryption(&format!("[{}]", key("aesgcm", &["key1"])));
    let place = "/registry/core/configmaps/default/settings";
    assert_eq!(encryption.seal(place, document()).unwrap(), document());
    let plain = Bytes::from_static(b"{}");
    assert_eq!(encryption.unseal(place, &plain, 1).unwrap(), Opened { bytes: plain, stale: false });
    assert!(Encryption::default().unseal(SECRETS, &sealed(&encryption), 1).is_err());
}

#[test]
fn a_wrong_configuration_is_refused_with_its_field_and_without_its_keys() {
    let parse = |resources: &str| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}"
        );
        configuration::parse(text.as_bytes()).unwrap_err().to_string()
    };
    let told = "the encryption configuration is invalid: ";
    for (resources, fault) in [
        ("[]", "resources: at least one resource is required"),
        ("[{resources: [secrets]}]", "resources[0].providers: at least one provider is required"),
        (
            "[{resources: ['*'], providers: [{identity: {}}]}]",
            "resources[0].resources[0]: \"*\" names no resource: use RESOURCE, RESOURCE.GROUP, *.GROUP or *.*",
        ),
        (
            "[{resources: [secrets, secrets], providers: [{identity: {}}]}]",
            "resources[0].resources[1]: \"secrets\" is named twice",
        ),
        (
            "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}]}]",
            "resources[0].providers[0].aesgcm.keys[0].secret: secret is not of the expected length: expected one of [16 32], got 5",
        ),
        (
            "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: '!'}]}}]}]",
            "resources[0].providers[0].aesgcm.keys[0].secret: secrets must be base64 encoded",
        ),
        (
            "[{resources: [secrets], providers: [{kms: {}}]}]",
            "resources[0].providers[0]: aescbc and kms are not supported: use aesgcm or secretbox",
        ),
        (
            "[{resources: [secrets], providers: [{}]}]",
            "resources[0].providers[0]: exactly one of aesgcm, secretbox and identity must be set",
        ),
    ] {
        assert_eq!(parse(resources), format!("{told}{fault}"));
    }
    let unknown =
        parse("[{resources: [secrets], providers: [{aesgcm: {kees: [{name: a, secret: hunter2}]}}]}]");
    assert!(!unknown.contains("hunter2"), "{unknown}");
    let selector = |text: &str, group: &str, name: &str| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: ['{text}'], providers: [{{identity: {{}}}}]}}]"
        );
        configuration::parse(text.as_bytes()).unwrap()[0].covers(&GroupResource::new(group, name))
    };
    assert!(selector("*.", "", "secrets") && !selector("*.", "apps", "deployments"));
    assert!(selector("*.apps", "apps", "deployments") && !selector("*.apps", "", "secrets"));
    assert!(selector("*.*", "example.com", "things") && selector("deployments.apps", "apps", "deployments"));
}
