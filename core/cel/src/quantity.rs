//! Quantities in expressions.

use std::fmt;

use keelson_api::quantity;

const NANO: i128 = 1_000_000_000;

/// A quantity, in thousand-millionths of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

impl Quantity {
    /// Reads a quantity such as `1.5Gi`.
    pub fn parse(text: &str) -> Option<Self> {
        quantity::Quantity::parse(text).ok().map(|read| Self(read.nano()))
    }

    /// A number of whole units.
    pub fn whole(units: i64) -> Self {
        Self(i128::from(units) * NANO)
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i64 {
        self.0.signum().try_into().unwrap_or_default()
    }

    /// The number of units, where it is whole and not too large.
    pub fn as_integer(self) -> Option<i64> {
        if self.0 % NANO == 0 { i64::try_from(self.0 / NANO).ok() } else { None }
    }

    /// The number of units.
    #[allow(clippy::cast_precision_loss)]
    pub fn as_float(self) -> f64 {
        match self.as_integer() {
            Some(whole) => whole as f64,
            None => self.0 as f64 / NANO as f64,
        }
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(NANO, ""), (NANO / 1000, "m"), (1000, "u"), (1, "n")];
        let found = units.into_iter().find(|(size, _)| self.0 % size == 0);
        let (size, suffix) = found.unwrap_or((1, "n"));
        write!(f, "{}{suffix}", self.0 / size)
    }
}
