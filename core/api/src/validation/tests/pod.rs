//! Pods, field by field.

use serde_json::{Value, json};

use super::{each_change_has_its_fault, faults, update_faults};

fn good() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns"}, "spec": {
        "serviceAccountName": "default",
        "volumes": [
            {"name": "v", "emptyDir": {}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "c"}},
        ],
        "initContainers": [{"name": "i", "image": "x"}],
        "containers": [{
            "name": "m", "image": "x", "securityContext": {"runAsUser": 1}, "lifecycle": {},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "volumeDevices": [{"name": "c", "devicePath": "/dev/c"}],
            "ports": [{"containerPort": 80}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
        }],
    }})
}

#[test]
fn each_fault_of_a_security_context_has_its_path() {
    let own = "/spec/containers/0/securityContext";
    let at = |field: &str| -> &'static str { format!("{own}/{field}").leak() };
    each_change_has_its_fault(
        &good(),
        vec![
            (
                at("runAsUser"),
                json!(-1),
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                at("procMount"),
                json!("Unmasked"),
                "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false",
            ),
            (
                at("seccompProfile"),
                json!({"type": "Localhost"}),
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                at("seccompProfile"),
                json!({"type": "Nothing"}),
                "spec.containers[0].securityContext.seccompProfile.type: Unsupported value: \"Nothing\"",
            ),
            (
                at("appArmorProfile"),
                json!({"type": "Localhost", "localhostProfile": " a"}),
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded",
            ),
            (
                at("windowsOptions"),
                json!({"runAsUserName": "a\\b\\c"}),
                "spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value",
            ),
            (
                own,
                json!({"allowPrivilegeEscalation": false, "privileged": true}),
                "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set",
            ),
            ("/spec/securityContext/fsGroup", json!(-2), "spec.securityContext.fsGroup: Invalid value: -2"),
            (
                "/spec/securityContext/sysctls",
                json!([{"name": "a b", "value": "1"}]),
                "spec.securityContext.sysctls[0].name: Invalid value: \"a b\": must have at most 253 characters",
            ),
            (
                "/spec/securityContext/supplementalGroupsPolicy",
                json!("No"),
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"No\": supported values: \"Merge\", \"Strict\"",
            ),
            (
                "/spec/securityContext/fsGroupChangePolicy",
                json!("No"),
                "spec.securityContext.fsGroupChangePolicy: Unsupported value",
            ),
            (
                "/spec/os",
                json!({"name": "plan9"}),
                "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
            ),
        ],
    );
    let found = faults(&good(), &[("/spec/hostUsers", json!(false)), ("/spec/hostPID", json!(true))]);
    let forbidden = |field: &str| format!("{field}: Forbidden: when `hostUsers` is false");
    assert_eq!(found, [forbidden("spec.HostPID"), forbidden("spec.containers[0].volumeDevices")]);
    let found = faults(&good(), &[("/spec/os", json!({"name": "windows"}))]);
    assert_eq!(
        found,
        ["spec.containers[0].securityContext.runAsUser: Forbidden: cannot be set for a windows pod"]
    );
}

#[test]
fn each_fault_of_resources_has_its_path() {
    let at = |field: &str| -> &'static str { format!("/spec/containers/0/resources/{field}").leak() };
    each_change_has_its_fault(
        &good(),
        vec![
            (
                at("requests"),
                json!({"cpu": "2"}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                at("requests"),
                json!({"cpu": "-1"}),
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                at("limits"),
                json!({"cpu": "1", "example.com/gpu": "1500m"}),
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            ),
            (
                at("limits"),
                json!({"cpu": "1", "hugepages-2Mi": "3Mi"}),
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ),
            (
                at("claims"),
                json!([{"name": "gpu"}]),
                "spec.containers[0].resources.claims[0]: Not found: \"gpu\": must be one of the names in pod.spec.resourceClaims which is empty",
            ),
            (
                "/spec/resourceClaims",
                json!([{"name": "gpu"}]),
                "spec.resourceClaims[0]: Invalid value: {\"name\":\"gpu\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            (
                "/spec/containers/0/resizePolicy",
                json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
                "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            ),
        ],
    );
    let found = faults(&good(), &[("/spec/resources", json!({"requests": {"cpu": "500m"}}))]);
    assert_eq!(
        found,
        [
            "spec.resources.requests[cpu]: Invalid value: \"500m\": must be greater than or equal to aggregate container requests of 1"
        ]
    );
}

#[test]
fn each_fault_of_mounts_and_volumes_has_its_path() {
    each_change_has_its_fault(
        &good(),
        vec![
            (
                "/spec/containers/0/volumeMounts/0/mountPropagation",
                json!("Bidirectional"),
                "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            ),
            (
                "/spec/containers/0/volumeMounts/0/recursiveReadOnly",
                json!("Enabled"),
                "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            ),
            (
                "/spec/containers/0/volumeMounts/0/subPath",
                json!("../a"),
                "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../a\": must not contain '..'",
            ),
            (
                "/spec/containers/0/volumeMounts/0/mountPath",
                json!("/dev/c"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/dev/c\": must not already exist as a path in volumeDevices",
            ),
            (
                "/spec/containers/0/volumeDevices/0/name",
                json!("none"),
                "spec.containers[0].volumeDevices[0].name: Not found: \"none\"",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "p", "projected": {"sources": [{"configMap": {"name": "a", "items": [{"key": "k", "path": "x"}]}}, {"secret": {"name": "b", "items": [{"key": "k", "path": "x"}]}}]}}),
                "spec.volumes[2].projected: Invalid value: \"x\": conflicting duplicate paths",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "p", "csi": {"driver": "a_b"}}),
                "spec.volumes[2].csi.driver: Invalid value: \"a_b\"",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "p", "image": {}}),
                "spec.volumes[2].image.reference: Required value",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "p", "ephemeral": {}}),
                "spec.volumes[2].ephemeral.volumeClaimTemplate: Required value",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "p", "iscsi": {"targetPortal": "a"}}),
                "spec.volumes[2].iscsi.iqn: Required value",
            ),
            (
                "/spec/volumes/2",
                json!({"name": "v", "emptyDir": {}}),
                "spec.volumes[2].name: Duplicate value: \"v\"",
            ),
        ],
    );
}

#[test]
fn each_fault_of_scheduling_has_its_path() {
    let term = |field: &str, value: Value| {
        let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}});
        term[field] = value;
        json!([term])
    };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let anti: &'static str = format!("/spec/affinity/podAntiAffinity/{required}").leak();
    let node: &'static str = format!("/spec/affinity/nodeAffinity/{required}").leak();
    let spread = |field: &str, value: Value| {
        let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        one[field] = value;
        json!([one])
    };
    each_change_has_its_fault(
        &good(),
        vec![
            (
                anti,
                term("namespaces", json!(["A"])),
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: \"A\"",
            ),
            (
                anti,
                term("namespaceSelector", json!({"matchExpressions": [{"key": "a", "operator": "Is"}]})),
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaceSelector.matchExpressions[0].operator: Invalid value: \"Is\"",
            ),
            (
                node,
                json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["a"]}]}]}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key",
            ),
            (
                node,
                json!({"nodeSelectorTerms": []}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ),
            (
                "/spec/topologySpreadConstraints",
                spread("minDomains", json!(0)),
                "spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
            ),
            (
                "/spec/topologySpreadConstraints",
                spread("nodeTaintsPolicy", json!("Obey")),
                "spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"Obey\": supported values: \"Honor\", \"Ignore\"",
            ),
            (
                "/spec/topologySpreadConstraints",
                spread("matchLabelKeys", json!(["a"])),
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            ),
            (
                "/spec/schedulingGates",
                json!([{"name": "a b"}]),
                "spec.schedulingGates[0]: Invalid value: \"a b\"",
            ),
            (
                "/spec/tolerations",
                json!([{"key": "a", "operator": "Exists", "value": "b"}]),
                "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ),
            (
                "/spec/dnsPolicy",
                json!("None"),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                "/spec/containers/0/lifecycle/preStop",
                json!({"sleep": {"seconds": 31}}),
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ),
            (
                "/spec/containers/0/restartPolicyRules",
                json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]),
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ),
            (
                "/spec/ephemeralContainers",
                json!([{"name": "e", "image": "x"}]),
                "spec.ephemeralContainers: Forbidden: cannot be set on create",
            ),
        ],
    );
}

#[test]
fn a_resize_changes_cpu_and_memory_within_the_class_and_nothing_else() {
    let mut pod = good();
    pod["status"] = json!({"qosClass": "Burstable"});
    let resources = "/spec/containers/0/resources";
    let to = |requests: Value, limits: Value| [(resources, json!({"requests": requests, "limits": limits}))];
    assert!(update_faults(&pod, "resize", &to(json!({"cpu": "500m"}), json!({"cpu": "2"}))).is_empty());
    assert_eq!(
        update_faults(&pod, "resize", &to(json!({"cpu": "1"}), json!({}))),
        ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
    );
    let found = update_faults(
        &pod,
        "resize",
        &to(json!({"cpu": "1"}), json!({"cpu": "1", "ephemeral-storage": "1Gi"})),
    );
    assert_eq!(found, ["spec: Forbidden: only cpu and memory resources are mutable"]);
    pod["spec"]["resources"] = json!({"limits": {"cpu": "2", "hugepages-2Mi": "2Mi"}});
    let whole =
        |limits: Value| update_faults(&pod, "resize", &[("/spec/resources", json!({"limits": limits}))]);
    assert_eq!(whole(json!({"cpu": "3", "hugepages-2Mi": "2Mi"})), Vec::<String>::new());
    assert_eq!(
        whole(json!({"cpu": "3", "hugepages-2Mi": "4Mi"})),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    assert!(
        whole(json!({"cpu": "3"}))
            .contains(&"spec.resources.limits: Forbidden: resource limits cannot be removed".to_owned())
    );
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "a"});
    assert_eq!(
        update_faults(&pod, "resize", &to(json!({"cpu": "2"}), json!({"cpu": "2"}))),
        [": Forbidden: static pods cannot be resized"]
    );
}

#[test]
fn a_gated_pod_is_steered_to_fewer_nodes_only() {
    let mut pod = good();
    pod["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    pod["spec"]["nodeSelector"] = json!({"a": "b"});
    assert!(update_faults(&pod, "", &[("/spec/nodeSelector/c", json!("d"))]).is_empty());
    let found = update_faults(&pod, "", &[("/spec/nodeSelector", json!({"a": "c"}))]);
    assert_eq!(
        found,
        [
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        ]
    );
}

#[test]
fn a_container_that_has_ended_for_good_stays_ended() {
    let mut pod = good();
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["status"] = json!({"containerStatuses": [{"name": "m", "state": {"terminated": {"exitCode": 1}}}]});
    let revived = [("/status/containerStatuses/0/state", json!({"running": {}}))];
    assert_eq!(
        update_faults(&pod, "status", &revived),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut anew = pod.clone();
    anew["spec"]["initContainers"] = json!([{"name": "i", "image": "i", "restartPolicyRules": rule}]);
    assert!(update_faults(&anew, "status", &revived).is_empty());
    pod["spec"]["restartPolicy"] = "OnFailure".into();
    assert!(update_faults(&pod, "status", &revived).is_empty());
}

/// What is wrong with a good pod whose volumes, but the first two, are these.
fn of_volume(source: &Value) -> Vec<String> {
    let mut volume = source.clone();
    volume["name"] = "w".into();
    faults(&good(), &[("/spec/volumes/2", volume)])
}

#[test]
fn a_volume_that_no_node_knows_is_refused_with_what_to_use() {
    for (source, needed) in [
        ("nfs", json!({"server": "s", "path": "/"})),
        ("iscsi", json!({"targetPortal": "p", "iqn": "iqn.2000-01.a:b", "lun": 0})),
        ("fc", json!({"wwids": ["w"]})),
        ("flexVolume", json!({"driver": "a/b"})),
        ("gitRepo", json!({"repository": "r"})),
        ("awsElasticBlockStore", json!({"volumeID": "v"})),
        ("glusterfs", json!({"endpoints": "e", "path": "p"})),
    ] {
        let found = of_volume(&json!({ source: needed }));
        let expected =
            format!("spec.volumes[2].{source}: Forbidden: volumes of type {source} are not supported; use ");
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
    }
    let bundle = json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "a", "path": "b"}}]}});
    let expected = "spec.volumes[2].projected.sources[0].clusterTrustBundle: Forbidden: may not be set: this cluster is without the feature ClusterTrustBundleProjection";
    assert_eq!(of_volume(&bundle), [expected]);
    let meta = json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}});
    let expected = "spec.volumes[2].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set for an ephemeral volume";
    assert_eq!(of_volume(&meta), [expected]);
}

#[test]
fn each_fault_of_a_variable_has_its_path() {
    let from = |source: &str, value: Value| json!([{"name": "E", "valueFrom": {source: value}}]);
    let env = "/spec/containers/0/env";
    let at = "spec.containers[0].env[0].valueFrom";
    let cases = [
        (
            from("fieldRef", json!({"fieldPath": "status.reason"})),
            format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"status.reason\": error converting fieldPath: field label not supported: status.reason"
            ),
        ),
        (
            from("fieldRef", json!({"apiVersion": "v2", "fieldPath": "metadata.name"})),
            format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod version: v2"
            ),
        ),
        (
            from("fieldRef", json!({"fieldPath": "status.phase"})),
            format!("{at}.fieldRef.fieldPath: Unsupported value: \"status.phase\""),
        ),
        (
            from("fieldRef", json!({"fieldPath": "metadata.name['a']"})),
            format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error converting fieldPath: field label does not support subscript: metadata.name['a']"
            ),
        ),
        (
            from("resourceFieldRef", json!({"resource": "limits.cpu", "divisor": "5m"})),
            format!(
                "{at}.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource"
            ),
        ),
        (
            from("resourceFieldRef", json!({"resource": "limits.memory", "divisor": "3Mi"})),
            format!(
                "{at}.resourceFieldRef.divisor: Invalid value: \"limits.memory\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
            ),
        ),
        (
            from("resourceFieldRef", json!({"resource": "limits.some.hugepages-2Mi"})),
            format!("{at}.resourceFieldRef.resource: Unsupported value"),
        ),
        (
            from("secretKeyRef", json!({"name": "A_b", "key": "k"})),
            format!("{at}.secretKeyRef.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain"),
        ),
    ];
    for (value, expected) in cases {
        let found = faults(&good(), &[(env, value.clone())]);
        assert!(found.iter().any(|fault| fault.starts_with(&expected)), "{value}: {found:?}");
    }
    for good_one in ["1024k", "1Ki", "0"] {
        let value = from("resourceFieldRef", json!({"resource": "limits.memory", "divisor": good_one}));
        assert_eq!(faults(&good(), &[(env, value)]).is_empty(), good_one != "1024k");
    }
    let envs = json!([{"configMapRef": {"name": "no name"}}]);
    let found = faults(&good(), &[("/spec/containers/0/envFrom", envs)]);
    assert!(
        found[0].starts_with("spec.containers[0].envFrom[0].configMapRef.name: Invalid value"),
        "{found:?}"
    );
}

#[test]
fn a_container_is_asked_to_end_by_a_signal_of_its_system() {
    let signal = "/spec/containers/0/lifecycle/stopSignal";
    let forbidden = "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`";
    assert_eq!(faults(&good(), &[(signal, json!("SIGUSR1"))]), [forbidden]);
    let linux =
        |name: &str| faults(&good(), &[("/spec/os", json!({"name": "linux"})), (signal, json!(name))]);
    for name in ["SIGUSR1", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14", "SIGXFSZ"] {
        assert!(linux(name).is_empty(), "{name}");
    }
    let found = linux("USR1");
    assert!(found[0].starts_with(
        "spec.containers[0].lifecycle.stopSignal: Unsupported value: \"USR1\": supported values: \"SIGABRT\""
    ));
}

#[test]
fn a_port_of_the_node_is_not_opened_at_what_is_no_address() {
    let port = json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.256"});
    let found = faults(&good(), &[("/spec/containers/0/ports/0", port)]);
    assert_eq!(
        found,
        [
            "spec.containers[0].ports[0].hostIP: Invalid value: \"127.0.0.256\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
}

#[test]
fn devices_of_a_class_are_no_resource() {
    let limits = json!({"deviceclass.resource.kubernetes.io/gpu": "1"});
    let resources = json!({"limits": limits, "requests": limits});
    let found = faults(&good(), &[("/spec/containers/0/resources", resources)]);
    assert!(
        found
            .iter()
            .all(|fault| fault
                .ends_with("Forbidden: devices of a class are asked for by `spec.resourceClaims`"))
            && found.len() == 2,
        "{found:?}"
    );
}

#[test]
fn annotations_that_mean_something_are_good_and_stay() {
    let annotated =
        |key: &str, value: &str| faults(&good(), &[("/metadata/annotations", json!({key: value}))]);
    let armour = "container.apparmor.security.beta.kubernetes.io";
    assert_eq!(
        annotated("kubernetes.io/config.mirror", "x"),
        [
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set"
        ]
    );
    for (value, is_good) in
        [("-5", true), ("0", true), ("+1", false), ("01", false), ("x", false), ("2147483648", false)]
    {
        assert_eq!(
            annotated("controller.kubernetes.io/pod-deletion-cost", value).is_empty(),
            is_good,
            "{value}"
        );
    }
    assert_eq!(
        annotated(&format!("{armour}/none"), "runtime/default"),
        [format!("metadata.annotations[{armour}/none]: Invalid value: \"none\": container not found")]
    );
    assert_eq!(
        annotated(&format!("{armour}/m"), "own"),
        [format!(
            "metadata.annotations[{armour}/m]: Invalid value: \"own\": invalid AppArmor profile name: \"own\""
        )]
    );
    assert!(
        annotated("seccomp.security.alpha.kubernetes.io/pod", "any")[0]
            .ends_with("must be a valid seccomp profile")
    );
    assert!(!annotated("scheduler.alpha.kubernetes.io/tolerations", "[{\"effect\": \"None\"}]").is_empty());

    let change = |before: Value, after: Value| {
        let pod = |annotations: Value| {
            let mut pod = good();
            pod["metadata"]["annotations"] = annotations;
            super::object(pod)
        };
        let ((gvk, old), (_, new)) = (pod(before), pod(after));
        let faults = crate::validation::validate_update(&gvk, &new, &old);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mirror = json!({"kubernetes.io/config.mirror": "x"});
    let path = "metadata.annotations[kubernetes.io/config.mirror]";
    assert_eq!(
        change(mirror.clone(), json!({})),
        [format!("{path}: Forbidden: may not remove or update mirror pod annotation")]
    );
    assert_eq!(
        change(json!({}), mirror.clone())[0],
        format!("{path}: Forbidden: may not add mirror pod annotation")
    );
    assert!(change(mirror.clone(), mirror).is_empty());
    assert_eq!(
        change(
            json!({"controller.kubernetes.io/pod-deletion-cost": "x"}),
            json!({"controller.kubernetes.io/pod-deletion-cost": "x", "a": "b"})
        ),
        Vec::<String>::new()
    );
}
