//! What can be set.

use crate::queue;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are scheduled; it also signs the Events.
    pub scheduler_name: String,
    /// How many feasible nodes are enough before they are scored, in percent of all; 0 adapts it to the size of
    /// the cluster.
    pub percentage_of_nodes_to_score: u8,
    /// How many requests to the API may be under way at once.
    pub max_in_flight: usize,
    /// How long pods wait.
    pub queue: queue::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            scheduler_name: "default-scheduler".to_owned(),
            percentage_of_nodes_to_score: 0,
            max_in_flight: 128,
            queue: queue::Config::default(),
        }
    }
}
