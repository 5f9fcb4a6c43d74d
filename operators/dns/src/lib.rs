//! The dns operator.
