//! What the devices of a claim have to have in common, and what not (pure).

use k8s_openapi::api::resource::v1 as resource;

use super::claim::{Request, Wanted};
use super::slice::Device;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    /// Versions are equal where their texts are.
    Version(String),
}

/// A constraint and what its devices have so far. Once a device cannot be added, others do not change that.
#[derive(Clone, Debug)]
pub struct Constraint {
    requests: Vec<String>,
    attribute: String,
    is_distinct: bool,
    values: Vec<Value>,
}

/// An attribute by its full name; where its domain is the driver, also without.
fn value(device: &Device, name: &str) -> Option<Value> {
    let attributes = device.said.attributes.as_ref()?;
    let own = || {
        let (domain, name) = name.split_once('/')?;
        if domain == &*device.id.pool.driver { attributes.get(name) } else { None }
    };
    let said = attributes.get(name).or_else(own)?;
    (said.bool.map(Value::Bool))
        .or(said.int.map(Value::Int))
        .or_else(|| said.string.clone().map(Value::Text))
        .or_else(|| said.version.clone().map(Value::Version))
}

impl Constraint {
    /// Reads a constraint; `None` of one that is not known.
    pub fn read(constraint: &resource::DeviceConstraint) -> Option<Self> {
        let (attribute, is_distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        let requests = constraint.requests.clone().unwrap_or_default();
        Some(Constraint { requests, attribute: attribute.clone(), is_distinct, values: Vec::new() })
    }

    fn concerns(&self, request: &Request, wanted: &Wanted) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|name| *name == request.name || *name == request.full_name(wanted))
    }

    /// Whether a device can be added to those that are there.
    pub fn allows(&self, request: &Request, wanted: &Wanted, device: &Device) -> bool {
        if !self.concerns(request, wanted) {
            return true;
        }
        let Some(value) = value(device, &self.attribute) else { return false };
        if self.is_distinct {
            !self.values.contains(&value)
        } else {
            self.values.iter().all(|it| *it == value)
        }
    }

    /// Adds a device that is allowed.
    pub fn add(&mut self, request: &Request, wanted: &Wanted, device: &Device) {
        if self.concerns(request, wanted) {
            self.values.extend(value(device, &self.attribute));
        }
    }

    /// Takes the device back that was added last.
    pub fn take_back(&mut self, request: &Request, wanted: &Wanted) {
        if self.concerns(request, wanted) {
            self.values.pop();
        }
    }
}
