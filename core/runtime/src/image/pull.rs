//! Pulling from registries (OCI distribution specification), with mirrors, credentials and parallel layers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use ring::digest::SHA256;

use super::archive::{ImportError, MAX_DOCUMENT};
use super::config::{Descriptor, ImageConfig, Manifest, architecture};
use super::partial::{Follower, Growing, Growth};
use super::store::{Image, ImageStore, Lease, StoreError, chain_id};

mod fetch;
mod hosts;
mod progress;
mod turns;

use fetch::{Fetch, blocking, holding};
use hosts::Host;
pub use hosts::HostsError;
use progress::Progress;
pub(crate) use progress::UnderWay;
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
    /// What the image says of itself is too long.
    #[error("the configuration of {name} is too large: {size} bytes")]
    TooLarge {
        /// The image.
        name: String,
        /// Bytes that are announced.
        size: u64,
    },
    /// Nobody is asked for such a thing.
    #[error(
        "no host of registry {registry} has the capability that is needed (pull; for a tag also resolve)"
    )]
    NoHost {
        /// The registry.
        registry: String,
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
            resolves: true,
            pulls: true,
        }
    }

    /// The ways to an image: over mirrors, and at last over the registry itself. Mirrors are told whose image they are asked for
    /// (the parameter `ns`).
    fn ways(&self, image: &Reference, key: &Key) -> Result<Vec<Way>, PullError> {
        let registry = image.registry();
        let found = hosts::read(&self.hosts, registry, self.host(image.resolve_registry()));
        let found = found.map_err(|(path, source)| PullError::Hosts { path, source })?;
        let own = self.mirrors.get(registry).into_iter().flatten().map(|mirror| self.host(mirror));
        let way = |host: Host| {
            let mut source = image.clone();
            if host.authority != image.resolve_registry() {
                source.set_mirror_registry(host.authority.clone());
            }
            Ok(Way { client: self.client(&host)?, auth: key.shown_to(&host, registry), source, host })
        };
        own.chain(found.mirrors).chain([found.server]).map(way).collect()
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

/// A host that is asked for an image.
struct Way {
    host: Host,
    client: Client,
    /// The image, there.
    source: Reference,
    auth: RegistryAuth,
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

/// The names of the default registry.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

impl Key {
    /// What a host is shown that is asked for an image of `registry`: nothing that another host is to see.
    fn shown_to(&self, host: &Host, registry: &str) -> RegistryAuth {
        let meant = if self.host.is_empty() { registry } else { &self.host };
        let is_hub = |name: &str| HUB.contains(&name);
        let is_meant = is_for(meant, &host.authority, if host.plain { ":80" } else { ":443" })
            || !host.plain && is_hub(meant) && is_hub(&host.authority);
        if is_meant { self.auth.clone() } else { RegistryAuth::Anonymous }
    }
}

/// Whether `meant`, which may have `*` in the parts of its name as the kubelet allows, is this host.
fn is_for(meant: &str, host: &str, default_port: &str) -> bool {
    let split = |text: &str| -> (Vec<String>, String) {
        let bare = text.strip_suffix(default_port).unwrap_or(text);
        let (name, port) = bare.rsplit_once(':').unwrap_or((bare, ""));
        (name.split('.').map(str::to_ascii_lowercase).collect(), port.to_owned())
    };
    let ((meant, meant_port), (host, port)) = (split(meant), split(host));
    let part = |(meant, part): (&String, &String)| match meant.split_once('*') {
        Some((before, after)) => {
            part.len() >= before.len() + after.len() && part.starts_with(before) && part.ends_with(after)
        }
        None => meant == part,
    };
    meant_port == port && meant.len() == host.len() && meant.iter().zip(&host).all(part)
}

/// A manifest or an index, and its digest.
struct Document {
    text: bytes::Bytes,
    digest: String,
}

/// Pulls `name` from its registry or one of its mirrors into the store.
pub(crate) async fn pull(
    store: Arc<ImageStore>,
    pulls: &Pulls,
    registries: &Registries,
    name: &str,
    key: &Key,
) -> Result<Image, PullError> {
    let keeper = Arc::clone(&store);
    // Whoever sweeps is waited for.
    let lease = Arc::new(blocking(move || keeper.lease()).await??);
    let reference =
        super::normalize(name).map_err(|source| PullError::Name { name: name.to_owned(), source })?;
    let ways = registries.ways(&reference, key)?;
    let found = resolve(&ways, &reference).await?;
    let no_host = || PullError::NoHost { registry: reference.registry().to_owned() };
    let mut fault = no_host();
    for way in ways.iter().filter(|way| way.host.pulls) {
        match pull_from(&store, &lease, pulls, way, &reference, &found).await {
            Ok(image) => return Ok(image),
            Err(error) => fault = told(error, way, name),
        }
    }
    Err(fault)
}

/// The error of the last host counts; those of others are told.
fn told(error: PullError, way: &Way, name: &str) -> PullError {
    let host = way.host.authority.as_str();
    tracing::warn!(error = %crate::error::chain(&error), host, image = name, "a host did not serve the image");
    error
}

/// What an image's name stands for. A digest may be asked for wherever something is pulled; what a tag stands for only some may say.
async fn resolve(ways: &[Way], reference: &Reference) -> Result<Document, PullError> {
    let name = reference.whole();
    let mut fault = PullError::NoHost { registry: reference.registry().to_owned() };
    let may = |way: &&Way| if reference.digest().is_some() { way.host.pulls } else { way.host.resolves };
    for way in ways.iter().filter(may) {
        match document(way, &way.source, &name).await {
            Ok(found) => return Ok(found),
            Err(error) => fault = told(error, way, &name),
        }
    }
    Err(fault)
}

async fn pull_from(
    store: &Arc<ImageStore>,
    lease: &Arc<Lease>,
    pulls: &Pulls,
    way: &Way,
    reference: &Reference,
    named: &Document,
) -> Result<Image, PullError> {
    let name = reference.whole();
    let damaged = |source| PullError::Manifest { name: name.clone(), source };
    // Where the name was asked for elsewhere, nothing is known of this host's credentials yet.
    way.client.store_auth_if_needed(way.source.resolve_registry(), &way.auth).await;
    let mut manifest: Manifest = serde_json::from_slice(&named.text).map_err(damaged)?;
    let mut chosen = None;
    if manifest.config.is_none() {
        let digest = manifest.for_this_machine().ok_or(PullError::Platform(architecture()))?.digest.clone();
        let found = document(way, &way.source.clone_with_digest(digest), &name).await?;
        manifest = serde_json::from_slice(&found.text).map_err(damaged)?;
        chosen = Some(found);
    }
    let Document { text, digest: actual } = chosen.as_ref().unwrap_or(named);
    // Who wants the same image waits for the first, and finds it done.
    let _turn = pulls.turn(actual).await;
    let config = manifest.config.clone().ok_or(PullError::Platform(architecture()))?;
    let bring = Bring { store, lease, pulls, way, name: &name };
    let config = bring.config(&config).await?;
    store.check(&manifest, &config)?;
    bring.layers(&manifest, &config).await?;
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    let mut names = vec![format!("{repository}@{}", named.digest)];
    if reference.digest().is_none() {
        names.push(name.clone());
    }
    let (store, text, actual) = (Arc::clone(store), text.clone(), actual.clone());
    holding(lease, move || -> Result<Image, PullError> {
        store.put_blob(&text)?;
        let mut image = store.complete(&manifest, &config, &actual, &names[1..])?;
        // The name by the digest that was asked for, which may be that of an index.
        image.digests.insert(names[0].clone());
        store.put(image.clone())?;
        Ok(image)
    })
    .await?
}

/// Brings the blobs of one image.
#[derive(Clone, Copy)]
struct Bring<'a> {
    store: &'a Arc<ImageStore>,
    lease: &'a Arc<Lease>,
    pulls: &'a Pulls,
    way: &'a Way,
    name: &'a str,
}

/// A layer on its way.
struct Coming {
    descriptor: Descriptor,
    diff_id: String,
    /// Its folder in the end.
    target: PathBuf,
    growth: Arc<Growth>,
}

impl Bring<'_> {
    /// What the image says of itself.
    async fn config(&self, descriptor: &Descriptor) -> Result<ImageConfig, PullError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(PullError::TooLarge { name: self.name.to_owned(), size: descriptor.size });
        }
        let path = self.store.blob_path(&descriptor.digest)?;
        {
            let _turn = self.pulls.turn(&descriptor.digest).await;
            let _place = self.pulls.place().await;
            if !path.exists() {
                self.fetch(descriptor, Arc::default()).await?;
            }
        }
        let text = blocking(move || {
            fs::read(&path).map_err(|source| StoreError::File { action: "read", path, source })
        })
        .await??;
        let damaged = |source| PullError::Manifest { name: self.name.to_owned(), source };
        serde_json::from_slice(&text).map_err(damaged)
    }

    async fn fetch(&self, wanted: &Descriptor, growth: Arc<Growth>) -> Result<(), PullError> {
        // Whatever becomes of it, nobody waits for more afterwards.
        let growing = Growing(growth);
        let Bring { way, store, lease, name, .. } = *self;
        Fetch { way, store, lease, name, wanted, growth: &growing.0 }.run().await
    }

    /// All layers, several at once: each is unpacked while it comes.
    async fn layers(&self, manifest: &Manifest, config: &ImageConfig) -> Result<(), PullError> {
        let mut parent = None;
        let mut coming = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let chain_id = chain_id(parent.as_deref(), diff_id);
            let target = self.store.layer_path(&chain_id);
            let (descriptor, diff_id) = (descriptor.clone(), diff_id.clone());
            coming.push(Coming { descriptor, diff_id, target, growth: Arc::default() });
            parent = Some(chain_id);
        }
        self.store.check_room(self.needed(&coming)?)?;
        let progress = Arc::new(Progress {
            total: manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add),
            parts: coming.iter().map(|one| Arc::clone(&one.growth)).collect(),
            layers: coming.len(),
            unpacked: AtomicUsize::new(0),
        });
        let _told = self.pulls.under_way.begin(self.name, Arc::clone(&progress));
        let (bring, progress) = (*self, progress.as_ref());
        futures::stream::iter(coming)
            .map(|one| async move {
                bring.layer(&one).await?;
                progress.unpacked.fetch_add(1, Ordering::Relaxed);
                Ok::<(), PullError>(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }

    /// The bytes that the layers will take at least: none is smaller unpacked than packed.
    fn needed(&self, coming: &[Coming]) -> Result<u64, PullError> {
        let mut needed = 0_u64;
        for Coming { descriptor, target, .. } in coming {
            let (digest, size) = (&descriptor.digest, descriptor.size);
            if !self.store.blob_path(digest)?.exists() {
                let here = fs::metadata(self.store.partial_path(digest)?).map_or(0, |partial| partial.len());
                needed = needed.saturating_add(size.saturating_sub(here));
            }
            if !target.exists() {
                needed = needed.saturating_add(size);
            }
        }
        Ok(needed)
    }

    async fn layer(&self, one: &Coming) -> Result<(), PullError> {
        let Coming { descriptor, diff_id, target, growth } = one;
        let _turn = self.pulls.turn(&descriptor.digest).await;
        let _place = self.pulls.place().await;
        if self.store.blob_path(&descriptor.digest)?.exists() {
            growth.is_here(descriptor.size);
            // It is unpacked at the end, if it is not.
            return Ok(());
        }
        if target.exists() {
            return self.fetch(descriptor, Arc::clone(growth)).await;
        }
        let path = self.store.partial_path(&descriptor.digest)?;
        let store = Arc::clone(self.store);
        let (digest, diff_id) = (descriptor.digest.clone(), diff_id.clone());
        let followed = Arc::clone(growth);
        let lease = Arc::clone(self.lease);
        let unpacking = tokio::task::spawn_blocking(move || {
            let _lease = lease;
            let blob = Follower::open(&path, followed);
            let blob = blob.map_err(|source| StoreError::File { action: "open", path, source })?;
            store.stage_layer(blob, &digest, &diff_id)
        });
        let fetched = self.fetch(descriptor, Arc::clone(growth)).await;
        let unpacked = unpacking.await.map_err(|_| PullError::Interrupted)?;
        let (store, target) = (Arc::clone(self.store), target.clone());
        match (fetched, unpacked) {
            (Ok(()), Ok(staged)) => {
                Ok(holding(self.lease, move || store.adopt_layer(&staged, &target)).await??)
            }
            (Err(error), Ok(staged)) => {
                let removed = blocking(move || fs::remove_dir_all(&staged)).await?;
                if let Err(error) = removed {
                    tracing::warn!(%error, image = self.name, "what was unpacked of a layer is still there");
                }
                Err(error)
            }
            // It followed what was begun anew: what came in the end is unpacked again.
            (Ok(()), Err(error)) => {
                tracing::info!(error = %crate::error::chain(&error), image = self.name, "a layer is unpacked again");
                Ok(())
            }
            (Err(error), Err(_)) => Err(error),
        }
    }
}

/// Asks a host for a manifest or an index; one that is away for a moment is asked again.
async fn document(way: &Way, source: &Reference, name: &str) -> Result<Document, PullError> {
    let mut tries = fetch::Tries::default();
    let (text, digest) = loop {
        match way.client.pull_manifest_raw(source, &way.auth, ACCEPTED).await {
            Ok(answer) => break answer,
            Err(error) => {
                tries.after(error, "manifest").await.map_err(|error| registry_error(name, error))?;
            }
        }
    };
    let actual = format!("sha256:{}", hex::encode(ring::digest::digest(&SHA256, &text)));
    if actual != digest || source.digest().is_some_and(|wanted| wanted != actual) {
        let expected = source.digest().map_or(digest, str::to_owned);
        return Err(StoreError::Digest { expected, actual }.into());
    }
    Ok(Document { text, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(authority: &str, plain: bool) -> Host {
        Host { plain, ..Registries::default().host(authority) }
    }

    #[test]
    fn a_host_sees_only_credentials_that_are_for_it() {
        let auth = RegistryAuth::Basic("u".to_owned(), "p".to_owned());
        let shown = |meant: &str, to: &Host, registry: &str| {
            let key = Key { auth: auth.clone(), host: meant.to_owned() };
            key.shown_to(to, registry) == auth
        };
        let mirror = host("mirror.local:5000", true);
        assert!(!shown("registry.example", &mirror, "registry.example"));
        assert!(!shown("", &mirror, "registry.example"));
        assert!(shown("mirror.local:5000", &mirror, "registry.example"));
        // The registry itself, and whatever a file puts in its place.
        let own = host("registry.example", false);
        assert!(
            shown("", &own, "registry.example") && shown("registry.example:443", &own, "registry.example")
        );
        assert!(shown("*.example", &own, "registry.example") && !shown("*.other", &own, "registry.example"));
        assert!(!shown("", &host("cache.example", false), "registry.example"));
        assert!(!shown("mirror.local:5000", &own, "registry.example"));
        // The default registry has several names, but none without TLS.
        assert!(shown("index.docker.io", &host("registry-1.docker.io", false), "docker.io"));
        assert!(shown("", &host("index.docker.io", false), "docker.io"));
        assert!(!shown("", &host("registry-1.docker.io", true), "docker.io"));
    }
}
