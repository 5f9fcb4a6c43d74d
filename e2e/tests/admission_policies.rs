//! ValidatingAdmissionPolicies as kubectl sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::Server;

const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas.example.com}
spec:
  failurePolicy: Fail
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - apiGroups: [apps]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [deployments, deployments/scale]
  variables:
  - {name: most, expression: int(params.data.maxReplicas)}
  validations:
  - expression: object.spec.replicas <= variables.most
    messageExpression: "'at most ' + string(variables.most) + ' replicas, not ' + string(object.spec.replicas)"
"#;

const LIMITS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: limits}
data: {maxReplicas: "5"}
"#;

fn binding(action: &str) -> String {
    format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: everywhere}}
spec:
  policyName: replicas.example.com
  validationActions: [{action}]
  paramRef: {{name: limits, namespace: default, parameterNotFoundAction: Deny}}
"#
    )
}

const BY: &str = "ValidatingAdmissionPolicy 'replicas.example.com' with binding 'everywhere'";

#[test]
fn a_policy_denies_or_warns_by_its_parameters_and_tells_what_it_denied() {
    let server = Server::start().unwrap();
    let client = server.client();
    for manifest in [POLICY, LIMITS, &binding("Deny")] {
        server.kubectl_with(&["apply", "-f", "-"], manifest).unwrap();
    }
    let create = ["create", "deployment", "web", "--image=nginx", "--replicas=6"];
    let refused = client.fails(&create).unwrap();
    let told =
        format!("deployments.apps \"web\" is forbidden: {BY} denied request: at most 5 replicas, not 6");
    assert!(refused.contains(&told), "{refused}");
    client.run(&["create", "deployment", "web", "--image=nginx", "--replicas=5"]).unwrap();
    let refused = client.fails(&["scale", "deployment", "web", "--replicas=7", "--dry-run=server"]).unwrap();
    assert!(refused.contains("at most 5 replicas, not 7"), "{refused}");
    server.kubectl_with(&["apply", "-f", "-"], &binding("Warn")).unwrap();
    let printed = client.command(&["scale", "deployment", "web", "--replicas=8"]).output().unwrap();
    let warned = String::from_utf8(printed.stderr).unwrap();
    assert!(printed.status.success(), "{warned}");
    assert!(
        warned.contains(&format!("Warning: Validation failed for {BY}: at most 5 replicas, not 8")),
        "{warned}"
    );
    let described = client.run(&["describe", "validatingadmissionpolicy", "replicas.example.com"]).unwrap();
    assert!(described.contains("Observed Generation:  1"), "{described}");
    assert!(!described.contains("Expression Warnings"), "{described}");
}
