//! The serviceaccount operator.
