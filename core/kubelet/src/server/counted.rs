//! A request is under way as long as its answer is being sent: a log that is followed, for hours.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

use crate::metrics::Inflight;

/// An answer's body, with its request, which ends with it.
pub(super) struct Counted {
    body: Body,
    _under_way: Inflight,
}

impl Counted {
    pub(super) fn new(body: Body, under_way: Inflight) -> Self {
        Self { body, _under_way: under_way }
    }
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::metrics::Metrics;
    use crate::pods::Pods;

    #[tokio::test]
    async fn a_request_is_under_way_until_its_answer_was_sent() {
        let metrics = Metrics::new("node-1", "v1", &Arc::new(Pods::default())).unwrap();
        let inflight = || {
            let text = metrics.registry.expose(keelson_metrics::Format::accepted(""));
            let line = text.lines().find(|line| line.starts_with("kubelet_http_inflight_requests{"));
            line.map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
        };
        let under_way = metrics.requests.begin(&http::Method::GET, "/containerLogs/n/p/c");
        let answer = Counted::new(Body::from("a line"), under_way);
        assert_eq!(hyper::body::Body::size_hint(&answer).exact(), Some(6));
        assert_eq!(inflight().as_deref(), Some("1"));
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "a line");
        assert_eq!(inflight().as_deref(), Some("0"));
    }
}
