//! (pure) Names of images: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`.

use std::fmt;

/// Where images without a host come from.
const DEFAULT_HOST: &str = "docker.io";
const MAX_PATH: usize = 255;

/// A name with its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// Host of the registry, with its port.
    pub(crate) host: String,
    /// The repository.
    pub(crate) path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no name of an image. The texts are those of other implementations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameFault {
    Format,
    UpperCase(String),
    Long,
}

impl fmt::Display for NameFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => write!(out, "invalid reference format"),
            Self::UpperCase(path) => {
                write!(out, "invalid reference format: repository name ({path}) must be lowercase")
            }
            Self::Long => write!(out, "repository name must not be more than {MAX_PATH} characters"),
        }
    }
}

/// Letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    text.split(alphanumeric)
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.chars().all(|it| it == '-'))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inner, after)) => (inner, after.strip_prefix(':')),
            None => return false,
        },
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let letter = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '.' | ':');
    !host.is_empty()
        && host.chars().all(letter)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()))
}

fn is_tag(text: &str) -> bool {
    let word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|it| word(it) || matches!(it, '.' | '-'))
}

fn is_digest(text: &str) -> bool {
    let hexadecimal = |it: u8| it.is_ascii_hexdigit();
    text.split_once(':').is_some_and(|(algorithm, digest)| {
        algorithm.starts_with(|it: char| it.is_ascii_alphabetic())
            && digest.len() >= 32
            && digest.bytes().all(hexadecimal)
    })
}

impl Name {
    /// The parts of a name.
    pub(crate) fn parse(text: &str) -> Result<Self, NameFault> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(NameFault::Format);
        }
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            Some(_) | None => (DEFAULT_HOST, rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let official = host == DEFAULT_HOST && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path.to_owned() };
        if path.to_ascii_lowercase().split('/').all(is_component) && !path.split('/').all(is_component) {
            return Err(NameFault::UpperCase(path));
        }
        if !is_host(host) || !path.split('/').all(is_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(NameFault::Format);
        }
        if path.len() > MAX_PATH {
            return Err(NameFault::Long);
        }
        let (tag, digest) = (tag.map(str::to_owned), digest.map(str::to_owned));
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }

    /// Whether it may mean another image every day.
    pub(crate) fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == "latest")
    }

    /// Host and path, without tag and digest.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// Host, path and tag, as runtimes list images.
    pub(crate) fn whole(&self) -> String {
        format!("{}:{}", self.repository(), self.tag.as_deref().unwrap_or("latest"))
    }

    /// `text`, of which this name was made, with a tag in any case.
    pub(crate) fn tagged(&self, text: &str) -> String {
        let is_open = self.tag.is_none() && self.digest.is_none();
        if is_open { format!("{text}:latest") } else { text.to_owned() }
    }
}

/// A first part is a host when it cannot be a folder of the default registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(|it| it.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_host_is_of_the_default_registry() {
        let name = Name::parse("busybox").unwrap();
        assert_eq!((name.host.as_str(), name.path.as_str()), ("docker.io", "library/busybox"));
        assert_eq!(name.tagged("busybox"), "busybox:latest");
        let name = Name::parse("localhost:5000/a/b__c:v1.2").unwrap();
        assert_eq!(
            (name.host.as_str(), name.path.as_str(), name.is_latest()),
            ("localhost:5000", "a/b__c", false)
        );
        let digest = format!("registry.k8s.io/pause@sha256:{}", "0a".repeat(32));
        assert!(!Name::parse(&digest).unwrap().is_latest());
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        assert_eq!(Name::parse("BusyBox"), Err(NameFault::UpperCase("library/BusyBox".to_owned())));
        for text in ["", "a b", "a::b", "a/", "-a", "a@sha256:1", "a:b c"] {
            assert_eq!(Name::parse(text), Err(NameFault::Format), "{text:?}");
        }
    }
}
