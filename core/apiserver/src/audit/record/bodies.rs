//! Bodies that a record goes with: a request's, which is heard while it is read, and an answer's, which ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use super::Record;
use crate::registry::MAX_OBJECT_BYTES;

/// What was heard of a body. What is larger than any object is not kept: it is refused.
#[derive(Default)]
pub(super) struct Heard {
    frames: Vec<Bytes>,
    size: usize,
}

impl Heard {
    fn hear(&mut self, data: &Bytes) {
        self.size = self.size.saturating_add(data.len());
        if self.size <= MAX_OBJECT_BYTES {
            self.frames.push(data.clone());
        } else {
            self.frames.clear();
        }
    }

    /// The body, if it was not too large.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if self.size > MAX_OBJECT_BYTES {
            return None;
        }
        let frames = std::mem::take(&mut self.frames);
        if let [whole] = frames.as_slice() {
            return Some(whole.clone());
        }
        let mut all = BytesMut::with_capacity(self.size);
        frames.iter().for_each(|frame| all.extend_from_slice(frame));
        Some(all.freeze())
    }
}

/// A request's body.
pub(super) struct Listener {
    inner: Body,
    heard: Arc<Mutex<Heard>>,
}

impl Listener {
    pub(super) fn new(inner: Body, heard: Arc<Mutex<Heard>>) -> Self {
        Listener { inner, heard }
    }
}

impl http_body::Body for Listener {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.heard.lock().hear(data);
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

/// An answer's body that lasts: its record ends with it.
pub(super) struct Held {
    inner: Body,
    record: Option<Arc<Record>>,
}

impl Held {
    pub(super) fn new(inner: Body, record: Arc<Record>) -> Self {
        Held { inner, record: Some(record) }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) {
            self.record = None;
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
