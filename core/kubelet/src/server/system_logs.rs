//! `GET /logs/PATH`: the machine's logs, below `/var/log` and nowhere else.
//!
//! **Guarantee**: no path and no link leads out of that folder, not even one that is changed meanwhile.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse as _, Response};
use http::{StatusCode, header};
use tokio_util::io::ReaderStream;

use super::Node;
use super::failure::Failure;
use crate::beneath;

const FOLDER: &str = "/var/log";
/// Entries that a list shows.
const ENTRIES: usize = 10_000;

/// What a path is.
enum Found {
    Folder(Vec<String>),
    File(File),
}

fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Opens what a path below a folder names. Blocks.
fn find(folder: &FilePath, path: &str) -> std::io::Result<Found> {
    let file = beneath::open(folder, path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(Found::File(file));
    }
    if !kind.is_dir() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let mut names = Vec::new();
    // By its number, the very folder that was opened.
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()))?.take(ENTRIES) {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        names.push(if is_folder { format!("{name}/") } else { name });
    }
    names.sort();
    Ok(Found::Folder(names))
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

/// The links of a folder's page.
fn page(names: &[String]) -> String {
    let line = |name: &String| {
        let target: String = form_urlencoded(name);
        format!("<a href=\"{target}\">{}</a>\n", escaped(name))
    };
    format!("<pre>\n{}</pre>\n", names.iter().map(line).collect::<String>())
}

/// A name as part of a path.
fn form_urlencoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn answer(path: String) -> Result<Response, Failure> {
    let work = move || find(FilePath::new(FOLDER), path.trim_matches('/'));
    let found =
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::internal(error.to_string()))?;
    match found {
        Ok(Found::Folder(names)) => Ok(Html(page(&names)).into_response()),
        Ok(Found::File(file)) => {
            let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(Failure::new(StatusCode::FORBIDDEN, "403 Forbidden\n"))
        }
        Err(_) => Err(not_found()),
    }
}

fn is_served(node: &Node) -> Result<(), Failure> {
    if node.config.settings.enable_system_log_handler {
        return Ok(());
    }
    Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n"))
}

pub(super) async fn folder(State(node): State<Arc<Node>>) -> Result<Response, Failure> {
    is_served(&node)?;
    answer(String::new()).await
}

pub(super) async fn file(
    State(node): State<Arc<Node>>,
    Path(path): Path<String>,
) -> Result<Response, Failure> {
    is_served(&node)?;
    answer(path).await
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn nothing_outside_of_the_folder_is_shown() {
        let folder = std::env::temp_dir().join(format!("keelson-logs-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(folder.join("in/er")).unwrap();
        std::fs::write(folder.join("in/a.log"), "hello").unwrap();
        std::fs::write(folder.join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("in/out")).unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("in/up")).unwrap();
        std::os::unix::fs::symlink("a.log", folder.join("in/link")).unwrap();
        let root = folder.join("in");
        for path in ["out", "up", "../secret", "er/../../secret", "gone"] {
            assert!(find(&root, path).is_err(), "{path}");
        }
        for path in ["a.log", "link"] {
            let Found::File(mut file) = find(&root, path).unwrap() else { panic!("{path} is a file") };
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
        let Found::Folder(names) = find(&root, "").unwrap() else { panic!("a folder") };
        assert_eq!(names, ["a.log", "er/", "link", "out", "up"]);
        assert_eq!(page(&["a&\"b".to_owned()]), "<pre>\n<a href=\"a%26%22b\">a&amp;&#34;b</a>\n</pre>\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
