//! The catalog of operators and the host that runs the installed ones.
