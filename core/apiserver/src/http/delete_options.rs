//! `DeleteOptions`, in a body or in a query.

use http::HeaderMap;
use keelson_api::Status;

use super::body;
use crate::registry::delete::DeleteOptions;
use crate::registry::list::options::parse_number as number;
use crate::request_info::{RequestInfo, is_on};

/// Reads the options of a deletion. Where there is a body, the query says nothing.
pub(super) fn read(info: &RequestInfo, headers: &HeaderMap, raw: &[u8]) -> Result<DeleteOptions, Status> {
    let options =
        if raw.iter().all(u8::is_ascii_whitespace) { of_query(info) } else { of_body(headers, raw) }?;
    options.validate()?;
    Ok(options)
}

fn of_body(headers: &HeaderMap, raw: &[u8]) -> Result<DeleteOptions, Status> {
    let value = body::value(headers, raw)?;
    // Clients write the API group of the object, or of meta.
    if value["kind"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "DeleteOptions") {
        return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    serde_json::from_value(value)
        .map_err(|error| Status::bad_request(format!("cannot decode DeleteOptions: {error}")))
}

fn of_query(info: &RequestInfo) -> Result<DeleteOptions, Status> {
    let mut options = DeleteOptions::default();
    if let Some(text) = info.parameter("gracePeriodSeconds").filter(|text| !text.is_empty()) {
        options.grace_period_seconds = Some(number(text)?);
    }
    options.propagation_policy = info.parameter("propagationPolicy").map(str::to_owned);
    options.orphan_dependents = info.parameter("orphanDependents").map(is_on);
    options.dry_run = info.parameter("dryRun").map(str::to_owned).into_iter().collect();
    Ok(options)
}
