//! Webhooks as they are configured, ready to be asked.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::admission::{MatchResources, ReviewVersion};
use keelson_api::{GroupResource, Object};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::expression::Conditions;
use crate::cache::{Listing, ResourceCache, WatchCache};
use crate::remote::{Remote, RemoteConfig, ServiceResolver, Target};

/// One webhook.
pub struct Hook {
    /// Its name, such as `pods.example.com`.
    pub name: String,
    /// The name of its configuration.
    pub configuration: String,
    /// What tells it apart from all others, over all changes of its configuration.
    pub id: String,
    /// What it is asked about.
    pub matches: MatchResources,
    /// Whether a request goes on when it cannot be asked.
    pub ignores_failure: bool,
    /// Whether it may be asked about requests that store nothing.
    pub allows_dry_run: bool,
    /// Whether it is asked again when a later one has changed the object.
    pub reinvokes: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// When it is asked; the text says what is wrong with the conditions.
    pub conditions: Result<Conditions, String>,
    /// The review that is spoken with it.
    pub version: Option<ReviewVersion>,
    /// The way to it; the text says why there is none.
    pub remote: Result<Remote, String>,
}

/// All webhooks of one kind of configuration, in the order of the configurations' names.
pub struct Hooks {
    cache: Arc<ResourceCache>,
    resolver: Arc<ServiceResolver>,
    state: Mutex<State>,
}

struct State {
    newest: watch::Receiver<u64>,
    /// Which configurations were read.
    read: Vec<(Box<str>, u64)>,
    hooks: Arc<[Arc<Hook>]>,
    remotes: Vec<(RemoteConfig, Remote)>,
}

/// The server of a `clientConfig`; the text says what is wrong with it.
pub fn client_config(config: &Value) -> Result<RemoteConfig, String> {
    let target = match (config["url"].as_str(), config["service"].as_object()) {
        (Some(url), _) => Target::Url(url.to_owned()),
        (None, Some(service)) => {
            let text =
                |field: &str| service.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let port = service.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            let (namespace, name, path) = (text("namespace"), text("name"), text("path"));
            Target::Service { namespace, name, port: port.unwrap_or(443), path }
        }
        (None, None) => return Err("webhook configuration must have either service or URL".to_owned()),
    };
    let bundle = config["caBundle"].as_str().filter(|bundle| !bundle.is_empty());
    let bundle = bundle.map(|bundle| STANDARD.decode(bundle)).transpose();
    let ca_bundle = bundle.map_err(|error| format!("caBundle: {error}"))?;
    Ok(RemoteConfig { ca_bundle, timeout: Duration::from_secs(30), ..RemoteConfig::new(target) })
}

impl Hooks {
    /// The webhooks of a resource of configurations, such as `mutatingwebhookconfigurations`.
    pub fn new(plural: &str, cache: &WatchCache, resolver: Arc<ServiceResolver>) -> Self {
        let cache = cache.resource(&GroupResource::new(keelson_api::admission::GROUP, plural));
        let mut newest = cache.follow();
        newest.mark_changed();
        let state = State { newest, read: Vec::new(), hooks: Arc::default(), remotes: Vec::new() };
        Hooks { cache, resolver, state: Mutex::new(state) }
    }

    /// The webhooks that are configured now.
    pub fn current(&self) -> Arc<[Arc<Hook>]> {
        let mut state = self.state.lock();
        if state.newest.has_changed().unwrap_or(true) {
            state.newest.borrow_and_update();
            state.compile(&self.cache.list(), &self.resolver);
        }
        Arc::clone(&state.hooks)
    }
}

impl State {
    fn compile(&mut self, listing: &Listing, resolver: &Arc<ServiceResolver>) {
        let seen = || listing.objects.values().map(|object| (&object.name, object.revision));
        if self.read.iter().map(|(name, revision)| (name, *revision)).eq(seen()) {
            return;
        }
        self.read = seen().map(|(name, revision)| (name.clone(), revision)).collect();
        let mut hooks = Vec::new();
        let mut remotes = Vec::new();
        for object in listing.objects.values() {
            let Ok(configuration) = Object::from_slice(&object.bytes) else {
                tracing::error!(object = &*object.name, "a stored webhook configuration cannot be read");
                continue;
            };
            let list = configuration.get(&["webhooks"]).and_then(Value::as_array);
            for hook in list.into_iter().flatten() {
                let remote = client_config(&hook["clientConfig"])
                    .and_then(|config| self.remote(config, &mut remotes, resolver));
                hooks.extend(read(hook, &configuration, remote).map(Arc::new));
            }
        }
        self.hooks = hooks.into();
        self.remotes = remotes;
    }

    /// A way that is there already keeps its connections.
    fn remote(
        &self,
        config: RemoteConfig,
        remotes: &mut Vec<(RemoteConfig, Remote)>,
        resolver: &Arc<ServiceResolver>,
    ) -> Result<Remote, String> {
        if let Some((_, found)) = remotes.iter().find(|(known, _)| *known == config) {
            return Ok(found.clone());
        }
        if let Some((_, found)) = self.remotes.iter().find(|(known, _)| *known == config) {
            remotes.push((config, found.clone()));
            return Ok(found.clone());
        }
        let made = Remote::new(config.clone(), resolver).map_err(|error| error.to_string())?;
        remotes.push((config, made.clone()));
        Ok(made)
    }
}

fn read(hook: &Value, configuration: &Object, remote: Result<Remote, String>) -> Option<Hook> {
    let name = hook["name"].as_str().unwrap_or_default().to_owned();
    let matches = match MatchResources::read(hook) {
        Ok(matches) => matches,
        Err(error) => {
            tracing::error!(%error, webhook = name, "the selectors of a webhook cannot be read");
            return None;
        }
    };
    let text = |field: &str| hook[field].as_str().unwrap_or_default();
    let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
    let own = configuration.name().unwrap_or_default();
    Some(Hook {
        id: format!("{own}/{}/{name}", configuration.uid().unwrap_or_default()),
        configuration: own.to_owned(),
        matches,
        ignores_failure: text("failurePolicy") == "Ignore",
        allows_dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
        reinvokes: text("reinvocationPolicy") == "IfNeeded",
        timeout: Duration::from_secs(seconds),
        conditions: Conditions::read(&hook["matchConditions"], false),
        version: ReviewVersion::choose(versions),
        remote,
        name,
    })
}
