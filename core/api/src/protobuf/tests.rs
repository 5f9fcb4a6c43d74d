use pretty_assertions::assert_eq;
use prost::encoding::encode_varint;
use serde_json::json;

use super::table::Table;
use super::*;

mod typed;
mod whole;

/// A field with bytes in it.
fn field(tag: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(u64::from(tag << 3 | 2), &mut out);
    encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

fn number(tag: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(u64::from(tag << 3), &mut out);
    encode_varint(value, &mut out);
    out
}

fn document(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
}

#[test]
fn a_config_map_is_read_with_its_maps_and_without_what_was_not_said() {
    // metadata: name, an empty generateName, generation 0, an empty creationTimestamp.
    let metadata = [field(1, b"a"), field(2, b""), number(7, 0), field(8, b"")].concat();
    let data = [field(1, b"k"), field(2, b"v")].concat();
    let binary = [field(1, b"b"), field(2, b"\x01\x02")].concat();
    let raw = [field(1, &metadata), field(2, &data), field(3, &binary)].concat();
    assert_eq!(
        decode(&document("v1", "ConfigMap", &raw)).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "AQI="}})
    );
}

#[test]
fn embedded_messages_and_special_types_take_their_json_form() {
    let claim = [field(1, b"cache"), field(2, &field(2, b""))].concat();
    let port = number(3, 8080);
    let probe_handler = field(2, &field(2, &[number(1, 0), number(2, 80)].concat()));
    let probe = [field(1, &probe_handler), number(3, 0), number(6, 3)].concat();
    let limits = field(1, &[field(1, b"cpu"), field(2, &field(1, b"100m"))].concat());
    let container = [field(1, b"c"), field(6, &port), field(8, &limits), field(10, &probe)].concat();
    let raw = field(2, &[field(1, &claim), field(2, &container)].concat());
    assert_eq!(
        decode(&document("v1", "Pod", &raw)).unwrap()["spec"],
        json!({
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "containers": [{
                "name": "c", "ports": [{"containerPort": 8080}], "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"port": 80}, "failureThreshold": 3},
            }],
        })
    );
}

#[test]
fn a_zero_that_was_said_is_kept() {
    let raw = field(2, &number(1, 0));
    assert_eq!(decode(&document("apps/v1", "Deployment", &raw)).unwrap()["spec"], json!({"replicas": 0}));
}

#[test]
fn what_is_no_document_is_refused() {
    assert_eq!(decode(b"{}"), Err(ProtobufError::Prefix));
    let unknown = decode(&document("example.com/v1", "Thing", b""));
    assert!(matches!(unknown, Err(ProtobufError::UnknownKind { .. })));
    let whole = document("v1", "ConfigMap", &field(1, &field(1, b"a")));
    for cut in 1..=4 {
        assert!(decode(&whole[..whole.len() - cut]).is_err(), "cut by {cut}");
    }
}

#[test]
fn every_kind_and_its_list_have_messages() {
    let missing: Vec<String> = crate::Catalog::builtin()
        .resources()
        .iter()
        .flat_map(|resource| {
            let version = resource.group_version().to_string();
            [(version.clone(), resource.kind.clone()), (version, resource.list_kind.clone())]
        })
        .filter(|(version, kind)| Table::get().find(version, kind).is_none())
        .map(|(version, kind)| format!("{version} {kind}"))
        // Reviews are not listed.
        .filter(|name| !name.ends_with("ReviewList") && name != "v1 BindingList")
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn plurals_of_abbreviations_have_their_json_names() {
    let service = field(2, &[field(18, b"10.0.0.1"), field(5, b"192.0.2.1")].concat());
    let spec = decode(&document("v1", "Service", &service)).unwrap()["spec"].clone();
    assert_eq!(spec, json!({"clusterIPs": ["10.0.0.1"], "externalIPs": ["192.0.2.1"]}));
}
