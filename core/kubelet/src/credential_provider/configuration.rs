//! Who provides credentials: `CredentialProviderConfig` of `kubelet.config.k8s.io`, a file or a folder of files.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use ring::digest::{Context, SHA256};
use serde::Deserialize;

use super::exchange::{GoTime, VERSIONS};
use super::pattern::Pattern;

/// Why there are no plugins. The texts are those of other kubelets.
#[derive(Debug, thiserror::Error)]
pub enum CredentialProviderError {
    /// The folder of programs.
    #[error("plugin binary directory {} did not exist", .0.display())]
    NoFolder(PathBuf),
    /// The same, for another reason.
    #[error("error inspecting binary directory {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// No configuration is named.
    #[error("credential provider config path is empty")]
    NoPath,
    /// The configuration's file or folder.
    #[error("unable to access path {0:?}")]
    Path(PathBuf, #[source] io::Error),
    /// The same, when it is a folder.
    #[error("unable to read directory {0:?}")]
    Directory(PathBuf, #[source] io::Error),
    /// Nothing is in it.
    #[error("no configuration files found in directory {0:?}")]
    Nothing(PathBuf),
    /// A file.
    #[error("unable to read file {0:?}")]
    File(PathBuf, #[source] io::Error),
    /// What is in a file.
    #[error("error decoding config {0:?}")]
    Decode(PathBuf, #[source] serde_yaml_ng::Error),
    /// The same plugin in two places.
    #[error("duplicate provider name {0:?} found in configuration file(s)")]
    Twice(String),
    /// Fields, all that are wrong.
    #[error("failed to validate credential provider config: {0}")]
    Invalid(String),
    /// A plugin that is not there.
    #[error("plugin binary executable {} did not exist", .0.display())]
    NoProgram(PathBuf),
    /// One that cannot be run.
    #[error("error inspecting binary executable {}", .0.display())]
    Program(PathBuf, #[source] io::Error),
}

#[derive(Debug, PartialEq, Deserialize)]
enum Version {
    #[serde(rename = "kubelet.config.k8s.io/v1")]
    V1,
    #[serde(rename = "kubelet.config.k8s.io/v1beta1")]
    V1beta1,
    #[serde(rename = "kubelet.config.k8s.io/v1alpha1")]
    V1alpha1,
}

#[derive(Debug, Deserialize)]
enum Kind {
    CredentialProviderConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: Version,
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default)]
    providers: Vec<Provider>,
}

impl Document {
    /// Older versions do not have all fields.
    fn checked(self) -> Result<Self, serde_yaml_ng::Error> {
        let newer = self.providers.iter().position(|provider| provider.token_attributes.is_some());
        match newer.filter(|_| self.api_version != Version::V1) {
            Some(at) => Err(serde::de::Error::custom(format_args!(
                "strict decoding error: unknown field \"providers[{at}].tokenAttributes\""
            ))),
            None => Ok(self),
        }
    }
}

/// A variable of a plugin's environment; its value may be a secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecEnvVar {
    pub(super) name: String,
    pub(super) value: String,
}

impl fmt::Debug for ExecEnvVar {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}=..", self.name)
    }
}

/// A plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Provider {
    /// Of the program, in the folder of programs.
    pub(super) name: String,
    /// Which version of the exchange it speaks.
    #[serde(default)]
    pub(super) api_version: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<GoTime>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<ExecEnvVar>,
    /// What it is told of pods' service accounts.
    #[serde(default)]
    pub(super) token_attributes: Option<TokenAttributes>,
}

/// A plugin that is asked in the name of the pod's service account: with a token for an audience, and annotations.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct TokenAttributes {
    pub(super) service_account_token_audience: String,
    cache_type: String,
    /// Whether pods without an account have no credentials by it.
    pub(super) require_service_account: Option<bool>,
    pub(super) required_service_account_annotation_keys: Vec<String>,
    pub(super) optional_service_account_annotation_keys: Vec<String>,
}

/// Who shares an answer that was given in the name of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheType {
    /// All pods of the account.
    ServiceAccount,
    /// Nobody else than the pod, as long as its token is the same.
    Token,
}

impl TokenAttributes {
    pub(super) fn cache_type(&self) -> Option<CacheType> {
        match self.cache_type.as_str() {
            "ServiceAccount" => Some(CacheType::ServiceAccount),
            "Token" => Some(CacheType::Token),
            _ => None,
        }
    }
}

impl Provider {
    /// Whether it is asked about an image.
    pub(super) fn fits(&self, image: &Pattern) -> bool {
        self.match_images.iter().any(|one| Pattern::parse(one).is_ok_and(|pattern| pattern.fits(image)))
    }

    /// For how long its answers are good where they do not say.
    pub(super) fn cache_duration(&self) -> SignedDuration {
        self.default_cache_duration.map_or(SignedDuration::ZERO, |told| told.0)
    }
}

/// Credential provider plugins, as they are configured.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialProviders {
    folder: PathBuf,
    providers: Vec<Provider>,
    hash: String,
}

impl CredentialProviders {
    /// Those of a configuration, a file or a folder of files, whose programs are in the folder `programs`. Blocks.
    pub fn open(configuration: &Path, programs: &Path) -> Result<Self, CredentialProviderError> {
        use CredentialProviderError as Fault;
        fs::metadata(programs).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Fault::NoFolder(programs.to_owned()),
            _ => Fault::Folder(programs.to_owned(), error),
        })?;
        let (providers, hash) = read(configuration)?;
        let faults = faults(&providers);
        if !faults.is_empty() {
            let all = faults.join(", ");
            return Err(Fault::Invalid(if faults.len() > 1 { format!("[{all}]") } else { all }));
        }
        let found = CredentialProviders { folder: programs.to_owned(), providers, hash };
        for (program, _) in found.each() {
            inspect(&program).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Fault::NoProgram(program),
                _ => Fault::Program(program, error),
            })?;
        }
        Ok(found)
    }

    /// The programs of all.
    pub(super) fn each(&self) -> impl Iterator<Item = (PathBuf, &Provider)> {
        self.providers.iter().map(|provider| (self.folder.join(&provider.name), provider))
    }

    /// What tells one configuration from another, `sha256:DIGEST`.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }
}

/// Whether a file can be executed.
fn inspect(program: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let found = fs::metadata(program)?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.permissions().mode() & 0o111 == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

/// The plugins of all files in their order, and a digest of the files.
fn read(path: &Path) -> Result<(Vec<Provider>, String), CredentialProviderError> {
    use CredentialProviderError as Fault;
    if path.as_os_str().is_empty() {
        return Err(Fault::NoPath);
    }
    let about = fs::metadata(path).map_err(|error| Fault::Path(path.to_owned(), error))?;
    let files = if about.is_dir() {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let entries = entries.map_err(|error| Fault::Directory(path.to_owned(), error))?;
        let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        let named = |file: &PathBuf| {
            let extension = file.extension().and_then(OsStr::to_str);
            matches!(extension, Some("json" | "yaml" | "yml")) && !file.is_dir()
        };
        files.retain(named);
        files.sort();
        if files.is_empty() {
            return Err(Fault::Nothing(path.to_owned()));
        }
        files
    } else {
        vec![path.to_owned()]
    };
    let (mut all, mut digest) = (Vec::<Provider>::new(), Context::new(&SHA256));
    for file in files {
        let text = fs::read(&file).map_err(|error| Fault::File(file.clone(), error))?;
        digest.update(&text);
        let document = serde_yaml_ng::from_slice::<Document>(&text);
        let document = document.and_then(|document| document.checked());
        for provider in document.map_err(|error| Fault::Decode(file, error))?.providers {
            if all.iter().any(|known| known.name == provider.name) {
                return Err(Fault::Twice(provider.name));
            }
            all.push(provider);
        }
    }
    Ok((all, format!("sha256:{}", hex::encode(digest.finish()))))
}

/// (pure) Everything that is wrong with plugins.
fn faults(providers: &[Provider]) -> Vec<String> {
    let mut all = Vec::new();
    if providers.is_empty() {
        all.push("providers: Required value: at least 1 item in plugins is required".to_owned());
    }
    for provider in providers {
        let name = &provider.name;
        for (is_wrong, why) in [
            (name.is_empty(), "provider name cannot be empty"),
            (name.contains('/'), "provider name cannot contain '/'"),
            (name.contains(' '), "provider name cannot contain spaces"),
            (name == ".", "provider name cannot be '.'"),
            (name == "..", "provider name cannot be '..'"),
        ] {
            if is_wrong {
                all.push(format!("providers.name: Invalid value: {name:?}: {why}"));
            }
        }
        let version = &provider.api_version;
        if version.is_empty() {
            all.push("providers.apiVersion: Required value".to_owned());
        } else if !VERSIONS.contains(&version.as_str()) {
            let known = VERSIONS.map(|known| format!("{known:?}")).join(", ");
            all.push(format!(
                "providers.apiVersion: Unsupported value: {version:?}: supported values: {known}"
            ));
        }
        if provider.match_images.is_empty() {
            all.push(
                "providers.matchImages: Required value: at least 1 item in matchImages is required"
                    .to_owned(),
            );
        }
        for pattern in &provider.match_images {
            if let Err(why) = Pattern::parse(pattern) {
                let told = format!("Invalid value: {pattern:?}: match image is invalid: {why}");
                all.push(format!("providers.matchImages: {told}"));
            }
        }
        match provider.default_cache_duration {
            None => all.push("providers.defaultCacheDuration: Required value".to_owned()),
            Some(GoTime(told)) if told.is_negative() => all.push(format!(
                "providers.defaultCacheDuration: Invalid value: \"{told:#}\": defaultCacheDuration must be greater than or equal to 0"
            )),
            Some(_) => {}
        }
        if let Some(attributes) = &provider.token_attributes {
            all.extend(attribute_faults(version, attributes));
        }
    }
    all
}

/// (pure) What is wrong with what a plugin wants to be told of accounts.
fn attribute_faults(version: &str, attributes: &TokenAttributes) -> Vec<String> {
    const PATH: &str = "providers.tokenAttributes";
    let (required, optional) = (
        &attributes.required_service_account_annotation_keys,
        &attributes.optional_service_account_annotation_keys,
    );
    let mut all = Vec::new();
    if attributes.service_account_token_audience.is_empty() {
        all.push(format!("{PATH}.serviceAccountTokenAudience: Required value"));
    }
    if attributes.require_service_account.is_none() {
        all.push(format!("{PATH}.requireServiceAccount: Required value"));
    }
    if version != VERSIONS[0] {
        all.push(format!(
            "{PATH}: Forbidden: tokenAttributes is only supported for {} API version",
            VERSIONS[0]
        ));
    }
    if attributes.require_service_account == Some(false) && !required.is_empty() {
        all.push(format!(
            "{PATH}.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
             requiredServiceAccountAnnotationKeys is set"
        ));
    }
    for (field, keys) in [("required", required), ("optional", optional)] {
        let path = format!("{PATH}.{field}ServiceAccountAnnotationKeys");
        for (at, key) in keys.iter().enumerate() {
            let faults = keelson_api::names::qualified_name(&key.to_lowercase());
            all.extend(faults.into_iter().map(|why| format!("{path}: Invalid value: {key:?}: {why}")));
            if keys[..at].contains(key) {
                all.push(format!("{path}: Duplicate value: {key:?}"));
            }
        }
    }
    let mut both: Vec<&String> = required.iter().filter(|key| optional.contains(key)).collect();
    both.sort();
    both.dedup();
    if !both.is_empty() {
        let told = serde_json::json!(both);
        all.push(format!(
            "{PATH}: Invalid value: {told}: annotation keys cannot be both required and optional"
        ));
    }
    match attributes.cache_type.as_str() {
        "" => all.push(format!(
            "{PATH}.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. \
             Supported values are: ServiceAccount, Token"
        )),
        told if attributes.cache_type().is_none() => all.push(format!(
            "{PATH}.cacheType: Unsupported value: {told:?}: supported values: \"ServiceAccount\", \"Token\""
        )),
        _ => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";

    fn told(error: &CredentialProviderError) -> String {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    }

    fn provider(name: &str) -> String {
        format!(
            "- name: {name}\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['*.example']\n  \
             defaultCacheDuration: 12h\n  env: [{{name: KEY, value: geheim}}]\n"
        )
    }

    #[test]
    fn what_is_wrong_is_told_in_the_words_of_other_kubelets() {
        let read = |text: &str| {
            let document: Document = serde_yaml_ng::from_str(&format!("{HEAD}{text}")).unwrap();
            faults(&document.providers)
        };
        assert_eq!(read(&provider("fine")), Vec::<String>::new());
        assert_eq!(read("  []"), ["providers: Required value: at least 1 item in plugins is required"]);
        assert_eq!(
            read("- name: a/b c\n  apiVersion: v1\n"),
            [
                "providers.name: Invalid value: \"a/b c\": provider name cannot contain '/'",
                "providers.name: Invalid value: \"a/b c\": provider name cannot contain spaces",
                "providers.apiVersion: Unsupported value: \"v1\": supported values: \"credentialprovider.kubelet.k8s.io/v1\", \
                 \"credentialprovider.kubelet.k8s.io/v1alpha1\", \"credentialprovider.kubelet.k8s.io/v1beta1\"",
                "providers.matchImages: Required value: at least 1 item in matchImages is required",
                "providers.defaultCacheDuration: Required value",
            ]
        );
        let told = read(
            "- name: ..\n  matchImages: ['a b']\n  defaultCacheDuration: -5m\n  tokenAttributes: {serviceAccountTokenAudience: a}\n",
        );
        assert_eq!(told[0], "providers.name: Invalid value: \"..\": provider name cannot be '..'");
        assert_eq!(told[1], "providers.apiVersion: Required value");
        assert!(
            told[2].ends_with(
                r#"match image is invalid: parse "https://a b": invalid character " " in host name"#
            )
        );
        assert!(told[3].ends_with("defaultCacheDuration must be greater than or equal to 0"), "{}", told[3]);
        assert_eq!(
            told[4..],
            [
                "providers.tokenAttributes.requireServiceAccount: Required value",
                "providers.tokenAttributes: Forbidden: tokenAttributes is only supported for \
                 credentialprovider.kubelet.k8s.io/v1 API version",
                "providers.tokenAttributes.cacheType: Required value: cacheType is required to be set when tokenAttributes is \
                 specified. Supported values are: ServiceAccount, Token",
            ]
        );
    }

    #[test]
    fn what_a_plugin_wants_to_know_of_accounts_is_checked() {
        let told = |attributes: &str| {
            let text = format!("{HEAD}{}  tokenAttributes: {{{attributes}}}\n", provider("own"));
            faults(&serde_yaml_ng::from_str::<Document>(&text).unwrap().providers)
        };
        let fine = "serviceAccountTokenAudience: r, cacheType: Token, requireServiceAccount: true";
        assert_eq!(told(fine), Vec::<String>::new());
        let keys = |keys: &str| told(&format!("{fine}, {keys}"));
        assert_eq!(
            keys("requiredServiceAccountAnnotationKeys: [a/b, Ok.io/x, a/b]"),
            ["providers.tokenAttributes.requiredServiceAccountAnnotationKeys: Duplicate value: \"a/b\""]
        );
        assert_eq!(
            keys(
                "requiredServiceAccountAnnotationKeys: [b, a], optionalServiceAccountAnnotationKeys: [a, c, b]"
            ),
            [
                "providers.tokenAttributes: Invalid value: [\"a\",\"b\"]: annotation keys cannot be both required and optional"
            ]
        );
        assert!(
            keys("optionalServiceAccountAnnotationKeys: [a b]")[0]
                .contains("Invalid value: \"a b\": name part must")
        );
        let alone = fine.replace("true", "false") + ", requiredServiceAccountAnnotationKeys: [a]";
        assert!(told(&alone)[0].ends_with(
            "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set"
        ));
        assert_eq!(
            told(&fine.replace("Token,", "Pod,"))[0],
            "providers.tokenAttributes.cacheType: Unsupported value: \"Pod\": supported values: \"ServiceAccount\", \"Token\""
        );
        let older = format!("{HEAD}{}  tokenAttributes: {{{fine}}}\n", provider("own"))
            .replacen("/v1", "/v1beta1", 1);
        let error = serde_yaml_ng::from_str::<Document>(&older).unwrap().checked().unwrap_err();
        assert!(error.to_string().contains("unknown field \"providers[0].tokenAttributes\""), "{error}");
    }

    #[test]
    fn plugins_are_those_of_all_files_and_have_their_programs() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = std::env::temp_dir().join(format!("keelson-providers-{}", uuid::Uuid::new_v4()));
        let (files, programs) = (folder.join("conf"), folder.join("bin"));
        fs::create_dir_all(&files).unwrap();
        let open = || CredentialProviders::open(&files, &programs).map_err(|error| told(&error));
        assert!(open().unwrap_err().ends_with("bin did not exist"));
        fs::create_dir(&programs).unwrap();
        assert!(open().unwrap_err().starts_with("no configuration files found in directory"));
        fs::write(files.join("b.yaml"), format!("{HEAD}{}", provider("two"))).unwrap();
        fs::write(files.join("a.yml"), format!("{HEAD}{}", provider("one"))).unwrap();
        fs::write(files.join("notes.txt"), "none").unwrap();
        assert!(open().unwrap_err().ends_with("bin/one did not exist"));
        for name in ["one", "two"] {
            fs::write(programs.join(name), "").unwrap();
        }
        assert!(open().unwrap_err().starts_with("error inspecting binary executable"));
        for name in ["one", "two"] {
            fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let found = open().unwrap();
        let names: Vec<_> =
            found.each().map(|(program, _)| program.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(!format!("{found:?}").contains("geheim") && found.hash().starts_with("sha256:"));
        fs::write(files.join("c.json"), format!("{HEAD}{}", provider("two"))).unwrap();
        assert_eq!(open().unwrap_err(), "duplicate provider name \"two\" found in configuration file(s)");
        fs::write(files.join("c.json"), r#"{"kind": "Pod"}"#).unwrap();
        assert!(open().unwrap_err().starts_with("error decoding config"), "{}", open().unwrap_err());
        assert_eq!(
            CredentialProviders::open(Path::new(""), &programs).unwrap_err().to_string(),
            "credential provider config path is empty"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
