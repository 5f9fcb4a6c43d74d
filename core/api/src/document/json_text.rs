//! What is wrong with a JSON text, in the words of upstream's decoder.

use serde_json::{Error, Value, error::Category};

/// What the reader of this text says in its own words.
const TEXTS: [(&str, &str); 9] = [
    ("expected value", "looking for beginning of value"),
    ("key must be a string", "looking for beginning of object key string"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("trailing characters", "after top-level value"),
    ("control character", "in string literal"),
    ("invalid escape", "in string escape code"),
    ("invalid number", "in numeric literal"),
];

/// Why a text cannot be read.
pub fn fault(text: &[u8], error: &Error) -> String {
    let told = error.to_string();
    let (what, _) = told.rsplit_once(" at line ").unwrap_or((&told, ""));
    if error.classify() == Category::Eof {
        return "unexpected end of JSON input".to_owned();
    }
    let at = offset(text, error.line(), error.column());
    let Some(letter) = text.get(at).filter(|_| error.classify() == Category::Syntax) else {
        return what.to_owned();
    };
    let place = match (what, letter) {
        ("trailing comma", b'}') => "looking for beginning of object key string",
        ("trailing comma", _) => "looking for beginning of value",
        _ => match TEXTS.iter().find(|(own, _)| what.starts_with(own)) {
            Some((_, place)) => place,
            None => return what.to_owned(),
        },
    };
    format!("invalid character {} {place}", quoted(*letter))
}

/// Where a line's column is in the text; both count from one.
fn offset(text: &[u8], line: usize, column: usize) -> usize {
    let before = text.split(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(|line| line.len() + 1);
    before.sum::<usize>() + column.saturating_sub(1)
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        byte => format!("'{}'", char::from(byte).escape_debug()),
    }
}

/// Refuses a document that is no object, or whose kind or version are no texts.
pub fn check_kind(document: &Value) -> Result<(), String> {
    const HEAD: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let refused = |have: &Value, into: &str| {
        let have = crate::patch::kind_of(have);
        Err(format!("json: cannot unmarshal {have} into Go {into}"))
    };
    match document {
        Value::Null => Ok(()),
        Value::Object(fields) => {
            for field in ["apiVersion", "kind"] {
                if let Some(value) = fields.get(field).filter(|value| !value.is_string() && !value.is_null())
                {
                    return refused(value, &format!("struct field .{field} of type string"));
                }
            }
            Ok(())
        }
        other => refused(other, &format!("value of type {HEAD}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_are_told_in_upstreams_words() {
        let told = |text: &str| fault(text.as_bytes(), &serde_json::from_str::<Value>(text).unwrap_err());
        for (text, expected) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\":tru", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\n  a: 1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\"a\tb\"", "invalid character '\\t' in string literal"),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn a_document_is_an_object_with_a_kind_that_is_a_text() {
        let told = |value: Value| check_kind(&value).unwrap_err();
        assert!(
            told(json!([]))
                .starts_with("json: cannot unmarshal array into Go value of type struct { APIVersion")
        );
        let expected = "json: cannot unmarshal number into Go struct field .kind of type string";
        assert_eq!(told(json!({"kind": 5})), expected);
        assert!(check_kind(&json!({"kind": "Pod"})).is_ok());
    }
}
