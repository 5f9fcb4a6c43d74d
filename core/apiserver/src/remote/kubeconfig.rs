//! A server by a kubeconfig file: the form in which webhooks of authentication, authorization and audit are configured.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{ClientCertificate, Credentials, Protocols, RemoteConfig, SetupError, Target, Token};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named<Context>>,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: Option<T>,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile", alias = "token-file")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<serde::de::IgnoredAny>,
    #[serde(rename = "auth-provider")]
    auth_provider: Option<serde::de::IgnoredAny>,
}

/// Where the fields of a file come from.
struct Source<'a> {
    path: &'a Path,
}

impl Source<'_> {
    fn fault(&self, detail: impl Into<String>) -> SetupError {
        SetupError::Kubeconfig { path: self.path.to_owned(), detail: detail.into() }
    }

    /// A path in the file counts from the file's folder.
    fn path(&self, text: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(text)
    }

    /// Bytes that are given in place, or by a file; those in place count.
    fn bytes(&self, field: &str, data: &str, file: &str) -> Result<Option<Vec<u8>>, SetupError> {
        if !data.is_empty() {
            let compact: String = data.split_whitespace().collect();
            let decoded = STANDARD.decode(compact);
            return decoded.map(Some).map_err(|error| self.fault(format!("{field}-data: {error}")));
        }
        if file.is_empty() {
            return Ok(None);
        }
        let path = self.path(file);
        fs::read(&path).map(Some).map_err(|source| SetupError::File { path, source })
    }

    fn credentials(&self, user: &User) -> Result<Credentials, SetupError> {
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(
                self.fault("credentials of other programs (exec, auth-provider) are not supported here")
            );
        }
        let chain =
            self.bytes("client-certificate", &user.client_certificate_data, &user.client_certificate)?;
        let key = self.bytes("client-key", &user.client_key_data, &user.client_key)?;
        let certificate = match (chain, key) {
            (Some(chain), Some(key)) => Some(ClientCertificate::Fixed { chain, key }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(self.fault("client-certificate and client-key must be given together"));
            }
        };
        let token = match (user.token_file.as_str(), user.token.as_str()) {
            ("", "") => None,
            ("", token) => Some(Token::Fixed(token.to_owned())),
            (file, _) => Some(Token::file(self.path(file))),
        };
        let basic = (!user.username.is_empty()).then(|| (user.username.clone(), user.password.clone()));
        Ok(Credentials { certificate, token, basic })
    }
}

fn named<'a, T>(list: &'a [Named<T>], name: &str) -> Option<&'a T> {
    list.iter().find(|it| it.name == name)?.value.as_ref()
}

impl RemoteConfig {
    /// The server of a kubeconfig's current context. The file is read here, and those that it names (except a token's,
    /// which is read whenever it is needed).
    pub fn from_kubeconfig(path: &Path) -> Result<Self, SetupError> {
        let text =
            fs::read_to_string(path).map_err(|source| SetupError::File { path: path.to_owned(), source })?;
        let source = Source { path };
        let file: Kubeconfig =
            serde_yaml_ng::from_str(&text).map_err(|error| source.fault(error.to_string()))?;
        let current = file.current_context.as_str();
        if current.is_empty() {
            return Err(source.fault("current-context is not set"));
        }
        let context = named(&file.contexts, current)
            .ok_or_else(|| source.fault(format!("context {current:?} does not exist")))?;
        let cluster = named(&file.clusters, &context.cluster)
            .ok_or_else(|| source.fault(format!("cluster {:?} does not exist", context.cluster)))?;
        let user = match context.user.as_str() {
            "" => User::default(),
            name => named(&file.users, name)
                .cloned()
                .ok_or_else(|| source.fault(format!("user {name:?} does not exist")))?,
        };
        if cluster.server.is_empty() {
            return Err(source.fault(format!("cluster {:?} has no server", context.cluster)));
        }
        if !cluster.proxy_url.is_empty() {
            return Err(source.fault("proxy-url is not supported"));
        }
        let ca_bundle = source.bytes(
            "certificate-authority",
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        )?;
        if cluster.insecure_skip_tls_verify && ca_bundle.is_some() {
            return Err(source.fault("certificate-authority and insecure-skip-tls-verify exclude each other"));
        }
        Ok(RemoteConfig {
            ca_bundle,
            insecure_skip_tls_verify: cluster.insecure_skip_tls_verify,
            server_name: Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty()),
            credentials: source.credentials(&user)?,
            protocols: Protocols::Http2,
            ..RemoteConfig::new(Target::Url(cluster.server.clone()))
        })
    }
}
