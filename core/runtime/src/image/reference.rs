//! (pure) Names of images, as the distribution specification writes them:
//! `[DOMAIN[:PORT]/]COMPONENT[/COMPONENT..][:TAG][@DIGEST]`.
//!
//! By hand, because the regular expression that is published for it takes 9 MB of memory once it is compiled.

use oci_client::{ParseError, Reference};

const HUB: &str = "docker.io";
const HUB_BEFORE: &str = "index.docker.io";
/// The longest repository.
const LONGEST: usize = 255;
/// The longest tag.
const LONGEST_TAG: usize = 128;

/// The full name of an image as registries know it: `nginx` is `docker.io/library/nginx:latest`.
pub fn normalize(text: &str) -> Result<Reference, ParseError> {
    if text.is_empty() {
        return Err(ParseError::NameEmpty);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash is that of a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        Some(_) | None => (rest, None),
    };
    if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return Err(ParseError::ReferenceInvalidFormat);
    }
    let (registry, repository) = split(name);
    if repository.len() > LONGEST {
        return Err(ParseError::NameTooLong);
    }
    if let Some(digest) = digest {
        check_length(digest)?;
    }
    Ok(match (tag.map(str::to_owned), digest.map(str::to_owned)) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(registry, repository, tag, digest),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest),
        (Some(tag), None) => Reference::with_tag(registry, repository, tag),
        (None, None) => Reference::with_tag(registry, repository, "latest".to_owned()),
    })
}

fn is_name(name: &str) -> bool {
    let is_path = |path: &str| path.split('/').all(is_component);
    is_path(name) || name.split_once('/').is_some_and(|(domain, path)| is_domain(domain) && is_path(path))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let ends = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && !ends && label.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()))
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
    let is_separator = |it: &str| matches!(it, "" | "." | "_" | "__") || it.bytes().all(|it| it == b'-');
    text.starts_with(is_word) && text.ends_with(is_word) && text.split(is_word).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    let is_word = |it: u8| it.is_ascii_alphanumeric() || it == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|it| is_word(it) || it == b'.' || it == b'-')
}

/// An algorithm's name of parts that begin with a letter, and at least 32 hexadecimal digits.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.starts_with(|it: char| it.is_ascii_alphabetic())
            && part.bytes().all(|it| it.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|it| it.is_ascii_hexdigit())
}

fn check_length(digest: &str) -> Result<(), ParseError> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ParseError::DigestInvalidFormat)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ParseError::DigestUnsupported),
    };
    if hex.len() == length { Ok(()) } else { Err(ParseError::DigestInvalidLength) }
}

/// Registry and repository of a name. What looks like no host is below the Docker Hub.
fn split(name: &str) -> (String, String) {
    let is_host = |text: &str| text.contains(['.', ':']) || text == "localhost";
    let (registry, repository) = match name.split_once('/') {
        Some((host, repository)) if is_host(host) => (host, repository),
        Some(_) | None => (HUB, name),
    };
    let registry = if registry == HUB_BEFORE { HUB } else { registry };
    if registry == HUB && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<String, ParseError> {
        normalize(text).map(|reference| reference.whole())
    }

    #[test]
    fn names_mean_what_they_mean_to_the_published_parser() {
        let hex = "f".repeat(64);
        let mut names: Vec<String> = [
            "busybox",
            "test.com:tag",
            "test.com/repo:tag",
            "test:5000/repo",
            "test:5000/repo:tag",
            "lowercase:Upper",
            "sub-dom1.foo.com/bar/baz/quux:some-long-tag",
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "xn--n3h.com/myimage:xn--n3h.com",
            "foo_bar.com:8080",
            "foo/foo_bar.com:8080",
            "localhost/a",
            "local/a",
            "index.docker.io/nginx",
            "docker.io/a/b",
            "Upper/lower:tag",
            "a--b__c.d_e",
            "a..b",
            "a___b",
            "a_-b",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a@",
            "",
            ":tag",
            "-a",
            "a-",
            "a.com:/b",
            "a.com:x/b",
            "-a.com/b",
            "a_b.com:80/c",
            "Upper:tag",
            "test:5000/Upper/lower:tag",
            "aa/asdf$$^/aa",
            "a:-tag",
            "a:.tag",
            "a:_tag",
            "a b",
            "a:b:c",
            "a.com:1:2/b",
        ]
        .map(str::to_owned)
        .to_vec();
        for digest in ["sha256:", "sha512:", "sha-x:", "sha256", "9a:", "sha256:0"] {
            names.extend([
                format!("repo@{digest}{hex}"),
                format!("repo:tag@{digest}{hex}"),
                format!("@{digest}{hex}"),
            ]);
        }
        names.extend([
            format!("repo@sha384:{}", &hex[..40]),
            format!("a:{}", "t".repeat(129)),
            "a".repeat(256),
        ]);
        for name in names {
            assert_eq!(whole(&name), name.parse::<Reference>().map(|it| it.whole()), "{name}");
        }
    }

    #[test]
    fn a_short_name_is_an_official_image_of_the_docker_hub() {
        assert_eq!(whole("nginx").unwrap(), "docker.io/library/nginx:latest");
        assert_eq!(whole("keelson.io/keelson:1").unwrap(), "keelson.io/keelson:1");
    }
}
