//! The scheduler: which node runs which pod.

pub mod cache;
pub mod cycle;
pub mod framework;
pub mod labels;
pub mod names;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod selector;
pub mod taint;
pub mod volume;
