//! When two templates are the same, and the name that one gives (pure).

use std::hash::{DefaultHasher, Hasher};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label by which the pods of a Deployment's ReplicaSets are told apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The characters that generated names are made of: no vowels, and nothing that looks like another one.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Stands for a template, without its hash label, for as long as this process runs: templates are the same if their
/// fingerprints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64, u64);

impl Fingerprint {
    /// The fingerprint of a template.
    pub fn of(template: &PodTemplateSpec) -> Self {
        let text = text(template);
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(text.as_bytes());
            hasher.finish()
        };
        Fingerprint(half(0), half(1))
    }
}

/// The text that tells ReplicaSets of a Deployment apart. The same template always gives the same one, unless
/// `collisions` say that this name is taken.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut sum: u32 = 0x811c_9dc5;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            sum = (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    add(text(template).as_bytes());
    if let Some(collisions) = collisions {
        add(&collisions.to_le_bytes());
    }
    let letter = |byte: u8| ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied().map(char::from);
    sum.to_string().bytes().filter_map(letter).collect()
}

/// A template in one fixed form: sorted, and without what is empty.
fn text(template: &PodTemplateSpec) -> String {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    // A template is a tree of texts, numbers and truth values, which JSON can always hold.
    let mut value = serde_json::to_value(&template).unwrap_or_default();
    prune(&mut value);
    value.to_string()
}

/// An absent list and an empty one mean the same.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields
                .retain(|_, field| !field.is_null() && field.as_array().is_none_or(|list| !list.is_empty()));
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn template(json: Value) -> PodTemplateSpec {
        from_value(json).unwrap()
    }

    #[test]
    fn the_hash_label_and_empty_lists_make_no_difference() {
        let spec = json!({"containers": [{"name": "c", "image": "a"}]});
        let one = template(json!({"metadata": {"labels": {"app": "web"}}, "spec": spec}));
        let mut two = one.clone();
        two.metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(POD_TEMPLATE_HASH.to_owned(), "x".to_owned());
        two.spec.as_mut().unwrap().volumes = Some(Vec::new());
        assert_eq!(Fingerprint::of(&one), Fingerprint::of(&two));
        assert_eq!(hash(&one, None), hash(&two, None));
        let other = json!({"containers": [{"name": "c", "image": "b"}]});
        let other = template(json!({"metadata": {"labels": {"app": "web"}}, "spec": other}));
        assert_ne!(Fingerprint::of(&one), Fingerprint::of(&other));
        assert_ne!(hash(&one, None), hash(&other, None));
    }

    #[test]
    fn a_collision_gives_another_name_of_allowed_characters() {
        let template = template(json!({"spec": {"containers": []}}));
        let hash_0 = hash(&template, None);
        assert_ne!(hash_0, hash(&template, Some(1)));
        assert!(hash_0.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert!((1..=10).contains(&hash_0.len()));
    }
}
