//! The endpointslice operator.
