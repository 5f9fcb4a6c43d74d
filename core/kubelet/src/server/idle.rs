//! Streams on which nothing comes and goes any more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// A connection without a word is asked for a sign of life after this, and again each time.
const SILENCE: Duration = Duration::from_secs(15);
/// For so long a peer may leave bytes unacknowledged, or its window shut.
const STALLED: Duration = Duration::from_secs(120);

/// A peer that has gone away without a word does not hold its connection for ever.
pub(super) fn guard(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE).with_retries(4);
    stream.set_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(STALLED))
}

/// When something last came or went, in milliseconds since the beginning.
#[derive(Clone)]
struct Pulse {
    begin: Instant,
    last: Arc<AtomicU64>,
}

impl Pulse {
    fn beat(&self) {
        let passed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Ends when there was silence for so long.
    async fn silent(self, limit: Duration) {
        if limit.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let until = self.begin + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

struct Watched<S> {
    stream: S,
    pulse: Pulse,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(1..)) = polled {
            self.pulse.beat();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Copies both ways until both have ended, or nothing has come or gone for `limit`, if there is one.
pub(super) async fn copy<A, B>(outer: A, mut inner: B, limit: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Pulse { begin: Instant::now(), last: Arc::default() };
    // What passes on the one side has come from, or goes to, the other.
    let mut outer = Watched { stream: outer, pulse: pulse.clone() };
    tokio::select! {
        ended = copy_bidirectional(&mut outer, &mut inner) => ended.map(drop),
        () = pulse.silent(limit) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came or went for too long")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_nothing_has_passed_for_the_limit_and_not_before() {
        let ((mut client, outer), (inner, mut program)) = (duplex(64), duplex(64));
        let begin = Instant::now();
        let mut copied = tokio::spawn(copy(outer, inner, Duration::from_secs(100)));
        let almost = Duration::from_secs(90);
        timeout(almost, &mut copied).await.unwrap_err();
        client.write_all(b"in").await.unwrap();
        let mut bytes = [0; 2];
        program.read_exact(&mut bytes).await.unwrap();
        timeout(almost, &mut copied).await.unwrap_err();
        program.write_all(b"no").await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"no");
        assert_eq!(copied.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), 280);
    }
}
