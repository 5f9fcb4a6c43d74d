use serde_json::json;

use super::*;
use crate::pod_process::protocol::Identity;

fn identity(uid: u32) -> Identity {
    Identity { uid, gid: uid, groups: vec![7], ..Identity::default() }
}

fn oci() -> Value {
    json!({
        "process": {"env": ["A=1", "B=2"]},
        "mounts": [{"destination": "/proc"}, {"destination": "/data", "source": "/old"}],
        "linux": {"devices": [], "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
    })
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn spec(device: &str, value: &str) -> String {
    json!({
        "cdiVersion": "0.3.0", "kind": "vendor.com/gpu",
        "devices": [{"name": device, "containerEdits": {"env": [format!("GPU={value}")]}}],
        "containerEdits": {"env": ["ANY=yes"]},
    })
    .to_string()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_container_gets_what_its_devices_say_and_what_their_file_says_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
cdiVersion: "0.7.0"
kind: vendor.com/gpu
devices:
- name: "0"
  containerEdits:
    env: ["A=9", "GPU=0"]
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/null
      permissions: rw
    - path: /dev/other
      type: c
      major: 5
      minor: 6
      uid: 3
    mounts:
    - hostPath: /lib/gpu
      containerPath: /data
      options: [ro, nosuid]
    additionalGids: [0, 7, 8]
containerEdits:
  env: ["ANY=yes"]
"#;
    write(folder.path(), "gpu.yaml", text);
    let (mut oci, mut identity) = (oci(), identity(1000));
    inject_from(&[folder.path()], &names(&["vendor.com/gpu=0"]), &mut oci, &mut identity).unwrap();
    assert_eq!(oci["process"]["env"], json!(["A=9", "B=2", "ANY=yes", "GPU=0"]));
    let devices = oci["linux"]["devices"].as_array().unwrap();
    assert_eq!(
        (&devices[0]["path"], &devices[0]["major"], &devices[0]["minor"]),
        (&json!("/dev/gpu0"), &json!(1), &json!(3))
    );
    assert_eq!((&devices[0]["type"], &devices[0]["uid"]), (&json!("c"), &json!(1000)));
    assert_eq!((&devices[1]["uid"], &devices[1]["gid"]), (&json!(3), &json!(1000)));
    let rules = &oci["linux"]["resources"]["devices"];
    assert_eq!(rules[1], json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
    assert_eq!(rules[2], json!({"allow": true, "type": "c", "major": 5, "minor": 6, "access": "rwm"}));
    let mount = json!({"destination": "/data", "type": "bind", "source": "/lib/gpu", "options": ["ro", "nosuid", "rbind"]});
    assert_eq!(oci["mounts"], json!([{"destination": "/proc"}, mount]));
    assert_eq!(identity.groups, [7, 8]);
}

#[test]
fn the_later_folder_wins_and_two_files_of_one_folder_contradict_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (etc, run) = (folder.path().join("etc"), folder.path().join("run"));
    write(&etc, "a.json", &spec("x", "etc"));
    write(&etc, "b.json", &spec("y", "1"));
    write(&etc, "c.json", &spec("y", "2"));
    write(&run, "a.json", &spec("x", "run"));
    let folders = [etc.as_path(), run.as_path()];
    let (mut oci, mut identity) = (oci(), identity(0));
    inject_from(&folders, &names(&["vendor.com/gpu=x"]), &mut oci, &mut identity).unwrap();
    assert_eq!(oci["process"]["env"], json!(["A=1", "B=2", "ANY=yes", "GPU=run"]));
    let asked = names(&["vendor.com/gpu=x", "vendor.com/gpu=y", "vendor.com/none=1"]);
    let error = inject_from(&folders, &asked, &mut oci, &mut identity).unwrap_err();
    assert_eq!(
        error.to_string(),
        "CDI device injection failed: unresolvable CDI devices vendor.com/gpu=y, vendor.com/none=1"
    );
}

#[test]
fn files_that_say_what_is_not_known_or_newer_than_they_are_are_not_used() {
    let why = |with: Value| {
        let mut file = json!({"cdiVersion": "0.3.0", "kind": "vendor.com/gpu",
            "devices": [{"name": "x", "containerEdits": {"env": ["A=b"]}}]});
        file.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        file::File::parse(&file.to_string(), false).err()
    };
    assert_eq!(why(json!({})), None);
    assert!(why(json!({"more": 1})).unwrap().starts_with("unknown field `more`"));
    assert_eq!(why(json!({"cdiVersion": "9.0.0"})).unwrap(), "invalid version \"9.0.0\"");
    assert_eq!(why(json!({"kind": "gpu"})).unwrap(), "invalid kind \"gpu\"");
    assert_eq!(why(json!({"devices": []})).unwrap(), "invalid spec, no devices");
    let least = |edits: Value| why(json!({"containerEdits": edits})).unwrap();
    assert_eq!(least(json!({"additionalGids": [1]})), "the spec version must be at least v0.7.0");
    let mount = json!({"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"});
    assert_eq!(least(json!({"mounts": [mount]})), "the spec version must be at least v0.4.0");
    assert_eq!(least(json!({"env": ["=x"]})), "invalid environment variable \"=x\"");
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |edits: Value| {
        let device = json!({"name": "x", "containerEdits": edits});
        json!({"cdiVersion": "0.5.0", "kind": "vendor.com/gpu", "devices": [device]}).to_string()
    };
    let inject = |edits: Value| {
        write(folder.path(), "a.json", &file(edits));
        let (mut oci, mut identity) = (oci(), identity(0));
        inject_from(&[folder.path()], &names(&["vendor.com/gpu=x"]), &mut oci, &mut identity)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        inject(json!({"hooks": [{"hookName": "createRuntime", "path": "/bin/true"}]})),
        "CDI device injection failed: hooks of CDI device vendor.com/gpu=x: not supported by this runtime"
    );
    assert_eq!(
        inject(json!({"deviceNodes": [{"path": "/dev/nothing-of-this-name"}]})),
        "CDI device injection failed: failed to inject devices: failed to stat CDI host device \"/dev/nothing-of-this-name\""
    );
    assert_eq!(
        inject(json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]})),
        "CDI device injection failed: failed to inject devices: CDI device (\"/dev/null\", \"b\"), host type mismatch (\"c\")"
    );
}
