//! What extension API servers say of their paths, in version 2 of OpenAPI: that of version 3 is passed through.

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use keelson_api::openapi::merge;
use ring::digest;
use serde_json::Value;

use super::{Extension, read};

const PATH: &str = "/openapi/v2";
/// How long reading a document may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest document that is read.
const LIMIT: usize = 16 << 20;

/// A server's document.
pub struct Swagger {
    /// By which the server knows it.
    tag: Option<String>,
    /// The paths of the group and version, and the definitions that they lead to.
    pub part: Value,
    /// Another one when the part is.
    pub hash: Vec<u8>,
}

/// Reads the server's document, if it is another one than before. One that cannot be read changes nothing.
pub(super) async fn refresh(extension: &Extension) {
    let known = extension.swagger.load_full();
    let tag = known.as_ref().and_then(|known| known.tag.as_deref());
    match tokio::time::timeout(PATIENCE, fetch(extension, tag)).await {
        Ok(Ok(Fetched::Same)) => {}
        Ok(Ok(Fetched::Nothing)) => extension.swagger.store(None),
        Ok(Ok(Fetched::New(swagger))) => extension.swagger.store(Some(Arc::new(swagger))),
        Ok(Err(error)) => {
            tracing::warn!(error, object = extension.name, "an OpenAPI document could not be read");
        }
        Err(_) => tracing::warn!(object = extension.name, "reading an OpenAPI document took too long"),
    }
}

enum Fetched {
    Same,
    /// The server has no such document.
    Nothing,
    New(Swagger),
}

async fn fetch(extension: &Extension, known: Option<&str>) -> Result<Fetched, String> {
    let response = extension.ask(PATH, known).await?;
    match response.status() {
        StatusCode::NOT_MODIFIED if known.is_some() => return Ok(Fetched::Same),
        StatusCode::NOT_FOUND => return Ok(Fetched::Nothing),
        status if !status.is_success() => return Err(format!("bad status from {PATH}: {}", status.as_u16())),
        _ => {}
    }
    let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let document = read(response, LIMIT).await?;
    let base = format!("/apis/{}/{}", extension.group, extension.version);
    let made = tokio::task::spawn_blocking(move || {
        let part = merge::part(&document, &base);
        let hash = digest::digest(&digest::SHA256, part.to_string().as_bytes()).as_ref().to_vec();
        Swagger { tag, part, hash }
    });
    made.await.map(Fetched::New).map_err(|error| error.to_string())
}
