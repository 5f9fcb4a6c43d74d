//! How far pulls have come.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::super::partial::Growth;

/// Of one image.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Bytes of all that is fetched.
    pub(super) total: u64,
    pub(super) parts: Vec<Arc<Growth>>,
    pub(super) layers: usize,
    pub(super) unpacked: AtomicUsize,
}

/// What is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// Bytes that are here.
    pub(crate) bytes: u64,
    /// Bytes of all.
    pub(crate) total: u64,
    /// Layers that are unpacked.
    pub(crate) unpacked: usize,
    /// Layers.
    pub(crate) layers: usize,
}

impl Progress {
    fn tell(&self) -> Told {
        let bytes = self.parts.iter().map(|part| part.length()).fold(0, u64::saturating_add);
        let unpacked = self.unpacked.load(Ordering::Relaxed);
        Told { bytes, total: self.total, unpacked, layers: self.layers }
    }
}

/// The pulls under way, by the images' names.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashMap<String, Arc<Progress>>>>);

impl UnderWay {
    pub(super) fn begin(&self, name: &str, progress: Arc<Progress>) -> Entry {
        self.0.lock().insert(name.to_owned(), Arc::clone(&progress));
        Entry { name: name.to_owned(), progress, all: Arc::clone(&self.0) }
    }

    /// How far the pull of an image has come, if one is under way.
    pub(crate) fn of(&self, name: &str) -> Option<Told> {
        self.0.lock().get(name).map(|progress| progress.tell())
    }
}

/// A pull that is told of as long as it is under way.
pub(super) struct Entry {
    name: String,
    progress: Arc<Progress>,
    all: Arc<Mutex<HashMap<String, Arc<Progress>>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if all.get(&self.name).is_some_and(|known| Arc::ptr_eq(known, &self.progress)) {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_of_while_it_is_under_way() {
        let all = UnderWay::default();
        let part = Arc::new(Growth::default());
        let progress = Progress {
            total: 10,
            parts: vec![Arc::clone(&part), Arc::default()],
            layers: 1,
            unpacked: AtomicUsize::new(0),
        };
        let entry = all.begin("a", Arc::new(progress));
        part.is_here(4);
        assert_eq!(all.of("a"), Some(Told { bytes: 4, total: 10, unpacked: 0, layers: 1 }));
        drop(entry);
        assert_eq!(all.of("a"), None);
    }
}
