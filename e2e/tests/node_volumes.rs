//! What a node does with the volumes of pods, whichever runtime they are in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use keelson_e2e::{BUSYBOX, Engine, LONG, Node, Pod, eventually};
use serde_json::json;

/// A pod with volumes, which its container has at `/v/NAME`; `mounts` are of further fields by volume.
fn with(name: &str, volumes: &[(&str, &str)]) -> Pod {
    let all: Vec<_> = volumes.iter().map(|(name, source)| format!("{{name: {name}, {source}}}")).collect();
    let mounts: Vec<_> =
        volumes.iter().map(|(name, _)| format!("{{name: {name}, mountPath: /v/{name}}}")).collect();
    Pod::new(name)
        .spec(&format!("volumes: [{}]", all.join(", ")))
        .container(&format!("volumeMounts: [{}]", mounts.join(", ")))
}

/// A pod with one volume at `/v`, with further fields of its mount.
fn mounting(name: &str, source: &str, mount: &str) -> Pod {
    Pod::new(name)
        .spec(&format!("volumes: [{{name: v, {source}}}]"))
        .container(&format!("volumeMounts: [{{name: v, mountPath: /v, {mount}}}]"))
}

fn has(text: &str, lines: &[&str]) {
    let missing: Vec<_> = lines.iter().filter(|line| !text.lines().any(|it| it == **line)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{text}");
}

fn not_set_up(node: &Node, pod: &str, why: &str) {
    node.told(pod, "FailedMount", &format!("MountVolume.SetUp failed for volume \"v\" : {why}")).unwrap();
}

fn clear(node: &Node) {
    node.kubectl(&["delete", "pods", "--all"]).unwrap();
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: map}
data: {colour: green, size: large}
binaryData: {bytes: AQI=}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: hunter2}
---
"#;

/// Files from objects: which, with which modes, and whose they are.
fn content(node: &Node) {
    let sources = [
        ("map", "configMap: {name: map}"),
        (
            "mode",
            "configMap: {name: map, defaultMode: 0400, items: [{key: colour, path: deep/er/c}, {key: size, path: s, mode: 0444}]}",
        ),
        (
            "some",
            "configMap: {name: map, optional: true, items: [{key: absent, path: a}, {key: colour, path: c}]}",
        ),
        ("none", "configMap: {name: absent, optional: true}"),
        ("keys", "secret: {secretName: keys, defaultMode: 0440}"),
        ("no-keys", "secret: {secretName: absent, optional: true}"),
        (
            "about",
            "downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: l/one, mode: 0400, fieldRef: {fieldPath: \"metadata.labels['app']\"}}, {path: a, fieldRef: {fieldPath: metadata.annotations}}, {path: name, fieldRef: {fieldPath: metadata.name}}, {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu, divisor: 1m}}, {path: memory, resourceFieldRef: {containerName: main, resource: requests.memory}}]}",
        ),
        (
            "all",
            "projected: {defaultMode: 0440, sources: [{configMap: {name: map, items: [{key: colour, path: deep/colour}]}}, {secret: {name: keys, items: [{key: password, path: p, mode: 0400}]}}, {secret: {name: absent, optional: true}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}, {serviceAccountToken: {path: token, audience: harbour, expirationSeconds: 600}}]}",
        ),
    ];
    let show = "cd /v; for f in map/* mode/deep/er/c mode/s some/* keys/* about/* about/l/one all/deep/colour all/p all/name all/token; do test -d $f || stat -L -c '%n %a %u:%g' $f; done; \
                for f in map/colour mode/deep/er/c mode/s keys/password about/labels about/l/one about/a about/name about/cpu about/memory all/deep/colour all/p all/name; do echo \"$f: `cat $f`\"; done; \
                wc -c < map/bytes; ls -A none no-keys; for d in map keys about all; do echo type $d `stat -f -c %T $d`; touch $d/new 2>&1 || true; done; readlink map/colour";
    let limits = "resources: {limits: {cpu: 250m}, requests: {memory: 1M, cpu: 1m}}";
    let labelled = |pod: Pod| {
        pod.metadata("labels: {app: web, tier: front}").metadata("annotations: {note: \"a \\\"b\\\"\"}")
    };
    let plain = labelled(with("plain", &sources)).prints(show).container(limits);
    let grouped = labelled(with("grouped", &sources)).prints(&format!("{show}; stat -c 'folder %g' map"));
    let grouped = grouped.container(limits).spec("securityContext: {fsGroup: 4321, runAsUser: 1234}");
    let token = "projected: {sources: [{serviceAccountToken: {path: token}}]}";
    let of = |name: &str, context: &str| {
        let pod = mounting(name, token, "").spec(&format!("securityContext: {{{context}}}"));
        pod.prints("stat -L -c '%a %u:%g' /v/token; test -r /v/token && echo readable").to_string()
    };
    let broken = |name: &str, source: &str| mounting(name, source, "").to_string();
    let manifest = [
        plain.to_string(),
        grouped.to_string(),
        of("token-plain", ""),
        of("token-user", "runAsUser: 1000"),
        of("token-group", "runAsUser: 1000, fsGroup: 2000"),
        broken("no-map", "configMap: {name: absent}"),
        broken("no-map-key", "configMap: {name: map, items: [{key: absent, path: a}]}"),
        broken("no-secret", "secret: {secretName: absent}"),
        broken("no-secret-key", "secret: {secretName: keys, items: [{key: absent, path: a}]}"),
        broken("no-part", "projected: {sources: [{secret: {name: absent}}]}"),
    ];
    node.apply(&manifest.concat()).unwrap();
    let printed = node.printed("plain").unwrap();
    has(
        &printed,
        &[
            "map/bytes 644 0:0",
            "map/colour 644 0:0",
            "map/size 644 0:0",
            "mode/deep/er/c 400 0:0",
            "mode/s 444 0:0",
            "some/c 644 0:0",
            "keys/password 440 0:0",
            "about/labels 644 0:0",
            "about/l/one 400 0:0",
            "all/deep/colour 440 0:0",
            "all/p 400 0:0",
            "all/name 440 0:0",
            "all/token 440 0:0",
            "map/colour: green",
            "mode/deep/er/c: green",
            "mode/s: large",
            "keys/password: hunter2",
            "about/labels: app=\"web\"",
            "tier=\"front\"",
            "about/l/one: web",
            "about/name: plain",
            "about/cpu: 250",
            "about/memory: 1000000",
            "all/deep/colour: green",
            "all/p: hunter2",
            "all/name: plain",
            "2",
            "type keys tmpfs",
            "type about tmpfs",
            "type all tmpfs",
            "touch: map/new: Read-only file system",
            "touch: keys/new: Read-only file system",
            "touch: about/new: Read-only file system",
            "touch: all/new: Read-only file system",
            "..data/colour",
        ],
    );
    assert!(printed.contains("note=\"a \\\"b\\\"\"") && !printed.contains("type map tmpfs"), "{printed}");
    let printed = node.printed("grouped").unwrap();
    has(
        &printed,
        &[
            "map/colour 644 0:4321",
            "mode/deep/er/c 440 0:4321",
            "mode/s 444 0:4321",
            "keys/password 440 0:4321",
            "about/l/one 440 0:4321",
            "all/deep/colour 440 0:4321",
            "all/p 440 0:4321",
            "all/token 640 1234:4321",
            "mode/deep/er/c: green",
            "folder 4321",
        ],
    );
    assert_eq!(node.printed("token-plain").unwrap(), "644 0:0\nreadable\n");
    assert_eq!(node.printed("token-user").unwrap(), "600 1000:0\nreadable\n");
    assert_eq!(node.printed("token-group").unwrap(), "640 1000:2000\nreadable\n");
    not_set_up(node, "no-map", "configmap \"absent\" not found");
    not_set_up(node, "no-map-key", "configmap references non-existent config key: absent");
    not_set_up(node, "no-secret", "secret \"absent\" not found");
    not_set_up(node, "no-secret-key", "references non-existent secret key: absent");
    not_set_up(node, "no-part", "secret \"absent\" not found");
    node.waits("no-map", "ContainerCreating").unwrap();
    // What was missing comes, and the pod goes on.
    node.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: absent}, data: {x: there}}").unwrap();
    node.wait("no-map", "condition=Ready").unwrap();
    assert_eq!(node.exec("no-map", &["cat", "/v/x"]).unwrap(), "there");
}

/// What is mounted follows its objects, all at once, and what is taken out of it does not.
fn updates(node: &Node) {
    let objects = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: moving}
data: {a: "1", b: "1", gone: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: moving}
stringData: {a: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: fixed}
immutable: true
data: {a: "1"}
---
"#;
    node.apply(objects).unwrap();
    let volumes = [
        ("map", "configMap: {name: moving}"),
        ("secret", "secret: {secretName: moving}"),
        ("later", "configMap: {name: later, optional: true}"),
        ("fixed", "configMap: {name: fixed}"),
        ("about", "downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}"),
        (
            "all",
            "projected: {sources: [{configMap: {name: moving}}, {secret: {name: moving, items: [{key: a, path: s}]}}]}",
        ),
    ];
    let sources: Vec<_> =
        volumes.iter().map(|(name, source)| format!("{{name: {name}, {source}}}")).collect();
    let mounts: Vec<_> =
        volumes.iter().map(|(name, _)| format!("{{name: {name}, mountPath: /v/{name}}}")).collect();
    let pod = Pod::new("mover")
        .metadata("labels: {step: one}")
        .spec(&format!("volumes: [{}]", sources.join(", ")))
        .container(&format!(
            "volumeMounts: [{}, {{name: map, mountPath: /one, subPath: a}}]",
            mounts.join(", ")
        ))
        .container("env: [{name: A, valueFrom: {configMapKeyRef: {name: moving, key: a}}}]");
    node.start(&pod).unwrap();
    let show = "cd /v; cat map/a map/b map/gone secret/a later/x fixed/a about/labels all/a all/s /one 2> /dev/null; echo .$A";
    let now = || node.exec("mover", &["sh", "-c", show]);
    assert_eq!(now().unwrap(), "11111step=\"one\"111.1\n");
    node.kubectl(&["patch", "configmap", "moving", "-p", r#"{"data":{"a":"2","b":"2","gone":null}}"#])
        .unwrap();
    node.kubectl(&["patch", "secret", "moving", "-p", r#"{"stringData":{"a":"2"}}"#]).unwrap();
    node.kubectl(&["label", "pod", "mover", "--overwrite", "step=two"]).unwrap();
    // One that cannot change, made anew by somebody.
    node.kubectl(&["delete", "configmap", "fixed"]).unwrap();
    let again =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, immutable: true, data: {a: \"2\"}}";
    node.apply(again).unwrap();
    node.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: later}, data: {x: \"7\"}}").unwrap();
    let becomes = |wanted: &str| {
        let mut seen = String::new();
        let shown = eventually("what is mounted to be current", LONG, || {
            seen = now()?;
            Ok((seen == wanted).then_some(()))
        });
        shown.unwrap_or_else(|error| panic!("{error:#}: {seen:?} is not {wanted:?}"));
    };
    becomes("22271step=\"two\"221.1\n");
    node.kubectl(&["delete", "configmap", "later"]).unwrap();
    becomes("2221step=\"two\"221.1\n");
    // Readers that hold the folder open see the files of one state only.
    assert_eq!(node.exec("mover", &["ls", "/v/map/"]).unwrap(), "a\nb\n");
}

/// Folders that live as long as the pod.
fn empty_dirs(node: &Node) {
    let sources = [("disk", "emptyDir: {}"), ("memory", "emptyDir: {medium: Memory, sizeLimit: 1Mi}")];
    let show = "cd /v; for d in disk memory; do stat -c '%n %a %u:%g' $d; stat -f -c '%T' $d; echo new > $d/file; stat -c '%n %a %u:%g' $d/file; mkdir $d/sub; stat -c '%n %a' $d/sub; done; \
                dd if=/dev/zero of=memory/big bs=2M count=1 2>&1 | grep -c 'No space left'";
    let limited =
        with("limited", &[("memory", "emptyDir: {medium: Memory}")]).prints("df -k /v/memory | tail -n 1");
    let limited = limited.container("resources: {limits: {memory: 32Mi}}");
    let shared = Pod::new("shared")
        .spec(&format!("initContainers: [{{name: first, image: \"{BUSYBOX}\", command: [sh, -c, \"echo init > /v/init\"], volumeMounts: [{{name: v, mountPath: /v}}]}}, {{name: side, restartPolicy: Always, image: \"{BUSYBOX}\", command: [sh, -c, \"echo side > /other/side; sleep infinity\"], volumeMounts: [{{name: v, mountPath: /other}}]}}]"))
        .spec("volumes: [{name: v, emptyDir: {}}]")
        .container("volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /again, readOnly: true}]")
        .prints("until test -e /v/side; do sleep 0.1; done; cat /again/init /v/side; touch /again/x 2>&1; echo main > /v/main; cat /again/main");
    let manifest = [
        with("root", &sources).prints(show).to_string(),
        with("user", &sources).prints(show).spec("securityContext: {runAsUser: 1000}").to_string(),
        with("group", &sources)
            .prints(show)
            .spec("securityContext: {runAsUser: 1000, fsGroup: 2000}")
            .to_string(),
        limited.to_string(),
        shared.to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();
    for (pod, own, folder) in
        [("root", "0:0", "777 0:0"), ("user", "1000:0", "777 0:0"), ("group", "1000:2000", "2777 0:2000")]
    {
        let sub = if pod == "group" { "2755" } else { "755" };
        let printed = node.printed(pod).unwrap();
        for volume in ["disk", "memory"] {
            has(
                &printed,
                &[
                    &format!("{volume} {folder}"),
                    &format!("{volume}/file 644 {own}"),
                    &format!("{volume}/sub {sub}"),
                ],
            );
        }
        has(&printed, &["tmpfs", "1"]);
    }
    let printed = node.printed("limited").unwrap();
    assert_eq!(printed.split_whitespace().nth(1), Some("32768"), "{printed}");
    let printed = node.printed("shared").unwrap();
    assert_eq!(printed, "init\nside\ntouch: /again/x: Read-only file system\nmain\n");
}

/// Paths of the node, checked as their types say.
fn host_paths(node: &Node) {
    let host = node.folder().join("host");
    fs::create_dir(&host).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(host.join("file"), "of the host").unwrap();
    let _socket = UnixListener::bind(host.join("socket")).unwrap();
    let at = |name: &str| host.join(name).display().to_string();
    let source = |path: &str, kind: &str| format!("hostPath: {{path: \"{path}\", type: \"{kind}\"}}");
    let good = [
        ("untyped", source(&at("made-by-runtime"), "")),
        ("folder", source(&host.display().to_string(), "Directory")),
        ("folder-made", source(&at("made/deep"), "DirectoryOrCreate")),
        ("file", source(&at("file"), "File")),
        ("file-made", source(&at("made-file"), "FileOrCreate")),
        ("socket", source(&at("socket"), "Socket")),
        ("device", source("/dev/null", "CharDevice")),
    ];
    let good: Vec<_> = good.iter().map(|(name, source)| (*name, source.as_str())).collect();
    let show = "cd /v; for f in *; do echo $f `stat -c '%F' $f`; done; cat file; echo; cat folder/file; echo; echo written > untyped/x; echo mine > file-made";
    let bad = [
        ("no-folder", at("absent"), "Directory", format!("hostPath {} doesn't exist", at("absent"))),
        ("no-file", at("absent"), "File", format!("hostPath {} doesn't exist", at("absent"))),
        ("no-socket", at("absent"), "Socket", format!("hostPath {} doesn't exist", at("absent"))),
        (
            "not-folder",
            at("file"),
            "Directory",
            format!("hostPath type check failed: {} is not a directory, it's a File", at("file")),
        ),
        (
            "not-made",
            at("file"),
            "DirectoryOrCreate",
            format!("hostPath type check failed: {} is not a directory, it's a File", at("file")),
        ),
        (
            "not-file",
            host.display().to_string(),
            "FileOrCreate",
            format!("hostPath type check failed: {} is not a file, it's a Directory", host.display()),
        ),
        (
            "not-socket",
            at("file"),
            "Socket",
            format!("hostPath type check failed: {} is not a socket file, it's a File", at("file")),
        ),
        (
            "not-char",
            at("socket"),
            "CharDevice",
            format!("hostPath type check failed: {} is not a character device, it's a Socket", at("socket")),
        ),
        (
            "not-block",
            "/dev/null".to_owned(),
            "BlockDevice",
            "hostPath type check failed: /dev/null is not a block device, it's a CharDevice".to_owned(),
        ),
        ("no-parent", at("absent/file"), "FileOrCreate", "no such file or directory".to_owned()),
    ];
    let mut manifest = with("good", &good).prints(show).to_string();
    manifest += &mounting("read", &source(&host.display().to_string(), ""), "readOnly: true")
        .prints("touch /v/new 2>&1; cat /v/file")
        .to_string();
    // A group is not given the node's own files.
    manifest += &mounting("grouped", &source(&host.display().to_string(), ""), "")
        .spec("securityContext: {fsGroup: 4321}")
        .prints("stat -c '%a %g' /v /v/file")
        .to_string();
    for (pod, path, kind, _) in &bad {
        manifest += &mounting(pod, &source(path, kind), "").to_string();
    }
    node.apply(&manifest).unwrap();
    let printed = node.printed("good").unwrap();
    has(
        &printed,
        &[
            "untyped directory",
            "folder directory",
            "folder-made directory",
            "file regular file",
            "file-made regular empty file",
            "socket socket",
            "device character special file",
            "of the host",
        ],
    );
    assert_eq!(fs::read_to_string(host.join("made-by-runtime/x")).unwrap(), "written\n");
    assert_eq!(fs::read_to_string(host.join("made-file")).unwrap(), "mine\n");
    assert_eq!(fs::metadata(host.join("made/deep")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(host.join("made-file")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(node.printed("read").unwrap(), "touch: /v/new: Read-only file system\nof the host");
    assert_eq!(node.printed("grouped").unwrap(), "755 0\n644 0\n");
    for (pod, _, _, why) in &bad {
        if *pod == "no-parent" {
            node.told(pod, "FailedMount", why).unwrap();
        } else {
            not_set_up(node, pod, why);
        }
    }
    clear(node);
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host");
}

/// Parts of volumes.
fn parts(node: &Node) {
    let host = node.folder().join("parts");
    fs::create_dir_all(host.join("folder/inner")).unwrap();
    fs::write(host.join("folder/inner/file"), "inner").unwrap();
    fs::write(node.folder().join("outside"), "secret of the host").unwrap();
    symlink("folder/inner", host.join("within")).unwrap();
    symlink("../outside", host.join("out")).unwrap();
    symlink("/etc", host.join("etc")).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    let source = format!("hostPath: {{path: \"{}\"}}", host.display());
    let part = |name: &str, path: &str, script: &str| {
        mounting(name, &source, &format!("subPath: \"{path}\"")).prints(script).to_string()
    };
    let expression = |name: &str, text: &str, env: &str| {
        let pod = mounting(name, "emptyDir: {}", &format!("subPathExpr: \"{text}\""));
        pod.container(&format!("env: [{env}]")).prints("grep ' /v ' /proc/self/mountinfo").to_string()
    };
    let named = "{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}";
    // The whole, and a part of it.
    let both = Pod::new("both")
        .spec("volumes: [{name: v, emptyDir: {}}, {name: m, configMap: {name: map}}]")
        .container("volumeMounts: [{name: v, mountPath: /all}, {name: v, mountPath: /part, subPath: one/two}, {name: v, mountPath: /read, subPath: one, readOnly: true}, {name: m, mountPath: /etc/own/colour, subPath: colour}]")
        .prints("echo here > /part/file; cat /all/one/two/file /read/two/file /etc/own/colour; echo; touch /read/x 2>&1; stat -c %a /all/one; ls /etc/own");
    let manifest = [
        part("folder", "folder/inner", "cat /v/file"),
        part("file", "folder/inner/file", "cat /v"),
        part("linked", "within", "cat /v/file"),
        part("made", "new/deep", "echo x > /v/x; stat -c %a /v"),
        part("escapes", "out", "cat /v"),
        part("escapes-far", "etc/passwd", "cat /v"),
        part("makes-outside", "etc/keelson-made", "ls /v"),
        both.to_string(),
        mounting("no-key", "configMap: {name: map}", "subPath: absent").prints("ls /v").to_string(),
        expression("expanded", "of/$(NAME)/$$(NAME)", named),
        expression("unknown", "$(UNKNOWN)", named),
        expression("empty", "x/$(NOTHING)/$(UNKNOWN)", "{name: NOTHING, value: \"\"}"),
        expression("absolute", "$(P)", "{name: P, value: /tmp}"),
        expression("back", "$(P)", "{name: P, value: ..}"),
    ];
    node.apply(&manifest.concat()).unwrap();
    assert_eq!(node.printed("folder").unwrap(), "inner");
    assert_eq!(node.printed("file").unwrap(), "inner");
    assert_eq!(node.printed("linked").unwrap(), "inner");
    assert_eq!(node.printed("made").unwrap(), "755\n");
    assert_eq!(fs::read_to_string(host.join("new/deep/x")).unwrap(), "x\n");
    assert_eq!(
        node.printed("both").unwrap(),
        "here\nhere\ngreen\ntouch: /read/x: Read-only file system\n777\ncolour\n"
    );
    let printed = node.printed("expanded").unwrap();
    assert!(printed.contains("/of/expanded/$(NAME) /v "), "{printed}");
    let prepare = "failed to prepare subPath for volumeMount \"v\" of container \"main\"";
    let create = "failed to create subPath directory for volumeMount \"v\" of container \"main\"";
    for (pod, text) in [
        ("escapes", prepare),
        ("escapes-far", prepare),
        ("makes-outside", create),
        ("unknown", "missing value for UNKNOWN"),
        ("empty", "missing value for NOTHING, UNKNOWN"),
        ("absolute", "error SubPath `/tmp` must not be an absolute path"),
        ("back", "unable to provision SubPath `..`: must not contain '..'"),
    ] {
        // Nothing of the host's is told.
        assert_eq!(node.waits(pod, "CreateContainerConfigError").unwrap(), text, "{pod}");
    }
    assert!(!Path::new("/etc/keelson-made").exists());
    let refused = node.client().with(&["apply", "-f", "-"], &part("up", "../x", "true")).unwrap_err();
    assert!(refused.to_string().contains("must not contain '..'"), "{refused:#}");
    clear(node);
    eventually("nothing to be mounted of what is gone", LONG, || {
        let mounts = node.on_the_host("cat", &["/proc/self/mountinfo"])?;
        Ok((!mounts.contains("volume-subpaths")).then_some(()))
    })
    .unwrap();
    assert_eq!(fs::read_to_string(host.join("folder/inner/file")).unwrap(), "inner");
}

/// Whether mounts of one are seen by others, and whether what is mounted below is read-only too.
fn propagation(node: &Node) {
    let host = node.folder().join("shared");
    fs::create_dir(&host).unwrap();
    let path = host.display().to_string();
    node.on_the_host("mount", &["-t", "tmpfs", "shared", &path]).unwrap();
    node.on_the_host("mount", &["--make-shared", &path]).unwrap();
    node.on_the_host(
        "mkdir",
        &[&format!("{path}/below"), &format!("{path}/of-node"), &format!("{path}/of-pod")],
    )
    .unwrap();
    node.on_the_host("mount", &["-t", "tmpfs", "below", &format!("{path}/below")]).unwrap();
    let source = format!("hostPath: {{path: \"{path}\"}}");
    let pod = |name: &str, mount: &str| mounting(name, &source, mount);
    let privileged = "securityContext: {privileged: true}";
    let write = "touch /v/x 2>&1; touch /v/below/x 2>&1; echo done";
    let recursive = |mode: &str| format!("readOnly: true, recursiveReadOnly: {mode}");
    let manifest = [
        pod("private", "").to_string(),
        pod("slave", "mountPropagation: HostToContainer").to_string(),
        pod("master", "mountPropagation: Bidirectional").container(privileged).to_string(),
        pod("read", &recursive("Disabled")).prints(write).to_string(),
        pod("read-possible", &recursive("IfPossible")).prints(write).to_string(),
        pod("read-all", &recursive("Enabled")).prints(write).to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();
    let refused = node
        .client()
        .with(&["apply", "-f", "-"], &pod("weak", "mountPropagation: Bidirectional").to_string());
    let refused = refused.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("Bidirectional mount propagation is available only to privileged containers"),
        "{refused:#}"
    );

    assert_eq!(node.printed("read").unwrap(), "touch: /v/x: Read-only file system\ndone\n");
    let all = "touch: /v/x: Read-only file system\ntouch: /v/below/x: Read-only file system\ndone\n";
    let status = |pod: &str| {
        node.pod(pod, ".status.containerStatuses[0].volumeMounts[?(@.mountPath==\"/v\")]").unwrap()
    };
    let mode = |pod: &str| {
        serde_json::from_str::<serde_json::Value>(&status(pod)).unwrap()["recursiveReadOnly"].clone()
    };
    assert_eq!(mode("read"), json!("Disabled"));
    match node.engine() {
        Engine::Embedded => {
            assert_eq!(node.printed("read-possible").unwrap(), all);
            assert_eq!(node.printed("read-all").unwrap(), all);
            assert_eq!((mode("read-possible"), mode("read-all")), (json!("Enabled"), json!("Enabled")));
        }
        // It says of no handler that it could.
        Engine::Containerd => {
            assert_eq!(node.printed("read-possible").unwrap(), "touch: /v/x: Read-only file system\ndone\n");
            assert_eq!(mode("read-possible"), json!("Disabled"));
            let told = "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not supported by the runtime";
            assert_eq!(node.waits("read-all", "CreateContainerConfigError").unwrap(), told);
        }
    }

    for pod in ["private", "slave", "master"] {
        node.wait(pod, "condition=Ready").unwrap();
    }
    node.on_the_host("mount", &["-t", "tmpfs", "of-node", &format!("{path}/of-node")]).unwrap();
    node.exec("master", &["sh", "-c", "mount -t tmpfs of-pod /v/of-pod"]).unwrap();
    node.exec("master", &["touch", "/v/of-pod/there"]).unwrap();
    let sees = |pod: &str| {
        let mounts = node.exec(pod, &["cat", "/proc/mounts"]).unwrap();
        let seen = |name: &str| mounts.lines().any(|line| line.starts_with(&format!("{name} /v/{name} ")));
        (seen("of-node"), seen("of-pod"), seen("below"))
    };
    assert_eq!(sees("private"), (false, false, true));
    assert_eq!(sees("slave"), (true, true, true));
    assert_eq!(sees("master"), (true, true, true));
    node.on_the_host("test", &["-e", &format!("{path}/of-pod/there")]).unwrap();
    node.on_the_host("umount", &[&format!("{path}/of-pod")]).unwrap();
    assert!(!sees("slave").1 && !sees("master").1);
    clear(node);
    for below in ["of-node", "below", ""] {
        node.on_the_host("umount", &[&format!("{path}/{below}")]).unwrap();
    }
}

/// Images as volumes, where the runtime can.
fn images(node: &Node) {
    let image = format!("image: {{reference: \"{BUSYBOX}\", pullPolicy: Never}}");
    let manifest = [
        mounting("whole", &image, "")
            .prints("test -x /v/bin/busybox && echo there; touch /v/x 2>&1 || true")
            .to_string(),
        mounting("part", &image, "subPath: bin").prints("test -x /v/busybox && echo there").to_string(),
    ];
    node.apply(&manifest.concat()).unwrap();
    match node.engine() {
        Engine::Embedded => {
            assert_eq!(node.printed("whole").unwrap(), "there\ntouch: /v/x: Read-only file system\n");
            assert_eq!(node.printed("part").unwrap(), "there\n");
        }
        // It knows nothing of them, and makes no container of what it does not understand.
        Engine::Containerd => {
            for pod in ["whole", "part"] {
                node.waits(pod, "CreateContainerError").unwrap();
            }
        }
    }
}

/// Nothing is left of pods that are gone.
fn nothing_left(node: &Node) {
    let pods: PathBuf = node.data_dir().join("kubelet/pods");
    eventually("the folders and mounts of pods to go", LONG, || {
        let own = node.kubectl(&["get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.uid}"])?;
        let is_left = |text: &str| !own.split_whitespace().any(|uid| text.contains(uid));
        let mounts = node.on_the_host("cat", &["/proc/self/mountinfo"])?;
        let mounts = mounts.lines().filter(|line| line.contains("/kubelet/pods/") && is_left(line));
        let mounts: Vec<_> = mounts.collect();
        let folders = fs::read_dir(&pods)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut folders: Vec<_> = folders.collect::<std::io::Result<_>>()?;
        folders.retain(|folder| is_left(folder));
        ensure!(mounts.is_empty() && folders.is_empty(), "left are {mounts:?} and {folders:?}");
        Ok(Some(()))
    })
    .unwrap();
}

fn everything(engine: Engine) {
    let node = &Node::up(engine, "").unwrap();
    node.apply(OBJECTS).unwrap();
    node.shows(&[
        ("content", content),
        ("updates", updates),
        ("empty_dirs", empty_dirs),
        ("host_paths", host_paths),
        ("parts", parts),
        ("propagation", propagation),
        ("images", images),
        ("nothing_left", nothing_left),
    ]);
}

#[test]
fn volumes_of_pods_in_the_embedded_runtime_are_what_the_pods_say() {
    everything(Engine::Embedded);
}

#[test]
fn volumes_of_pods_in_containerd_are_what_the_pods_say() {
    everything(Engine::Containerd);
}
