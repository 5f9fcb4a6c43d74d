//! (pure) What credentials are for: `HOST[:PORT][/PATH]`, with `*` in the parts of the host, as upstream matches images.

/// A pattern, or an image without its tag, which is a pattern that fits itself alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    host: Vec<String>,
    port: String,
    path: String,
}

impl Pattern {
    /// Why a text is none is said as others say it of addresses.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fault = |why: String| Err(format!("parse {:?}: {why}", format!("https://{text}")));
        if text.chars().any(|it| it.is_ascii_control()) {
            return fault("net/url: invalid control character in URL".to_owned());
        }
        let rest = text.split(['?', '#']).next().unwrap_or(text);
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if let Some(wrong) = authority.chars().find(|it| " \\^`{|}@%".contains(*it)) {
            return fault(format!("invalid character {:?} in host name", wrong.to_string()));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((host, port)) => (host, port),
                None => return fault("missing ']' in host".to_owned()),
            },
            None => authority.rfind(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let number = port.strip_prefix(':').unwrap_or(port);
        if !(port.is_empty() || port.starts_with(':')) || !number.bytes().all(|it| it.is_ascii_digit()) {
            return fault(format!("invalid port {port:?} after host"));
        }
        let host = host.split('.').map(str::to_owned).collect();
        Ok(Pattern { host, port: number.to_owned(), path: path.to_owned() })
    }

    /// Whether an image is one of those that are meant: the same number of parts of the host, the same port, and a path that begins so.
    pub(super) fn fits(&self, image: &Pattern) -> bool {
        self.port == image.port
            && self.host.len() == image.host.len()
            && image.path.starts_with(&self.path)
            && self.host.iter().zip(&image.host).all(|(pattern, part)| glob(pattern, part))
    }
}

/// Whether a text is a pattern's, in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, others)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = others.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, image: &str) -> bool {
        Pattern::parse(pattern).unwrap().fits(&Pattern::parse(image).unwrap())
    }

    #[test]
    fn a_star_stands_for_one_part_of_the_host_or_some_of_it() {
        for (pattern, image) in [
            ("123.dkr.ecr.*.example", "123.dkr.ecr.eu.example/app"),
            ("*.example.com", "a.example.com/team/app"),
            ("a*c*.example", "abcd.example/x"),
            ("registry.example:5000/team", "registry.example:5000/team/app"),
            ("registry.example:5000/te", "registry.example:5000/team/app"),
            ("docker.io", "docker.io/library/busybox"),
            ("[::1]:5000", "[::1]:5000/app"),
        ] {
            assert!(fits(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("*.example", "a.b.example/app"),
            ("*", "a.example/app"),
            ("registry.example", "registry.example:5000/app"),
            ("*.example:80", "a.example:8080/app"),
            ("a.example/team", "a.example/other/team"),
            ("a*b.example", "a.example/x"),
        ] {
            assert!(!fits(pattern, image), "{pattern} {image}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_as_others_tell_it() {
        let told = |text: &str| Pattern::parse(text).unwrap_err();
        assert_eq!(told("a b/c"), r#"parse "https://a b/c": invalid character " " in host name"#);
        assert_eq!(told("a:x"), r#"parse "https://a:x": invalid port ":x" after host"#);
        assert_eq!(told("[::1"), r#"parse "https://[::1": missing ']' in host"#);
    }
}
