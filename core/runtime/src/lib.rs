//! The embedded container runtime behind the Container Runtime Interface.
