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

#[derive(Debug, Deserialize)]
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
    #[serde(rename = "apiVersion")]
    _api_version: Version,
    #[serde(rename = "kind")]
    _kind: Kind,
    #[serde(default)]
    providers: Vec<Provider>,
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
    /// Whether it is given tokens of pods' service accounts: that is refused.
    #[serde(default)]
    token_attributes: Option<serde_json::Value>,
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
        if provider.token_attributes.is_some() {
            all.push(
                "providers.tokenAttributes: Forbidden: tokenAttributes is not supported when \
                 KubeletServiceAccountTokenForCredentialProviders feature gate is disabled"
                    .to_owned(),
            );
        }
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
        assert!(told[4].starts_with("providers.tokenAttributes: Forbidden"));
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
