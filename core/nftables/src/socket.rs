//! A netlink socket to netfilter.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};

const SOL_NETLINK: i32 = 270;
const CAP_ACK: i32 = 10;
const EXTENDED_ACK: i32 = 11;
/// What the kernel may keep for us; only errors of a large transaction need much.
const RECEIVE_BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 64 << 10;

/// The kernel could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No socket; the kernel may lack netfilter's netlink, or this process the rights.
    #[error("open a netlink socket to netfilter")]
    Open(#[source] io::Error),
    /// The request could not be handed over.
    #[error("send {bytes} bytes to netfilter")]
    Send {
        /// The request's size.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("receive from netfilter")]
    Receive(#[source] io::Error),
}

/// Requests are answered while they are sent: after [`Socket::send`] all answers to it (of a dump: the first part) can be read.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    send_buffer: usize,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, SocketError> {
        let open = || -> Result<OwnedFd, Errno> {
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkNetFilter,
            )?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            // Both are comforts: short answers, and words beside an error's number.
            for option in [CAP_ACK, EXTENDED_ACK] {
                switch_on(&fd, option).ok();
            }
            setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
                .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
            Ok(fd)
        };
        let fd = open().map_err(|errno| SocketError::Open(errno.into()))?;
        Ok(Self { fd, buffer: vec![0; DATAGRAM], send_buffer: 0 })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        let failed = |errno: Errno| SocketError::Send { bytes: bytes.len(), source: errno.into() };
        // A transaction is one datagram, however large.
        let wanted = bytes.len() + (64 << 10);
        if wanted > self.send_buffer {
            setsockopt(&self.fd, sockopt::SndBufForce, &wanted)
                .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &wanted))
                .map_err(failed)?;
            self.send_buffer = wanted;
        }
        loop {
            match sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// The next datagram; `None` when there is none.
    pub(crate) fn receive(&mut self) -> Result<Option<&[u8]>, SocketError> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(Some(&self.buffer[..length])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SocketError::Receive(errno.into())),
            }
        }
    }

    /// Throws away whatever an earlier, failed exchange left.
    pub(crate) fn drain(&mut self) {
        while matches!(self.receive(), Ok(Some(_)) | Err(_)) {}
    }
}

/// Sets a netlink option, which `nix` does not know, to 1.
#[allow(unsafe_code)]
fn switch_on(fd: &OwnedFd, option: i32) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `fd` is open while borrowed; the pointer and length describe `on`, which outlives the call.
    let answer =
        unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_NETLINK, option, (&raw const on).cast(), length) };
    Errno::result(answer).map(drop)
}
