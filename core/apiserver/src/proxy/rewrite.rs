//! Links in answers from behind the proxy, which must lead through it again: `Location`, and the attributes of HTML
//! pages that hold links.
//!
//! A page is rewritten as it passes. One in an encoding that is not known here passes as it is.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{HeaderValue, StatusCode, header};
use lol_html::MemorySettings;
use lol_html::send::{HtmlRewriter, Settings};
use parking_lot::Mutex;

/// Elements, and their attributes that are links.
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// What a page may keep in memory while it passes; one with longer tags goes on as it is.
const MEMORY: usize = 4 << 20;

/// How links are written anew.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// The path of the proxy, without a `/` at its end.
    pub(crate) prefix: String,
    /// The server's host and port.
    pub(crate) server: String,
    /// The host and port at which this server was asked.
    pub(crate) request_host: String,
}

/// Scheme with what follows it up to the host, host, and path with all behind it.
fn parts(link: &str) -> (&str, &str, &str) {
    let scheme = match link.find("://") {
        Some(at) if link[..at].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            at + 3
        }
        Some(_) | None if link.starts_with("//") => 2,
        Some(_) | None => return ("", "", link),
    };
    let (scheme, rest) = link.split_at(scheme);
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    (scheme, host, path)
}

impl Links {
    /// A link to the server itself as one through the proxy; any other as it is.
    pub(crate) fn rewrite(&self, link: &str) -> String {
        let (scheme, host, path) = parts(link);
        let is_own = host.is_empty() || host == self.server || host == self.request_host;
        if !is_own || !path.starts_with('/') {
            return link.to_owned();
        }
        let (scheme, host) = if host == self.request_host { (scheme, host) } else { ("", "") };
        if path.starts_with(&self.prefix) {
            return format!("{scheme}{host}{path}");
        }
        format!("{scheme}{host}{}{path}", self.prefix)
    }
}

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

/// Rewrites the links of an answer.
pub(crate) fn response(mut response: Response, links: Links) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    let headers = response.headers_mut();
    if let Some(location) = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) {
        if let Ok(value) = HeaderValue::from_str(&links.rewrite(location)) {
            headers.insert(header::LOCATION, value);
        }
        return response;
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("text/html") {
        return response;
    }
    let coding = match text(header::CONTENT_ENCODING) {
        "" => Coding::Plain,
        "gzip" => Coding::Gzip,
        "deflate" => Coding::Deflate,
        other => {
            tracing::debug!(encoding = other, "links of a page in an unknown encoding are left as they are");
            return response;
        }
    };
    // An answer without a body, to HEAD as a rule, keeps its length.
    if http_body::Body::is_end_stream(response.body()) {
        return response;
    }
    headers_of_rewritten(&mut response);
    response.map(|body| Body::from_stream(pages(body.into_data_stream().boxed(), coding, links)))
}

fn headers_of_rewritten(response: &mut Response) {
    for name in [header::CONTENT_LENGTH, header::ETAG] {
        response.headers_mut().remove(name);
    }
}

/// Where a step's output is picked up.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Plain(Collected),
    Gzip(GzDecoder<Collected>),
    Deflate(DeflateDecoder<Collected>),
}

enum Encoder {
    Plain(Collected),
    Gzip(GzEncoder<Collected>),
    Deflate(DeflateEncoder<Collected>),
}

type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// A page on its way: decoded, rewritten, encoded again.
struct Page {
    decoder: Decoder,
    decoded: Collected,
    rewriter: Option<HtmlRewriter<'static, Sink>>,
    rewritten: Collected,
    encoder: Encoder,
    encoded: Collected,
}

impl Page {
    fn new(coding: Coding, links: Links) -> Self {
        let (decoded, rewritten, encoded) =
            (Collected::default(), Collected::default(), Collected::default());
        let (decoder, encoder) = match coding {
            Coding::Plain => (Decoder::Plain(decoded.clone()), Encoder::Plain(encoded.clone())),
            Coding::Gzip => (
                Decoder::Gzip(GzDecoder::new(decoded.clone())),
                Encoder::Gzip(GzEncoder::new(encoded.clone(), Compression::fast())),
            ),
            Coding::Deflate => (
                Decoder::Deflate(DeflateDecoder::new(decoded.clone())),
                Encoder::Deflate(DeflateEncoder::new(encoded.clone(), Compression::fast())),
            ),
        };
        let links = Arc::new(links);
        let memory = MemorySettings::new()
            .with_max_allowed_memory_usage(MEMORY)
            .with_graceful_bail_out_on_memory_limit_exceeded(true);
        let mut settings = Settings::new_send().with_memory_settings(memory);
        for (element, attributes) in ATTRIBUTES {
            let links = Arc::clone(&links);
            settings = settings.append_element_content_handler(lol_html::element!(element, move |element| {
                for attribute in attributes {
                    if let Some(link) = element.get_attribute(attribute) {
                        let rewritten = links.rewrite(&link);
                        if rewritten != link {
                            element.set_attribute(attribute, &rewritten)?;
                        }
                    }
                }
                Ok(())
            }));
        }
        let out = rewritten.clone();
        let sink: Sink = Box::new(move |bytes: &[u8]| out.0.lock().extend_from_slice(bytes));
        let rewriter = Some(HtmlRewriter::new(settings, sink));
        Page { decoder, decoded, rewriter, rewritten, encoder, encoded }
    }

    /// What can be sent on after a further piece, or at the end.
    fn step(&mut self, piece: Option<&[u8]>) -> std::io::Result<Vec<u8>> {
        let bytes = piece.unwrap_or_default();
        match &mut self.decoder {
            Decoder::Plain(decoder) => decoder.write_all(bytes)?,
            Decoder::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush())?,
            Decoder::Deflate(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush())?,
        }
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.write(&self.decoded.take()).map_err(std::io::Error::other)?;
        }
        if piece.is_none()
            && let Some(rewriter) = self.rewriter.take()
        {
            rewriter.end().map_err(std::io::Error::other)?;
        }
        let rewritten = self.rewritten.take();
        match &mut self.encoder {
            Encoder::Plain(encoder) => encoder.write_all(&rewritten)?,
            Encoder::Gzip(encoder) => encoder.write_all(&rewritten)?,
            Encoder::Deflate(encoder) => encoder.write_all(&rewritten)?,
        }
        match (&mut self.encoder, piece) {
            (Encoder::Gzip(encoder), None) => encoder.try_finish()?,
            (Encoder::Deflate(encoder), None) => encoder.try_finish()?,
            (Encoder::Plain(_) | Encoder::Gzip(_) | Encoder::Deflate(_), _) => {}
        }
        Ok(self.encoded.take())
    }
}

type Pieces = BoxStream<'static, Result<bytes::Bytes, axum::Error>>;

fn pages(
    body: Pieces,
    coding: Coding,
    links: Links,
) -> impl futures::Stream<Item = Result<bytes::Bytes, axum::Error>> + Send + 'static {
    let state = Some((body, Page::new(coding, links)));
    futures::stream::unfold(state, |state| async move {
        let (mut body, mut page) = state?;
        match body.next().await {
            Some(Ok(piece)) => match page.step(Some(&piece)) {
                Ok(bytes) => Some((Ok(bytes.into()), Some((body, page)))),
                Err(error) => Some((Err(axum::Error::new(error)), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((page.step(None).map(Into::into).map_err(axum::Error::new), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn links() -> Links {
        let prefix = "/api/v1/namespaces/n/services/s/proxy".to_owned();
        Links { prefix, server: "10.0.0.1:80".to_owned(), request_host: "localhost:8001".to_owned() }
    }

    #[test]
    fn links_to_the_server_lead_through_the_proxy() {
        let prefix = links().prefix;
        for (link, expected) in [
            ("/a/b/?x=1#y", format!("{prefix}/a/b/?x=1#y")),
            ("http://10.0.0.1:80/a", format!("{prefix}/a")),
            ("//10.0.0.1:80/a", format!("{prefix}/a")),
            ("http://localhost:8001/a", format!("http://localhost:8001{prefix}/a")),
            ("a/b", "a/b".to_owned()),
            ("https://example.com/a", "https://example.com/a".to_owned()),
            ("mailto:a@b", "mailto:a@b".to_owned()),
            ("#top", "#top".to_owned()),
            (&format!("{prefix}/a"), format!("{prefix}/a")),
        ] {
            assert_eq!(links().rewrite(link), expected, "{link}");
        }
    }

    #[test]
    fn a_page_is_rewritten_however_it_is_cut_and_encoded() {
        let html = "<!doctype html><a href=\"/x\">/x</a><img src='/y.png'><p href=/z>ü</p>";
        let prefix = links().prefix;
        let expected = format!(
            "<!doctype html><a href=\"{prefix}/x\">/x</a><img src=\"{prefix}/y.png\"><p href=/z>ü</p>"
        );
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(html.as_bytes()).unwrap();
        let run = |coding, bytes: &[u8]| {
            let mut page = Page::new(coding, links());
            let mut out = Vec::new();
            for byte in bytes {
                out.extend(page.step(Some(&[*byte])).unwrap());
            }
            out.extend(page.step(None).unwrap());
            out
        };
        assert_eq!(String::from_utf8(run(Coding::Plain, html.as_bytes())).unwrap(), expected);
        let mut text = String::new();
        let encoded = run(Coding::Gzip, &gzip.finish().unwrap());
        flate2::read::GzDecoder::new(&encoded[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
}
