//! Pulling from registries (OCI distribution specification), with mirrors, credentials and parallel layers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use ring::digest::{SHA256, digest};

use super::archive::ImportError;
use super::config::{Descriptor, ImageConfig, Manifest, architecture};
use super::store::{Image, ImageStore, StoreError};

mod fetch;
mod hosts;
mod turns;

use hosts::Host;
pub use hosts::HostsError;
pub(crate) use turns::Pulls;

/// Layers fetched at once.
const PARALLEL: usize = 4;

const ACCEPTED: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// How registries are reached.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Registries {
    /// Hosts asked before a registry, by the registry's host, for example `docker.io` -> `mirror.local:5000`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (with port) that speak HTTP without TLS. Those on loopback addresses always may.
    pub plain_http: Vec<String>,
    /// PEM files with further certificate authorities.
    pub certificate_authorities: Vec<PathBuf>,
    /// A folder with a `REGISTRY/hosts.toml` for each registry that is reached by other hosts, if there is one.
    #[serde(skip)]
    pub hosts: PathBuf,
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Not the name of an image.
    #[error("{name:?} is no name of an image")]
    Name {
        /// What was given.
        name: String,
        /// Why not.
        #[source]
        source: oci_client::ParseError,
    },
    /// The registry has no such image.
    #[error("{name}: not found")]
    NotFound {
        /// The image.
        name: String,
    },
    /// The registry wants other credentials.
    #[error(
        "pull access denied for {name}, repository does not exist or may require authorization: {message}"
    )]
    Denied {
        /// The image.
        name: String,
        /// The registry's words.
        message: String,
    },
    /// Any other failure of the registry or on the way to it.
    #[error("failed to pull {name}")]
    Registry {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// A document of the registry is not what it should be.
    #[error("the manifest of {name} is damaged")]
    Manifest {
        /// The image.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no image for this machine.
    #[error("no match for platform linux/{0} in manifest")]
    Platform(&'static str),
    /// A certificate authority's file could not be read.
    #[error("read certificates {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What says by which hosts a registry is reached cannot be followed.
    #[error("{path} cannot be followed")]
    Hosts {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: HostsError,
    },
    /// It came, but could not be stored.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// It came, but could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The runtime is stopping.
    #[error("the pull was interrupted")]
    Interrupted,
}

impl Registries {
    fn is_plain(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let loopback = name == "localhost"
            || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        loopback || self.plain_http.iter().any(|one| one == host)
    }

    fn host(&self, authority: &str) -> Host {
        Host {
            authority: authority.to_owned(),
            plain: self.is_plain(authority),
            authorities: Vec::new(),
            trusts_all: false,
        }
    }

    /// The hosts that may serve a registry's images: mirrors, and at last the registry itself, `None` where its own name
    /// leads to it.
    fn ways(&self, registry: &str) -> Result<(Vec<Host>, Option<Host>), PullError> {
        let found = hosts::read(&self.hosts, registry);
        let found = found.map_err(|(path, source)| PullError::Hosts { path, source })?;
        let mut mirrors: Vec<Host> =
            self.mirrors.get(registry).into_iter().flatten().map(|mirror| self.host(mirror)).collect();
        mirrors.extend(found.mirrors);
        Ok((mirrors, found.server))
    }

    fn client(&self, host: &Host) -> Result<Client, PullError> {
        let mut config = ClientConfig {
            protocol: if host.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: host.trusts_all,
            connect_timeout: Some(std::time::Duration::from_secs(15)),
            read_timeout: Some(std::time::Duration::from_secs(60)),
            user_agent: concat!("keelson/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        for path in self.certificate_authorities.iter().chain(&host.authorities) {
            let data =
                fs::read(path).map_err(|source| PullError::Certificates { path: path.clone(), source })?;
            config.extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        Ok(Client::new(config))
    }
}

fn registry_error(name: &str, error: OciDistributionError) -> PullError {
    use oci_client::errors::OciErrorCode;
    let name = name.to_owned();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound { name },
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            PullError::Denied { name, message: error.to_string() }
        }
        OciDistributionError::RegistryError { ref envelope, .. } => {
            let code = envelope.errors.first().map(|error| &error.code);
            match code {
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => {
                    PullError::NotFound { name }
                }
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                    PullError::Denied { name, message: error.to_string() }
                }
                Some(_) | None => PullError::Registry { name, source: Box::new(error) },
            }
        }
        other => PullError::Registry { name, source: Box::new(other) },
    }
}

/// Credentials, and the host that they are for; the image's registry, when it is empty.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) auth: RegistryAuth,
    pub(crate) host: String,
}

impl Key {
    /// What a mirror is shown: nothing that another host is to see.
    fn for_mirror(&self, mirror: &str) -> RegistryAuth {
        if self.host == mirror { self.auth.clone() } else { RegistryAuth::Anonymous }
    }
}

/// Pulls `name` from its registry or one of its mirrors into the store.
pub(crate) async fn pull(
    store: Arc<ImageStore>,
    pulls: &Pulls,
    registries: &Registries,
    name: &str,
    key: &Key,
) -> Result<Image, PullError> {
    let _lease = store.lease()?;
    let reference =
        super::normalize(name).map_err(|source| PullError::Name { name: name.to_owned(), source })?;
    let (mirrors, server) = registries.ways(reference.registry())?;
    let at = |host: &Host| {
        let mut source = reference.clone();
        source.set_mirror_registry(host.authority.clone());
        source
    };
    for host in mirrors {
        let (auth, mirror) = (key.for_mirror(&host.authority), host.authority.as_str());
        let client = registries.client(&host)?;
        match pull_from(&store, pulls, &client, &at(&host), &reference, &auth).await {
            Ok(image) => return Ok(image),
            Err(error) => tracing::warn!(%error, mirror, image = name, "mirror did not serve the image"),
        }
    }
    match server {
        // The registry under another name has what is for the registry.
        Some(host) => {
            let client = registries.client(&host)?;
            pull_from(&store, pulls, &client, &at(&host), &reference, &key.auth).await
        }
        None => {
            let client = registries.client(&registries.host(reference.resolve_registry()))?;
            pull_from(&store, pulls, &client, &reference, &reference, &key.auth).await
        }
    }
}

async fn pull_from(
    store: &Arc<ImageStore>,
    pulls: &Pulls,
    client: &Client,
    source: &Reference,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Image, PullError> {
    let name = reference.whole();
    let failed = |error| registry_error(&name, error);
    let damaged = |source| PullError::Manifest { name: name.clone(), source };
    let (text, mut digest_named) = manifest(client, source, auth).await.map_err(failed)?;
    let named_digest = digest_named.clone();
    let mut text = text;
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(damaged)?;
    if manifest.config.is_none() {
        let chosen = manifest.for_this_machine().ok_or(PullError::Platform(architecture()))?.digest.clone();
        let chosen_reference = source.clone_with_digest(chosen);
        (text, digest_named) = self::manifest(client, &chosen_reference, auth).await.map_err(failed)?;
        manifest = serde_json::from_slice(&text).map_err(damaged)?;
    }
    let actual = format!("sha256:{}", hex::encode(digest(&SHA256, &text)));
    if actual != digest_named {
        return Err(StoreError::Digest { expected: digest_named, actual }.into());
    }
    let config = manifest.config.clone().ok_or(PullError::Platform(architecture()))?;
    // Who wants the same image waits for the first, and finds it done.
    let _turn = pulls.turn(&actual).await;
    let wanted: Vec<Descriptor> = manifest.layers.iter().cloned().chain([config.clone()]).collect();
    let name = name.as_str();
    futures::stream::iter(wanted)
        .map(|descriptor| async move {
            let _turn = pulls.turn(&descriptor.digest).await;
            let _place = pulls.place().await;
            fetch::blob(client, source, store, name, &descriptor).await
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    let config_path = store.blob_path(&config.digest)?;
    let config_text = fs::read(&config_path).map_err(|source| StoreError::File {
        action: "read",
        path: config_path,
        source,
    })?;
    let config: ImageConfig = serde_json::from_slice(&config_text).map_err(damaged)?;
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let mut names = vec![format!("{repository}@{named_digest}")];
    if reference.digest().is_none() {
        names.push(name.to_owned());
    }
    let store = Arc::clone(store);
    let work = move || -> Result<Image, PullError> {
        store.put_blob(&text)?;
        let mut image = store.complete(&manifest, &config, &actual, &names[1..])?;
        // The name by the digest that was asked for, which may be that of an index.
        image.digests.insert(names[0].clone());
        store.put(image.clone())?;
        Ok(image)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| PullError::Interrupted)?
}

/// The manifest's bytes and digest; a registry that is away for a moment is asked again.
async fn manifest(
    client: &Client,
    source: &Reference,
    auth: &RegistryAuth,
) -> Result<(bytes::Bytes, String), OciDistributionError> {
    let mut tries = fetch::Tries::default();
    loop {
        match client.pull_manifest_raw(source, auth, ACCEPTED).await {
            Ok(answer) => return Ok(answer),
            Err(error) => tries.after(error, "manifest").await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_sees_only_credentials_that_are_for_it() {
        let auth = RegistryAuth::Basic("u".to_owned(), "p".to_owned());
        let key = |host: &str| Key { auth: auth.clone(), host: host.to_owned() };
        assert_eq!(key("registry.example").for_mirror("mirror.local:5000"), RegistryAuth::Anonymous);
        assert_eq!(key("").for_mirror("mirror.local:5000"), RegistryAuth::Anonymous);
        assert_eq!(key("mirror.local:5000").for_mirror("mirror.local:5000"), auth);
    }
}
