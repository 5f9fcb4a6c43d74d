//! Admission policies as kubectl sees them.

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

const SIDECAR: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: sidecar.example.com}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules:
    - apiGroups: [""]
      apiVersions: [v1]
      operations: [CREATE]
      resources: [pods]
  matchConditions:
  - name: no-sidecar-yet
    expression: "!object.spec.?initContainers.orValue([]).exists(c, c.name == 'mesh-proxy')"
  variables:
  - {name: team, expression: "object.metadata.?labels['team'].orValue('nobody')"}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >
        Object{
          spec: Object.spec{
            initContainers: [
              Object.spec.initContainers{
                name: "mesh-proxy",
                image: "mesh/proxy:v1.0.0",
                args: ["proxy", "sidecar"],
                restartPolicy: "Always"
              }
            ]
          }
        }
  - patchType: JSONPatch
    jsonPatch:
      expression: >
        [
          JSONPatch{
            op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/owner"),
            value: variables.team
          }
        ]
"#;

const SIDECAR_BINDING: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: sidecar.example.com}
spec: {policyName: sidecar.example.com}
"#;

#[test]
fn a_policy_injects_a_container_and_a_label() {
    let server = Server::start().unwrap();
    let client = server.client();
    let refused =
        server.kubectl_with(&["apply", "-f", "-"], &SIDECAR.replace("variables.team", "object.x +"));
    let refused = refused.unwrap_err().to_string();
    let told = "spec.mutations[1].jsonPatch.expression: Invalid value: ";
    assert!(refused.contains(told) && refused.contains("compilation failed: ERROR: <input>:"), "{refused}");
    // Arguments of a container are atomic: they cannot be merged, and nobody means to replace those of others.
    for manifest in [SIDECAR, SIDECAR_BINDING] {
        server.kubectl_with(&["apply", "-f", "-"], manifest).unwrap();
    }
    let run = ["run", "web", "--image=nginx", "--labels=team=blue"];
    let refused = client.fails(&run).unwrap();
    let told = "policy 'sidecar.example.com' with binding 'sidecar.example.com' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.initContainers[0].args";
    assert!(refused.contains(told), "{refused}");
    let mergeable = SIDECAR.replace("args: [\"proxy\", \"sidecar\"],", "");
    server.kubectl_with(&["apply", "-f", "-"], &mergeable).unwrap();
    client.run(&run).unwrap();
    let path = "-o=jsonpath={.spec.initContainers[*].name} {.metadata.labels}";
    let made = client.run(&["get", "pod", "web", path]).unwrap();
    assert_eq!(made, r#"mesh-proxy {"example.com/owner":"blue","team":"blue"}"#);
    let listed = client.run(&["get", "mutatingadmissionpolicies"]).unwrap();
    let cells: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(&cells[..3], ["sidecar.example.com", "2", "<unset>"]);
    client.run(&["delete", "mutatingadmissionpolicybinding", "sidecar.example.com"]).unwrap();
    client.run(&["run", "plain", "--image=nginx"]).unwrap();
    assert_eq!(client.run(&["get", "pod", "plain", "-o=jsonpath={.spec.initContainers}"]).unwrap(), "");
}
