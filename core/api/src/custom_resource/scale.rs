//! Where an object has its number of replicas.

use serde_json::{Value, json};

use crate::object::Object;

/// The paths of a scale subresource, each a list of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number.
    pub spec: Vec<String>,
    /// The present number.
    pub status: Vec<String>,
    /// The selector of the replicas, as a text.
    pub selector: Option<Vec<String>>,
}

fn fields(path: &Value) -> Vec<String> {
    path.as_str().unwrap_or_default().split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn find<'a>(object: &'a Object, path: &[String]) -> Option<&'a Value> {
    object.get(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

impl ScalePaths {
    /// Reads `subresources.scale` of a version.
    pub fn read(scale: &Value) -> Self {
        Self {
            spec: fields(&scale["specReplicasPath"]),
            status: fields(&scale["statusReplicasPath"]),
            selector: scale.get("labelSelectorPath").filter(|path| path.is_string()).map(fields),
        }
    }

    /// `spec` and `status` of an object's `autoscaling/v1` `Scale`; `None` where the object has no number.
    pub fn scale(&self, object: &Object) -> Option<(Value, Value)> {
        let wanted = find(object, &self.spec)?.as_i64()?;
        let present = find(object, &self.status).and_then(Value::as_i64).unwrap_or(0);
        let mut status = json!({"replicas": present});
        if let Some(selector) = self.selector.as_ref().and_then(|path| find(object, path)) {
            status["selector"] = selector.clone();
        }
        Some((json!({"replicas": wanted}), status))
    }

    /// Sets the wanted number.
    pub fn set(&self, object: &mut Object, replicas: Value) {
        object.set(&self.spec.iter().map(String::as_str).collect::<Vec<_>>(), replicas);
    }
}
