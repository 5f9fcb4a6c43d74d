//! Encryption at rest: what the store keeps of chosen resources is sealed, by `EncryptionConfiguration`.
//!
//! Objects are sealed on their way into the store and opened on their way into the watch cache, so that everything
//! between works on plain documents, and the store, its log, its checkpoints and its snapshots hold sealed ones alone. An
//! object's key in the store is part of what is authenticated: one that is moved to another key does not open.
//!
//! - [`configuration`]: the file. [`cipher`]: keys and algorithms. [`rewrite`]: old objects under a new key.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use keelson_api::GroupResource;
use keelson_store::{Snapshot, Value};

pub mod cipher;
pub mod configuration;
pub mod rewrite;

use cipher::Cipher;
use configuration::ConfigurationError;

/// How sealed values begin.
const MARK: &[u8] = b"k8s:enc:";

/// How the server encrypts.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// An `EncryptionConfiguration` file; nothing is encrypted without one.
    pub file: Option<PathBuf>,
    /// The file is read again when it changes.
    pub reload: bool,
}

/// Why a value cannot be opened or sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// It is sealed, and no provider of its resource has the key.
    #[error("no provider of {resource} has the key {key:?}")]
    NoKey {
        /// The resource.
        resource: String,
        /// How the value is sealed, such as `aesgcm:v1:key1`.
        key: String,
    },
    /// It is not sealed, and its resource has no `identity` provider.
    #[error("{0} has no identity provider, and this object is not encrypted")]
    Plain(String),
    /// It was changed, or moved, or the key is another one.
    #[error("the object is damaged, or was sealed by another key of the same name")]
    Damaged,
    /// The source of random numbers failed.
    #[error("there are no random numbers")]
    Random,
}

/// How the objects of some resources are sealed and opened.
#[derive(Debug)]
struct Rule {
    resources: Vec<configuration::Selector>,
    /// The first one seals. `None` is `identity`.
    providers: Vec<Option<Cipher>>,
}

/// What is encrypted, and how.
#[derive(Debug, Default)]
pub struct Encryption {
    rules: ArcSwap<Vec<Rule>>,
    /// What the store holds was checked.
    checked: AtomicBool,
}

/// An opened value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The document, with its revision in place.
    pub bytes: Bytes,
    /// It is not sealed as it would be now.
    pub stale: bool,
}

/// The resource of a key of the store.
fn resource(key: &str) -> GroupResource {
    let mut parts = key.trim_start_matches("/registry/").splitn(3, '/');
    let group = parts.next().filter(|group| *group != "core").unwrap_or_default();
    GroupResource::new(group, parts.next().unwrap_or_default())
}

impl Encryption {
    /// What a configuration says; nothing is encrypted without a file.
    pub fn open(config: &Config) -> Result<Self, ConfigurationError> {
        let encryption = Encryption::default();
        if let Some(file) = &config.file {
            encryption.rules.store(Arc::new(configuration::read(file)?));
        }
        Ok(encryption)
    }

    fn replace(&self, rules: Vec<Rule>) {
        self.rules.store(Arc::new(rules));
    }

    /// Whether anything is encrypted.
    pub fn is_on(&self) -> bool {
        !self.rules.load().is_empty()
    }

    /// Seals a value that is to be written under a key.
    pub fn seal(&self, key: &str, value: Value) -> Result<Value, EncryptionError> {
        let rules = self.rules.load();
        if rules.is_empty() {
            return Ok(value);
        }
        let resource = resource(key);
        let rule = rules.iter().find(|rule| rule.covers(&resource));
        let Some(Some(cipher)) = rule.and_then(|rule| rule.providers.first()) else { return Ok(value) };
        // The revision is not known yet: where it belongs is told with the document.
        let mut plain = Vec::with_capacity(value.bytes.len() + 4);
        plain.extend_from_slice(&value.stamp.map_or(u32::MAX, |at| at).to_be_bytes());
        plain.extend_from_slice(&value.bytes);
        let mut sealed = MARK.to_vec();
        sealed.extend_from_slice(cipher.name().as_bytes());
        sealed.push(b':');
        sealed.extend_from_slice(&cipher.seal(plain, key.as_bytes())?);
        Ok(Value::plain(sealed))
    }

    /// Opens a stored value.
    pub fn unseal(&self, key: &str, stored: &Bytes, revision: u64) -> Result<Opened, EncryptionError> {
        let rules = self.rules.load();
        let sealed = stored.strip_prefix(MARK);
        if rules.is_empty() && sealed.is_none() {
            return Ok(Opened { bytes: stored.clone(), stale: false });
        }
        let resource = resource(key);
        let providers = rules
            .iter()
            .find(|rule| rule.covers(&resource))
            .map_or(&[][..], |rule| rule.providers.as_slice());
        let Some(sealed) = sealed else {
            let place = providers.iter().position(Option::is_none);
            return match place {
                Some(place) => Ok(Opened { bytes: stored.clone(), stale: place > 0 }),
                None if providers.is_empty() => Ok(Opened { bytes: stored.clone(), stale: false }),
                None => Err(EncryptionError::Plain(resource.to_string())),
            };
        };
        let ciphers = providers.iter().enumerate().filter_map(|(place, it)| Some((place, it.as_ref()?)));
        let mut found = ciphers.filter_map(|(place, cipher)| {
            let rest = sealed.strip_prefix(cipher.name().as_bytes())?.strip_prefix(b":")?;
            Some((place, cipher, rest))
        });
        let Some((place, cipher, rest)) = found.next() else {
            let name = sealed.splitn(4, |byte| *byte == b':').take(3).collect::<Vec<_>>().join(&b':');
            let key = String::from_utf8_lossy(&name).into_owned();
            return Err(EncryptionError::NoKey { resource: resource.to_string(), key });
        };
        let plain = cipher.open(rest, key.as_bytes())?;
        let bytes = finish(&plain, revision).ok_or(EncryptionError::Damaged)?;
        Ok(Opened { bytes, stale: place > 0 })
    }

    /// Whether an object of a resource would be sealed by a key now.
    pub fn covers(&self, resource: &GroupResource) -> bool {
        self.rules.load().iter().any(|rule| rule.covers(resource))
    }

    /// Whether [`Encryption::check`] has been done.
    pub(crate) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Tells how many objects of a store cannot be opened, and logs which.
    pub fn check(&self, snapshot: &Snapshot) -> u64 {
        let mut unreadable = 0;
        for (key, entry) in snapshot.range("/registry/", None) {
            if let Err(error) = self.unseal(key.as_str(), &entry.value, entry.modified.get()) {
                tracing::error!(%error, key = key.as_str(), "a stored object cannot be decrypted");
                unreadable += 1;
            }
        }
        self.checked.store(true, Ordering::Relaxed);
        unreadable
    }
}

impl Rule {
    fn covers(&self, resource: &GroupResource) -> bool {
        self.resources.iter().any(|selector| selector.covers(resource))
    }
}

/// The document with its revision in place.
fn finish(plain: &[u8], revision: u64) -> Option<Bytes> {
    let (place, document) = plain.split_first_chunk::<4>()?;
    let place = u32::from_be_bytes(*place);
    if place == u32::MAX {
        return Some(Bytes::copy_from_slice(document));
    }
    let (head, tail) = document.split_at_checked(place as usize)?;
    Some([head, revision.to_string().as_bytes(), tail].concat().into())
}

#[cfg(test)]
mod tests;
