//! StorageObjectInUseProtection: claims, volumes and their attribute classes stay until nobody uses them.

use async_trait::async_trait;
use keelson_api::{Object, Status};

use super::{Admission, Attributes, Operation};
use crate::registry::Registry;

/// Group, plural and finalizer.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

/// The plugin. The operator `storageprotection` takes the finalizers away.
#[derive(Debug, Default)]
pub struct StorageObjectInUseProtection;

fn finalizer(attributes: &Attributes<'_>) -> Option<&'static str> {
    let found = PROTECTED.iter().find(|(group, plural, _)| attributes.is(group, plural));
    found.map(|(_, _, finalizer)| *finalizer)
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && finalizer(attributes).is_some()
    }

    async fn mutate(
        &self,
        _registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let Some(finalizer) = finalizer(attributes) else { return Ok(()) };
        let mut finalizers: Vec<String> = object.finalizers().map(str::to_owned).collect();
        if !finalizers.iter().any(|own| own == finalizer) {
            finalizers.push(finalizer.to_owned());
            object.set_finalizers(finalizers);
        }
        Ok(())
    }
}
