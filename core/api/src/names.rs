//! The forms of names and label values, with the texts that say what is wrong.

const LABEL_FORM: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_FORM: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_FORM: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if lower(*first) && lower(*last))
        && bytes.iter().all(|byte| lower(*byte) || *byte == b'-')
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn faults(long: bool, max: usize, form: bool, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if long {
        found.push(too_long(max));
    }
    if !form {
        found.push(text.to_owned());
    }
    found
}

/// What is wrong with an RFC 1123 label (63 characters); empty when nothing is.
pub fn dns1123_label(text: &str) -> Vec<String> {
    faults(text.len() > 63, 63, is_label(text), LABEL_FORM)
}

/// What is wrong with an RFC 1123 subdomain (253 characters).
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    faults(text.len() > 253, 253, text.split('.').all(is_label), SUBDOMAIN_FORM)
}

/// What is wrong with an RFC 1123 subdomain in which underscores are allowed, as search domains are.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    const FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9_]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
    let good = text.split('.').enumerate().all(|(place, part)| {
        let part = if place == 0 { part.strip_prefix('_').unwrap_or(part) } else { part };
        (place == 0 && part.is_empty() && text.starts_with('_'))
            || is_label(&part.trim_start_matches('_').replace('_', "-"))
    });
    faults(text.len() > 253, 253, good, FORM)
}

/// What is wrong with an RFC 1035 label, as Services' names are.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let alphabetic = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    faults(text.len() > 63, 63, alphabetic && is_label(text), DNS1035_FORM)
}

/// What is wrong with a path segment, as RBAC names are.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|it| text.contains(**it)).map(|it| format!("may not contain '{it}'")).collect()
}

/// What is wrong with a qualified name such as a label's key: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let mut found = Vec::new();
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                found.push("prefix part must be non-empty".to_owned());
            } else {
                found.extend(dns1123_subdomain(first).into_iter().map(|it| format!("prefix part {it}")));
            }
            name
        }
        (Some(_), Some(_)) => {
            return vec![
                "a qualified name ".to_owned()
                    + &QUALIFIED_FORM.replacen("name part ", "", 1)
                    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ];
        }
    };
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        found.push(format!("name part {}", too_long(63)));
    }
    if !is_name_part(name) {
        found.push(QUALIFIED_FORM.to_owned());
    }
    found
}

/// What is wrong with a label's value.
pub fn label_value(text: &str) -> Vec<String> {
    faults(text.len() > 63, 63, text.is_empty() || is_name_part(text), VALUE_FORM)
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    const FORM: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let good = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let mut found = faults(text.len() > 253, 253, good, FORM);
    match text {
        "." => found.push("must not be '.'".into()),
        ".." => found.push("must not be '..'".into()),
        _ if text.starts_with("..") => found.push("must not start with '..'".into()),
        _ => {}
    }
    found
}

/// What is wrong with the name of a port, an IANA service name.
pub fn port_name(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    if bytes.len() > 15 {
        found.push(too_long(15));
    }
    if !bytes.iter().all(|byte| lower(*byte) || *byte == b'-') {
        found.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        found.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        found.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        found.push("must not begin or end with a hyphen".into());
    }
    found
}

/// What is wrong with the name of an environment variable.
pub fn variable_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    let good = text.chars().all(|it| matches!(it, ' '..='~') && it != '=');
    if good {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into(),
    ]
}

/// Words that are no names in the Common Expression Language.
pub const CEL_RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name may be one of a variable in the Common Expression Language.
pub fn is_cel_identifier(name: &str) -> bool {
    let is_word = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
    !name.is_empty()
        && name.chars().all(is_word)
        && !name.starts_with(|letter: char| letter.is_ascii_digit())
        && !CEL_RESERVED.contains(&name)
}
