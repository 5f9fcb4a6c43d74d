//! What of a log is wanted: read and judged before a kubelet is asked.

use keelson_api::validation::FieldError;
use keelson_api::{GroupVersionKind, Status, schema};

use crate::registry::list::options::parse_number;
use crate::request_info::{RequestInfo, is_on};

const FLAGS: [&str; 3] = ["follow", "previous", "timestamps"];
/// Numbers, with the least that they may be.
const NUMBERS: [(&str, i64, &str); 3] = [
    ("tailLines", 0, "must be greater than or equal to 0"),
    ("limitBytes", 1, "must be greater than 0"),
    ("sinceSeconds", 1, "must be greater than 0"),
];

/// The query for a kubelet.
pub(super) fn query(info: &RequestInfo) -> Result<String, Status> {
    let mut out = form_urlencoded::Serializer::new(String::new());
    let given = |name: &str| info.parameter(name).filter(|value| !value.is_empty());
    for (name, value) in FLAGS.iter().filter_map(|name| Some((name, given(name)?))) {
        out.append_pair(name, if is_on(value) { "true" } else { "false" });
    }
    let mut faults = Vec::new();
    for (name, least, detail) in NUMBERS {
        let Some(text) = given(name) else { continue };
        let number = parse_number(text)?;
        if number < least {
            faults.push(FieldError::invalid(name, number, detail));
        }
        out.append_pair(name, &number.to_string());
    }
    if let Some(since) = given("sinceTime") {
        if let Some(fault) = schema::time_error(since) {
            return Err(Status::bad_request(fault));
        }
        if given("sinceSeconds").is_some() {
            faults.retain(|fault| fault.path != "sinceSeconds");
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            faults.push(FieldError::forbidden("", detail));
        }
        out.append_pair("sinceTime", since);
    }
    if let Some(stream) = given("stream") {
        out.append_pair("stream", stream);
    }
    if faults.is_empty() {
        return Ok(out.finish());
    }
    let name = info.name.as_deref().unwrap_or_default();
    Err(Status::invalid(&GroupVersionKind::new("", "v1", "PodLogOptions"), name, &faults))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn asked(options: &str) -> Result<String, String> {
        let path = "/api/v1/namespaces/n/pods/p/log";
        query(&RequestInfo::parse(&Method::GET, path, Some(options))).map_err(|status| status.message)
    }

    #[test]
    fn options_that_make_no_sense_are_told_by_their_field() {
        let of = |text: &str| Err(format!("PodLogOptions \"p\" is invalid: {text}"));
        assert_eq!(
            asked("tailLines=-1"),
            of("tailLines: Invalid value: -1: must be greater than or equal to 0")
        );
        assert_eq!(asked("limitBytes=0"), of("limitBytes: Invalid value: 0: must be greater than 0"));
        let twice = "sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z";
        assert_eq!(
            asked(twice),
            of(": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified")
        );
        assert_eq!(asked("tailLines=x"), Err("strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()));
        assert!(asked("sinceTime=soon").unwrap_err().starts_with("parsing time \"soon\""));
    }

    #[test]
    fn a_kubelet_is_asked_for_what_is_wanted_and_nothing_else() {
        let query = asked("follow=maybe&timestamps=0&tailLines=5&container=c&pretty=true").unwrap();
        assert_eq!(query, "follow=true&timestamps=false&tailLines=5");
    }
}
