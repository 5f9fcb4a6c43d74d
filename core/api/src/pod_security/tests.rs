use serde_json::json;

use super::*;

fn pod(spec: Value) -> Object {
    Object::from_value(json!({"spec": spec})).unwrap()
}

fn told(level: Level, minor: Option<u32>, spec: Value) -> String {
    details(&evaluate(LevelVersion { level, minor }, &pod(spec)))
}

#[test]
fn a_plain_pod_is_told_all_that_restricted_wants() {
    let text = told(Level::Restricted, None, json!({"containers": [{"name": "c"}]}));
    assert_eq!(
        text,
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told(Level::Baseline, None, json!({"containers": [{"name": "c"}]})), "");
}

#[test]
fn a_hardened_pod_passes() {
    let spec = json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    });
    assert_eq!(told(Level::Restricted, None, spec), "");
}

#[test]
fn each_check_of_baseline_has_its_own_words() {
    let with = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}, {"name": "b", "securityContext": context}]});
    let table = [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")"),
        (
            json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        (
            with(json!({"privileged": true})),
            "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
        ),
        (
            with(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}})),
            "non-default capabilities (containers \"a\", \"b\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (json!({"securityContext": {"sysctls": [{"name": "kernel.x"}]}}), "forbidden sysctls (kernel.x)"),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]}),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")",
        ),
    ];
    for (spec, text) in table {
        assert_eq!(told(Level::Baseline, None, spec), text);
    }
}

#[test]
fn a_version_has_the_checks_of_its_time() {
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]});
    assert_eq!(told(Level::Baseline, Some(33), probe), "");
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    assert_eq!(told(Level::Baseline, Some(32), sysctl.clone()), "");
    assert_eq!(told(Level::Baseline, Some(31), sysctl), "forbidden sysctls (net.ipv4.tcp_rmem)");
    let unmasked = json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]});
    assert_eq!(told(Level::Baseline, None, unmasked.clone()), "");
    assert!(told(Level::Baseline, Some(34), unmasked.clone()).starts_with("procMount ("));
    let text = told(Level::Restricted, None, unmasked);
    assert!(text.contains("procMount (") && !text.contains("runAsNonRoot"), "{text}");
}

#[test]
fn labels_say_the_policy_and_their_faults_are_told() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30",
        "pod-security.kubernetes.io/audit": "nonsense"});
    let (policy, faults) = Policy::of(labels.as_object(), &Policy::default());
    assert_eq!(policy.enforce.to_string(), "baseline:v1.30");
    assert_eq!(policy.warn, policy.enforce);
    assert_eq!(policy.audit.level, Level::Privileged);
    assert_eq!(faults.len(), 1);
    assert_eq!(
        faults[0].to_string(),
        "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"nonsense\": must be one of privileged, baseline, restricted"
    );
    assert_eq!(LevelVersion::parse_version("v1.05"), None);
    assert_eq!(LevelVersion::parse_version("1.5"), None);
}
