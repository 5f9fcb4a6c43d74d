//! What containers may do, and what they may not, whichever runtime they are in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keelson_e2e::{BUSYBOX, Engine, LONG, Node, Pod, eventually};
use serde_json::{Value, json};

/// Images whose user is root, a name, and numbers.
const ROOT: &str = "test.keelson.io/root:1";
const WEB: &str = "test.keelson.io/web:1";
const NUMBERS: &str = "test.keelson.io/numbers:1";

/// A pod of another image.
fn of(image: &str, pod: &Pod) -> String {
    pod.to_string().replace(BUSYBOX, image)
}

fn has(text: &str, lines: &[&str]) {
    let missing: Vec<_> = lines.iter().filter(|line| !text.lines().any(|it| it == **line)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{text}");
}

fn status(field: &str) -> String {
    format!("grep -E '^({field}):' /proc/self/status | tr -s '\\t ' ' '")
}

/// Whom containers run as, and with which groups.
fn users(node: &Node) {
    let accounts = [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"),
        ("etc/group", "root:x:0:\nweb:x:1000:\ncrew:x:2000:web\n"),
    ];
    for (name, user) in [(ROOT, ""), (WEB, "web"), (NUMBERS, "1000:3000")] {
        node.import(name, &json!({ "User": user, "Cmd": ["sh"] }), &accounts).unwrap();
    }
    let show = format!("{}; echo HOME $HOME", status("Uid|Gid|Groups"));
    let pod = |name: &str, context: &str, own: &str| {
        let pod = Pod::new(name).prints(&show).spec(&format!("securityContext: {{{context}}}"));
        pod.container(&format!("securityContext: {{{own}}}"))
    };
    let many = "runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000], fsGroup: 5000";
    let manifest = [
        of(ROOT, &pod("plain", "", "")),
        of(WEB, &pod("named", "", "")),
        of(NUMBERS, &pod("numbered", "", "")),
        of(ROOT, &pod("known", "runAsUser: 1000", "")),
        of(ROOT, &pod("unknown", "runAsUser: 1234", "")),
        of(ROOT, &pod("merged", many, "")),
        of(ROOT, &pod("strict", &format!("{many}, supplementalGroupsPolicy: Strict"), "")),
        of(ROOT, &pod("runs", many, ""))
            .replace("restartPolicy: Never", "")
            .replace("$HOME", "$HOME; exec sleep infinity"),
        of(ROOT, &pod("runs-strict", &format!("{many}, supplementalGroupsPolicy: Strict"), ""))
            .replace("restartPolicy: Never", "")
            .replace("$HOME", "$HOME; exec sleep infinity"),
        of(WEB, &pod("own", "runAsUser: 7, runAsGroup: 8", "runAsUser: 9")),
        of(NUMBERS, &pod("not-root", "runAsNonRoot: true", "")),
        of(ROOT, &pod("not-root-either", "runAsNonRoot: true", "runAsUser: 5")),
        of(ROOT, &pod("is-root", "runAsNonRoot: true", "")),
        of(WEB, &pod("has-name", "", "runAsNonRoot: true")),
        of(NUMBERS, &pod("asks-root", "runAsNonRoot: true", "runAsUser: 0")),
    ];
    node.apply(&manifest.concat()).unwrap();
    let ids = |uid: u32, gid: u32| {
        [format!("Uid: {uid} {uid} {uid} {uid}"), format!("Gid: {gid} {gid} {gid} {gid}")]
    };
    for (pod, uid, gid, groups, home) in [
        ("plain", 0, 0, Some("0"), "/root"),
        // Which groups the name of an image's user brings is the runtime's.
        ("named", 1000, 1000, None, "/home/web"),
        ("numbered", 1000, 3000, None, "/home/web"),
        ("known", 1000, 1000, Some("1000 2000"), "/home/web"),
        ("unknown", 1234, 0, Some("0"), "/"),
        ("merged", 1000, 3000, Some("2000 3000 4000 5000"), "/home/web"),
        ("own", 9, 8, Some("8"), "/"),
        ("not-root", 1000, 3000, None, "/home/web"),
        ("not-root-either", 5, 0, Some("0"), "/"),
    ] {
        let printed = node.printed(pod).unwrap();
        let [uid, gid] = ids(uid, gid);
        has(&printed, &[&uid, &gid, &format!("HOME {home}")]);
        let mut found: Vec<u32> = printed
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .unwrap()
            .split_whitespace()
            .map(|group| group.parse().unwrap())
            .collect();
        found.sort_unstable();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        if let Some(groups) = groups {
            assert_eq!(found.join(" "), groups, "{pod}");
        }
    }
    let user = |pod: &str| node.pod(pod, ".status.containerStatuses[0].user.linux").unwrap();
    let told = |pod: &str| serde_json::from_str::<Value>(&user(pod)).unwrap();
    let reason = "SupplementalGroupsPolicyNotSupported";
    match node.engine() {
        Engine::Embedded => {
            let printed = node.printed("strict").unwrap();
            has(&printed, &["Groups: 3000 4000 5000 "]);
            node.wait("runs", "condition=Ready").unwrap();
            node.wait("runs-strict", "condition=Ready").unwrap();
            assert_eq!(
                told("runs-strict"),
                json!({"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000, 5000]})
            );
            assert_eq!(
                told("runs"),
                json!({"uid": 1000, "gid": 3000, "supplementalGroups": [2000, 3000, 4000, 5000]})
            );
            assert_eq!(
                node.field(&["nodes"], ".items[0].status.features.supplementalGroupsPolicy").unwrap(),
                "true"
            );
        }
        // It would give the groups of the image all the same, and does not say whom containers run as.
        Engine::Containerd => {
            let why = "SupplementalGroupsPolicy=Strict is not supported in this node";
            node.told("strict", reason, why).unwrap();
            node.wait("strict", "jsonpath={.status.phase}=Failed").unwrap();
            assert_eq!(node.pod("strict", ".status.reason").unwrap(), reason);
            assert_eq!(node.pod("strict", ".status.message").unwrap(), format!("Pod was rejected: {why}"));
            node.wait("runs", "condition=Ready").unwrap();
            assert_eq!(user("runs"), "");
            assert_ne!(
                node.field(&["nodes"], ".items[0].status.features.supplementalGroupsPolicy").unwrap(),
                "true"
            );
        }
    }
    for (pod, text) in [
        ("is-root", "container has runAsNonRoot and image will run as root"),
        (
            "has-name",
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        ),
        ("asks-root", "container's runAsUser breaks non-root policy"),
    ] {
        let uid = node.pod(pod, ".metadata.uid").unwrap();
        let text = format!("{text} (pod: \"{pod}_default({uid})\", container: main)");
        assert_eq!(node.waits(pod, "CreateContainerConfigError").unwrap(), text);
        node.told(pod, "Failed", &format!("Error: {text}")).unwrap();
    }
}

/// Capabilities, new privileges, filters of system calls.
fn privileges(node: &Node) {
    let show = status("Cap[A-Z][a-z]*|NoNewPrivs|Seccomp");
    let pod = |name: &str, context: &str, own: &str| {
        let pod = Pod::new(name).prints(&show).spec(&format!("securityContext: {{{context}}}"));
        pod.container(&format!("securityContext: {{{own}}}")).to_string()
    };
    let manifest = [
        pod("plain", "", ""),
        pod("user", "runAsUser: 1000", ""),
        pod("none", "", "capabilities: {drop: [ALL]}"),
        pod("one", "", "capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}"),
        pod("more", "", "capabilities: {add: [NET_ADMIN], drop: [MKNOD]}"),
        pod("every", "", "capabilities: {add: [ALL]}"),
        pod("but-one", "", "capabilities: {add: [ALL], drop: [CHOWN]}"),
        pod("privileged", "seccompProfile: {type: RuntimeDefault}", "privileged: true"),
        pod("kept-down", "", "allowPrivilegeEscalation: false"),
        pod("filtered", "seccompProfile: {type: RuntimeDefault}", ""),
        pod("unfiltered", "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}"),
    ];
    node.apply(&manifest.concat()).unwrap();
    let all = node.on_the_host("grep", &["CapBnd", "/proc/self/status"]).unwrap();
    let all = all.split_whitespace().nth(1).unwrap().to_owned();
    const USUAL: &str = "00000000a80425fb";
    const NOTHING: &str = "0000000000000000";
    let more = format!("{:016x}", (0xa804_25fb_u64 | 1 << 12) & !(1 << 27));
    let but_one = format!("{:016x}", u64::from_str_radix(&all, 16).unwrap() & !1);
    for (pod, bounding, effective, kept_down, filter) in [
        ("plain", USUAL, USUAL, 0, 0),
        ("user", USUAL, NOTHING, 0, 0),
        ("none", NOTHING, NOTHING, 0, 0),
        ("one", "0000000000000400", "0000000000000400", 0, 0),
        ("more", more.as_str(), more.as_str(), 0, 0),
        ("every", &all, &all, 0, 0),
        ("but-one", &but_one, &but_one, 0, 0),
        ("privileged", &all, &all, 0, 0),
        ("kept-down", USUAL, USUAL, 1, 0),
        ("filtered", USUAL, USUAL, 0, 2),
        ("unfiltered", USUAL, USUAL, 0, 0),
    ] {
        let expected = format!(
            "CapInh: {NOTHING}\nCapPrm: {effective}\nCapEff: {effective}\nCapBnd: {bounding}\nCapAmb: {NOTHING}\nNoNewPrivs: {kept_down}\nSeccomp: {filter}\n"
        );
        assert_eq!(node.printed(pod).unwrap(), expected, "{pod}");
    }
}

/// What of the machine containers see, and what they may write.
fn surroundings(node: &Node) {
    let show = "ls /dev | grep -v '^core$' | tr '\\n' ' '; echo; df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; umask; cat /proc/timer_list /proc/keys 2> /dev/null | wc -c; ls /sys/firmware | wc -l; \
                for f in /proc/sys/kernel/domainname /proc/sysrq-trigger /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max /sys/kernel/mm/ksm/run; do test -e $f && echo x 2> /dev/null > $f && echo wrote $f; done; \
                grep -E ' (/proc|/sys|/dev|/dev/pts|/dev/mqueue|/dev/shm) ' /proc/mounts | cut -d ' ' -f 2,3,4 | sort; test -c /dev/kmsg && echo devices; cat /proc/self/limits; cat /proc/self/oom_score_adj";
    let closed = "for f in /x /tmp/x /etc/x /v/x /dev/shm/x /dev/termination-log; do touch $f 2> /dev/null && echo wrote $f; done; exit 0";
    let manifest = [
        Pod::new("plain").prints(show).to_string(),
        Pod::new("privileged").prints(show).container("securityContext: {privileged: true}").to_string(),
        Pod::new("closed")
            .prints(closed)
            .container("securityContext: {readOnlyRootFilesystem: true}")
            .spec("volumes: [{name: v, emptyDir: {}}]")
            .container("volumeMounts: [{name: v, mountPath: /v}]")
            .to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();
    let printed = node.printed("plain").unwrap();
    let lines: Vec<_> = printed.lines().collect();
    // And a link to what not every kernel has.
    let devices =
        "fd full mqueue null ptmx pts random shm stderr stdin stdout termination-log tty urandom zero ";
    assert_eq!(lines[..5], [devices, "65536", "0022", "0", "0"], "{printed}");
    assert!(!printed.contains("wrote") && !printed.contains("devices"), "{printed}");
    let mounted = |path: &str, options: &[&str]| {
        let line = lines
            .iter()
            .find(|line| line.starts_with(&format!("{path} ")))
            .unwrap_or_else(|| panic!("{path}: {printed}"));
        let found: Vec<_> = line.split(' ').nth(2).unwrap().split(',').collect();
        assert!(options.iter().all(|option| found.contains(option)), "{line} lacks some of {options:?}");
    };
    mounted("/proc", &["rw", "nosuid", "nodev", "noexec"]);
    mounted("/sys", &["ro", "nosuid", "nodev", "noexec"]);
    mounted("/dev", &["rw", "nosuid", "size=65536k", "mode=755"]);
    mounted("/dev/pts", &["rw", "nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"]);
    mounted("/dev/mqueue", &["rw", "nosuid", "nodev", "noexec"]);
    mounted("/dev/shm", &["rw", "nosuid", "nodev", "noexec", "size=65536k"]);
    let printed = node.printed("privileged").unwrap();
    assert!(printed.contains("wrote /proc/sys/kernel/domainname"), "{printed}");
    // Where the sandbox has it read-only, as in older containerd, the kernel has it so for all of the pod.
    if node.engine() == Engine::Embedded {
        assert!(printed.lines().any(|line| line.starts_with("/sys sysfs rw")), "{printed}");
    }
    assert!(printed.lines().any(|line| line == "devices"), "{printed}");
    has(&node.printed("closed").unwrap(), &["wrote /v/x", "wrote /dev/shm/x", "wrote /dev/termination-log"]);
    assert_eq!(node.printed("closed").unwrap().lines().count(), 3);
}

/// Namespaces of the node, of the pod, and of each container.
fn namespaces(node: &Node) {
    let kinds = ["net", "ipc", "pid", "uts", "mnt"];
    let show = format!("for n in {}; do readlink /proc/self/ns/$n; done", kinds.join(" "));
    let pod = |name: &str, spec: &str| Pod::new(name).prints(&show).spec(spec).to_string();
    let two = |name: &str, spec: &str| {
        let more = format!("  - {{name: side, image: \"{BUSYBOX}\", command: [sleep, \"7777\"]}}\n---");
        Pod::new(name).spec(spec).to_string().replace("---", &more)
    };
    let manifest = [
        pod("plain", ""),
        pod("net", "hostNetwork: true"),
        pod("pid", "hostPID: true"),
        pod("ipc", "hostIPC: true"),
        two("apart", ""),
        two("together", "shareProcessNamespace: true"),
    ];
    node.apply(&manifest.concat()).unwrap();
    let host: Vec<String> = kinds
        .iter()
        .map(|kind| {
            node.on_the_host("readlink", &[&format!("/proc/self/ns/{kind}")]).unwrap().trim().to_owned()
        })
        .collect();
    let same = |pod: &str| -> Vec<bool> {
        let printed = node.printed(pod).unwrap();
        printed.lines().zip(&host).map(|(own, host)| own == host).collect()
    };
    // On the node's network the name is the node's, in a namespace of names of the pod's own or in the node's.
    assert_eq!(same("plain"), [false, false, false, false, false]);
    assert_eq!(same("net")[..3], [true, false, false]);
    assert_eq!(same("pid"), [false, false, true, false, false]);
    assert_eq!(same("ipc"), [false, true, false, false, false]);
    let of = |pod: &str, container: &str| {
        let printed = node.kubectl(&["exec", pod, "-c", container, "--", "sh", "-c", &show]).unwrap();
        printed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (pod, shared) in [("apart", false), ("together", true)] {
        node.wait(pod, "condition=Ready").unwrap();
        let (main, side) = (of(pod, "main"), of(pod, "side"));
        let same: Vec<_> = main.iter().zip(&side).map(|(main, side)| main == side).collect();
        assert_eq!(same, [true, true, shared, true, false], "{pod}");
        let seen = node.kubectl(&["exec", pod, "-c", "main", "--", "ps", "-o", "args"]).unwrap();
        assert_eq!(seen.contains("sleep 7777"), shared, "{seen}");
        let first = node.kubectl(&["exec", pod, "-c", "main", "--", "cat", "/proc/1/cmdline"]).unwrap();
        assert_eq!(
            first.contains("infinity") && !first.contains("pause"),
            !shared || node.engine() == Engine::Containerd,
            "{first}"
        );
    }
    // What one has in memory the other has.
    node.kubectl(&["exec", "apart", "-c", "main", "--", "sh", "-c", "echo told > /dev/shm/word"]).unwrap();
    assert_eq!(
        node.kubectl(&["exec", "apart", "-c", "side", "--", "cat", "/dev/shm/word"]).unwrap(),
        "told\n"
    );
}

/// Kernel parameters, and profiles that the kernel does not know.
fn refusals(node: &Node) {
    let pod = |name: &str, sysctls: &[(&str, &str)], more: &str| {
        let sysctls: Vec<_> =
            sysctls.iter().map(|(name, value)| format!("{{name: {name}, value: \"{value}\"}}")).collect();
        Pod::new(name)
            .prints("cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range /proc/sys/net/ipv4/tcp_syncookies /proc/sys/net/ipv4/ping_group_range")
            .spec(&format!("securityContext: {{sysctls: [{}]}}", sysctls.join(", ")))
            .spec(more)
            .to_string()
    };
    let safe = [
        ("kernel.shm_rmid_forced", "1"),
        ("net.ipv4.ip_local_port_range", "40000 41000"),
        ("net/ipv4/tcp_syncookies", "0"),
        ("net.ipv4.ping_group_range", "0 7"),
    ];
    let confined = |name: &str, kind: &str| {
        Pod::new(name)
            .prints("true")
            .container(&format!("securityContext: {{appArmorProfile: {{type: {kind}}}}}"))
            .to_string()
    };
    let manifest = [
        pod("safe", &safe, ""),
        pod("unsafe", &[("kernel.msgmax", "65536")], ""),
        pod("machine", &[("vm.swappiness", "1")], ""),
        confined("armoured", "RuntimeDefault"),
        confined("bare", "Unconfined"),
    ];
    node.apply(&manifest.concat()).unwrap();
    assert_eq!(node.printed("safe").unwrap(), "1\n40000\t41000\n0\n0\t7\n");
    let refused = |pod: &str, reason: &str, message: &str| {
        node.wait(pod, "jsonpath={.status.phase}=Failed").unwrap();
        assert_eq!(node.pod(pod, ".status.reason").unwrap(), reason);
        assert_eq!(node.pod(pod, ".status.message").unwrap(), format!("Pod was rejected: {message}"));
        node.told(pod, reason, message).unwrap();
    };
    refused("unsafe", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    refused("machine", "SysctlForbidden", "forbidden sysctl: \"vm.swappiness\" not allowlisted");
    for (sysctl, more, told) in [
        ("net.ipv4.tcp_syncookies", "hostNetwork: true", "hostNetwork"),
        ("kernel.shm_rmid_forced", "hostIPC: true", "hostIPC"),
    ] {
        let error =
            node.client().with(&["apply", "-f", "-"], &pod("shared", &[(sysctl, "1")], more)).unwrap_err();
        assert!(
            error.to_string().contains(&format!("may not be specified when '{told}' is true")),
            "{error:#}"
        );
    }
    let armour = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !armour.is_ok_and(|text| text.starts_with('Y')) {
        refused("armoured", "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    node.printed("bare").unwrap();
    let unmasked = Pod::new("unmasked").container("securityContext: {procMount: Unmasked}").to_string();
    let error = node.client().with(&["apply", "-f", "-"], &unmasked).unwrap_err();
    assert!(error.to_string().contains("`hostUsers` must be false to use `Unmasked`"), "{error:#}");
}

/// What the API says of who shows it a token, by the code of its answer.
fn code(node: &Node, token: &str) -> String {
    let address = node.field(&["svc", "kubernetes"], ".spec.clusterIP").unwrap();
    let header = format!("Authorization: Bearer {token}");
    let url = format!("https://{address}/api/v1/namespaces/default/pods");
    let ask = ["--silent", "--insecure", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &url];
    node.on_the_host("curl", &ask).unwrap()
}

/// Tokens of service accounts in pods.
fn tokens(node: &Node) {
    let source = "projected: {sources: [{serviceAccountToken: {path: t, audience: harbour, expirationSeconds: 600}}, {serviceAccountToken: {path: api}}]}";
    let pod = Pod::new("holder")
        .spec(&format!("volumes: [{{name: v, {source}}}]"))
        .container("volumeMounts: [{name: v, mountPath: /v}]");
    let without = Pod::new("without").spec("automountServiceAccountToken: false");
    node.apply(&[pod.to_string(), without.to_string()].concat()).unwrap();
    node.wait("holder", "condition=Ready").unwrap();
    node.wait("without", "condition=Ready").unwrap();
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    node.exec("without", &["test", "!", "-e", folder]).unwrap();
    assert_eq!(node.exec("holder", &["ls", folder]).unwrap(), "ca.crt\nnamespace\ntoken\n");
    let read = |path: &str| node.exec("holder", &["cat", path]).unwrap();
    let claims = |token: &str| -> Value {
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    };
    let (usual, harbour, api) = (read(&format!("{folder}/token")), read("/v/t"), read("/v/api"));
    let of = |path: &str| node.pod("holder", path).unwrap();
    let account = node.field(&["sa", "default"], ".metadata.uid").unwrap();
    let machine = of(".spec.nodeName");
    let bound = json!({
        "namespace": "default",
        "node": {"name": machine, "uid": node.field(&["node", &machine], ".metadata.uid").unwrap()},
        "pod": {"name": "holder", "uid": of(".metadata.uid")},
        "serviceaccount": {"name": "default", "uid": account},
    });
    let told = claims(&harbour);
    assert_eq!(told["aud"], json!(["harbour"]));
    assert_eq!(told["kubernetes.io"], bound);
    assert_eq!(told["sub"], "system:serviceaccount:default:default");
    assert_eq!(told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap(), 600);
    let told = claims(&usual);
    assert_eq!(told["kubernetes.io"]["pod"], bound["pod"]);
    // The mounted one is good for a year with those who do not read it again, and warns after 3607 s.
    assert_eq!(told["kubernetes.io"]["warnafter"].as_i64().unwrap() - told["iat"].as_i64().unwrap(), 3607);
    let told = claims(&api);
    assert_eq!(told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap(), 3600);
    assert_eq!(code(node, &usual), "403");
    assert_eq!(code(node, &api), "403");
    assert_eq!(code(node, &harbour), "401");
    let review = |token: &str| -> Value {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": ["harbour"]},
        });
        let answer = node.client().with(&["create", "-o", "json", "-f", "-"], &review.to_string()).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["status"].clone()
    };
    let found = review(&harbour);
    assert_eq!((&found["authenticated"], &found["audiences"]), (&json!(true), &json!(["harbour"])));
    assert_eq!(found["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["holder"]));
    assert_ne!(review(&usual)["authenticated"], json!(true));
    node.kubectl(&["delete", "pod", "holder", "--timeout=120s"]).unwrap();
    eventually("the tokens to end with their pod", LONG, || {
        let is_over = review(&harbour)["authenticated"] != json!(true);
        Ok((code(node, &usual) == "401" && code(node, &api) == "401" && is_over).then_some(()))
    })
    .unwrap();
}

/// Pods with ids of their own, and volumes of all kinds in them.
fn user_namespaces(node: &Node) {
    let host = node.folder().join("of-host");
    fs::create_dir_all(host.join("part")).unwrap();
    fs::write(host.join("file"), "of the host").unwrap();
    node.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: map}, data: {colour: green}}").unwrap();
    node.apply("{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {password: hunter2}}")
        .unwrap();
    let sources = [
        ("disk", "emptyDir: {}".to_owned()),
        ("memory", "emptyDir: {medium: Memory}".to_owned()),
        ("map", "configMap: {name: map, defaultMode: 0400}".to_owned()),
        ("secret", "secret: {secretName: keys, defaultMode: 0400}".to_owned()),
        ("about", "downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}".to_owned()),
        (
            "all",
            "projected: {sources: [{configMap: {name: map}}, {serviceAccountToken: {path: token}}]}"
                .to_owned(),
        ),
        ("host", format!("hostPath: {{path: \"{}\"}}", host.display())),
    ];
    let volumes: Vec<_> =
        sources.iter().map(|(name, source)| format!("{{name: {name}, {source}}}")).collect();
    let mounts: Vec<_> =
        sources.iter().map(|(name, _)| format!("{{name: {name}, mountPath: /v/{name}}}")).collect();
    let mounts =
        format!("volumeMounts: [{}, {{name: host, mountPath: /part, subPath: part}}]", mounts.join(", "));
    let show = "cd /v; for f in map/colour secret/password about/name all/colour all/token host/file; do stat -L -c '%n %u:%g' $f; cat $f > /dev/null || echo cannot read $f; done; \
                for d in disk memory host /part; do echo x > $d/new; stat -c '%n %u:%g' $d/new; done; cat /proc/self/uid_map | tr -s ' '; cat /proc/sys/kernel/domainname > /proc/sys/kernel/domainname || echo no root";
    let own = |name: &str, context: &str| {
        Pod::new(name)
            .prints(show)
            .spec("hostUsers: false")
            .spec(&format!("securityContext: {{{context}}}"))
            .spec(&format!("volumes: [{}]", volumes.join(", ")))
            .container(&mounts)
            .to_string()
    };
    let runs = Pod::new("runs").spec("hostUsers: false").spec("securityContext: {runAsUser: 1000}");
    let runs = runs.container("securityContext: {procMount: Unmasked}");
    node.apply(&[own("root", ""), own("grouped", "fsGroup: 5000"), runs.to_string()].concat()).unwrap();
    if node.engine() == Engine::Containerd {
        for pod in ["root", "grouped", "runs"] {
            node.told(
                pod,
                "FailedCreatePodSandBox",
                "can't set `spec.hostUsers: false`, runtime does not support user namespaces",
            )
            .unwrap();
            assert_eq!(node.pod(pod, ".status.phase").unwrap(), "Pending");
        }
        return;
    }
    let printed = node.printed("root").unwrap();
    has(
        &printed,
        &[
            "map/colour 0:0",
            "secret/password 0:0",
            "about/name 0:0",
            "all/colour 0:0",
            "all/token 0:0",
            "host/file 0:0",
            "disk/new 0:0",
            "memory/new 0:0",
            "host/new 0:0",
            "/part/new 0:0",
            "no root",
        ],
    );
    assert!(!printed.contains("cannot"), "{printed}");
    let map = printed.lines().find(|line| line.ends_with(" 65536")).unwrap();
    assert_ne!(map.split_whitespace().nth(1), Some("0"), "{printed}");
    // What it made of the host's is as if root had.
    use std::os::unix::fs::MetadataExt;
    let made = fs::metadata(host.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    let printed = node.printed("grouped").unwrap();
    has(
        &printed,
        &[
            "map/colour 0:5000",
            "secret/password 0:5000",
            "disk/new 0:5000",
            "memory/new 0:5000",
            "host/new 0:0",
        ],
    );
    node.wait("runs", "condition=Ready").unwrap();
    assert_eq!(node.exec("runs", &["id", "-u"]).unwrap(), "1000\n");
    let masked = node.exec("runs", &["cat", "/proc/mounts"]).unwrap();
    assert!(!masked.contains(" /proc/sys ") && !masked.contains(" /proc/kcore "), "{masked}");
}

fn everything(engine: Engine) {
    let node = &Node::up(engine, "").unwrap();
    node.shows(&[
        ("users", users),
        ("privileges", privileges),
        ("surroundings", surroundings),
        ("namespaces", namespaces),
        ("refusals", refusals),
        ("tokens", tokens),
        ("user_namespaces", user_namespaces),
    ]);
}

#[test]
fn containers_of_the_embedded_runtime_may_do_what_their_pods_say_and_no_more() {
    everything(Engine::Embedded);
}

#[test]
fn containers_of_containerd_may_do_what_their_pods_say_and_no_more() {
    everything(Engine::Containerd);
}
