//! Whether somebody has decided what becomes of each field of a pod: `pod_fields.txt` against the schema and the sources.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use keelson_api::validation::validate_create;
use keelson_api::{Object, defaults};
use serde_json::{Map, Value, json};

const LIST: &str = include_str!("pod_fields.txt");
const CORE: &str = "io.k8s.api.core.v1.";
/// Types that mean the same everywhere.
const COMMON: [&str; 6] =
    ["LabelSelector", "ManagedFieldsEntry", "OwnerReference", "Quantity", "IntOrString", "Time"];

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Acted on below this path.
    ActedOn(&'static str),
    Refused,
    /// Dropped, not set, or without a meaning.
    Without,
}

/// By type and field.
fn decided() -> BTreeMap<(String, String), Fate> {
    let mut all = BTreeMap::new();
    let mut of = "";
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(entry) = line.strip_prefix("  ") else {
            of = line;
            continue;
        };
        let (place, fields) = entry.rsplit_once(": ").unwrap_or_else(|| panic!("{line}"));
        let fate = match place.split_once(" (") {
            None => Fate::ActedOn(place),
            Some(("refused", _)) => Fate::Refused,
            Some(("dropped" | "unset" | "inert", _)) => Fate::Without,
            Some((word, _)) => panic!("{word} is no fate"),
        };
        for field in fields.split(' ') {
            let before = all.insert((of.to_owned(), field.to_owned()), fate);
            assert_eq!(before, None, "{of}.{field} is named twice");
        }
    }
    all
}

fn definitions() -> Map<String, Value> {
    let packed = flate2::read::GzDecoder::new(&include_bytes!("../data/schemas.json.gz")[..]);
    let mut all: Value = serde_json::from_reader(packed).unwrap();
    let Value::Object(definitions) = all["definitions"].take() else { panic!("no definitions") };
    definitions
}

/// The types to which a schema refers.
fn references(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            found.extend(
                fields
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(|name| name.rsplit('/').next().unwrap().to_owned()),
            );
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// Every field of a pod's spec and status, of types to which only fields lead that are acted on.
fn fields(decided: &BTreeMap<(String, String), Fate>) -> BTreeSet<(String, String)> {
    let definitions = definitions();
    let mut waiting = VecDeque::from([format!("{CORE}PodSpec"), format!("{CORE}PodStatus")]);
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = waiting.pop_front() {
        let short = name.rsplit('.').next().unwrap().to_owned();
        if COMMON.contains(&short.as_str()) || !seen.insert(name.clone()) {
            continue;
        }
        for (field, schema) in definitions[&name]["properties"].as_object().into_iter().flatten() {
            let key = (short.clone(), field.clone());
            let mut others = BTreeSet::new();
            references(schema, &mut others);
            if matches!(decided.get(&key), Some(Fate::ActedOn(_)) | None) {
                waiting.extend(others);
            }
            found.insert(key);
        }
    }
    found
}

#[test]
fn somebody_has_decided_what_becomes_of_each_field_of_a_pod() {
    let decided = decided();
    let fields = fields(&decided);
    let undecided: Vec<_> = fields.iter().filter(|field| !decided.contains_key(*field)).collect();
    assert!(undecided.is_empty(), "fields that pod_fields.txt does not name: {undecided:?}");
    let unknown: Vec<_> = decided.keys().filter(|field| !fields.contains(*field)).collect();
    assert!(unknown.is_empty(), "what pod_fields.txt names and no pod has: {unknown:?}");
}

/// `hostPID` and `host_pid`, as the JSON and the Rust types have it.
fn spellings(field: &str) -> [String; 2] {
    let mut snake = String::new();
    let letters: Vec<char> = field.chars().collect();
    for (place, letter) in letters.iter().enumerate() {
        let after_lower = place > 0 && !letters[place - 1].is_ascii_uppercase();
        let before_lower = place > 0 && letters.get(place + 1).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && (after_lower || before_lower) {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    [field.to_owned(), snake]
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    })
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
    } else {
        found.push(path.to_owned());
    }
}

#[test]
fn a_field_is_named_where_it_is_said_to_be_acted_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    let mut missing = Vec::new();
    for ((of, field), fate) in decided() {
        let Fate::ActedOn(place) = fate else { continue };
        let text = texts.entry(place).or_insert_with(|| {
            let mut files = Vec::new();
            sources(&root.join(place), &mut files);
            files
                .iter()
                .map(|file| fs::read_to_string(file).unwrap_or_else(|error| panic!("{place}: {error}")))
                .collect()
        });
        // What is a word of Rust has a line below it.
        let mut words = spellings(&field).to_vec();
        words.push(format!("{field}_"));
        if !words.iter().any(|word| has_word(text, word) || has_word(text, &format!("r#{word}"))) {
            missing.push(format!("{of}.{field} in {place}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The faults of a pod with one volume.
fn faults(volume: Value) -> Vec<String> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"containers": [{"name": "c", "image": "d"}], "volumes": [volume]}});
    let mut pod = Object::from_value(pod).unwrap();
    let kind = pod.gvk();
    defaults::apply_defaults(&kind, &mut pod);
    validate_create(&kind, &pod, true).iter().map(ToString::to_string).collect()
}

#[test]
fn a_volume_that_is_said_to_be_refused_is() {
    let refused = decided().into_iter().filter(|(_, fate)| *fate == Fate::Refused);
    let mut count = 0;
    for ((of, source), _) in refused.filter(|((of, _), _)| of == "Volume" || of == "VolumeProjection") {
        let (volume, path) = if of == "Volume" {
            (json!({"name": "v", &source: {}}), format!("spec.volumes[0].{source}"))
        } else {
            let volume = json!({"name": "v", "projected": {"sources": [{&source: {}}]}});
            (volume, format!("spec.volumes[0].projected.sources[0].{source}"))
        };
        let found = faults(volume);
        let expected = format!("{path}: Forbidden: ");
        assert!(found.iter().any(|fault| fault.starts_with(&expected)), "{source}: {found:?}");
        count += 1;
    }
    assert_eq!(count, 22);
}
