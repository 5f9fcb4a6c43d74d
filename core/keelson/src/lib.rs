//! Kubernetes, rebuilt: one binary that is the whole cluster.
