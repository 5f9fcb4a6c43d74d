//! Keys are paths.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest key that is accepted, in bytes: four names of 253 characters with room to spare.
pub const MAX_KEY_BYTES: usize = 2048;

/// A path-like key, such as `/registry/apps/deployments/default/web`. Cheap to clone; ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text is not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// It does not start with `/`.
    #[error("a key starts with '/'")]
    NotAbsolute,
    /// It is longer than [`MAX_KEY_BYTES`].
    #[error("a key of {length} bytes is longer than {MAX_KEY_BYTES}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It holds a NUL byte.
    #[error("a key holds no NUL byte")]
    Nul,
}

impl Key {
    /// Checks and takes a key.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidKey> {
        let text = text.as_ref();
        if !text.starts_with('/') {
            return Err(InvalidKey::NotAbsolute);
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(InvalidKey::TooLong { length: text.len() });
        }
        if text.as_bytes().contains(&0) {
            return Err(InvalidKey::Nul);
        }
        Ok(Key(text.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Key::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_absolute_short_and_without_nul() {
        assert_eq!(Key::new("registry"), Err(InvalidKey::NotAbsolute));
        assert_eq!(Key::new("/a\0b"), Err(InvalidKey::Nul));
        let long = format!("/{}", "x".repeat(MAX_KEY_BYTES));
        assert_eq!(Key::new(&long), Err(InvalidKey::TooLong { length: MAX_KEY_BYTES + 1 }));
        assert_eq!(Key::new("/registry/pods/default/a").unwrap().as_str(), "/registry/pods/default/a");
    }
}
