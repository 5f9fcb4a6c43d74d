//! DefaultStorageClass and DefaultIngressClass: who names no class gets the one that is marked as the default.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// Where one kind names a class of another.
#[derive(Debug)]
pub struct DefaultClass {
    /// Group and plural of those who name a class.
    of: (&'static str, &'static str),
    /// The field with the name, below `spec`.
    field: &'static str,
    /// The older annotation that names a class.
    older: &'static str,
    /// Group and plural of the classes.
    classes: (&'static str, &'static str),
    /// Annotations that mark a default.
    marks: &'static [&'static str],
}

impl DefaultClass {
    /// DefaultStorageClass.
    pub const STORAGE: Self = DefaultClass {
        of: ("", "persistentvolumeclaims"),
        field: "storageClassName",
        older: "volume.beta.kubernetes.io/storage-class",
        classes: ("storage.k8s.io", "storageclasses"),
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
    };
    /// DefaultIngressClass.
    pub const INGRESS: Self = DefaultClass {
        of: ("networking.k8s.io", "ingresses"),
        field: "ingressClassName",
        older: "kubernetes.io/ingress.class",
        classes: ("networking.k8s.io", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    };

    fn has_class(&self, object: &Object) -> bool {
        object.annotation(self.older).is_some()
            || object.get(&["spec", self.field]).is_some_and(|name| !Value::is_null(name))
    }

    /// The newest of the classes that are marked; of those made at the same time the first by name.
    fn newest<'a>(&self, classes: &'a [Object]) -> Option<&'a str> {
        let marked = |class: &&Object| self.marks.iter().any(|mark| class.annotation(mark) == Some("true"));
        let found = classes.iter().filter(marked).min_by(|a, b| {
            let by_age = b.creation_timestamp().cmp(&a.creation_timestamp());
            by_age.then_with(|| a.name().cmp(&b.name()))
        });
        found.and_then(Object::name)
    }
}

#[async_trait]
impl Admission for DefaultClass {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is(self.of.0, self.of.1)
    }

    async fn mutate(
        &self,
        registry: &Registry,
        _attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        if self.has_class(object) {
            return Ok(());
        }
        let listing = registry.resource(&GroupResource::new(self.classes.0, self.classes.1)).list();
        let classes = listing.objects.values().map(|class| cache::decode(&class.bytes));
        let classes = classes.collect::<Result<Vec<Object>, Status>>()?;
        if let Some(name) = self.newest(&classes) {
            object.set(&["spec", self.field], name.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_default_wins_and_then_the_first_by_name() {
        let class = |name: &str, made: &str, mark: &str| {
            let annotations = json!({DefaultClass::STORAGE.marks[0]: mark});
            Object::from_value(
                json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": annotations}}),
            )
            .unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let classes = [
            class("a", old, "true"),
            class("c", new, "true"),
            class("b", new, "true"),
            class("d", new, "no"),
        ];
        assert_eq!(DefaultClass::STORAGE.newest(&classes), Some("b"));
        assert_eq!(DefaultClass::STORAGE.newest(&classes[3..]), None);
    }

    #[test]
    fn an_empty_name_is_a_choice_too() {
        let claim = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        assert!(DefaultClass::STORAGE.has_class(&claim(json!({"storageClassName": ""}))));
        assert!(!DefaultClass::STORAGE.has_class(&claim(json!({"storageClassName": null}))));
    }
}
