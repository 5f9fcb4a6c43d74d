//! Documents that writers send: of which kind, about which object.

use http::HeaderMap;
use keelson_api::{GroupVersionKind, Object, Status};

use super::body;
use super::field_validation::{self, Text};
use crate::admission::Remarks;
use crate::registry::Target;
use crate::request_info::RequestInfo;

/// What a writer has sent.
pub(super) struct Sent<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) raw: &'a [u8],
}

impl Sent<'_> {
    /// The document that a subresource takes, such as a Scale, in the form of its kind.
    pub(super) fn document(
        &self,
        info: &RequestInfo,
        kind: &GroupVersionKind,
        remarks: &Remarks,
    ) -> Result<Object, Status> {
        let mut value = body::value(self.headers, self.raw)?;
        // An eviction was in beta for long, and is the same there.
        if kind.kind == "Eviction" && value["apiVersion"] == "policy/v1beta1" {
            value["apiVersion"] = kind.api_version().into();
        }
        let mut object = body::object(value, kind)?;
        field_validation::check_document(info, &mut object, Text::of(self.headers, self.raw), kind, remarks)?;
        Ok(object)
    }
}

/// A document that replaces an object must name it.
pub(super) fn check_name(object: &Object, target: &Target) -> Result<(), Status> {
    let name = &target.name;
    match object.name().unwrap_or_default() {
        "" => {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        own if own != name => {
            return Err(Status::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    match (object.namespace().filter(|own| !own.is_empty()), target.namespace.as_deref()) {
        (Some(own), Some(namespace)) if own != namespace => Err(Status::bad_request(format!(
            "the namespace of the object ({own}) does not match the namespace on the request ({namespace})"
        ))),
        _ => Ok(()),
    }
}
