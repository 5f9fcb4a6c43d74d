//! The deployment operator.
