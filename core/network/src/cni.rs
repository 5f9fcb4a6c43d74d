//! Other people's CNI plugins.

pub(crate) mod chain;
pub(crate) mod configuration;
