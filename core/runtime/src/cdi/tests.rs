use std::fs;
use std::path::Path;

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

fn inject_from(folder: &Path, oci: &mut Value, identity: &mut Identity, name: &str) -> Result<(), CdiError> {
    apply(&keelson_cdi::resolve_from(&[folder], &[name.to_owned()])?, oci, identity)
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
    fs::write(folder.path().join("gpu.yaml"), text).unwrap();
    let (mut oci, mut identity) = (oci(), identity(1000));
    inject_from(folder.path(), &mut oci, &mut identity, "vendor.com/gpu=0").unwrap();
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
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |edits: Value| {
        let device = json!({"name": "x", "containerEdits": edits});
        json!({"cdiVersion": "0.5.0", "kind": "vendor.com/gpu", "devices": [device]}).to_string()
    };
    let inject = |edits: Value| {
        fs::write(folder.path().join("a.json"), file(edits)).unwrap();
        let (mut oci, mut identity) = (oci(), identity(0));
        inject_from(folder.path(), &mut oci, &mut identity, "vendor.com/gpu=x").unwrap_err().to_string()
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
