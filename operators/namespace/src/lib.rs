//! The namespace operator.
