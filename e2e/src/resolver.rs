//! A name server outside of the cluster, as the node's resolver configuration names it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
/// Between two looks at whether to end.
const TURN: Duration = Duration::from_millis(100);
const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

/// Answers every question for an IPv4 address with one and the same, until its value goes.
pub struct Resolver {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// A name server at 127.0.0.53 in the network namespace of process `holder`.
    pub(crate) fn start(holder: u32, address: Ipv4Addr) -> anyhow::Result<Self> {
        let namespace = File::open(format!("/proc/{holder}/ns/net")).context("open the network namespace")?;
        // Entering a namespace holds for the thread alone.
        let bound = std::thread::spawn(move || -> anyhow::Result<UdpSocket> {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            let socket = UdpSocket::bind(LISTEN).with_context(|| format!("listen on {LISTEN}"))?;
            socket.set_read_timeout(Some(TURN))?;
            Ok(socket)
        });
        let socket = bound.join().map_err(|_panic| anyhow::anyhow!("the resolver's thread panicked"))??;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut question)
                    && let Some(answer) = answer(&question[..length], address)
                {
                    // One who asked and is gone does not mind.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Resolver { end, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a message with one question (RFC 1035).
fn answer(message: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let mut end = HEADER;
    while *message.get(end)? != 0 {
        end += usize::from(message[end]) + 1;
    }
    let question = message.get(HEADER..end + 5)?;
    let asks_address = question[question.len() - 4..question.len() - 2] == TYPE_A;
    let mut answer = message[..2].to_vec();
    // A response that is authoritative, to a recursive question; one question, and an answer where there is one.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(asks_address), 0, 0, 0, 0]);
    answer.extend(question);
    if asks_address {
        // The name in the question; type A, class IN, 30 s, 4 bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
