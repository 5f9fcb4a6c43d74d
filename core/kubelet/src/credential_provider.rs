//! Image credential provider plugins: programs that the node's owner names, which are asked for the credentials of registries as upstream's
//! kubelet asks them (`credentialprovider.kubelet.k8s.io`).
//!
//! - `configuration`: who they are, a `CredentialProviderConfig`; `pattern` (pure): for which images
//! - `exchange`: question and answer; `run` (client): the program; `cache` (pure): answers that are still good
//!
//! What a plugin answers is nowhere but in memory, and never in a log. Answers are found again by image, by registry or for all, as the
//! plugin says; several pods that want one image at the same time share one run.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use keelson_cri::v1::AuthConfig;
use keelson_metrics::{HistogramVec, IntCounterVec};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

mod cache;
mod configuration;
mod exchange;
mod pattern;
mod run;

pub use configuration::{CredentialProviderError, CredentialProviders};

use cache::Cache;
use configuration::Provider;
use exchange::{Answer, ExchangeError};
use pattern::Pattern;

/// Runs of one plugin at a time.
const RUNS: usize = 16;
/// The key of what is for all images of Docker's own registry.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Users and passwords by what they are for.
type Auths = BTreeMap<String, exchange::Auth>;

/// A run that others may wait for too.
type Run = Shared<BoxFuture<'static, Option<Arc<Auths>>>>;

/// What is counted of plugins, by their names.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// Runs that failed.
    pub(crate) errors: IntCounterVec,
    /// Seconds of all runs.
    pub(crate) duration: HistogramVec,
}

impl Counted {
    fn ended(&self, plugin: &str, took: Duration, failed: bool) {
        self.duration.with_label_values(&[plugin]).observe(took.as_secs_f64());
        if failed {
            self.errors.with_label_values(&[plugin]).inc();
        }
    }
}

/// The plugins of a node; none where none are configured.
#[derive(Debug, Default)]
pub(crate) struct Plugins(Vec<Arc<Plugin>>);

#[derive(Debug)]
struct Plugin {
    provider: Provider,
    program: PathBuf,
    counted: Counted,
    cache: Mutex<Cache>,
    /// By image.
    runs: Mutex<HashMap<String, Run>>,
    room: Semaphore,
}

impl Plugins {
    pub(crate) fn new(configured: Option<&CredentialProviders>, counted: &Counted) -> Self {
        let all = configured.into_iter().flat_map(|all| all.each());
        let plugin = |(program, provider): (PathBuf, &Provider)| {
            Arc::new(Plugin {
                provider: provider.clone(),
                program,
                counted: counted.clone(),
                cache: Mutex::new(Cache::new(Instant::now())),
                runs: Mutex::default(),
                room: Semaphore::new(RUNS),
            })
        };
        Plugins(all.map(plugin).collect())
    }

    /// The credentials for a repository, `HOST/PATH`, the most specific ones first. A plugin that fails is told in the log, and the image
    /// is tried without.
    pub(crate) async fn find(&self, repository: &str) -> Vec<AuthConfig> {
        let Ok(image) = Pattern::parse(repository) else { return Vec::new() };
        let asked = self.0.iter().filter(|plugin| plugin.provider.fits(&image));
        let answers =
            futures::future::join_all(asked.map(|plugin| Arc::clone(plugin).credentials(repository)));
        let answers = answers.await;
        choose(answers.iter().flatten().map(|auths| &**auths), repository, &image)
    }
}

/// (pure) What of all answers is for an image.
fn choose<'a>(
    answers: impl Iterator<Item = &'a Auths>,
    repository: &str,
    image: &Pattern,
) -> Vec<AuthConfig> {
    let mut all: BTreeMap<String, Vec<AuthConfig>> = BTreeMap::new();
    for (location, auth) in answers.flatten() {
        let auth = AuthConfig {
            username: auth.username.clone(),
            password: auth.password.clone(),
            ..AuthConfig::default()
        };
        all.entry(key(location)).or_default().push(auth);
    }
    let fits = |key: &str| Pattern::parse(key).is_ok_and(|pattern| pattern.fits(image));
    let found: Vec<_> =
        all.iter().rev().filter(|(key, _)| fits(key)).flat_map(|(_, all)| all.clone()).collect();
    if found.is_empty() && repository.starts_with("docker.io/") {
        return all.remove(DEFAULT_REGISTRY).unwrap_or_default();
    }
    found
}

/// (pure) `HOST[/PATH]` of what credentials are said to be for, without scheme and version of the registry's interface.
fn key(location: &str) -> String {
    let rest =
        location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let path = path
        .strip_prefix("/v1")
        .or_else(|| path.strip_prefix("/v2"))
        .filter(|it| it.starts_with('/'))
        .unwrap_or(path);
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

impl Plugin {
    /// What the plugin says now, or has said before; `None` when it fails.
    async fn credentials(self: Arc<Self>, repository: &str) -> Option<Arc<Auths>> {
        if let Some(known) = self.cache.lock().get(repository, Instant::now()) {
            return Some(known);
        }
        let run = {
            let mut runs = self.runs.lock();
            let begin = || {
                let (plugin, image) = (Arc::clone(&self), repository.to_owned());
                // It goes on when the pod that it was begun for ends: others may wait.
                let task = tokio::spawn(async move {
                    let answer = plugin.ask(&image).await;
                    plugin.runs.lock().remove(&image);
                    answer
                });
                let (plugin, image) = (Arc::clone(&self), repository.to_owned());
                let end = async move {
                    task.await.unwrap_or_else(|error| {
                        tracing::error!(%error, plugin = plugin.provider.name, "a question for credentials broke off");
                        plugin.runs.lock().remove(&image);
                        None
                    })
                };
                end.boxed().shared()
            };
            runs.entry(repository.to_owned()).or_insert_with(begin).clone()
        };
        run.await
    }

    async fn ask(&self, image: &str) -> Option<Arc<Auths>> {
        let _permit = self.room.acquire().await.ok()?;
        let plugin = self.provider.name.as_str();
        let answer = match self.exchange(image).await {
            Ok(answer) => answer,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(plugin, image, %error, cause, "Failed getting credential from external registry credential provider");
                return None;
            }
        };
        let now = Instant::now();
        let auths = Arc::new(answer.auth);
        let lasts = answer.cache_duration.map_or(self.provider.cache_duration(), |told| told.0);
        self.cache.lock().put(image, answer.cache_key_type, &auths, lasts, now);
        Some(auths)
    }

    async fn exchange(&self, image: &str) -> Result<Answer, ExchangeError> {
        let (provider, began) = (&self.provider, Instant::now());
        let question = exchange::question(&provider.api_version, image);
        let env = provider.env.iter().map(|one| (one.name.as_str(), one.value.as_str()));
        let output = run::run(&self.program, &provider.args, env, question.as_bytes()).await;
        self.counted.ended(&provider.name, began.elapsed(), output.is_err());
        let output = output.map_err(|source| ExchangeError::Run {
            plugin: provider.name.clone(),
            image: image.to_owned(),
            source,
        })?;
        exchange::answer(&provider.api_version, &output)
    }
}

#[cfg(test)]
mod tests;
