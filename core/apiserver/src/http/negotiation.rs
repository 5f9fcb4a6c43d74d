//! What form of an answer a client takes, and in which encoding.

use http::{HeaderMap, header};
use keelson_api::Status;
use smallvec::SmallVec;

use crate::request_info::RequestInfo;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What an answer is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its form.
    pub form: Form,
    /// Its encoding.
    pub media: Media,
    /// Whether JSON is laid out for people.
    pub pretty: bool,
}

/// What is asked, and so what can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Objects of a kind that every encoding has.
    Objects,
    /// Objects that are JSON alone, such as those of custom resources.
    Custom,
    /// A stream of events about either.
    Watch {
        /// Whether the kind has a message in protobuf.
        has_message: bool,
    },
    /// A document that has one form, such as a Status.
    Document,
    /// The lists of what is served.
    Discovery,
}

impl Media {
    const ALL: [Media; 3] = [Media::Json, Media::Yaml, Media::Protobuf];

    /// The media type.
    pub fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

impl Endpoint {
    fn gives(self, form: Form, media: Media) -> bool {
        let streams = !matches!(self, Endpoint::Watch { .. }) || media != Media::Yaml;
        let has_form = match (form, self) {
            (Form::Object, Endpoint::Custom | Endpoint::Watch { has_message: false }) => {
                media != Media::Protobuf
            }
            (Form::Object, _) => true,
            // Its cells are of any type.
            (Form::Table, Endpoint::Objects | Endpoint::Custom | Endpoint::Watch { .. }) => {
                media != Media::Protobuf
            }
            (Form::Metadata, Endpoint::Objects | Endpoint::Custom | Endpoint::Watch { .. })
            | (Form::AggregatedDiscovery, Endpoint::Discovery) => true,
            (Form::Table | Form::Metadata, Endpoint::Document | Endpoint::Discovery)
            | (
                Form::AggregatedDiscovery,
                Endpoint::Objects | Endpoint::Custom | Endpoint::Watch { .. } | Endpoint::Document,
            ) => false,
        };
        streams && has_form
    }

    fn refusal(self) -> Status {
        match self {
            Endpoint::Watch { .. } => Status::not_acceptable(&[
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ]),
            Endpoint::Objects | Endpoint::Custom | Endpoint::Document | Endpoint::Discovery => {
                Status::not_acceptable(&Media::ALL.map(Media::name))
            }
        }
    }
}

/// One part of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    parameters: &'a str,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (media, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut clause = Clause { media: media.trim(), parameters, quality: 1.0 };
        if clause.media.is_empty() {
            return None;
        }
        if let Some(quality) = clause.parameter("q") {
            clause.quality = quality.parse().unwrap_or(1.0);
        }
        Some(clause)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
    }

    fn takes(&self, media: Media) -> bool {
        matches!(self.media, "*/*" | "application/*") || self.media == media.name()
    }

    fn wildcards(&self) -> usize {
        self.media.matches('*').count()
    }

    /// The form that it asks for; `None` for one that nothing has.
    fn form(&self) -> Option<Form> {
        let of = |name: &str| self.parameter(name);
        match (of("as"), of("g"), of("v")) {
            (None, None, None) => Some(Form::Object),
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Form::Table),
            (
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                Some("meta.k8s.io"),
                Some("v1"),
            ) => Some(Form::Metadata),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                Some(Form::AggregatedDiscovery)
            }
            (_, _, _) => None,
        }
    }
}

/// The first form and encoding that the client lists and that the endpoint gives.
pub fn wanted(headers: &HeaderMap, info: &RequestInfo, endpoint: Endpoint) -> Result<Wanted, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut pretty = is_for_people(headers, info);
    if accept.is_empty() {
        return Ok(Wanted { form: Form::Object, media: Media::Json, pretty });
    }
    let mut clauses: SmallVec<[Clause<'_>; 8]> = accept.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(a.wildcards().cmp(&b.wildcards())));
    for clause in &clauses {
        let Some(form) = clause.form() else { continue };
        let stream = clause.parameter("stream").filter(|stream| !stream.is_empty());
        if stream.is_some_and(|stream| stream != "watch") {
            continue;
        }
        if let Some(media) =
            Media::ALL.into_iter().find(|media| clause.takes(*media) && endpoint.gives(form, *media))
        {
            pretty |= clause.parameter("pretty") == Some("1");
            if form == Form::Table {
                check_table(info)?;
            }
            return Ok(Wanted { form, media, pretty });
        }
    }
    Err(endpoint.refusal())
}

fn check_table(info: &RequestInfo) -> Result<(), Status> {
    match info.parameter("includeObject") {
        None | Some("" | "Metadata" | "Object" | "None") => Ok(()),
        Some(other) => Err(Status::bad_request(format!(
            "includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// The encoding of a Status about a request that failed: JSON, if the client takes nothing that there is.
pub fn failure(headers: &HeaderMap, info: &RequestInfo) -> Wanted {
    let plain = Wanted { form: Form::Object, media: Media::Json, pretty: is_for_people(headers, info) };
    wanted(headers, info, Endpoint::Document).unwrap_or(plain)
}

/// Whether JSON is read by people: they say so, or use a browser or a plain client.
fn is_for_people(headers: &HeaderMap, info: &RequestInfo) -> bool {
    if let Some(pretty) = info.parameter("pretty").filter(|pretty| !pretty.is_empty()) {
        return matches!(pretty, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

    fn of(accept: &str, endpoint: Endpoint) -> Result<(Form, Media), u16> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        let wanted = wanted(&headers, &RequestInfo::default(), endpoint);
        wanted.map(|it| (it.form, it.media)).map_err(|status| status.code)
    }

    #[test]
    fn the_first_form_that_can_be_given_is_taken() {
        let tables = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(tables, Endpoint::Objects), Ok((Form::Table, Media::Json)));
        assert_eq!(of(tables, Endpoint::Document), Ok((Form::Object, Media::Json)));
        let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(of(table, Endpoint::Objects), Err(406));
        assert_eq!(of("text/html,*/*;q=0.8", Endpoint::Objects), Ok((Form::Object, Media::Json)));
        assert_eq!(of("text/html", Endpoint::Objects), Err(406));
    }

    #[test]
    fn protobuf_is_given_where_a_kind_has_it() {
        let both = format!("{PROTOBUF},application/json");
        assert_eq!(of(&both, Endpoint::Objects), Ok((Form::Object, Media::Protobuf)));
        assert_eq!(of(&both, Endpoint::Custom), Ok((Form::Object, Media::Json)));
        assert_eq!(of(PROTOBUF, Endpoint::Custom), Err(406));
        let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        assert_eq!(of(&metadata, Endpoint::Custom), Ok((Form::Metadata, Media::Protobuf)));
        let later = format!("{PROTOBUF};q=0.5, application/yaml;q=0.9");
        assert_eq!(of(&later, Endpoint::Objects), Ok((Form::Object, Media::Yaml)));
        let watch = Endpoint::Watch { has_message: true };
        assert_eq!(of(&format!("{PROTOBUF};stream=watch"), watch), Ok((Form::Object, Media::Protobuf)));
        assert_eq!(of("application/yaml", watch), Err(406));
    }
}
