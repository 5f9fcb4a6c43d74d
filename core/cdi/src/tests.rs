use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;

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
fn the_later_folder_wins_and_two_files_of_one_folder_contradict_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (etc, run) = (folder.path().join("etc"), folder.path().join("run"));
    write(&etc, "a.json", &spec("x", "etc"));
    write(&etc, "b.json", &spec("y", "1"));
    write(&etc, "c.json", &spec("y", "2"));
    write(&run, "a.json", &spec("x", "run"));
    let folders = [etc.as_path(), run.as_path()];
    let got = resolve_from(&folders, &names(&["vendor.com/gpu=x"])).unwrap();
    let env: Vec<_> = got.iter().flat_map(|one| &one.edits.env).collect();
    assert_eq!(env, ["ANY=yes", "GPU=run"]);
    assert_eq!(got[1].device, "vendor.com/gpu=x");
    let asked = names(&["vendor.com/gpu=x", "vendor.com/gpu=y", "vendor.com/none=1"]);
    let error = resolve_from(&folders, &asked).unwrap_err();
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
