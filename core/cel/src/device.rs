//! The expressions of device selectors: true of the devices that a class offers or a claim asks for. Their one variable
//! is `device`, with `driver`, `attributes` and `capacity` (by domain, then by name) and `allowMultipleAllocations`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::declaration::{Declaration, Shape};
use crate::error::{CompileError, EvalError};
use crate::eval::Budget;
use crate::program::{Environment, Program, compile};
use crate::quantity::Quantity;
use crate::types::Type;
use crate::value::{Fields, Key, Map, Opaque, Value};

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

/// What a driver says of a device by one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// True or false.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A text.
    Text(Arc<str>),
    /// A version.
    Version(Arc<semver::Version>),
    /// How much it has of something.
    Quantity(Quantity),
}

/// Attributes by domain, then by name. A domain that nobody has named is there, and has none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Domains(BTreeMap<Arc<str>, BTreeMap<Arc<str>, Attribute>>);

/// A device as expressions see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    driver: Arc<str>,
    attributes: Domains,
    capacity: Domains,
    allow_multiple_allocations: bool,
}

impl Attribute {
    fn value<'a>(&self) -> Value<'a> {
        match self {
            Attribute::Bool(it) => Value::Bool(*it),
            Attribute::Int(it) => Value::Int(*it),
            Attribute::Text(it) => Value::text(Arc::clone(it)),
            Attribute::Version(it) => Value::Opaque(Opaque::Semver(Arc::clone(it))),
            Attribute::Quantity(it) => Value::Opaque(Opaque::Quantity(*it)),
        }
    }
}

impl Domains {
    /// Puts an attribute in; a name without a domain is the driver's.
    fn insert(&mut self, driver: &str, name: &str, attribute: Attribute) {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        self.0.entry(domain.into()).or_default().insert(name.into(), attribute);
    }
}

impl<'a> Fields<'a> for Domains {
    fn field(&'a self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let known = self.0.get(name).into_iter().flatten();
        let entries = known.map(|(name, attribute)| (Key::Text(Arc::clone(name)), attribute.value()));
        Some(Ok(Value::Map(Map::Owned(Arc::new(entries.collect())))))
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0.keys().cloned().collect()
    }
}

impl Device {
    /// A device of a driver, of which nothing is said yet.
    pub fn new(driver: &str, allow_multiple_allocations: bool) -> Self {
        Device { driver: driver.into(), allow_multiple_allocations, ..Device::default() }
    }

    /// Says an attribute, by its name with or without a domain.
    pub fn attribute(&mut self, name: &str, attribute: Attribute) {
        self.attributes.insert(&self.driver, name, attribute);
    }

    /// Says a capacity, by its name with or without a domain.
    pub fn capacity(&mut self, name: &str, quantity: Quantity) {
        self.capacity.insert(&self.driver, name, Attribute::Quantity(quantity));
    }

    /// Whether the expression of a selector is true of it.
    ///
    /// # Errors
    /// What went wrong, as where an attribute is looked at that the device does not have.
    pub fn matches(&self, selector: &Program) -> Result<bool, EvalError> {
        let field = |name: &str| Key::Text(name.into());
        let device = BTreeMap::from([
            (field("driver"), Value::text(Arc::clone(&self.driver))),
            (field("attributes"), Value::Map(Map::Lazy(&self.attributes))),
            (field("capacity"), Value::Map(Map::Lazy(&self.capacity))),
            (field("allowMultipleAllocations"), Value::Bool(self.allow_multiple_allocations)),
        ]);
        let device = Value::Map(Map::Owned(Arc::new(device)));
        match selector.evaluate(&[("device", device)], &Budget::new(MAX_COST))? {
            Value::Bool(matches) => Ok(matches),
            _ => Err(EvalError::NoSuchOverload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_true_of_devices() {
        let mut device = Device::new("gpu.example.com", false);
        device.attribute("model", Attribute::Text("x".into()));
        device.attribute("gpu.example.com/count", Attribute::Int(3));
        device.attribute("other.example.com/good", Attribute::Bool(true));
        device.attribute("version", Attribute::Version(Arc::new(semver::Version::new(1, 2, 3))));
        device.capacity("memory", Quantity::parse("2Gi").unwrap());
        let matches = |source: &str| device.matches(&compile_selector(source).unwrap());
        for (source, expected) in [
            (r#"device.driver == "gpu.example.com""#, true),
            (r#"device.attributes["gpu.example.com"].model == "x""#, true),
            (r#"device.attributes["gpu.example.com"].count > 3"#, false),
            (r#"device.attributes["other.example.com"].good"#, true),
            (r#""model" in device.attributes["nobody.example.com"]"#, false),
            (r#"device.attributes["gpu.example.com"].version.isGreaterThan(semver("1.2.2"))"#, true),
            (r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("1Gi")) >= 0"#, true),
            (r#"device.attributes.exists(domain, domain == "other.example.com")"#, true),
            (
                r#"cel.bind(own, device.attributes["gpu.example.com"], own.model == "x" && own.count == 3)"#,
                true,
            ),
            ("device.allowMultipleAllocations", false),
        ] {
            assert_eq!(matches(source).ok(), Some(expected), "{source}: {:?}", matches(source));
        }
        let fault = matches(r#"device.attributes["gpu.example.com"].nothing"#).unwrap_err();
        assert_eq!(fault.to_string(), "no such key: nothing");
    }

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
