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

    fn client(&self, host: &str) -> Result<Client, PullError> {
        let mut config = ClientConfig {
            protocol: if self.is_plain(host) { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(std::time::Duration::from_secs(15)),
            read_timeout: Some(std::time::Duration::from_secs(60)),
            user_agent: concat!("keelson/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        for path in &self.certificate_authorities {
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

/// Pulls `name` from its registry or one of its mirrors into the store.
pub(crate) async fn pull(
    store: Arc<ImageStore>,
    registries: &Registries,
    name: &str,
    auth: &RegistryAuth,
) -> Result<Image, PullError> {
    let _lease = store.lease()?;
    let reference =
        super::normalize(name).map_err(|source| PullError::Name { name: name.to_owned(), source })?;
    for mirror in registries.mirrors.get(reference.registry()).into_iter().flatten() {
        let mut mirrored = reference.clone();
        mirrored.set_mirror_registry(mirror.clone());
        match pull_from(&store, registries, &mirrored, &reference, auth).await {
            Ok(image) => return Ok(image),
            Err(error) => tracing::warn!(%error, mirror, image = name, "mirror did not serve the image"),
        }
    }
    pull_from(&store, registries, &reference, &reference, auth).await
}

async fn pull_from(
    store: &Arc<ImageStore>,
    registries: &Registries,
    source: &Reference,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Image, PullError> {
    let name = reference.whole();
    let client = registries.client(source.resolve_registry())?;
    let failed = |error| registry_error(&name, error);
    let damaged = |source| PullError::Manifest { name: name.clone(), source };
    let (text, mut digest_named) = client.pull_manifest_raw(source, auth, ACCEPTED).await.map_err(failed)?;
    let named_digest = digest_named.clone();
    let mut text = text;
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(damaged)?;
    if manifest.config.is_none() {
        let chosen = manifest.for_this_machine().ok_or(PullError::Platform(architecture()))?.digest.clone();
        let chosen_reference = source.clone_with_digest(chosen);
        (text, digest_named) =
            client.pull_manifest_raw(&chosen_reference, auth, ACCEPTED).await.map_err(failed)?;
        manifest = serde_json::from_slice(&text).map_err(damaged)?;
    }
    let actual = format!("sha256:{}", hex::encode(digest(&SHA256, &text)));
    if actual != digest_named {
        return Err(StoreError::Digest { expected: digest_named, actual }.into());
    }
    let config = manifest.config.clone().ok_or(PullError::Platform(architecture()))?;
    let wanted: Vec<Descriptor> = manifest.layers.iter().cloned().chain([config.clone()]).collect();
    futures::stream::iter(wanted)
        .map(|descriptor| fetch(&client, source, store, &name, descriptor))
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
        names.push(name.clone());
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

async fn fetch(
    client: &Client,
    source: &Reference,
    store: &ImageStore,
    name: &str,
    descriptor: Descriptor,
) -> Result<(), PullError> {
    let path = store.blob_path(&descriptor.digest)?;
    if path.exists() {
        return Ok(());
    }
    let folder = store.stage()?;
    let staged = folder.join("blob");
    let failed = |source| StoreError::File { action: "write", path: staged.clone(), source };
    let file = tokio::fs::File::create(&staged).await.map_err(failed)?;
    // The client checks the digest of what arrives.
    let result = client.pull_blob(source, descriptor.digest.as_str(), file).await;
    let result = match result {
        Ok(()) => store.adopt_blob(&staged, &descriptor.digest).map_err(PullError::from),
        Err(error) => Err(registry_error(name, error)),
    };
    let _ = fs::remove_dir_all(&folder);
    result
}
