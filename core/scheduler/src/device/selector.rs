//! Expressions that devices are chosen by, and the tolerations of their taints.

use std::sync::OnceLock;

use k8s_openapi::api::resource::v1 as resource;
use keelson_cel::Program;
use keelson_cel::device::{Device as DeviceView, compile_selector};

/// An expression, compiled when it is first asked for.
#[derive(Debug)]
pub struct Selector {
    source: Option<String>,
    program: OnceLock<Result<Program, String>>,
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Selector {
    /// Reads a selector.
    pub fn read(selector: &resource::DeviceSelector) -> Self {
        Selector { source: selector.cel.as_ref().map(|cel| cel.expression.clone()), program: OnceLock::new() }
    }

    /// Whether it is an expression, and not of a kind that is not known.
    pub fn is_known(&self) -> bool {
        self.source.is_some()
    }

    /// Whether it chooses a device.
    ///
    /// # Errors
    /// What is wrong with the expression, or with this device under it.
    pub fn matches(&self, device: &DeviceView, id: &dyn std::fmt::Display) -> Result<bool, String> {
        let source = self.source.as_deref().unwrap_or_default();
        let compile = || compile_selector(source).map_err(|error| error.to_string());
        match self.program.get_or_init(compile) {
            Err(error) => Err(format!("CEL compile error: {error}")),
            Ok(program) => {
                device.matches(program).map_err(|error| format!("on device {id}: CEL runtime error: {error}"))
            }
        }
    }
}

/// Whether one of the tolerations is of the taint.
pub fn tolerates(tolerations: &[resource::DeviceToleration], taint: &resource::DeviceTaint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    tolerations.iter().any(|one| {
        let (key, effect, value) = (text(&one.key), text(&one.effect), text(&one.value));
        let is_of = (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
        let agrees = match one.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "Equal" | "" => value == text(&taint.value),
            _ => false,
        };
        is_of && agrees
    })
}

/// Whether a taint keeps those away who do not tolerate it.
pub fn forbids(taint: &resource::DeviceTaint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}
