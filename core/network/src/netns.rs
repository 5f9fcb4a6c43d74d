//! Entering a pod's network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::sysctl::{self, SysctlError};

/// A pod's network namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is no such namespace.
    #[error("open network namespace {path}")]
    Open {
        /// Its name in the file system.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread, or it ended early.
    #[error("run a thread in the network namespace")]
    Thread(#[source] io::Error),
    /// It may be no network namespace.
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    /// Inside of it.
    #[error("open a netlink socket in the network namespace")]
    Netlink(#[source] io::Error),
    /// Inside of it.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A pod's network namespace, held open.
#[derive(Debug, Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    pub(crate) fn open(path: &Path) -> Result<Self, NamespaceError> {
        let open = || File::open(path);
        let file = open().map_err(|source| NamespaceError::Open { path: path.to_owned(), source })?;
        Ok(Self(Arc::new(file)))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// A netlink connection to the namespace, which is prepared for pods before.
    ///
    /// A socket stays in the namespace in which it was made, so a thread of its own makes it and ends: no thread of the runtime ever
    /// leaves the node's namespace.
    pub(crate) async fn connect(&self) -> Result<rtnetlink::Handle, NamespaceError> {
        let (answer, result) = oneshot::channel();
        let file = Arc::clone(&self.0);
        let runtime = tokio::runtime::Handle::current();
        let inside = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NamespaceError::Enter(errno.into()))?;
            // Every way leads over the gateway; a hint that another pod is near would only go around the node's rules.
            for which in ["all", "default"] {
                sysctl::set(&format!("ipv4/conf/{which}/accept_redirects"), "0")?;
            }
            let _guard = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NamespaceError::Netlink)?;
            runtime.spawn(connection);
            Ok(handle)
        };
        thread::Builder::new()
            .name("pod-netns".to_owned())
            .spawn(move || answer.send(inside()).is_ok())
            .map_err(NamespaceError::Thread)?;
        result.await.map_err(|_| NamespaceError::Thread(io::ErrorKind::BrokenPipe.into()))?
    }
}

/// Sets the loopback interface up of the network namespace at `netns`: what every pod has, whoever makes the rest.
pub async fn loopback_up(netns: &Path) -> Result<(), crate::Error> {
    let inside = Namespace::open(netns)?.connect().await?;
    Ok(crate::link::loopback_up(&inside).await?)
}
