//! The embedded container runtime behind the Container Runtime Interface.
mod cgroup;
pub mod image;
pub mod pod_process;
mod seccomp;
