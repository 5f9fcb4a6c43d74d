//! The body of an answer that lasts: it is counted while it runs, and ends when the server does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::requests::Series;

/// A body that is counted.
pub struct LongRunning {
    inner: Body,
    series: Arc<Series>,
    began: Instant,
    code: u16,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl LongRunning {
    /// Counts a body from now until it is dropped.
    pub fn new(
        inner: Body,
        series: Arc<Series>,
        began: Instant,
        code: u16,
        stop: WaitForCancellationFutureOwned,
    ) -> Self {
        series.running().inc();
        LongRunning { inner, series, began, code, stop: Box::pin(stop) }
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.series.running().dec();
        let elapsed = self.began.elapsed();
        self.series.answered(self.code, elapsed, elapsed, None);
    }
}

impl http_body::Body for LongRunning {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        // What is there is still sent: a watch that ends in the middle of a burst would lose nothing, but repeat it.
        if frame.is_pending() && self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.series.sent(data);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
