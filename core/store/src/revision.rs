//! The order of changes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A point in the cluster-wide, gapless order of changes; it is the `resourceVersion` of what it changed.
///
/// Revision 0 is the empty store before the first change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// The empty store before the first change.
    pub const ZERO: Revision = Revision(0);

    /// A revision from its number.
    pub const fn new(number: u64) -> Self {
        Revision(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision of the change after this one.
    pub const fn next(self) -> Self {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Revision)
    }
}
