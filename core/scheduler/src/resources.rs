//! Amounts of resources as integers, so that fitting is addition and comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts by resource. Those that every pod has are fields; the others are few and sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub others: Vec<(Arc<str>, i64)>,
}

/// The quantities of an API object.
pub type Quantities = BTreeMap<String, Quantity>;

fn parsed(quantity: &Quantity) -> Option<keelson_api::quantity::Quantity> {
    match keelson_api::quantity::Quantity::parse(&quantity.0) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(quantity = quantity.0, %error, "a quantity that cannot be read counts as zero");
            None
        }
    }
}

fn clamped(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Whole units, rounded up.
pub fn units(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |it| clamped(it.value()))
}

/// Thousandths, rounded up.
pub fn thousandths(quantity: &Quantity) -> i64 {
    parsed(quantity).map_or(0, |it| clamped(it.milli_value()))
}

impl Resources {
    /// Reads requests or allocatable amounts. The number of pods is not among them.
    pub fn read(quantities: Option<&Quantities>) -> Self {
        let mut all = Resources::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            match name.as_str() {
                "cpu" => all.milli_cpu = thousandths(quantity),
                "memory" => all.memory = units(quantity),
                "ephemeral-storage" => all.ephemeral_storage = units(quantity),
                "pods" => {}
                other => all.others.push((other.into(), units(quantity))),
            }
        }
        all
    }

    /// The amount of an extended resource.
    pub fn other(&self, name: &str) -> i64 {
        let at = self.others.binary_search_by(|(have, _)| (**have).cmp(name));
        at.ok().and_then(|at| self.others.get(at)).map_or(0, |(_, amount)| *amount)
    }

    /// Whether nothing at all is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.others.iter().all(|(_, amount)| *amount == 0)
    }

    fn combine(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            match self.others.binary_search_by(|(have, _)| have.cmp(name)) {
                Ok(at) => {
                    if let Some((_, have)) = self.others.get_mut(at) {
                        *have = with(*have, *amount);
                    }
                }
                Err(at) => self.others.insert(at, (name.clone(), with(0, *amount))),
            }
        }
    }

    /// Adds.
    pub fn add(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes away.
    pub fn subtract(&mut self, other: &Resources) {
        self.combine(other, i64::saturating_sub);
        self.others.retain(|(_, amount)| *amount != 0);
    }

    /// Raises each amount to that of the other.
    pub fn raise(&mut self, other: &Resources) {
        self.combine(other, i64::max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Resources {
        let map =
            pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect();
        Resources::read(Some(&map))
    }

    #[test]
    fn quantities_become_integers() {
        let read = read(&[("cpu", "1500m"), ("memory", "1Gi"), ("pods", "110"), ("example.com/gpu", "2")]);
        assert_eq!((read.milli_cpu, read.memory), (1500, 1 << 30));
        assert_eq!(read.others, [("example.com/gpu".into(), 2)]);
    }

    #[test]
    fn what_is_added_can_be_taken_away() {
        let mut total = read(&[("cpu", "1")]);
        let pod = read(&[("cpu", "100m"), ("b/x", "1"), ("a/x", "2")]);
        total.add(&pod);
        assert_eq!((total.milli_cpu, total.other("a/x"), total.other("b/x")), (1100, 2, 1));
        total.subtract(&pod);
        assert_eq!(total, read(&[("cpu", "1")]));
    }
}
