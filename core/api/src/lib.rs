//! The Kubernetes object model: kinds, schemas, patches, defaults, validation and table columns, without IO.
