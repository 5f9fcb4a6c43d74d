//! The slices of a driver that belong together.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::slice::Slice;

/// A pool of a driver; shown as `driver/pool`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The driver.
    pub driver: Arc<str>,
    /// The pool's name.
    pub pool: Arc<str>,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.driver, self.pool)
    }
}

/// A pool in its latest state.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Which it is.
    pub id: PoolId,
    /// Its slices; those of earlier states are left out.
    pub slices: Vec<Arc<Slice>>,
    /// Whether slices are missing, or too many.
    pub is_incomplete: bool,
    /// Whether two devices have one name.
    pub is_invalid: bool,
}

impl Pool {
    /// The pool of its slices; `None` of none.
    pub fn of(slices: impl Iterator<Item = Arc<Slice>>) -> Option<Self> {
        let all: Vec<Arc<Slice>> = slices.collect();
        let latest = all.iter().map(|slice| slice.generation).max()?;
        let slices: Vec<Arc<Slice>> = all.into_iter().filter(|slice| slice.generation == latest).collect();
        let first = slices.first()?;
        let (id, count) = (first.pool.clone(), first.slice_count);
        let mut names = HashSet::new();
        let is_invalid =
            !slices.iter().flat_map(|slice| &slice.devices).all(|device| names.insert(&device.id.device));
        let is_incomplete = usize::try_from(count).ok() != Some(slices.len());
        Some(Pool { id, slices, is_incomplete, is_invalid })
    }
}
