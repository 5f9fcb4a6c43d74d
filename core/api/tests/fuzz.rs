//! Decoders and patches on input that nobody meant: an answer or an error, and never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_api::selector::{FieldSelector, LabelSelector};
use keelson_api::{GroupVersionKind, Schema, patch, protobuf};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use serde_json::{Value, json};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z$/~]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let name = prop_oneof![
            Just("spec"),
            Just("containers"),
            Just("name"),
            Just("$patch"),
            Just("metadata"),
            Just("$retainKeys"),
            Just("$setElementOrder/containers"),
            Just("$deleteFromPrimitiveList/finalizers"),
            Just("labels"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4)
                .prop_map(|fields| fields.into_iter().map(|(name, it)| (name.to_owned(), it)).collect()),
        ]
    })
}

fn operation() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        Just(""),
        Just("/spec"),
        Just("/spec/containers/0"),
        Just("/spec/containers/-"),
        Just("/x/y")
    ];
    let word =
        prop_oneof![Just("add"), Just("remove"), Just("replace"), Just("move"), Just("copy"), Just("test")];
    (word, path.clone(), path, value())
        .prop_map(|(word, path, from, value)| json!({"op": word, "path": path, "from": from, "value": value}))
}

fn pod() -> Value {
    json!({"metadata": {"name": "a", "finalizers": ["x/y"]}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn protobuf_is_read_or_refused(noise in prop::collection::vec(any::<u8>(), 0..256), cut in 0..200_usize) {
        let _ = protobuf::decode(&noise);
        let mut envelope = protobuf::envelope("v1", "Pod", &[&noise]);
        let _ = protobuf::decode(&envelope);
        envelope.truncate(envelope.len().saturating_sub(cut));
        let _ = protobuf::decode(&envelope);
    }

    #[test]
    fn what_is_written_as_protobuf_can_be_read(value in value()) {
        let mut document = json!({"apiVersion": "v1", "kind": "Pod"});
        document["spec"] = value;
        if let Ok(bytes) = protobuf::document(document.to_string().as_bytes()) {
            protobuf::decode(&bytes).unwrap();
        }
    }

    #[test]
    fn patches_are_applied_or_refused(patch in value(), operations in prop::collection::vec(operation(), 0..8)) {
        let schema = Schema::builtin(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let _ = patch::strategic::apply(&mut pod(), &patch, &schema);
        patch::merge::apply(&mut pod(), &patch);
        let _ = patch::json::apply(&mut pod(), &operations.into());
    }

    #[test]
    fn selectors_are_read_or_refused(text in "[a-z!=(), .<>/0-9-]{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}
