//! What a node tells the containers of a pod: variables, commands, names, and where names are asked for, whichever
//! runtime they are in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::Stdio;

use keelson_e2e::{BUSYBOX, Engine, LONG, Node, Pod, eventually};
use serde_json::json;

/// An image with an entry point, arguments, a folder and a variable.
const SAYS: &str = "test.keelson.io/says:1";

/// All lines stand in the text.
fn has(text: &str, lines: &[&str]) {
    let missing: Vec<_> = lines.iter().filter(|line| !text.lines().any(|it| it == **line)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{text}");
}

/// No line of the text begins so.
fn lacks(text: &str, beginnings: &[&str]) {
    for beginning in beginnings {
        assert!(!text.lines().any(|it| it.starts_with(beginning)), "{beginning} is there:\n{text}");
    }
}

/// What pods of this file ask for; made first, for a node hears of a Service when it does.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {colour: green, 1-size.x: large, empty: ""}
binaryData: {bytes: AQI=}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2, colour: secret}
---
apiVersion: v1
kind: Service
metadata: {name: red-fox}
spec: {ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: crew}
spec: {clusterIP: None, selector: {app: crew}, ports: [{port: 80}]}
"#;

/// What the addresses of the node's pods begin with.
fn pods_of(node: &Node) -> String {
    let range = node.field(&["nodes"], ".items[0].spec.podCIDR").unwrap();
    range.strip_suffix("0/24").unwrap().to_owned()
}

/// Variables by value, by reference and by whole objects, and what is missing.
fn variables(node: &Node) {
    let env = |lines: &[&str]| format!("env: [{}]", lines.join(", "));
    let from = |name: &str, source: &str| format!("{{name: {name}, valueFrom: {{{source}}}}}");
    let field = |name: &str, path: &str| from(name, &format!("fieldRef: {{fieldPath: \"{path}\"}}"));
    let resource = |name: &str, resource: &str, divisor: &str| {
        from(name, &format!("resourceFieldRef: {{resource: {resource}, divisor: \"{divisor}\"}}"))
    };
    let all = Pod::new("all").prints("env; echo ARGUMENTS $0 $1 $2 $3");
    let all = all
        .metadata("labels: {app: web, tier: front}")
        .metadata("annotations: {example.com/note: \"one\\ntwo\"}")
        .container(&env(&[
            "{name: PLAIN, value: first}",
            "{name: EMPTY}",
            "{name: COMPOSED, value: \"$(PLAIN)-$$(PLAIN)-$$$(PLAIN)-$(UNKNOWN)-$(LATER)-$(PLAIN\"}",
            "{name: LATER, value: \"$(E_colour) $(PASSWORD) $(RED_FOX_SERVICE_PORT_HTTP)\"}",
            "{name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}",
            "{name: AFTER, value: \"$(PASSWORD)\"}",
            "{name: COLOUR, valueFrom: {configMapKeyRef: {name: map, key: colour}}}",
            "{name: E_colour, value: own}",
            "{name: RED_FOX_SERVICE_HOST, value: mine}",
            "{name: NO_MAP, valueFrom: {configMapKeyRef: {name: absent, key: x, optional: true}}}",
            "{name: NO_KEY, valueFrom: {secretKeyRef: {name: keys, key: absent, optional: true}}}",
            &field("NAME", "metadata.name"),
            &field("NAMESPACE", "metadata.namespace"),
            &field("UID", "metadata.uid"),
            &field("LABEL", "metadata.labels['tier']"),
            &field("NOTE", "metadata.annotations['example.com/note']"),
            &field("NODE", "spec.nodeName"),
            &field("ACCOUNT", "spec.serviceAccountName"),
            &field("HOST_IP", "status.hostIP"),
            &field("HOST_IPS", "status.hostIPs"),
            &field("POD_IP", "status.podIP"),
            &field("POD_IPS", "status.podIPs"),
            &resource("CPU", "limits.cpu", "0"),
            &resource("MILLICPU", "limits.cpu", "1m"),
            &resource("MEMORY", "limits.memory", "1Mi"),
            &resource("ASKED", "requests.memory", "1"),
            &resource("DISK", "requests.ephemeral-storage", "1Ki"),
        ]))
        .container("envFrom: [{prefix: E_, configMapRef: {name: map}}, {secretRef: {name: keys}}, {configMapRef: {name: absent, optional: true}}, {secretRef: {name: absent, optional: true}}]")
        .container("resources: {limits: {cpu: 250m, memory: 64Mi}, requests: {cpu: 10m, memory: 1M}}")
        .container("args: [\"$(PLAIN)\", \"$$(PLAIN)\", \"$(UNKNOWN)\", \"$(RED_FOX_SERVICE_HOST)\"]");
    // The node's own amounts stand for limits that are not set.
    let unlimited = Pod::new("unlimited").prints("env").container(&env(&[
        &resource("CPU", "limits.cpu", "1m"),
        &resource("MEMORY", "limits.memory", "1"),
        &resource("DISK", "limits.ephemeral-storage", "1"),
        &resource("ASKED", "requests.cpu", "1"),
    ]));
    let unlinked = Pod::new("unlinked").spec("enableServiceLinks: false").prints("env");
    let missing = |name: &str, source: &str| {
        Pod::new(name).prints("env").container(&env(&[&from("X", source)])).to_string()
    };
    let manifest = [
        all.to_string(),
        unlimited.to_string(),
        unlinked.to_string(),
        // A shell passes no names on that it could not use itself.
        Pod::new("raw")
            .prints("")
            .container("envFrom: [{prefix: 3-, configMapRef: {name: map}}]")
            .to_string()
            .replace("[sh, -c, \"\"]", "[env]"),
        missing("no-map", "configMapKeyRef: {name: absent, key: x}"),
        missing("no-key", "configMapKeyRef: {name: map, key: absent}"),
        missing("no-bytes", "configMapKeyRef: {name: map, key: bytes}"),
        missing("no-secret-key", "secretKeyRef: {name: keys, key: absent}"),
        Pod::new("no-secret").prints("env").container("envFrom: [{secretRef: {name: absent}}]").to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();

    let printed = node.printed("all").unwrap();
    let of = |path: &str| node.pod("all", path).unwrap();
    let (uid, machine) = (of(".metadata.uid"), of(".spec.nodeName"));
    let (host, address) = (of(".status.hostIP"), of(".status.podIP"));
    let fox = node.field(&["service", "red-fox"], ".spec.clusterIP").unwrap();
    has(
        &printed,
        &[
            "PLAIN=first",
            "EMPTY=",
            "COMPOSED=first-$(PLAIN)-$first-$(UNKNOWN)-$(LATER)-$(PLAIN",
            "LATER=green $(PASSWORD) 8080",
            "PASSWORD=hunter2",
            "AFTER=hunter2",
            "COLOUR=green",
            "E_colour=own",
            "E_empty=",
            "colour=secret",
            "password=hunter2",
            "RED_FOX_SERVICE_HOST=mine",
            "NAME=all",
            "NAMESPACE=default",
            &format!("UID={uid}"),
            "LABEL=front",
            "NOTE=one",
            &format!("NODE={machine}"),
            "ACCOUNT=default",
            &format!("HOST_IP={host}"),
            &format!("HOST_IPS={host}"),
            "CPU=1",
            "MILLICPU=250",
            "MEMORY=64",
            "ASKED=1000000",
            "DISK=0",
            "ARGUMENTS first $(PLAIN) $(UNKNOWN) mine",
            // Of Services, as container engines once had it for links.
            "RED_FOX_SERVICE_PORT=8080",
            "RED_FOX_SERVICE_PORT_HTTP=8080",
            "RED_FOX_SERVICE_PORT_DNS=53",
            &format!("RED_FOX_PORT=tcp://{fox}:8080"),
            &format!("RED_FOX_PORT_8080_TCP=tcp://{fox}:8080"),
            "RED_FOX_PORT_8080_TCP_PROTO=tcp",
            "RED_FOX_PORT_8080_TCP_PORT=8080",
            &format!("RED_FOX_PORT_8080_TCP_ADDR={fox}"),
            &format!("RED_FOX_PORT_53_UDP=udp://{fox}:53"),
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "HOSTNAME=all",
            "PATH=/bin",
            "HOME=/root",
        ],
    );
    lacks(&printed, &["NO_MAP", "NO_KEY", "HEADLESS_", "E_bytes", "bytes"]);
    // An ended pod has no address any more; while it ran it had one.
    let told = printed.lines().find_map(|line| line.strip_prefix("POD_IP=")).unwrap();
    assert!(told.starts_with(&pods_of(node)) && (address.is_empty() || address == told), "{told} {address}");
    has(&printed, &[&format!("POD_IPS={told}")]);

    let allocatable =
        |resource: &str| node.field(&["nodes"], &format!(".items[0].status.allocatable.{resource}"));
    let printed = node.printed("unlimited").unwrap();
    let bytes = |quantity: String| match quantity.strip_suffix("Ki") {
        Some(number) => number.parse::<u64>().unwrap() << 10,
        None => quantity.parse().unwrap(),
    };
    let cpus = allocatable("cpu").unwrap();
    let cpus = cpus.strip_suffix('m').map_or_else(|| format!("{cpus}000"), str::to_owned);
    has(
        &printed,
        &[
            &format!("CPU={cpus}"),
            &format!("MEMORY={}", bytes(allocatable("memory").unwrap())),
            &format!("DISK={}", bytes(allocatable("ephemeral-storage").unwrap())),
            "ASKED=0",
        ],
    );

    has(&node.printed("raw").unwrap(), &["3-1-size.x=large", "3-colour=green", "3-empty="]);
    let printed = node.printed("unlinked").unwrap();
    has(&printed, &["KUBERNETES_SERVICE_PORT=443", "KUBERNETES_PORT_443_TCP_PROTO=tcp"]);
    lacks(&printed, &["RED_FOX_"]);

    for (pod, text) in [
        ("no-map", "configmap \"absent\" not found"),
        ("no-key", "couldn't find key absent in ConfigMap default/map"),
        ("no-bytes", "couldn't find key bytes in ConfigMap default/map"),
        ("no-secret-key", "couldn't find key absent in Secret default/keys"),
        ("no-secret", "secret \"absent\" not found"),
    ] {
        assert_eq!(node.waits(pod, "CreateContainerConfigError").unwrap(), text, "{pod}");
        node.told(pod, "Failed", &format!("Error: {text}")).unwrap();
    }
    // What was missing comes, and the pod goes on by itself.
    node.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: absent}, data: {x: there}}").unwrap();
    has(&node.printed("no-map").unwrap(), &["X=there"]);
}

/// Variables from files that init containers wrote.
fn files(node: &Node) {
    let pod = |name: &str, init: &str, env: &str| {
        let init = format!(
            "initContainers: [{{name: init, image: \"{BUSYBOX}\", command: [sh, -c, {}], volumeMounts: [{{name: v, mountPath: /data}}]}}]",
            json!(init)
        );
        Pod::new(name)
            .prints("env")
            .spec(&init)
            .spec("volumes: [{name: v, emptyDir: {}}]")
            .container(&format!("env: [{env}]"))
            .to_string()
    };
    let key = |name: &str, path: &str, key: &str, optional: bool| {
        format!(
            "{{name: {name}, valueFrom: {{fileKeyRef: {{volumeName: v, path: {path}, key: {key}, optional: {optional}}}}}}}"
        )
    };
    let good = [
        key("A", "deep/c.env", "A", false),
        key("MORE", "deep/c.env", "MORE", false),
        key("NONE", "deep/c.env", "NONE", true),
        "{name: COMPOSED, value: \"<$(A)>\"}".to_owned(),
    ];
    let wrote =
        "mkdir /data/deep; printf \"# comment\\nA='a b#c'\\nMORE='two\\nlines'\\n\" > /data/deep/c.env";
    let manifest = [
        pod("filed", wrote, &good.join(", ")),
        pod("no-file-key", wrote, &key("X", "deep/c.env", "X", false)),
        pod("bad-file", "echo A=plain > /data/c.env", &key("A", "c.env", "A", false)),
        pod("outside", "ln -s /etc/passwd /data/c.env", &key("A", "c.env", "A", false)),
    ];
    node.apply(&manifest.concat()).unwrap();
    let printed = node.printed("filed").unwrap();
    has(&printed, &["A=a b#c", "MORE=two", "lines", "COMPOSED=<a b#c>"]);
    lacks(&printed, &["NONE"]);
    let told = node.waits("no-file-key", "CreateContainerConfigError").unwrap();
    assert!(told.contains("environment variable key \"X\" not found in file"), "{told}");
    for pod in ["bad-file", "outside"] {
        let told = node.waits(pod, "CreateContainerConfigError").unwrap();
        assert!(told.contains("parse env file") || told.contains("open env file"), "{told}");
        assert!(!told.contains("root"), "{told}");
    }
}

/// What runs: the image's entry point and arguments or the pod's, where, and with which input.
fn commands(node: &Node) {
    let says = json!({
        "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd", "$HOME"], "WorkingDir": "/home/made",
        "Env": ["PATH=/bin", "FROM_IMAGE=yes", "BOTH=image"],
    });
    node.import(SAYS, &says, &[]).unwrap();
    let pod = |name: &str, fields: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  restartPolicy: Never\n  containers: [{{name: main, image: \"{SAYS}\", {fields}}}]\n---\n"
        )
    };
    let manifest = [
        pod("of-image", ""),
        pod("own-args", "args: [mine]"),
        pod("own-command", "command: [/bin/echo, only]"),
        pod("own-both", "command: [/bin/echo, both], args: [mine]"),
        pod("in-image", "command: [sh, -c, \"pwd; env\"], env: [{name: BOTH, value: pod}]"),
        pod("made", "command: [sh, -c, pwd], workingDir: /not/yet/there"),
        pod("no-program", "command: [/bin/absent]"),
        pod("no-input", "command: [sh, -c, \"cat; tty; echo ended\"]"),
        pod(
            "with-tty",
            "command: [sh, -c, \"tty; test -t 0 && test -t 1 && echo terminal; echo $TERM\"], stdin: true, tty: true",
        ),
        // Somebody may come: nothing is read until then.
        pod(
            "waits",
            "command: [sh, -c, \"read line; echo got $line; read more; echo $? then\"], stdin: true",
        ),
        pod("once", "command: [sh, -c, \"cat; echo ended\"], stdin: true, stdinOnce: true"),
    ];
    node.apply(&manifest.concat()).unwrap();
    for (pod, text) in [
        ("of-image", "entry cmd $HOME\n"),
        ("own-args", "entry mine\n"),
        ("own-command", "only\n"),
        ("own-both", "both mine\n"),
        ("made", "/not/yet/there\n"),
        ("no-input", "not a tty\nended\n"),
        ("with-tty", "/dev/pts/0\nterminal\nxterm\n"),
    ] {
        // A terminal goes back to the beginning of the line, too, which some runtimes leave out of the log.
        assert_eq!(node.printed(pod).unwrap().replace('\r', ""), text, "{pod}");
    }
    let printed = node.printed("in-image").unwrap();
    has(&printed, &["/home/made", "FROM_IMAGE=yes", "BOTH=pod"]);
    let ended = ".status.containerStatuses[0].state.terminated";
    node.wait("no-program", "jsonpath={.status.phase}=Failed").unwrap();
    let why = node.pod("no-program", &format!("{ended}.reason")).unwrap();
    let told = node.pod("no-program", &format!("{ended}.message")).unwrap();
    assert!(matches!(why.as_str(), "StartError" | "ContainerCannotRun"), "{why}");
    assert!(told.contains("/bin/absent") && told.contains("no such file or directory"), "{told}");
    assert_eq!(node.pod("no-program", &format!("{ended}.exitCode")).unwrap(), "128");

    for pod in ["waits", "once"] {
        node.wait(pod, "condition=Ready").unwrap();
    }
    // The client of the tests writes the first line.
    node.client().with(&["attach", "-i", "once"], "all\n").unwrap();
    assert_eq!(node.printed("once").unwrap(), "---\nall\nended\n");
    // The end of one who came is not the end of the input: who is attached sees what goes on.
    let mut attached =
        node.client().command(&["attach", "-i", "waits"]).stdin(Stdio::piped()).spawn().unwrap();
    attached.stdin.take().unwrap().write_all(b"given\n").unwrap();
    eventually("what was given to be read", LONG, || {
        Ok((node.kubectl(&["logs", "waits"])? == "got given\n").then_some(()))
    })
    .unwrap();
    attached.kill().unwrap();
    attached.wait().unwrap();
    assert_eq!(node.pod("waits", ".status.phase").unwrap(), "Running");
}

/// Host names, the file of hosts, and names of pods in DNS.
fn names(node: &Node) {
    let show = "hostname; echo; cat /etc/hosts";
    let aliases =
        "hostAliases: [{ip: 192.0.2.7, hostnames: [one, two.example]}, {ip: 192.0.2.8, hostnames: [three]}]";
    let long = "n".repeat(60);
    let manifest = [
        Pod::new("plain").prints(show).to_string(),
        Pod::new("aliased").prints(show).spec(aliases).to_string(),
        Pod::new("on-node").prints(show).spec("hostNetwork: true").spec(aliases).to_string(),
        Pod::new("named")
            .spec("hostname: ship")
            .spec("subdomain: crew")
            .metadata("labels: {app: crew}")
            .to_string(),
        Pod::new("whole").prints(show).spec("subdomain: crew").spec("setHostnameAsFQDN: true").to_string(),
        Pod::new("overridden").prints(show).spec("hostnameOverride: over.example.com").to_string(),
        Pod::new("too-long")
            .prints(show)
            .spec(&format!("hostname: {long}"))
            .spec("subdomain: crew")
            .spec("setHostnameAsFQDN: true")
            .to_string(),
        Pod::new(&format!("{}.{}", "a".repeat(62), "b".repeat(20))).prints(show).to_string(),
        Pod::new("own-hosts")
            .prints("cat /etc/hosts")
            .spec("volumes: [{name: v, configMap: {name: map}}]")
            .container("volumeMounts: [{name: v, mountPath: /etc/hosts, subPath: colour}]")
            .to_string(),
        Pod::new("bare").prints("test -w /etc/hosts && echo writable; cat /etc/hostname").to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();
    const HEAD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
    const ALIASES: &str =
        "\n# Entries added by HostAliases.\n192.0.2.7\tone\ttwo.example\n192.0.2.8\tthree\n";
    let pods = pods_of(node);
    let own = |pod: &str, name: &str, line: &str, tail: &str| {
        let printed = node.printed(pod).unwrap();
        let rest =
            printed.strip_prefix(&format!("{name}\n\n{HEAD}{pods}")).unwrap_or_else(|| panic!("{printed}"));
        let (address, rest) = rest.split_once('\t').unwrap();
        assert!(!address.contains('\n'), "{printed}");
        assert_eq!(rest, format!("{line}\n{tail}"), "{pod}");
    };
    own("plain", "plain", "plain", "");
    own("aliased", "aliased", "aliased", ALIASES);
    let whole = "whole.crew.default.svc.cluster.local";
    own("whole", whole, &format!("{whole}\twhole"), "");
    own("overridden", "over.example.com", "over.example.com", "");
    let cut = format!("{}.{}", "a".repeat(62), "b".repeat(20));
    own(&cut, &"a".repeat(62), &"a".repeat(62), "");
    let of_node = node.on_the_host("cat", &["/etc/hosts"]).unwrap();
    let name = node.on_the_host("hostname", &[]).unwrap();
    let expected = format!("{name}\n# Kubernetes-managed hosts file (host network).\n{of_node}{ALIASES}");
    assert_eq!(node.printed("on-node").unwrap(), expected);
    assert_eq!(node.printed("own-hosts").unwrap(), "green");
    assert_eq!(node.printed("bare").unwrap(), "writable\nbare\n");
    let fqdn = format!("{long}.crew.default.svc.cluster.local");
    let told = format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {} characters requested)",
        fqdn.len()
    );
    node.told("too-long", "FailedCreatePodSandBox", &told).unwrap();

    node.wait("named", "condition=Ready").unwrap();
    let address = node.pod("named", ".status.podIP").unwrap();
    let hosts = node.exec("named", &["cat", "/etc/hosts"]).unwrap();
    has(&hosts, &[&format!("{address}\tship.crew.default.svc.cluster.local\tship")]);
    assert_eq!(node.exec("named", &["hostname"]).unwrap(), "ship\n");
    for name in ["ship.crew.default.svc.cluster.local", "crew.default.svc.cluster.local"] {
        eventually(name, LONG, || {
            let found = node.exec("named", &["nslookup", "-type=a", name])?;
            Ok(found.contains(&format!("Address: {address}\n")).then_some(()))
        })
        .unwrap();
    }
}

/// Where a pod asks for names: the four policies, and what the pod says itself.
fn resolvers(node: &Node) {
    let own = "dnsConfig: {nameservers: [192.0.2.53], searches: [example.com, svc.cluster.local], options: [{name: ndots, value: \"2\"}, {name: edns0}]}";
    let pod = |name: &str, policy: &str, more: &str| {
        let pod = Pod::new(name).prints("cat /etc/resolv.conf").spec(&format!("dnsPolicy: {policy}"));
        pod.spec(more).to_string()
    };
    let many: Vec<String> = (0..33).map(|number| format!("d{number}.example")).collect();
    let many = format!("dnsConfig: {{nameservers: [192.0.2.1, 192.0.2.2], searches: [{}]}}", many.join(", "));
    // The API takes no more than 32 of a pod: with those of the cluster they are too many.
    let searches: Vec<String> = (0..32).map(|number| format!("d{number}.example")).collect();
    let full = format!(
        "dnsConfig: {{nameservers: [192.0.2.1, 192.0.2.2, 192.0.2.3], searches: [{}]}}",
        searches.join(", ")
    );
    let manifest = [
        pod("first", "ClusterFirst", ""),
        pod("first-own", "ClusterFirst", own),
        pod("first-on-node", "ClusterFirst", "hostNetwork: true"),
        pod("with-host-net", "ClusterFirstWithHostNet", "hostNetwork: true"),
        pod("of-node", "Default", ""),
        pod("of-node-own", "Default", own),
        pod("none", "None", own),
        pod("full", "ClusterFirst", &full),
    ];
    node.apply(&manifest.concat()).unwrap();
    let refused = node.client().with(&["apply", "-f", "-"], &pod("many", "ClusterFirst", &many)).unwrap_err();
    assert!(refused.to_string().contains("must not have more than 32 search paths"), "{refused:#}");
    let refused = node.client().with(&["apply", "-f", "-"], &pod("nothing", "None", "")).unwrap_err();
    assert!(refused.to_string().contains("must provide `dnsConfig` when `dnsPolicy` is None"), "{refused:#}");

    let dns = node.field(&["service", "-n", "kube-system", "kube-dns"], ".spec.clusterIP").unwrap();
    let cluster = format!(
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver {dns}\noptions ndots:5\n"
    );
    let machine = "nameserver 127.0.0.53\n";
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let merged = format!(
        "search default.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver {dns}\nnameserver 192.0.2.53\noptions ndots:2 edns0\n"
    );
    let added = "search example.com svc.cluster.local\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions ndots:2 edns0\n";
    let alone = "search example.com svc.cluster.local\nnameserver 192.0.2.53\noptions ndots:2 edns0\n";
    let cut = format!(
        "search default.svc.cluster.local svc.cluster.local cluster.local {}\nnameserver {dns}\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n",
        searches[..29].join(" ")
    );
    for (pod, expected) in [
        ("first", cluster.as_str()),
        ("first-own", &merged),
        ("first-on-node", machine),
        ("with-host-net", &cluster),
        ("of-node", machine),
        ("of-node-own", added),
        ("none", alone),
        ("full", &cut),
    ] {
        assert_eq!(sorted(&node.printed(pod).unwrap()), sorted(expected), "{pod}");
    }
    node.told(
        "full",
        "DNSConfigForming",
        "Search Line limits were exceeded, some search paths have been omitted",
    )
    .unwrap();
    node.told("full", "DNSConfigForming", &format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {dns} 192.0.2.1 192.0.2.2")).unwrap();
}

fn everything(engine: Engine) {
    let node = &Node::up(engine, "").unwrap();
    node.apply(OBJECTS).unwrap();
    node.shows(&[
        ("variables", variables),
        ("files", files),
        ("commands", commands),
        ("names", names),
        ("resolvers", resolvers),
    ]);
}

#[test]
fn containers_of_the_embedded_runtime_are_told_what_their_pod_says() {
    everything(Engine::Embedded);
}

#[test]
fn containers_of_containerd_are_told_what_their_pod_says() {
    everything(Engine::Containerd);
}
