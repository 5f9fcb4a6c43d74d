//! Large answers to clients that take gzip.

use std::io::Write;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;

/// Smaller answers are not worth it.
const LEAST: u64 = 128 << 10;

/// Whether a client takes gzip.
pub fn accepts(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
    })
}

fn gzip(bytes: &Bytes) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Compresses a large whole answer. A stream, whose length is not known, goes as it is.
pub async fn compress(response: Response) -> Response {
    let large = response.body().size_hint().exact().is_some_and(|size| size >= LEAST);
    let plain = !response.headers().contains_key(header::CONTENT_ENCODING);
    if !large || !plain || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        // A body of known length is in memory: it cannot fail.
        return Response::from_parts(parts, Body::empty());
    };
    let bytes = collected.to_bytes();
    let (again, worked) = (bytes.clone(), tokio::task::spawn_blocking(move || gzip(&bytes)).await);
    let Ok(Ok(compressed)) = worked else { return Response::from_parts(parts, Body::from(again)) };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from(compressed))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_large_answer_is_compressed_and_a_small_one_is_not() {
        let text = "x".repeat(1 << 20);
        let response = compress(Response::new(Body::from(text.clone()))).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let mut read = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut read).unwrap();
        assert!(read == text);
        let small = compress(Response::new(Body::from("x"))).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn only_who_takes_gzip_gets_it() {
        let takes = |value: &'static str| {
            accepts(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("deflate, gzip;q=0.5"));
        assert!(!takes("identity, gzip;q=0"));
        assert!(!accepts(&HeaderMap::new()));
    }
}
