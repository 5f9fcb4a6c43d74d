//! Documents in Kubernetes' binary encoding (`application/vnd.kubernetes.protobuf`), read into JSON and written from it.
//!
//! The envelope is `k8s\0` and a `runtime.Unknown` that names the kind. The fields of each message are data, generated
//! from the published protocol.

mod decode;
mod encode;
mod table;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::{Message, document, envelope, item, watch_frame};

const MAGIC: &[u8] = b"k8s\0";
/// The deepest nesting that is read.
const DEPTH: usize = 64;

/// Why bytes are not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// They do not start as one.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// They are cut or malformed.
    #[error("unable to decode the protobuf message: {0}")]
    Malformed(&'static str),
    /// The kind is not known.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// The API version that the envelope names.
        api_version: String,
        /// The kind that it names.
        kind: String,
    },
    /// A JSON document does not have the form of its kind.
    #[error("unable to encode the document as protobuf: {0}")]
    Unencodable(String),
}
