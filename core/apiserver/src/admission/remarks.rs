//! What admission tells beside its yes or no: warnings for the client, annotations for the audit log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

/// Warnings that one request may carry.
const MAX_WARNINGS: usize = 64;
/// Characters of all warnings; what is more makes them short.
const MAX_CHARACTERS: usize = 4 << 10;
/// Characters of one warning where all together are too long.
const MAX_SHORT: usize = 256;
/// Annotations that one request may carry.
const MAX_ANNOTATIONS: usize = 128;
/// Bytes of one annotation's value.
const MAX_VALUE: usize = 10 << 10;

/// What plugins remark about one request. Without remarks it allocates nothing.
#[derive(Debug, Default)]
pub struct Remarks {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
    /// Microseconds.
    waited: AtomicU64,
    details: Mutex<BTreeMap<String, String>>,
}

impl Remarks {
    /// Warns the client, once with each text. What is beyond the bounds is dropped.
    pub fn warn(&self, text: impl Into<String>) {
        let text: String = text.into();
        let mut warnings = self.warnings.lock();
        if !text.is_empty() && warnings.len() < MAX_WARNINGS && !warnings.contains(&text) {
            let text = if text.len() > MAX_CHARACTERS { cut(&text, MAX_CHARACTERS) } else { text };
            warnings.push(text);
        }
    }

    /// Annotates the audit event, such as `pod-security.kubernetes.io/audit-violations`. The first value of a key stays.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        let mut value: String = value.into();
        if value.len() > MAX_VALUE {
            value = cut(&value, MAX_VALUE / 4);
        }
        let mut annotations = self.annotations.lock();
        if annotations.len() < MAX_ANNOTATIONS {
            annotations.entry(key.to_owned()).or_insert(value);
        }
    }

    /// Annotates the audit event with what comes from the content of the object, and so goes into events alone that hold
    /// such content. The first value of a key stays.
    pub fn annotate_detail(&self, key: &str, value: impl Into<String>) {
        let mut details = self.details.lock();
        if details.len() < MAX_ANNOTATIONS {
            details.entry(key.to_owned()).or_insert_with(|| value.into());
        }
    }

    /// The annotations so far that hold content.
    pub fn details(&self) -> BTreeMap<String, String> {
        self.details.lock().clone()
    }

    /// The annotations so far.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }

    /// Takes down how long others were waited for.
    pub fn waited(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
    }

    /// How long others were waited for, such as webhooks.
    pub fn waiting(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// The warnings as the client gets them: all of them, or short ones where all are too long.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.warnings.lock();
        let total: usize = warnings.iter().map(|text| text.chars().count()).sum();
        if total <= MAX_CHARACTERS {
            return warnings.clone();
        }
        let mut left = MAX_CHARACTERS;
        let mut short = Vec::new();
        for text in warnings.iter().map(|text| cut(text, MAX_SHORT)) {
            let length = text.chars().count();
            if length > left {
                break;
            }
            left -= length;
            short.push(text);
        }
        short
    }

    /// Adds the warnings to an answer.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        if !self.warnings.lock().is_empty() {
            warn(headers, &self.warnings());
        }
    }
}

/// Adds `Warning` headers.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for text in warnings {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append("warning", value);
        }
    }
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_once_and_many_long_ones_are_shortened() {
        let remarks = Remarks::default();
        remarks.warn("a");
        remarks.warn("a");
        remarks.warn("");
        assert_eq!(remarks.warnings(), ["a"]);
        for number in 0..1000 {
            remarks.warn(format!("{number} {}", "ä".repeat(1000)));
        }
        let warnings = remarks.warnings();
        assert!(warnings.iter().all(|text| text.chars().count() <= MAX_SHORT));
        assert!(warnings.iter().map(|text| text.chars().count()).sum::<usize>() <= MAX_CHARACTERS);
        assert!(warnings.len() > 10);
    }

    #[test]
    fn a_warning_is_quoted() {
        let (remarks, mut headers) = (Remarks::default(), HeaderMap::new());
        remarks.warn("say \"x\"");
        remarks.warn("two\nlines are no header");
        remarks.write_to(&mut headers);
        assert_eq!(headers["warning"], "299 - \"say \\\"x\\\"\"");
        assert_eq!(headers.get_all("warning").iter().count(), 1);
        let (remarks, mut headers) = (Remarks::default(), HeaderMap::new());
        remarks.warn("größer");
        remarks.write_to(&mut headers);
        assert_eq!(headers["warning"].as_bytes(), "299 - \"größer\"".as_bytes());
    }
}
