//! Groups that other API servers serve, as APIServices say.
//!
//! - [`registration`]: an APIService for each group and version that this server serves itself
//! - [`availability`]: whether the others can be reached, and what they serve
//! - [`openapi`]: what they say of their paths
//! - [`identity`]: how they learn who asks, and whom to believe that
//!
//! One task follows the APIServices and has a further one for each that leads elsewhere. Without such, nothing is done
//! for a request but to look at an empty map.
//!
//! **Invariant: an APIService that is gone leads nowhere from the moment of its deletion**, whatever the task has seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::body::Body;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use keelson_api::{Catalog, GroupResource, Object, ResourceInfo, Status};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::cache::{self, ResourceCache};
use crate::identity::Identity;
use crate::pki::{Pki, PkiError, Renewed};
use crate::proxy::forward::{self, Outward};
use crate::registry::Registry;
use crate::remote::{ClientCertificate, Credentials, Remote, RemoteConfig, ServiceResolver, Target};

pub mod availability;
pub mod identity;
pub mod openapi;
pub mod registration;

pub use availability::Seen;

/// How long an extension API server may take until it begins to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The group of APIServices.
pub const GROUP: &str = "apiregistration.k8s.io";
/// Their plural.
pub const PLURAL: &str = "apiservices";

fn api_services() -> GroupResource {
    GroupResource::new(GROUP, PLURAL)
}

/// A group and version that another server serves.
pub struct Extension {
    /// The APIService's name.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// `groupPriorityMinimum` and `versionPriority`.
    pub priority: (i64, i64),
    /// Namespace, name and port of the Service.
    pub service: (String, String, u16),
    /// What was seen of the server last.
    pub seen: ArcSwap<Seen>,
    /// What it said of its paths last.
    pub swagger: ArcSwapOption<openapi::Swagger>,
    uid: String,
    spec: Value,
    /// The connections to it, or why there are none.
    remote: Result<Remote, String>,
    _watched: DropGuard,
}

/// The groups that other servers serve.
pub struct Aggregation {
    cache: Arc<ResourceCache>,
    extensions: ArcSwap<BTreeMap<String, Arc<Extension>>>,
    resolver: Arc<ServiceResolver>,
    certificate: Arc<Renewed>,
    authority: String,
}

impl Aggregation {
    /// Nothing is aggregated until [`Aggregation::run`] does. The identity is that of the front proxy's authority.
    pub fn new(pki: &Pki, registry: &Registry, resolver: Arc<ServiceResolver>) -> Result<Self, PkiError> {
        let front = Arc::new(pki.front_proxy()?);
        let certificate = Renewed::client(Arc::clone(&front), identity::CLIENT)?;
        Ok(Aggregation {
            cache: registry.resource(&api_services()),
            extensions: ArcSwap::default(),
            resolver,
            certificate,
            authority: front.authority().to_owned(),
        })
    }

    /// The certificate by which extension API servers know this server; somebody has to keep it.
    pub fn certificate(&self) -> &Arc<Renewed> {
        &self.certificate
    }

    /// The certificate, in PEM, of the authority by whose certificates extension API servers know this server.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The extensions, by group in the order of their priority, then by version.
    pub fn extensions(&self) -> Vec<Arc<Extension>> {
        let map = self.extensions.load();
        let mut all: Vec<_> = map.values().filter(|it| self.is_there(it)).cloned().collect();
        all.sort_by_key(|it| (-it.priority.0, it.group.clone(), -it.priority.1, it.version.clone()));
        all
    }

    /// The extension that serves a path: one of its group and version, or its OpenAPI document.
    pub fn find(&self, path: &str) -> Option<Arc<Extension>> {
        let map = self.extensions.load();
        if map.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let first = parts.next()?;
        let is_apis = match first {
            "apis" => true,
            "openapi" => parts.next() == Some("v3") && parts.next() == Some("apis"),
            _ => false,
        };
        let (group, version) = (parts.next().filter(|_| is_apis)?, parts.next()?);
        map.get(&format!("{version}.{group}")).filter(|it| self.is_there(it)).cloned()
    }

    fn is_there(&self, extension: &Extension) -> bool {
        self.cache.get(&extension.name).is_some()
    }

    /// Follows the APIServices until it is told to stop.
    pub async fn run(self: Arc<Self>, registry: Arc<Registry>, stop: CancellationToken) {
        let mut newest = self.cache.follow();
        loop {
            newest.borrow_and_update();
            self.take_up(&registry, &stop);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = newest.changed() => if changed.is_err() { return },
            }
        }
    }

    fn take_up(self: &Arc<Self>, registry: &Arc<Registry>, stop: &CancellationToken) {
        let (before, catalog) = (self.extensions.load_full(), registry.catalog());
        let mut after = BTreeMap::new();
        let mut is_changed = false;
        for stored in self.cache.list().objects.values() {
            let object = match cache::decode(&stored.bytes) {
                Ok(object) => object,
                Err(error) => {
                    tracing::error!(%error, object = &*stored.name, "a stored APIService cannot be read");
                    continue;
                }
            };
            let Some(name) = object.name().filter(|_| is_elsewhere(&object, &catalog)) else { continue };
            let spec = object.get(&["spec"]).cloned().unwrap_or_default();
            let known =
                before.get(name).filter(|it| it.spec == spec && Some(it.uid.as_str()) == object.uid());
            let extension = known.cloned().unwrap_or_else(|| {
                is_changed = true;
                self.begin(&object, spec, registry, stop)
            });
            after.insert(name.to_owned(), extension);
        }
        if is_changed || after.len() != before.len() {
            self.extensions.store(Arc::new(after));
        }
    }

    /// Takes up an APIService that is new or another one than before.
    fn begin(
        &self,
        object: &Object,
        spec: Value,
        registry: &Arc<Registry>,
        stop: &CancellationToken,
    ) -> Arc<Extension> {
        let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
        let of_service = |field: &str| spec["service"][field].as_str().unwrap_or_default().to_owned();
        let port = spec["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
        let service = (of_service("namespace"), of_service("name"), port);
        let number = |field: &str| spec[field].as_i64().unwrap_or_default();
        let watched = stop.child_token();
        let extension = Arc::new(Extension {
            name: object.name().unwrap_or_default().to_owned(),
            group: text("group"),
            version: text("version"),
            priority: (number("groupPriorityMinimum"), number("versionPriority")),
            remote: self.remote(&spec, &service),
            service,
            seen: ArcSwap::from_pointee(Seen::of_status(object)),
            swagger: ArcSwapOption::empty(),
            uid: object.uid().unwrap_or_default().to_owned(),
            spec,
            _watched: watched.clone().drop_guard(),
        });
        tokio::spawn(availability::watch(Arc::downgrade(&extension), Arc::clone(registry), watched));
        extension
    }

    fn remote(&self, spec: &Value, service: &(String, String, u16)) -> Result<Remote, String> {
        let (namespace, name, port) = service.clone();
        let mut config = RemoteConfig::new(Target::Service { namespace, name, port, path: String::new() });
        let bundle = spec["caBundle"].as_str().filter(|bundle| !bundle.is_empty());
        let bundle = bundle.map(|bundle| STANDARD.decode(bundle)).transpose();
        config.ca_bundle = bundle.map_err(|error| format!("caBundle: {error}"))?;
        config.insecure_skip_tls_verify = spec["insecureSkipTLSVerify"] == true;
        config.credentials = Credentials {
            certificate: Some(ClientCertificate::Renewed(Arc::clone(&self.certificate))),
            ..Credentials::default()
        };
        config.timeout = PATIENCE;
        Remote::new(config, &self.resolver).map_err(|error| crate::proxy::chain(&error))
    }
}

/// Whether an APIService leads to another server. What is built into this one is served by nobody else.
fn is_elsewhere(object: &Object, catalog: &Catalog) -> bool {
    let text = |field: &str| object.get_str(&["spec", field]).unwrap_or_default();
    let (group, version) = (text("group"), text("version"));
    let is_own = |it: &Arc<ResourceInfo>| it.custom.is_none() && it.group == group && it.version == version;
    object.get(&["spec", "service"]).is_some_and(Value::is_object) && !catalog.resources().iter().any(is_own)
}

impl Extension {
    /// Passes a request on, in the caller's name.
    pub async fn serve(&self, who: &Identity, request: Request<Body>) -> Result<Response, Status> {
        if !self.seen.load().available {
            return Err(Status::unavailable("service unavailable"));
        }
        let remote = self.remote.as_ref().map_err(Status::internal)?;
        let uri: Uri = request
            .uri()
            .path_and_query()
            .map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())
            .map_err(|error: http::uri::InvalidUri| Status::bad_request(error.to_string()))?;
        let mut outward = Outward::new(request);
        identity::tell(&mut outward.headers, who)?;
        outward.headers.remove(header::CONTENT_LENGTH);
        let upgrade = outward.take_upgrade();
        let body = crate::http::body::read(outward.body).await?;
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) =
            (outward.method, uri, outward.headers);
        let response = remote.send(request).await.map_err(|error| {
            Status::unavailable(format!("error trying to reach service: {}", crate::proxy::chain(&error)))
        })?;
        Ok(forward::answer(response, upgrade))
    }

    /// A document of the server, asked for in this server's own name, and read up to `limit` bytes.
    async fn document(&self, path: &str, limit: usize) -> Result<Value, String> {
        let response = self.ask(path, None).await?;
        if !response.status().is_success() {
            let code = response.status().as_u16();
            let url = self.remote.as_ref().map_or("", |remote| remote.url());
            return Err(format!("bad status from {url}{path}: {code}"));
        }
        read(response, limit).await
    }

    /// Asks the server for a document in this server's own name, unless it is still the one of this tag.
    async fn ask(&self, path: &str, known: Option<&str>) -> Result<Response<Incoming>, String> {
        let remote = self.remote.as_ref().map_err(Clone::clone)?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::ACCEPT, json);
        if let Some(known) = known.and_then(|known| known.parse().ok()) {
            request.headers_mut().insert(header::IF_NONE_MATCH, known);
        }
        let own = Identity::user("system:kube-aggregator", &[crate::identity::MASTERS]);
        identity::tell(request.headers_mut(), &own).map_err(|status| status.message)?;
        remote.send(request).await.map_err(|error| crate::proxy::chain(&error))
    }
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Value, String> {
    let body = http_body_util::Limited::new(response.into_body(), limit);
    let bytes = http_body_util::BodyExt::collect(body).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes.to_bytes()).map_err(|error| error.to_string())
}
