//! Credentials for registries: from the pod's `imagePullSecrets`, and the node's own, which its owner keeps in `config.json` in
//! the kubelet's folder, as `docker login` writes it. They are tried in this order, and those of plugins last.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use keelson_cri::v1::AuthConfig;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::name::Name;
use super::records::{Holder, PullAccount, PullSecret};
use crate::objects::Objects;
use crate::pod::PodModel;

/// Other names of the default registry, under which its credentials are often kept.
const DEFAULT_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Credentials, and where they are from.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) auth: AuthConfig,
    /// `None` for the node's own, which are there for every pod.
    pub(super) holder: Option<Holder>,
}

impl Key {
    fn new(secret: &Secret, auth: AuthConfig) -> Self {
        let words = [&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token];
        let text = serde_json::json!(words).to_string();
        let text_of = |field: &Option<String>| field.clone().unwrap_or_default();
        let secret = PullSecret {
            uid: text_of(&secret.metadata.uid),
            namespace: text_of(&secret.metadata.namespace),
            name: text_of(&secret.metadata.name),
            credential_hash: hex::encode(digest(&SHA256, text.as_bytes())),
        };
        Self { auth, holder: Some(Holder::Secret(secret)) }
    }

    /// One that every pod of the node may use.
    pub(super) fn of_node(auth: AuthConfig) -> Self {
        Self { auth, holder: None }
    }

    /// One that a plugin gave, in the name of an account or for every pod of the node.
    pub(super) fn provided((auth, account): (AuthConfig, Option<PullAccount>)) -> Self {
        Self { auth, holder: account.map(Holder::Account) }
    }
}

/// The pod's own credentials that fit an image, the most specific ones first, and the secrets that could not be had.
pub(super) async fn of_pod(pod: &PodModel, objects: &Objects, image: &Name) -> (Vec<Key>, Vec<String>) {
    let mut found: Vec<(usize, Key)> = Vec::new();
    let mut missing = Vec::new();
    for reference in pod.spec().image_pull_secrets.iter().flatten().filter(|one| !one.name.is_empty()) {
        match objects.secret(&pod.namespace, &reference.name).await {
            Ok(Some(secret)) => match of_secret(&secret) {
                Some(servers) => found.extend(
                    servers
                        .into_iter()
                        .filter(|(server, _)| fits(server, image))
                        .map(|(server, auth)| (server.len(), Key::new(&secret, auth))),
                ),
                None => missing.push(reference.name.clone()),
            },
            Ok(None) => missing.push(reference.name.clone()),
            Err(error) => {
                tracing::warn!(object = pod.object(), secret = reference.name, %error, "secret not read");
                missing.push(reference.name.clone());
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    (found.into_iter().map(|(_, key)| key).collect(), missing)
}

/// The node's own. A file that is not what it should be is told, and stands in nobody's way.
pub(super) async fn of_node(file: &Path, image: &Name) -> Vec<Key> {
    let text = match tokio::fs::read(file).await {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the node's credentials cannot be read");
            }
            return Vec::new();
        }
    };
    let servers = serde_json::from_slice::<Value>(&text).ok();
    let servers = servers.and_then(|mut config| entries(&config.get_mut("auths")?.take()));
    let Some(mut servers) = servers else {
        tracing::warn!(file = %file.display(), "the node's credentials are not what they should be");
        return Vec::new();
    };
    servers.retain(|(server, _)| fits(server, image));
    servers.sort_by_key(|(server, _)| std::cmp::Reverse(server.len()));
    servers.into_iter().map(|(_, auth)| Key::of_node(auth)).collect()
}

/// Registries with their credentials; `None` when the secret has another form.
fn of_secret(secret: &Secret) -> Option<Vec<(String, AuthConfig)>> {
    let data = secret.data.as_ref()?;
    let servers = if let Some(text) = data.get(".dockerconfigjson") {
        let mut config: Value = serde_json::from_slice(&text.0).ok()?;
        config.get_mut("auths").map(Value::take)?
    } else {
        serde_json::from_slice(&data.get(".dockercfg")?.0).ok()?
    };
    entries(&servers)
}

/// Registries with their credentials, as `auths` of Docker's configuration has them.
fn entries(servers: &Value) -> Option<Vec<(String, AuthConfig)>> {
    let entry = |(server, one): (&String, &Value)| {
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let (mut username, mut password) = (text("username"), text("password"));
        if username.is_empty()
            && let Some(decoded) =
                STANDARD.decode(text("auth")).ok().and_then(|it| String::from_utf8(it).ok())
            && let Some((user, secret)) = decoded.split_once(':')
        {
            (username, password) = (user.to_owned(), secret.to_owned());
        }
        let auth = AuthConfig {
            username,
            password,
            // None: runtimes know which registry an image is from, and some take credentials for an address literally.
            server_address: String::new(),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
            ..AuthConfig::default()
        };
        (server.clone(), auth)
    };
    Some(servers.as_object()?.iter().map(entry).collect())
}

/// Whether an entry's name, `[SCHEME://]HOST[:PORT][/PATH]` with `*` in parts of the host, is for an image.
fn fits(server: &str, image: &Name) -> bool {
    let server = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let is_default = DEFAULT_HOSTS.contains(&host) && DEFAULT_HOSTS.contains(&image.host.as_str());
    (is_default || host_fits(host, &image.host))
        && (path.is_empty()
            || image.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn host_fits(pattern: &str, host: &str) -> bool {
    let split = |text: &str| {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        (name.split('.').map(str::to_owned).collect::<Vec<_>>(), port.to_owned())
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let part = |(pattern, part): (&String, &String)| match pattern.split_once('*') {
        Some((before, after)) => {
            part.len() >= before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
        }
        None => pattern == part,
    };
    pattern_port == port && pattern.len() == host.len() && pattern.iter().zip(&host).all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_its_host_and_for_folders_below_its_path() {
        let image = Name::parse("registry.example.com:5000/team/app:1").unwrap();
        for server in
            ["registry.example.com:5000", "https://registry.example.com:5000/v1/", "*.example.com:5000/team"]
        {
            assert!(fits(server, &image), "{server}");
        }
        for server in
            ["registry.example.com", "example.com:5000", "registry.example.com:5000/te", "docker.io"]
        {
            assert!(!fits(server, &image), "{server}");
        }
        assert!(fits("https://index.docker.io/v1/", &Name::parse("busybox").unwrap()));
    }

    #[test]
    fn a_secret_holds_user_and_password_in_one_word_or_in_two() {
        let config =
            r#"{"auths":{"a.example":{"auth":"dTpwOnE="},"b.example":{"username":"v","password":"w"}}}"#;
        let data = [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.into()))];
        let secret = Secret { data: Some(data.into_iter().collect()), ..Secret::default() };
        let found = of_secret(&secret).unwrap();
        let users: Vec<_> = found
            .iter()
            .map(|(server, auth)| (server.as_str(), auth.username.as_str(), auth.password.as_str()))
            .collect();
        assert_eq!(users, [("a.example", "u", "p:q"), ("b.example", "v", "w")]);
        assert_eq!(of_secret(&Secret::default()), None);
    }

    #[tokio::test]
    async fn the_nodes_own_credentials_are_for_all_pods() {
        let file = std::env::temp_dir().join(format!("keelson-config-{}.json", uuid::Uuid::new_v4()));
        let image = Name::parse("registry.example:5000/team/app:1").unwrap();
        assert!(of_node(&file, &image).await.is_empty());
        let text = r#"{"auths": {"registry.example:5000": {"auth": "dTpw"}, "registry.example:5000/team": {"auth": "dDpw"}, "x": {"auth": "eDpw"}}}"#;
        std::fs::write(&file, text).unwrap();
        let found = of_node(&file, &image).await;
        let users: Vec<_> =
            found.iter().map(|key| (key.auth.username.as_str(), key.holder.is_none())).collect();
        assert_eq!(users, [("t", true), ("u", true)]);
        std::fs::write(&file, "[]").unwrap();
        assert!(of_node(&file, &image).await.is_empty());
        std::fs::remove_file(&file).unwrap();
    }
}
