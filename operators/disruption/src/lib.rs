//! The disruption operator.
