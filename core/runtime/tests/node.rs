//! The runtime against the kernel: real sandboxes and containers, as root.
//!
//! This program is also the pod process and a container's program, as the keelson binary is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;

mod node {
    pub(crate) mod harness;
    pub(crate) mod scenarios;
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "pod-process") {
        keelson_runtime::pod_process::main(args.collect::<Vec<OsString>>());
    }
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    if !std::path::Path::new("/bin/busybox").exists() {
        println!("skipped: needs /bin/busybox (Debian package busybox-static)");
        return;
    }
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failed = runtime.block_on(node::scenarios::run(filter.as_deref()));
    std::process::exit(i32::from(failed > 0));
}
