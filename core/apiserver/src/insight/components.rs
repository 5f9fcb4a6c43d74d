//! The parts of the control plane that run beside the API server in its process.

use std::sync::{Arc, Weak};

use parking_lot::RwLock;

/// Which parts were begun, and which of them run.
#[derive(Debug, Default)]
pub struct Components(RwLock<Vec<(String, Weak<()>)>>);

/// A part runs for as long as this is held.
#[derive(Debug)]
pub struct Running(#[allow(dead_code)] Arc<()>);

impl Components {
    /// A part begins to run, for the first time or anew.
    pub fn begin(&self, name: &str) -> Running {
        let running = Arc::new(());
        let mut parts = self.0.write();
        parts.retain(|(known, _)| known != name);
        parts.push((name.to_owned(), Arc::downgrade(&running)));
        Running(running)
    }

    /// Every part that was ever begun, and whether it runs.
    pub fn all(&self) -> Vec<(String, bool)> {
        self.0.read().iter().map(|(name, running)| (name.clone(), running.strong_count() > 0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_runs_until_it_ends_and_again_when_it_begins_again() {
        let components = Components::default();
        assert_eq!(components.all(), []);
        let running = components.begin("scheduler");
        assert_eq!(components.all(), [("scheduler".to_owned(), true)]);
        drop(running);
        assert_eq!(components.all(), [("scheduler".to_owned(), false)]);
        let _running = components.begin("scheduler");
        assert_eq!(components.all(), [("scheduler".to_owned(), true)]);
    }
}
