use super::*;
use crate::object::Object;
use serde_json::{Value, json};

fn builtin(gvk: &GroupVersionKind) -> Option<Arc<Schema>> {
    Schema::builtin(gvk)
}

fn write<'a>(manager: &'a str, seconds: i64) -> Write<'a> {
    let now = Timestamp::from_second(1_700_000_000 + seconds).unwrap();
    Write { manager, subresource: "", has_status: true, schema_changes: false, schemas: &builtin, now }
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}],
                     "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
                ]},
            },
        },
    })
}

fn applied(live: Option<&Object>, config: Value, manager: &str, at: i64) -> Object {
    let mut object = apply(live, &object(config), false, &write(manager, at)).unwrap();
    object.set_uid("1");
    object
}

fn fields_of<'a>(object: &'a Object, manager: &str) -> &'a Value {
    let entry = object.managed_fields().iter().find(|entry| entry["manager"] == manager);
    &entry.unwrap_or_else(|| panic!("{manager}: {:?}", object.managed_fields()))["fieldsV1"]
}

fn has_manager(object: &Object, manager: &str) -> bool {
    object.managed_fields().iter().any(|entry| entry["manager"] == manager)
}

fn updated(live: Option<&Object>, new: Value, manager: &str, at: i64) -> Object {
    let mut new = object(new);
    new.set_uid("1");
    track(live, &mut new, &write(manager, at));
    new
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": data})
}

#[test]
fn a_creation_records_every_field_as_upstream_does() {
    let created = updated(None, deployment(), "kubectl-create", 0);
    let entry = &created.managed_fields()[0];
    assert_eq!((&entry["operation"], &entry["apiVersion"]), (&json!("Update"), &json!("apps/v1")));
    assert_eq!((&entry["time"], &entry["fieldsType"]), (&json!("2023-11-14T22:13:20Z"), &json!("FieldsV1")));
    assert!(entry.get("subresource").is_none());
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {
                "k:{\"name\":\"web\"}": {
                    ".": {}, "f:name": {}, "f:image": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:env": {".": {},
                        "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}},
                        "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}}},
                },
            }}},
        },
    });
    assert_eq!(entry["fieldsV1"], expected);
    // The way without a set in between finds the same.
    let schema = builtin(&created.gvk());
    let set = compare::compare_objects(schema.as_deref(), None, &created, Scope::AllButStatus).added;
    assert_eq!(set.into_value(), expected);
}

#[test]
fn an_update_takes_what_it_changes() {
    let live = updated(None, deployment(), "a", 0);
    let mut new = deployment();
    new["spec"]["replicas"] = json!(3);
    new["metadata"]["annotations"] = json!({"x": "y"});
    let after = updated(Some(&live), new, "b", 1);
    assert_eq!(
        fields_of(&after, "b"),
        &json!({"f:metadata": {"f:annotations": {".": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}}})
    );
    assert!(fields_of(&after, "a")["f:spec"].get("f:replicas").is_none());
    // The same manager's entry grows, and what is gone is nobody's.
    let mut new = deployment();
    new["spec"]["replicas"] = json!(4);
    new["metadata"].as_object_mut().unwrap().remove("labels");
    let after = updated(Some(&after), new, "b", 2);
    assert_eq!(fields_of(&after, "b"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields_of(&after, "a").get("f:metadata").is_none());
}

#[test]
fn an_update_of_nothing_leaves_the_record_alone_even_where_it_was_not_sent() {
    let live = updated(None, deployment(), "a", 0);
    let after = updated(Some(&live), deployment(), "b", 60);
    assert_eq!(after, live);
    let mut sent = live.clone();
    sent.set(&["metadata", "managedFields"], json!([]));
    assert_eq!(updated(Some(&live), sent.into_value(), "b", 60), live);
}

#[test]
fn an_empty_entry_takes_the_record_away_and_none_begins_before_the_next_apply() {
    let live = updated(None, map(json!({"a": "1"})), "a", 0);
    let mut sent = live.clone();
    sent.set(&["metadata", "managedFields"], json!([{}]));
    let reset = updated(Some(&live), sent.into_value(), "b", 1);
    assert!(reset.managed_fields().is_empty());
    let changed = updated(Some(&reset), map(json!({"a": "2"})), "b", 2);
    assert!(changed.managed_fields().is_empty());
    let after = applied(Some(&changed), map(json!({"b": "1"})), "c", 3);
    assert_eq!(fields_of(&after, "before-first-apply"), &json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(fields_of(&after, "c"), &json!({"f:data": {"f:b": {}}}));
}

#[test]
fn a_client_may_write_entries_itself() {
    let live = updated(None, map(json!({"a": "1"})), "kubectl-client-side-apply", 0);
    let mut sent = live.clone();
    let entry = json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2023-11-14T22:13:20Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:a": {}}}}]);
    sent.set(&["metadata", "managedFields"], entry.clone());
    let after = updated(Some(&live), sent.clone().into_value(), "other", 1);
    assert_eq!(after.managed_fields(), entry.as_array().unwrap());
    // Not by way of a subresource.
    let by_status = Write { subresource: "status", ..write("other", 1) };
    track(Some(&live), &mut sent, &by_status);
    assert_eq!(sent.managed_fields(), live.managed_fields());
}

#[test]
fn the_eleventh_updater_folds_the_oldest_together() {
    let mut live = updated(None, map(json!({"k": "0"})), "creator", 0);
    for number in 1..=12 {
        let mut new = live.clone();
        new.set(&["data", &format!("k{number}")], json!("1"));
        live = updated(Some(&live), new.into_value(), &format!("m{number}"), number);
    }
    let managers: Vec<&str> =
        live.managed_fields().iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!(managers.len(), 10, "{managers:?}");
    assert!(managers.contains(&"ancient-changes") && managers.contains(&"m12"), "{managers:?}");
    assert!(!managers.contains(&"creator"), "{managers:?}");
    assert_eq!(fields_of(&live, "ancient-changes")["f:data"]["f:k"], json!({}));
}

#[test]
fn an_applier_owns_what_it_names_and_may_give_it_up() {
    let first = applied(None, deployment(), "me", 0);
    assert_eq!(first.managed_fields()[0]["operation"], "Apply");
    let mut next = deployment();
    next["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "B", "value": "2"}]);
    next["spec"].as_object_mut().unwrap().remove("replicas");
    next["metadata"].as_object_mut().unwrap().remove("labels");
    let after = applied(Some(&first), next, "me", 1);
    assert_eq!(
        after.get(&["spec", "template", "spec", "containers"]).unwrap()[0]["env"],
        json!([{"name": "B", "value": "2"}])
    );
    assert!(after.get(&["spec", "replicas"]).is_none() && after.labels().is_none());
    assert_eq!((after.name(), after.uid()), (Some("web"), Some("1")));
    assert!(fields_of(&after, "me")["f:spec"].get("f:replicas").is_none());
}

#[test]
fn what_someone_else_has_too_stays_when_an_applier_gives_it_up() {
    let first = applied(None, map(json!({"a": "1", "b": "1"})), "one", 0);
    let both = applied(Some(&first), map(json!({"a": "1"})), "two", 1);
    let after = applied(Some(&both), map(json!({"b": "1"})), "one", 2);
    assert_eq!(after.get(&["data"]), Some(&json!({"a": "1", "b": "1"})));
    assert_eq!(fields_of(&after, "two"), &json!({"f:data": {"f:a": {}}}));
    let gone = applied(Some(&after), map(json!({})), "two", 3);
    assert_eq!(gone.get(&["data"]), Some(&json!({"b": "1"})));
}

#[test]
fn an_item_that_an_applier_gives_up_stays_where_another_has_applied_it() {
    let first = applied(None, deployment(), "me", 0);
    let mut partial = deployment();
    partial["spec"] =
        json!({"template": {"spec": {"containers": [{"name": "web", "imagePullPolicy": "Always"}]}}});
    let both = applied(Some(&first), partial, "other", 1);
    let mut next = deployment();
    next["spec"]["template"]["spec"]["containers"] = json!([{"name": "new", "image": "x"}]);
    let after = applied(Some(&both), next.clone(), "me", 2);
    let containers = after.get(&["spec", "template", "spec", "containers"]).unwrap();
    assert_eq!(
        containers,
        &json!([{"name": "web", "imagePullPolicy": "Always"}, {"name": "new", "image": "x"}])
    );
    // Who has only set a field in it does not hold it.
    let mut new = first.clone().into_value();
    new["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    let changed = updated(Some(&first), new, "other", 1);
    let after = applied(Some(&changed), next, "me", 2);
    let containers = after.get(&["spec", "template", "spec", "containers"]).unwrap();
    assert_eq!(containers, &json!([{"name": "new", "image": "x"}]));
    assert!(!has_manager(&after, "other"));
}

#[test]
fn another_value_of_another_manager_is_a_conflict_and_force_takes_it() {
    let live = updated(None, deployment(), "kubectl-client-side-apply", 0);
    let mut config = deployment();
    config["spec"]["replicas"] = json!(5);
    let error = apply(Some(&live), &object(config.clone()), false, &write("me", 1)).unwrap_err();
    let status = error.to_status();
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        status.details["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    config["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
    let error = apply(Some(&live), &object(config.clone()), false, &write("me", 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"web\"].image"
    );
    let forced = apply(Some(&live), &object(config), true, &write("me", 1)).unwrap();
    assert_eq!(forced.get(&["spec", "replicas"]), Some(&json!(5)));
    assert!(fields_of(&forced, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_none());
    // An applier is named without its version.
    let mut other = deployment();
    other["spec"]["replicas"] = json!(6);
    let error = apply(Some(&forced), &object(other), false, &write("you", 2)).unwrap_err();
    assert!(error.to_string().contains("conflicts with \"me\":\n- .spec.replicas"), "{error}");
}

#[test]
fn the_same_value_is_shared_without_conflict() {
    let live = updated(None, deployment(), "a", 0);
    let after = applied(Some(&live), deployment(), "b", 1);
    assert!(has_manager(&after, "a") && has_manager(&after, "b"));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let first = applied(None, deployment(), "me", 0);
    let again = apply(Some(&first), &object(deployment()), false, &write("me", 100)).unwrap();
    assert_eq!(again, first);
}

#[test]
fn kubectl_takes_over_what_client_side_apply_has_set() {
    let mut manifest = map(json!({"a": "1", "b": "1"}));
    let last = manifest.to_string();
    manifest["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let live = updated(None, manifest, "kubectl-client-side-apply", 0);
    let config = map(json!({"a": "2", "b": "1"}));
    let after = applied(Some(&live), config.clone(), "kubectl", 1);
    assert_eq!(after.get(&["data", "a"]), Some(&json!("2")));
    let annotation = after.annotation("kubectl.kubernetes.io/last-applied-configuration").unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), config);
    // Not where the value was changed since.
    let mut changed = live.clone();
    changed.set(&["data", "a"], json!("3"));
    let changed = updated(Some(&live), changed.into_value(), "someone", 1);
    let error = apply(Some(&changed), &object(config.clone()), false, &write("kubectl", 2)).unwrap_err();
    assert!(error.to_string().contains("conflict with \"someone\" using v1: .data.a"), "{error}");
    // And not for other managers.
    assert!(apply(Some(&live), &object(config), false, &write("me", 1)).is_err());
}

#[test]
fn a_configuration_that_does_not_fit_the_schema_is_refused() {
    let mut config = deployment();
    config["spec"]["foo"] = json!(1);
    let error = apply(None, &object(config.clone()), false, &write("me", 0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    assert_eq!(error.to_status().code, 500);
    config["spec"]["replicas"] = json!("two");
    let error = apply(None, &object(config), false, &write("me", 0)).unwrap_err();
    assert!(
        error.to_string().contains(
            "errors:\n  .spec.foo: field not declared in schema\n  .spec.replicas: expected numeric (int or float), got string"
        ),
        "{error}"
    );
    let mut twice = deployment();
    let ports = json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]);
    twice["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    let error = apply(None, &object(twice), false, &write("me", 0)).unwrap_err();
    assert!(
        error.to_string().contains("duplicate entries for key [containerPort=80,protocol=\"TCP\"]"),
        "{error}"
    );
    let mut forged = map(json!({}));
    forged["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(apply(None, &object(forged), false, &write("me", 0)), Err(ApplyError::ManagedFields));
}

#[test]
fn a_port_without_protocol_is_the_one_with_tcp() {
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let mut live = applied(None, service(json!([{"port": 80}])), "me", 0);
    live.set(&["spec", "ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    let after = applied(
        Some(&live),
        service(json!([{"port": 80, "name": "http"}, {"port": 80, "protocol": "UDP"}])),
        "me",
        1,
    );
    let ports = after.get(&["spec", "ports"]).unwrap();
    assert_eq!(
        ports,
        &json!([{"port": 80, "protocol": "TCP", "targetPort": 80, "name": "http"}, {"port": 80, "protocol": "UDP"}])
    );
}

#[test]
fn an_atomic_value_is_replaced_as_a_whole_and_the_items_of_a_set_are_shared() {
    let with = |selector: Value, finalizers: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "s", "finalizers": finalizers}, "spec": {"selector": selector}})
    };
    let first = applied(None, with(json!({"a": "1", "b": "1"}), json!(["x/a"])), "me", 0);
    let after = applied(Some(&first), with(json!({"a": "1"}), json!(["x/b"])), "me", 1);
    assert_eq!(after.get(&["spec", "selector"]), Some(&json!({"a": "1"})));
    assert_eq!(after.finalizers().collect::<Vec<_>>(), ["x/b"]);
    let other =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": ["x/c"]}});
    let both = applied(Some(&after), other, "you", 2);
    assert_eq!(both.finalizers().collect::<Vec<_>>(), ["x/b", "x/c"]);
    assert_eq!(fields_of(&both, "you"), &json!({"f:metadata": {"f:finalizers": {"v:\"x/c\"": {}}}}));
}

#[test]
fn status_is_applied_by_its_subresource_alone() {
    let live = applied(None, deployment(), "me", 0);
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"observedGeneration": 1, "conditions": [{"type": "Available", "status": "True"}]}});
    let by_status = Write { subresource: "status", ..write("controller", 1) };
    let after = apply(Some(&live), &object(config.clone()), false, &by_status).unwrap();
    let entry = after.managed_fields().iter().find(|entry| entry["manager"] == "controller").unwrap();
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:observedGeneration": {}, "f:conditions": {"k:{\"type\":\"Available\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
    let whole = apply(Some(&live), &object(config), true, &write("other", 1)).unwrap();
    assert!(fields_of(&whole, "other").get("f:status").is_none());
}

#[test]
fn a_manager_of_another_version_is_compared_in_its_own() {
    let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 60, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let old = applied(None, v1, "me", 0);
    let v2 = GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
    let live = versions::converted(&old, &v2);
    let mut new = live.clone();
    new.set(
        &["spec", "metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 80}}}]),
    );
    let after = updated(Some(&live), new.into_value(), "you", 1);
    assert!(fields_of(&after, "me")["f:spec"].get("f:targetCPUUtilizationPercentage").is_none());
    assert_eq!(fields_of(&after, "me")["f:spec"]["f:maxReplicas"], json!({}));
    assert_eq!(fields_of(&after, "you"), &json!({"f:spec": {"f:metrics": {}}}));
}

#[test]
fn a_change_of_times_alone_is_told_from_others() {
    let a = updated(None, map(json!({"a": "1"})), "m", 0);
    let mut b = updated(None, map(json!({"a": "1"})), "m", 9);
    assert!(a != b && differ_in_times_alone(&a, &b));
    b.set(&["data", "a"], json!("2"));
    assert!(!differ_in_times_alone(&a, &b));
}

#[test]
fn a_quantity_may_be_a_number_and_a_claim_template_has_no_owner_of_its_own() {
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"}, "spec": {
        "serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": 1}}, "env": [{"name": "E"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}});
    let after = applied(None, set.clone(), "me", 0);
    assert_eq!(fields_of(&after, "me")["f:spec"]["f:volumeClaimTemplates"], json!({}));
    let mut wrong = set;
    wrong["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = json!(1);
    let error = apply(None, &object(wrong), false, &write("me", 0)).unwrap_err().to_string();
    assert!(
        error.ends_with(".env[name=\"E\"].value: expected string, got &value.valueUnstructured{Value:1}"),
        "{error}"
    );
}

#[test]
fn who_had_items_of_a_list_that_is_one_value_by_now_has_the_list() {
    let schema = |kind: &str| {
        let list = json!({"type": "array", "x-kubernetes-list-type": kind, "items": {"type": "string"}});
        Schema::from_crd(&json!({"type": "object", "properties": {"tags": list}})).unwrap()
    };
    let (sets, whole) = (schema("set"), schema("atomic"));
    let before = |_: &GroupVersionKind| Some(Arc::clone(&sets));
    let now = |_: &GroupVersionKind| Some(Arc::clone(&whole));
    let tags = |tags: Value| {
        object(json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "tags": tags}))
    };
    let then = Write { schemas: &before, ..write("one", 0) };
    let first = apply(None, &tags(json!(["a"])), false, &then).unwrap();
    let then = Write { manager: "two", ..then };
    let first = apply(Some(&first), &tags(json!(["b"])), false, &then).unwrap();
    assert_eq!(first.get(&["tags"]), Some(&json!(["a", "b"])));
    assert_eq!(fields_of(&first, "one"), &json!({"f:tags": {"v:\"a\"": {}}}));
    let later = Write { schemas: &now, schema_changes: true, ..write("two", 1) };
    let error = apply(Some(&first), &tags(json!(["c"])), false, &later).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .tags");
    let forced = apply(Some(&first), &tags(json!(["c"])), true, &later).unwrap();
    assert_eq!(forced.get(&["tags"]), Some(&json!(["c"])));
    assert!(!has_manager(&forced, "one"));
    // Any other write takes the whole too.
    let mut new = tags(json!(["d"]));
    track(Some(&first), &mut new, &Write { manager: "three", ..later });
    assert!(!has_manager(&new, "one") && !has_manager(&new, "two"));
    assert_eq!(fields_of(&new, "three"), &json!({"f:tags": {}}));
}
