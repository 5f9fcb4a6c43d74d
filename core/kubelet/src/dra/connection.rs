//! Whether somebody is behind a driver's socket: a connection is held open on which nothing is asked.
//!
//! A driver that is killed leaves its sockets where they are, and its connections end.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

/// Between two tries to connect, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Follows a socket for as long as it is asked to: `told` learns that it is connected, and that it is not any more.
pub(super) async fn follow(socket: &Path, mut told: impl FnMut(bool)) {
    let mut pause = PAUSE.0;
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await
            && let Ok((requests, connection)) =
                http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await
        {
            told(true);
            // It ends when the other side does. Nothing is asked, but it lasts no longer than who could.
            let _ = connection.await;
            drop(requests);
            told(false);
            pause = PAUSE.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    async fn serve_one(listener: &UnixListener) -> tokio::task::JoinHandle<()> {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let nothing = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), nothing).await;
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_driver_is_seen_and_so_is_the_next_one_at_the_same_socket() {
        let socket = std::env::temp_dir().join(format!("keelson-driver-{}.sock", uuid::Uuid::new_v4()));
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, mut news) = mpsc::unbounded_channel();
        let path = socket.clone();
        let told = move |is_up| sender.send(is_up).unwrap();
        let following = tokio::spawn(async move { follow(&path, told).await });
        let server = serve_one(&listener).await;
        assert_eq!(news.recv().await, Some(true));
        server.abort();
        assert_eq!(news.recv().await, Some(false));
        let _server = serve_one(&listener).await;
        assert_eq!(news.recv().await, Some(true));
        following.abort();
        std::fs::remove_file(socket).unwrap();
    }
}
