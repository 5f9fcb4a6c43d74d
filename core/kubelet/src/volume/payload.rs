//! The files of a volume that is made from objects (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

use super::error::SetUpError;

/// Files are readable by all unless the volume says otherwise.
pub(super) const DEFAULT_MODE: u32 = 0o644;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
    /// To whom it belongs; root if `None`.
    pub(super) user: Option<u32>,
}

/// Files by their paths, relative to the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) files: BTreeMap<String, File>,
}

/// A mode as the API has it.
pub(super) fn mode(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(default, |mode| mode & 0o777)
}

/// The path without needless parts; it cannot leave the volume, nor meet the names that the writer uses itself.
fn clean(path: &str) -> Result<String, SetUpError> {
    let refused = || SetUpError::Path { path: path.to_owned() };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let leaves = path.starts_with('/') || path.contains('\0') || parts.contains(&"..");
    match parts.first() {
        Some(first) if !first.starts_with("..") && !leaves => Ok(parts.join("/")),
        Some(_) | None => Err(refused()),
    }
}

impl Payload {
    /// Adds a file; one of the same path is replaced.
    pub(super) fn put(&mut self, path: &str, file: File) -> Result<(), SetUpError> {
        self.files.insert(clean(path)?, file);
        Ok(())
    }

    /// Adds keys: all of them, or those that the items name. A missing key fails unless the source is optional.
    fn keys<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        content: impl Fn(&str) -> Option<Vec<u8>>,
        wanted: Wanted<'_>,
        missing: impl Fn(&str) -> SetUpError,
    ) -> Result<(), SetUpError> {
        let Some(items) = wanted.items.filter(|items| !items.is_empty()) else {
            for name in names {
                let content = content(name).unwrap_or_default();
                self.put(name, File { content, mode: wanted.mode, user: None })?;
            }
            return Ok(());
        };
        for item in items {
            match content(&item.key) {
                Some(content) => {
                    let mode = mode(item.mode, wanted.mode);
                    self.put(&item.path, File { content, mode, user: None })?;
                }
                None if wanted.optional => {}
                None => return Err(missing(&item.key)),
            }
        }
        Ok(())
    }

    /// Adds a ConfigMap, which is `None` when there is none.
    pub(super) fn config_map(
        &mut self,
        name: &str,
        found: Option<&ConfigMap>,
        wanted: Wanted<'_>,
    ) -> Result<(), SetUpError> {
        let Some(found) = found else {
            return wanted.absent("configmap", name);
        };
        let texts = found.data.iter().flatten();
        let bytes = found.binary_data.iter().flatten();
        let names = texts.map(|(name, _)| name.as_str()).chain(bytes.map(|(name, _)| name.as_str()));
        let content = |key: &str| {
            let text =
                found.data.as_ref().and_then(|data| data.get(key)).map(|text| text.clone().into_bytes());
            text.or_else(|| Some(found.binary_data.as_ref()?.get(key)?.0.clone()))
        };
        self.keys(names, content, wanted, |key| SetUpError::Key { kind: "configmap", key: key.to_owned() })
    }

    /// Adds a Secret, which is `None` when there is none.
    pub(super) fn secret(
        &mut self,
        name: &str,
        found: Option<&Secret>,
        wanted: Wanted<'_>,
    ) -> Result<(), SetUpError> {
        let Some(found) = found else {
            return wanted.absent("secret", name);
        };
        let names = found.data.iter().flatten().map(|(name, _)| name.as_str());
        let content = |key: &str| Some(found.data.as_ref()?.get(key)?.0.clone());
        self.keys(names, content, wanted, |key| SetUpError::SecretKey { key: key.to_owned() })
    }
}

/// What of an object a volume wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) items: Option<&'a [KeyToPath]>,
    pub(super) mode: u32,
    pub(super) optional: bool,
}

impl Wanted<'_> {
    fn absent(self, kind: &'static str, name: &str) -> Result<(), SetUpError> {
        if self.optional { Ok(()) } else { Err(SetUpError::NotFound { kind, name: name.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(wanted: Wanted<'_>) -> Result<Vec<(String, String, u32)>, String> {
        let map = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "Mw=="}}));
        let mut payload = Payload::default();
        payload.config_map("m", Some(&map.unwrap()), wanted).map_err(|error| error.to_string())?;
        let text = |file: &File| String::from_utf8(file.content.clone()).unwrap();
        Ok(payload.files.iter().map(|(path, file)| (path.clone(), text(file), file.mode)).collect())
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode }
    }

    #[test]
    fn all_keys_are_files_unless_some_are_chosen() {
        let all = files(Wanted { items: None, mode: 0o640, optional: false }).unwrap();
        let expected = [("a", "1"), ("b", "2"), ("c", "3")];
        assert_eq!(all, expected.map(|(path, text)| (path.to_owned(), text.to_owned(), 0o640)));
        let items = [item("c", "deep//er/c", Some(0o400))];
        let some = files(Wanted { items: Some(&items), mode: 0o640, optional: false }).unwrap();
        assert_eq!(some, [("deep/er/c".to_owned(), "3".to_owned(), 0o400)]);
    }

    #[test]
    fn a_missing_key_or_object_fails_unless_it_is_optional() {
        let items = [item("z", "z", None)];
        let error = files(Wanted { items: Some(&items), mode: 0, optional: false }).unwrap_err();
        assert_eq!(error, "configmap references non-existent config key: z");
        assert_eq!(files(Wanted { items: Some(&items), mode: 0, optional: true }), Ok(vec![]));
        let wanted = Wanted { items: None, mode: 0, optional: false };
        let error = Payload::default().secret("s", None, wanted).unwrap_err();
        assert_eq!(error.to_string(), "secret \"s\" not found");
        Payload::default().secret("s", None, Wanted { optional: true, ..wanted }).unwrap();
    }

    #[test]
    fn no_file_leaves_the_volume_or_hides_the_writers_own() {
        for path in ["/etc/x", "a/../../x", "..data", "..2024/x", "", ".", "../x"] {
            let items = [item("a", path, None)];
            files(Wanted { items: Some(&items), mode: 0, optional: false }).unwrap_err();
        }
    }
}
