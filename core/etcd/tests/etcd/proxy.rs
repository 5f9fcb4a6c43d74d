//! A way to a server that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    is_open: Arc<watch::Sender<bool>>,
    asked: Arc<AtomicU64>,
}

/// Passes on what is asked and what is answered, until one side ends.
async fn pass(near: TcpStream, far: TcpStream, asked: &AtomicU64) -> std::io::Result<()> {
    let ((mut near, mut to_near), (mut far, mut to_far)) = (near.into_split(), far.into_split());
    let ask = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let length = near.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            to_far.write_all(&buffer[..length]).await?;
            asked.fetch_add(length as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        ended = ask => ended,
        ended = tokio::io::copy(&mut far, &mut to_near) => ended.map(drop),
    }
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = Arc::new(watch::Sender::new(true));
        let asked = Arc::new(AtomicU64::new(0));
        let (gate, count) = (Arc::clone(&is_open), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (mut gate, count) = (gate.subscribe(), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = gate.wait_for(|open| !open) => {}
                        _ = pass(near, far, &count) => {}
                    }
                });
            }
        });
        Proxy { address, is_open, asked }
    }

    /// How many bytes clients have sent to the server, which may not have read them.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends all connections, and lets none come about.
    pub(crate) fn cut(&self) {
        self.is_open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }
}
