use super::*;

fn policy(rules: &str) -> Result<Policy, PolicyError> {
    Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
}

fn faults(rules: &str) -> Vec<String> {
    match policy(rules) {
        Err(PolicyError::Invalid(errors)) => errors.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

fn get(resource: &'static str, subresource: &'static str) -> Subject<'static> {
    let (verb, path) = ("get", "/api/v1/namespaces/a/x/y");
    Subject {
        verb,
        path,
        is_resource: true,
        resource,
        subresource,
        namespace: "a",
        name: "y",
        ..Subject::default()
    }
}

#[test]
fn resources_are_met_by_name_and_wildcard() {
    let table = [
        ("pods", get("pods", ""), true),
        ("pods", get("pods", "log"), false),
        ("pods/log", get("pods", "log"), true),
        ("pods/*", get("pods", "log"), true),
        ("pods/*", get("pods", ""), true),
        ("'*/log'", get("pods", "log"), true),
        ("'*/log'", get("pods", ""), false),
        ("'*'", get("pods", "log"), true),
        ("secrets", get("pods", ""), false),
    ];
    for (rule, subject, expected) in table {
        let policy =
            policy(&format!("rules: [{{level: Request, resources: [{{group: '', resources: [{rule}]}}]}}]"));
        let level = if expected { Level::Request } else { Level::None };
        assert_eq!(policy.unwrap().verdict(&subject).level, level, "{rule} {subject:?}");
    }
}

#[test]
fn the_first_rule_that_fits_says_how_much() {
    let policy = policy("omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n- {level: None, users: [ann]}\n- {level: Metadata, userGroups: [ops], omitStages: [Panic], omitManagedFields: false}\n- {level: RequestResponse, nonResourceURLs: [/healthz*]}\n").unwrap();
    let ops = ["ops".to_owned()];
    let of = |user| policy.verdict(&Subject { user: Some(user), ..get("pods", "") });
    assert_eq!(of(("ann", &ops[..])).level, Level::None);
    let bob = of(("bob", &ops[..]));
    assert_eq!((bob.level, bob.omit_managed_fields), (Level::Metadata, false));
    assert!(bob.omitted.contains(Stage::RequestReceived) && bob.omitted.contains(Stage::Panic));
    assert!(!bob.omitted.contains(Stage::ResponseComplete));
    let path = |path| policy.verdict(&Subject { verb: "get", path, ..Subject::default() });
    assert_eq!(path("/healthz/etcd").level, Level::RequestResponse);
    assert!(path("/healthz").omit_managed_fields);
    assert_eq!(path("/metrics").level, Level::None);
    assert_eq!(policy.verdict(&get("pods", "")).level, Level::None);
}

#[test]
fn a_wrong_policy_is_told_field_by_field() {
    assert_eq!(faults("rules: [{}]"), ["rules[0].level: Required value"]);
    assert_eq!(
        faults("rules: [{level: All}]"),
        [
            "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
        ]
    );
    assert_eq!(faults("rules: [{level: None, nonResourceURLs: ['a*b']}]").len(), 2);
    assert_eq!(faults("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]").len(), 1);
    assert_eq!(faults("rules: [{level: None, resources: [{group: a/v1, resourceNames: [b]}]}]").len(), 2);
    assert_eq!(
        faults("rules: [{level: None, omitStages: [Never]}]"),
        [
            "rules[0].omitStages[0]: Invalid value: \"Never\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"
        ]
    );
    assert!(matches!(policy("rules: []"), Err(PolicyError::Empty)));
    assert!(matches!(policy("rules: [{level: None, user: a}]"), Err(PolicyError::Decode(_))));
    assert!(matches!(Policy::parse("kind: Policy"), Err(PolicyError::Kind(_))));
}

#[test]
fn the_content_of_credentials_is_recorded_by_a_rule_alone_that_names_them() {
    let of = |group: &'static str, resource: &'static str, subresource: &'static str| Subject {
        is_resource: true,
        group,
        resource,
        subresource,
        ..Subject::default()
    };
    let secrets = of("", "secrets", "");
    let tokens = of("", "serviceaccounts", "token");
    let reviews = of("authentication.k8s.io", "tokenreviews", "");
    for rule in [
        "{level: RequestResponse}",
        "{level: Request, resources: [{group: ''}, {group: authentication.k8s.io}]}",
        "{level: RequestResponse, resources: [{group: '', resources: ['*']}, {group: authentication.k8s.io, resources: ['*']}]}",
        "{level: Request, resources: [{group: '', resources: [secrets/*, serviceaccounts/*, '*/token', '*']}, {group: authentication.k8s.io}]}",
        "{level: Metadata, resources: [{group: '', resources: [secrets, serviceaccounts/token]}, {group: authentication.k8s.io}]}",
    ] {
        let policy =
            Policy::parse(&format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{rule}]}}"))
                .unwrap();
        for subject in [secrets, tokens, reviews] {
            let verdict = policy.verdict(&subject);
            assert_eq!((verdict.level, verdict.is_guarded), (Level::Metadata, true), "{rule} {subject:?}");
        }
    }
    let named = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [
        {level: Request, resources: [{group: '', resources: [secrets, serviceaccounts/token]}]},
        {level: RequestResponse, resources: [{group: authentication.k8s.io, resources: [tokenreviews]}]},
        {level: RequestResponse}]}";
    let policy = Policy::parse(named).unwrap();
    for (subject, level) in [
        (secrets, Level::Request),
        (tokens, Level::Request),
        (reviews, Level::RequestResponse),
        (of("", "configmaps", ""), Level::RequestResponse),
        (of("", "serviceaccounts", ""), Level::RequestResponse),
    ] {
        let verdict = policy.verdict(&subject);
        assert_eq!((verdict.level, verdict.is_guarded), (level, false), "{subject:?}");
    }
}

#[test]
fn a_rule_for_one_secret_names_no_other() {
    let rules = "rules: [{level: RequestResponse, resources: [\
        {group: '', resources: [secrets], resourceNames: [a]}, {group: '', resources: ['*']}]}]";
    let policy = policy(rules).unwrap();
    let secret = |name| Subject { name, ..get("secrets", "") };
    assert_eq!(policy.verdict(&secret("a")).level, Level::RequestResponse);
    assert_eq!(policy.verdict(&secret("b")).level, Level::Metadata);
}
