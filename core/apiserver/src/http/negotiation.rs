//! What form of an answer a client takes.

use http::{HeaderMap, header};
use keelson_api::Status;

/// The form of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` `Table`.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`, or a list of it.
    Metadata,
    /// `apidiscovery.k8s.io/v2`.
    AggregatedDiscovery,
}

const ACCEPTED: [&str; 1] = ["application/json"];

/// The first form that the client lists and that this server can give.
pub fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let mut any = false;
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        any |= !media.is_empty();
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            continue;
        }
        let parameter = |name: &str| {
            parts.clone().find_map(|part| part.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        match parameter("as").as_deref() {
            None => return Ok(Form::Object),
            Some("Table") if parameter("v").as_deref() == Some("v1") => return Ok(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList")
                if parameter("v").as_deref() == Some("v1") =>
            {
                return Ok(Form::Metadata);
            }
            Some("APIGroupDiscoveryList") if parameter("v").as_deref() == Some("v2") => {
                return Ok(Form::AggregatedDiscovery);
            }
            Some(_) => {}
        }
    }
    if any { Err(Status::not_acceptable(&ACCEPTED)) } else { Ok(Form::Object) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Result<Form, u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        form(&headers).map_err(|status| status.code)
    }

    #[test]
    fn the_first_form_that_can_be_given_is_taken() {
        assert_eq!(
            of(
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
            ),
            Ok(Form::Table)
        );
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json"), Ok(Form::Object));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(form(&HeaderMap::new()), Ok(Form::Object));
    }
}
