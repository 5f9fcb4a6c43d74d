//! CustomResourceDefinitions as kubectl sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use keelson_e2e::Server;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        description: Runs an image at times.
        properties:
          spec:
            type: object
            properties:
              cronSpec: {type: string, pattern: '^(\*|[0-9]+)( \S+){4}$', description: When it runs.}
              image: {type: string}
              replicas: {type: integer, minimum: 1, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
    subresources:
      status: {}
      scale:
        specReplicasPath: .spec.replicas
        statusReplicasPath: .status.replicas
        labelSelectorPath: .status.labelSelector
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
"#;

const NAME: &str = "crontabs.stable.example.com";

const OBJECT: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: "* * * * */5", image: "example/cron:1"}
"#;

fn columns(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()).collect()
}

fn with_definition() -> Server {
    let server = Server::start().unwrap();
    let applied = server.kubectl_with(&["apply", "-f", "-"], DEFINITION).unwrap();
    assert_eq!(applied, format!("customresourcedefinition.apiextensions.k8s.io/{NAME} created\n"));
    server
}

#[test]
fn a_kind_can_be_used_as_soon_as_it_is_defined() {
    let server = with_definition();
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=10s", "crd", NAME]).unwrap();
    let applied = server.kubectl_with(&["apply", "-f", "-"], OBJECT).unwrap();
    assert_eq!(applied, "crontab.stable.example.com/mine created\n");
    let again = server.kubectl_with(&["apply", "-f", "-"], OBJECT).unwrap();
    assert_eq!(again, "crontab.stable.example.com/mine unchanged\n");
    let table = server.kubectl(&["get", "ct"]).unwrap();
    let table = columns(&table);
    assert_eq!(table[0], ["NAME", "SPEC", "REPLICAS", "AGE"]);
    assert_eq!(table[1][..3], ["mine", "* * * * */5", "1"]);
    let wide = server.kubectl(&["get", "crontabs.v1.stable.example.com", "-o", "wide"]).unwrap();
    assert_eq!(columns(&wide)[1][3], "example/cron:1");
    let all = server.kubectl(&["get", "all", "-o", "name"]).unwrap();
    assert!(all.contains("crontab.stable.example.com/mine"), "{all}");
    let text = server.kubectl(&["explain", "crontab.spec.cronSpec"]).unwrap();
    assert!(text.contains("FIELD: cronSpec <string>") && text.contains("When it runs."), "{text}");
    let newer = OBJECT.replace("cron:1", "cron:2");
    server.kubectl_with(&["apply", "-f", "-"], &newer).unwrap();
    let image = ["get", "ct", "mine", "-o", "jsonpath={.spec.image} {.metadata.generation}"];
    assert_eq!(server.kubectl(&image).unwrap(), "example/cron:2 2");
}

#[test]
fn an_object_is_scaled_and_its_status_written() {
    let server = with_definition();
    server.kubectl_with(&["apply", "-f", "-"], OBJECT).unwrap();
    server.kubectl(&["scale", "ct/mine", "--replicas=3"]).unwrap();
    let patch = r#"{"spec":{"image":"other"},"status":{"replicas":2,"labelSelector":"a=b"}}"#;
    server.kubectl(&["patch", "ct", "mine", "--subresource=status", "--type=merge", "-p", patch]).unwrap();
    let fields = "jsonpath={.spec.replicas} {.spec.image} {.status.replicas}";
    assert_eq!(server.kubectl(&["get", "ct", "mine", "-o", fields]).unwrap(), "3 example/cron:1 2");
    let scale = server.kubectl(&["get", "ct", "mine", "--subresource=scale", "-o", "json"]).unwrap();
    let scale: serde_json::Value = serde_json::from_str(&scale).unwrap();
    assert_eq!(scale["status"], serde_json::json!({"replicas": 2, "selector": "a=b"}));
    server.kubectl(&["label", "ct", "mine", "tier=back"]).unwrap();
    assert!(server.kubectl(&["get", "ct", "-l", "tier=back", "-o", "name"]).unwrap().contains("mine"));
}

#[test]
fn an_object_that_breaks_the_schema_is_refused() {
    let server = with_definition();
    let broken = OBJECT.replace("* * * * */5", "never").replace("spec: {", "spec: {replicas: 0, ");
    std::fs::write(server.kubeconfig().with_file_name("broken.yaml"), broken).unwrap();
    let file = server.kubeconfig().with_file_name("broken.yaml").display().to_string();
    let text = server.kubectl_fails(&["create", "-f", &file]).unwrap();
    assert!(text.contains("The CronTab \"mine\" is invalid"), "{text}");
    assert!(text.contains("spec.replicas in body should be greater than or equal to 1"), "{text}");
    assert!(text.contains("spec.cronSpec in body should match '^(\\*|[0-9]+)( \\S+){4}$'"), "{text}");
    let unknown = OBJECT.replace("spec: {", "spec: {colour: red, ");
    std::fs::write(&file, &unknown).unwrap();
    let text = server.kubectl_fails(&["create", "-f", &file]).unwrap();
    assert!(text.contains("strict decoding error: unknown field \"spec.colour\""), "{text}");
    server.kubectl(&["create", "--validate=false", "-f", &file]).unwrap();
    let colour = server.kubectl(&["get", "ct", "mine", "-o", "jsonpath={.spec.colour}"]).unwrap();
    assert_eq!(colour, "");
}

#[test]
fn a_definition_that_is_deleted_takes_its_objects_along() {
    let server = with_definition();
    server.kubectl_with(&["apply", "-f", "-"], OBJECT).unwrap();
    let mut watch = server
        .command(&["get", "ct", "--watch", "--output-watch-events", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().contains("crontab.stable.example.com/mine"));
    server.kubectl(&["delete", "crd", NAME]).unwrap();
    let seen: Vec<String> = lines.collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    watch.wait().unwrap();
    let gone = server.kubectl_fails(&["get", "ct"]).unwrap();
    assert!(gone.contains("the server could not find the requested resource"), "{gone}");
    server.kubectl_with(&["apply", "-f", "-"], DEFINITION).unwrap();
    assert_eq!(server.kubectl(&["get", "ct", "-o", "name"]).unwrap(), "");
}

#[test]
fn kinds_and_objects_are_there_again_after_a_crash() {
    let server = with_definition();
    server.kubectl_with(&["apply", "-f", "-"], OBJECT).unwrap();
    let server = server.kill_and_restart().unwrap();
    assert_eq!(server.kubectl(&["get", "ct", "-o", "name"]).unwrap(), "crontab.stable.example.com/mine\n");
}

#[test]
fn a_definition_that_cannot_be_is_refused_with_every_reason() {
    let server = Server::start().unwrap();
    let broken = DEFINITION
        .replace("specReplicasPath: .spec.", "specReplicasPath: .status.")
        .replace("type: integer, jsonPath: .spec.replicas", "type: count, jsonPath: spec.replicas")
        .replace("minimum: 1, default: 1", "minimum: 1, default: 0")
        .replace("image: {type: string}", "image: {type: string}\n              tags: {type: array, x-kubernetes-list-type: set, items: {type: object}}");
    let text = server.kubectl_with(&["apply", "-f", "-"], &broken).unwrap_err().to_string();
    for why in [
        "spec.validation.openAPIV3Schema.properties[spec].properties[tags].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        "spec.validation.openAPIV3Schema.properties[spec].properties[replicas].default: Invalid value: 0",
        "spec.subresources.scale.specReplicasPath: Invalid value: \".status.replicas\": should be a json path under .spec",
        "spec.additionalPrinterColumns[1].type: Invalid value: \"count\": must be one of boolean,date,integer,number,string",
        "spec.additionalPrinterColumns[1].JSONPath: Invalid value: \"spec.replicas\": must be a simple json path starting with .",
    ] {
        assert!(text.contains(why), "{why}\n{text}");
    }
}

#[test]
fn a_group_of_the_community_shows_its_approval() {
    let server = Server::start().unwrap();
    let protected = DEFINITION.replace("stable.example.com", "stable.k8s.io");
    let text = server.kubectl_with(&["apply", "-f", "-"], &protected).unwrap_err().to_string();
    assert!(text.contains("protected groups must have approval annotation"), "{text}");
    let approved = protected.replace(
        "metadata: {name: crontabs.stable.k8s.io}",
        "metadata: {name: crontabs.stable.k8s.io, annotations: {api-approved.kubernetes.io: \"unapproved, a test\"}}",
    );
    server.kubectl_with(&["apply", "-f", "-"], &approved).unwrap();
    let fields =
        r#"jsonpath={.status.conditions[?(@.type=="KubernetesAPIApprovalPolicyConformant")].reason}"#;
    let reason = server.kubectl(&["get", "crd", "crontabs.stable.k8s.io", "-o", fields]).unwrap();
    assert_eq!(reason, "UnapprovedAnnotation");
}
