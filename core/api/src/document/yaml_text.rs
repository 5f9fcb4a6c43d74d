//! A document as YAML that every reader understands alike: what an older one would take for a number, a truth or a
//! time is quoted.

use serde_json::{Map, Value};

/// Writes a document.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write_fields(fields, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_items(items, 0, &mut out),
        other => {
            write_scalar(other, &mut out);
            out.push('\n');
        }
    }
    out
}

fn write_fields(fields: &Map<String, Value>, level: usize, out: &mut String) {
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            indent(level, out);
        }
        write_text(name, out);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(level + 1, out);
                write_fields(inner, level + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(level, out);
                write_items(items, level, out);
            }
            other => {
                out.push(' ');
                write_scalar(other, out);
                out.push('\n');
            }
        }
    }
}

fn write_items(items: &[Value], level: usize, out: &mut String) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            indent(level, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => write_fields(fields, level + 1, out),
            Value::Array(inner) if !inner.is_empty() => write_items(inner, level + 1, out),
            other => {
                write_scalar(other, out);
                out.push('\n');
            }
        }
    }
}

fn indent(level: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', 2 * level));
}

fn write_scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_text(text, out),
        // Only what is empty comes here of lists and objects.
        Value::Array(_) | Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            out.push_str(&value.to_string());
        }
    }
}

/// A text as it is, or as JSON writes it, which is YAML too.
fn write_text(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

/// Words that are something else than a text.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

fn is_plain(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || " _./:@+-".contains(letter);
    text.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '_' | '/'))
        && text.chars().all(is_letter)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_written_in_lines() {
        let value = json!({"a": {"b": [1, {"c": "x", "d": []}, [true, null]], "e": {}}, "f": "two\nlines"});
        let expected =
            "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  - - true\n    - null\n  e: {}\nf: \"two\\nlines\"\n";
        assert_eq!(write(&value), expected);
        assert_eq!(serde_yaml_ng::from_str::<Value>(expected).unwrap(), value);
    }

    #[test]
    fn what_is_no_text_to_an_older_reader_is_quoted() {
        for text in [
            "yes",
            "No",
            "1e3",
            "012",
            "12:30",
            "2026-01-02T03:04:05Z",
            "~",
            "",
            ".5",
            "a: b",
            "#x",
            "*",
            "on",
        ] {
            assert_eq!(write(&json!(text)), format!("{}\n", json!(text)), "{text}");
        }
        for text in ["nginx:1.27", "/var/lib", "kube-system", "a b", "_x"] {
            assert_eq!(write(&json!(text)), format!("{text}\n"), "{text}");
        }
    }
}
