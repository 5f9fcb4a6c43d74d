//! The scheduler: which node runs which pod.
