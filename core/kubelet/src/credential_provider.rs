//! Image credential provider plugins: programs that the node's owner names, which are asked for the credentials of registries as upstream's
//! kubelet asks them (`credentialprovider.kubelet.k8s.io`).
//!
//! - `configuration`: who they are, a `CredentialProviderConfig`; `pattern` (pure): for which images
//! - `account` (client): in whose name they are asked, where they ask for that
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

mod account;
mod cache;
mod configuration;
mod exchange;
mod pattern;
mod run;

pub use configuration::{CredentialProviderError, CredentialProviders};

use account::{Account, Accounts};
use cache::Cache;
use configuration::Provider;
use exchange::{Answer, ExchangeError};
use pattern::Pattern;

use crate::image::records::PullAccount;
use crate::pod::PodModel;

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
#[derive(Default)]
pub(crate) struct Plugins {
    all: Vec<Arc<Plugin>>,
    /// Where one of them asks for it.
    accounts: Option<Accounts>,
}

/// Credentials, and in the name of which account they were given; in nobody's if `None`.
pub(crate) type Provided = (AuthConfig, Option<PullAccount>);

/// An answer, and in whose name it was given.
type Answered = (Arc<Auths>, Option<PullAccount>);

#[derive(Debug)]
struct Plugin {
    provider: Provider,
    program: PathBuf,
    counted: Counted,
    cache: Mutex<Cache>,
    /// By image and in whose name.
    runs: Mutex<HashMap<(String, String), Run>>,
    room: Semaphore,
}

impl Plugins {
    pub(crate) fn new(
        configured: Option<&CredentialProviders>,
        client: &kube::Client,
        counted: &Counted,
    ) -> Self {
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
        let all: Vec<_> = all.map(plugin).collect();
        let by_account = all.iter().any(|plugin| plugin.provider.token_attributes.is_some());
        Plugins { accounts: by_account.then(|| Accounts::new(client.clone())), all }
    }

    /// Forgets the tokens of a pod.
    pub(crate) fn forget(&self, uid: &str) {
        if let Some(accounts) = &self.accounts {
            accounts.forget(uid);
        }
    }

    /// Whether pods get credentials for a repository in the name of their accounts.
    pub(crate) fn ask_by_account(&self, repository: &str) -> bool {
        let Ok(image) = Pattern::parse(repository) else { return false };
        let asks = |provider: &Provider| provider.token_attributes.is_some() && provider.fits(&image);
        self.all.iter().any(|plugin| asks(&plugin.provider))
    }

    /// The credentials for a repository, `HOST/PATH`, that a pod wants, the most specific ones first. A plugin that fails is told in the
    /// log, and the image is tried without.
    pub(crate) async fn find(&self, repository: &str, pod: &PodModel) -> Vec<Provided> {
        let Ok(image) = Pattern::parse(repository) else { return Vec::new() };
        let asked = self.all.iter().filter(|plugin| plugin.provider.fits(&image));
        let answers = futures::future::join_all(asked.map(|plugin| self.ask(plugin, repository, pod))).await;
        choose(answers.iter().flatten(), repository, &image)
    }

    /// What one plugin says, in the name of the pod's account if it asks for that.
    async fn ask(&self, plugin: &Arc<Plugin>, repository: &str, pod: &PodModel) -> Option<Answered> {
        let account = match (&plugin.provider.token_attributes, &self.accounts) {
            (Some(attributes), Some(accounts)) => match accounts.of(attributes, pod).await {
                Ok(account) => account,
                Err(error) => {
                    let (plugin, object) = (plugin.provider.name.as_str(), pod.object());
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    if error.is_choice() {
                        tracing::debug!(plugin, object, %error, "a credential provider is not asked");
                    } else {
                        tracing::error!(plugin, object, %error, cause, "a credential provider is not asked");
                    }
                    return None;
                }
            },
            (Some(_), None) => return None,
            (None, _) => Account::default(),
        };
        let coordinates = account.coordinates.clone();
        let auths = Arc::clone(plugin).credentials(repository, account).await?;
        Some((auths, coordinates))
    }
}

/// (pure) What of all answers is for an image.
fn choose<'a>(
    answers: impl Iterator<Item = &'a Answered>,
    repository: &str,
    image: &Pattern,
) -> Vec<Provided> {
    let mut all: BTreeMap<String, Vec<Provided>> = BTreeMap::new();
    for (auths, account) in answers {
        for (location, auth) in &**auths {
            let auth = AuthConfig {
                username: auth.username.clone(),
                password: auth.password.clone(),
                ..AuthConfig::default()
            };
            all.entry(key(location)).or_default().push((auth, account.clone()));
        }
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
    async fn credentials(self: Arc<Self>, repository: &str, account: Account) -> Option<Arc<Auths>> {
        if let Some(known) = self.cache.lock().get(repository, &account.kept_for, Instant::now()) {
            return Some(known);
        }
        let key = (repository.to_owned(), account.run_for.clone());
        let run = {
            let mut runs = self.runs.lock();
            let begin = || {
                let (plugin, own) = (Arc::clone(&self), key.clone());
                // It goes on when the pod that it was begun for ends: others may wait.
                let task = tokio::spawn(async move {
                    let answer = plugin.ask(&own.0, &account).await;
                    plugin.runs.lock().remove(&own);
                    answer
                });
                let (plugin, own) = (Arc::clone(&self), key.clone());
                let end = async move {
                    task.await.unwrap_or_else(|error| {
                        tracing::error!(%error, plugin = plugin.provider.name, "a question for credentials broke off");
                        plugin.runs.lock().remove(&own);
                        None
                    })
                };
                end.boxed().shared()
            };
            runs.entry(key.clone()).or_insert_with(begin).clone()
        };
        run.await
    }

    async fn ask(&self, image: &str, account: &Account) -> Option<Arc<Auths>> {
        let _permit = self.room.acquire().await.ok()?;
        let plugin = self.provider.name.as_str();
        let answer = match self.exchange(image, account).await {
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
        let key = (image, account.kept_for.as_str());
        self.cache.lock().put(key, answer.cache_key_type, &auths, lasts, now);
        Some(auths)
    }

    async fn exchange(&self, image: &str, account: &Account) -> Result<Answer, ExchangeError> {
        let (provider, began) = (&self.provider, Instant::now());
        let question = exchange::question(&provider.api_version, image, account);
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
