//! The nodelifecycle operator.
