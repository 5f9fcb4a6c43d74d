//! The expressions of device selectors: true of the devices that a class offers or a claim asks for. Their one variable
//! is `device`, with `driver`, `attributes` and `capacity` (by domain, then by name) and `allowMultipleAllocations`.

use std::sync::{Arc, LazyLock};

use crate::declaration::{Declaration, Shape};
use crate::error::CompileError;
use crate::program::{Environment, Program, compile};
use crate::types::Type;

/// The most that one evaluation may cost, by its estimate.
pub const MAX_COST: u64 = 1_000_000;
/// The most attributes and capacities of a device.
const MOST: u64 = 32;
const MAX_DRIVER: u64 = 63;
const MAX_ATTRIBUTE: u64 = 64;

/// Why an expression cannot select devices.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// It cannot be compiled.
    #[error("compilation failed: {0}")]
    Compile(CompileError),
    /// Its value is of another type.
    #[error("must evaluate to bool or the unknown type, not {0}")]
    NotBool(String),
    /// It may cost more than it may.
    #[error("too complex, exceeds cost limit")]
    TooCostly,
}

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let bounded = |ty: Type, max| Arc::new(Declaration { max: Some(max), ..(*Declaration::of(ty)).clone() });
    let map = |values: Arc<Declaration>| {
        let ty = Type::map(Type::String, values.ty.clone());
        Arc::new(Declaration { ty, shape: Shape::Map(values), max: Some(MOST), least: 2 })
    };
    let attribute = Arc::new(Declaration { max: Some(MAX_ATTRIBUTE), ..(*Declaration::dynamic()).clone() });
    let fields = [
        ("driver", bounded(Type::String, MAX_DRIVER)),
        ("attributes", map(map(attribute))),
        ("capacity", map(map(Declaration::of(Type::Opaque("kubernetes.Quantity"))))),
        ("allowMultipleAllocations", Declaration::of(Type::Bool)),
    ];
    let fields = fields.into_iter().map(|(name, declaration)| (name.to_owned(), declaration));
    Environment::new().variable("device", Declaration::object("kubernetes.DRADevice", fields))
});

/// Compiles the expression of a selector.
///
/// # Errors
/// The faults of the expression, or that it is none of truth, or that it may cost too much.
pub fn compile_selector(expression: &str) -> Result<Program, SelectorError> {
    let program = compile(expression, &ENVIRONMENT).map_err(SelectorError::Compile)?;
    if !matches!(program.ty(), Type::Bool | Type::Dyn) {
        return Err(SelectorError::NotBool(program.ty().to_string()));
    }
    if program.most(&ENVIRONMENT) > MAX_COST {
        return Err(SelectorError::TooCostly);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_see_the_attributes_and_capacities_of_a_device() {
        for good in [
            r#"device.driver == "gpu.example.com""#,
            r#"device.attributes["gpu.example.com"].model == "x" && device.attributes["gpu.example.com"].count > 2"#,
            r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("1Gi")) >= 0"#,
            r#"cel.bind(own, device.attributes["gpu.example.com"], own.a && own.b)"#,
            r#"device.attributes["gpu.example.com"].version.isGreaterThan(semver("1.2.3"))"#,
            r#""a" in device.attributes["gpu.example.com"] && device.allowMultipleAllocations"#,
            r#"device.attributes["gpu.example.com"].model.startsWith("x")"#,
        ] {
            assert!(compile_selector(good).is_ok(), "{good}: {:?}", compile_selector(good).err());
        }
    }

    #[test]
    fn selectors_that_cannot_be_used_say_why() {
        let why = |source: &str| compile_selector(source).unwrap_err().to_string();
        assert!(why("device.nothing").starts_with("compilation failed: ERROR: <input>:1:7: undefined field"));
        assert_eq!(why("device.driver"), "must evaluate to bool or the unknown type, not string");
        let costly = r#"device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, device.driver == "x"))))"#;
        assert_eq!(why(costly), "too complex, exceeds cost limit");
    }
}
