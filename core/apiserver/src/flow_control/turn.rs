//! A request that is being served, and the seats that it takes until it is done.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use keelson_metrics::IntGauge;

use super::{Flow, FlowControl, Place, Width};

/// A smaller answer fits into the buffers of a connection: it is done when it is made.
const BUFFERED: u64 = 64 << 10;

/// Counts as one until it is dropped.
pub(super) struct Counted(IntGauge);

impl Counted {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Seats at a level.
struct Seats {
    control: Arc<FlowControl>,
    flow: Arc<Flow>,
    place: Option<Place>,
    width: Width,
    began: Duration,
}

enum Held {
    Nothing,
    Count(Arc<FlowControl>, bool),
    Seats(Seats),
}

/// How long a request has waited: an extension of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Waited(pub Duration);

/// A request whose turn it is.
pub struct Turn {
    held: Held,
    waited: Duration,
}

/// A large answer, which takes seats until its client has taken it.
struct HeldBody {
    inner: Body,
    _turn: Turn,
}

impl Turn {
    pub(super) fn free() -> Self {
        Turn { held: Held::Nothing, waited: Duration::ZERO }
    }

    pub(super) fn counted(control: &Arc<FlowControl>, reads: bool) -> Self {
        Turn { held: Held::Count(Arc::clone(control), reads), waited: Duration::ZERO }
    }

    pub(super) fn of(
        control: &Arc<FlowControl>,
        flow: Arc<Flow>,
        place: Option<Place>,
        width: Width,
        began: Duration,
        waited: Duration,
    ) -> Self {
        flow.metrics.dispatched.inc();
        flow.metrics.executing.inc();
        flow.metrics.in_use.add(width.seats.into());
        flow.metrics.width.observe(width.seats.max(width.later_seats).into());
        if place.is_some() {
            flow.metrics.waited.observe(waited.as_secs_f64());
        }
        let control = Arc::clone(control);
        Turn { held: Held::Seats(Seats { control, flow, place, width, began }), waited }
    }

    /// Keeps the seats until the answer is done, and says on it whose they were.
    pub fn hold(self, mut response: Response) -> Response {
        if let Held::Seats(seats) = &self.held {
            seats.flow.mark(response.headers_mut());
        }
        if !self.waited.is_zero() {
            response.extensions_mut().insert(Waited(self.waited));
        }
        if response.body().size_hint().exact().is_some_and(|size| size > BUFFERED) {
            return response.map(|inner| Body::new(HeldBody { inner, _turn: self }));
        }
        response
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => {}
            Held::Count(control, reads) => {
                control.counts.of(reads).fetch_sub(1, Ordering::Relaxed);
            }
            Held::Seats(seats) => seats.leave(),
        }
    }
}

impl Seats {
    fn leave(self) {
        let now = self.control.clock.now();
        let metrics = &self.flow.metrics;
        metrics.executing.dec();
        metrics.in_use.sub(self.width.seats.into());
        metrics.execution.observe(now.saturating_sub(self.began).as_secs_f64());
        let later = if self.width.later_seats > 0 { self.width.later_seconds } else { 0.0 };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if later > 0.0 => {
                runtime.spawn(async move {
                    tokio::time::sleep(Duration::from_secs_f64(later)).await;
                    self.flow.level.finish(self.control.clock.now(), self.place.as_ref());
                });
            }
            _ => self.flow.level.finish(now, self.place.as_ref()),
        }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
