//! The paths under which the server tells of itself.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use keelson_api::Status;
use keelson_metrics::Format;

use super::{Insight, health, trace};
use crate::request_info::RequestInfo;

/// What tells of the server's service level: how its health checks ended.
const SLIS: &str = "/metrics/slis";
const HEALTH: &str = "kubernetes_healthcheck";

impl Insight {
    /// Serves `/livez`, `/readyz`, `/healthz` and what is below them, `/metrics`, `/metrics/slis` and `/version`; `None`
    /// for any other path.
    pub async fn serve(
        &self,
        info: &RequestInfo,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        git_version: &str,
    ) -> Option<Result<Response, Status>> {
        let first = info.path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let is_known = matches!(first, "livez" | "readyz" | "healthz")
            || matches!(info.path.trim_end_matches('/'), "/metrics" | SLIS | "/version");
        if info.is_resource || !is_known {
            return None;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let text = "the server does not allow this method on the requested resource";
            return Some(Err(Status::new(405, "MethodNotAllowed", text)));
        }
        let answer = match first {
            "metrics" => Ok(self.metrics(headers, info.path.trim_end_matches('/') == SLIS)),
            "version" => Ok(crate::http::json(StatusCode::OK, &trace::version(git_version))),
            _ => self.health.serve(info, uri.query()).await,
        };
        let is_head = *method == Method::HEAD;
        Some(answer.map(|response| if is_head { health::without_body(response) } else { response }))
    }

    fn metrics(&self, headers: &HeaderMap, slis_alone: bool) -> Response {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        let mut families = self.registry.gather();
        if slis_alone {
            families.retain(|family| family.name().starts_with(HEALTH));
        }
        ([(header::CONTENT_TYPE, format.content_type())], format.encode(&families)).into_response()
    }
}
