//! The driver: watches fill informers, changes put keys into queues, keys are reconciled.
//!
//! It is the one place where a reconcile is started, its failure logged, and the next look at the object decided.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::informer::{Change, Informer};
use crate::operator::{Context, Error};
use crate::work_queue::WorkQueue;

/// How long reconciles under way may take to end when the operator has to.
const FAREWELL: Duration = Duration::from_secs(5);

/// When an object is looked at again after a look that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When it changes.
    OnChange,
    /// When it changes, or after this time.
    After(Duration),
}

/// What becomes of an object whose reconcile failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Another try after a growing pause.
    Retry,
    /// It is not valid: it has to change first.
    AwaitChange,
}

/// The error of a reconcile.
pub trait Fault: StdError + Send + Sync + 'static {
    /// What becomes of the object.
    fn policy(&self) -> Policy {
        Policy::Retry
    }
}

impl Fault for kube::Error {}

type Task = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The tasks of one operator. Build it up, then [`Controller::run`] it.
pub struct Controller {
    context: Context,
    watches: Vec<(&'static str, Task)>,
    synced: Vec<BoxFuture<'static, ()>>,
    workers: Vec<(&'static str, Task)>,
}

impl Controller {
    /// The controller of an operator.
    pub fn new(context: &Context) -> Self {
        Controller { context: context.clone(), watches: Vec::new(), synced: Vec::new(), workers: Vec::new() }
    }

    /// Keeps `informer` up to date with what `api` holds. `read` says what to keep of an object; its managed fields are
    /// gone before.
    pub fn watch<K, V>(
        &mut self,
        api: Api<K>,
        config: watcher::Config,
        informer: &Informer<V>,
        read: impl Fn(K) -> Option<V> + Send + Sync + 'static,
        on_change: impl Fn(&Change<V>) + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        V: Send + Sync + 'static,
    {
        self.watch_events(watcher(api, config), informer, read, on_change);
    }

    /// As [`Controller::watch`], from any stream of watch events.
    pub fn watch_events<K, V>(
        &mut self,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        informer: &Informer<V>,
        read: impl Fn(K) -> Option<V> + Send + Sync + 'static,
        on_change: impl Fn(&Change<V>) + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
        V: Send + Sync + 'static,
    {
        let (informer, waiting) = (informer.clone(), informer.clone());
        let events = events.default_backoff().modify(|object| object.meta_mut().managed_fields = None);
        self.synced.push(Box::pin(async move { waiting.synced().await }));
        self.watches.push((
            "watch",
            Box::pin(async move {
                informer.follow(events, &K::kind(&()), read, on_change).await;
                Ok(())
            }),
        ));
    }

    /// Reconciles the keys of `queue`, at most `at_once` at the same time, once all informers know all objects.
    pub fn reconcile<K, F, Fut, E>(&mut self, queue: &WorkQueue<K>, at_once: usize, reconcile: F)
    where
        K: Clone + Ord + Hash + Display + Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Next, E>> + Send + 'static,
        E: Fault,
    {
        let (queue, shutdown) = (queue.clone(), self.context.shutdown.clone());
        let name = Arc::clone(&self.context.name);
        self.workers.push(("reconcile", Box::pin(work(name, queue, at_once, shutdown, reconcile))));
    }

    /// Adds a task that runs from the start until shutdown, and what has to come about before anything is reconciled.
    pub fn source(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
        synced: impl Future<Output = ()> + Send + 'static,
    ) {
        self.watches.push((name, Box::pin(task)));
        self.synced.push(Box::pin(synced));
    }

    /// Adds a task that runs from when all informers know all objects until shutdown.
    pub fn task(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        self.workers.push((name, Box::pin(task)));
    }

    /// Runs everything until the operator has to end, or one of its tasks does.
    pub async fn run(self) -> Result<(), Error> {
        let Controller { context, watches, synced, workers } = self;
        let mut tasks = JoinSet::new();
        let spawn = |tasks: &mut JoinSet<_>, (name, task): (&'static str, Task)| {
            tasks.spawn(async move { (name, std::panic::AssertUnwindSafe(task).catch_unwind().await) });
        };
        for watch in watches {
            spawn(&mut tasks, watch);
        }
        tokio::select! {
            _ = futures::future::join_all(synced) => {}
            ended = tasks.join_next(), if !tasks.is_empty() => return early(ended),
            () = context.shutdown.cancelled() => return Ok(()),
        }
        context.ready();
        let mut working = JoinSet::new();
        for worker in workers {
            spawn(&mut working, worker);
        }
        tokio::select! {
            ended = tasks.join_next(), if !tasks.is_empty() => early(ended),
            ended = working.join_next(), if !working.is_empty() => {
                if context.shutdown.is_cancelled() { Ok(()) } else { early(ended) }
            }
            () = context.shutdown.cancelled() => {
                // What is under way ends in order; what does not is dropped with the set.
                let all = async { while working.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(FAREWELL, all).await;
                Ok(())
            }
        }
    }
}

type Ended = Option<Result<(&'static str, Result<Result<(), Error>, Box<dyn Any + Send>>), JoinError>>;

fn early(ended: Ended) -> Result<(), Error> {
    match ended {
        Some(Ok((task, Ok(Ok(()))))) => Err(Error::EndedEarly { task }),
        Some(Ok((_, Ok(Err(error))))) => Err(error),
        Some(Ok((task, Err(panic)))) => Err(Error::Panicked { task, message: panic_message(&*panic) }),
        Some(Err(error)) => Err(Error::failed("run the tasks of the operator", error)),
        None => Err(Error::EndedEarly { task: "all" }),
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

async fn work<K, F, Fut, E>(
    name: Arc<str>,
    queue: WorkQueue<K>,
    at_once: usize,
    shutdown: CancellationToken,
    reconcile: F,
) -> Result<(), Error>
where
    K: Clone + Ord + Hash + Display + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Fault,
{
    let mut active: JoinSet<(K, Result<Next, E>)> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = active.join_next() => finish(&name, &queue, ended)?,
            key = queue.next(), if active.len() < at_once => {
                let span = tracing::debug_span!("reconcile", controller = %name, object = %key);
                let look = reconcile(key.clone());
                active.spawn(async move { (key, look.await) }.instrument(span));
            }
        }
    }
    while let Some(ended) = active.join_next().await {
        finish(&name, &queue, ended)?;
    }
    Ok(())
}

fn finish<K, E>(
    name: &str,
    queue: &WorkQueue<K>,
    ended: Result<(K, Result<Next, E>), JoinError>,
) -> Result<(), Error>
where
    K: Clone + Ord + Hash + Display,
    E: Fault,
{
    let (key, outcome) = match ended {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => {
            let message = panic_message(&*error.into_panic());
            return Err(Error::Panicked { task: "reconcile", message });
        }
        Err(error) => return Err(Error::failed("reconcile", error)),
    };
    match outcome {
        Ok(next) => {
            queue.done(&key);
            if let Next::After(pause) = next {
                queue.add_after(key, pause);
            }
        }
        Err(error) if error.policy() == Policy::AwaitChange => {
            queue.done(&key);
            tracing::warn!(controller = name, object = %key, error = &error as &dyn StdError, "an object is invalid");
        }
        Err(error) => {
            let pause = queue.failed(&key);
            // That somebody else was faster is a matter of course.
            if is_conflict(&error) {
                tracing::debug!(controller = name, object = %key, error = &error as &dyn StdError, "a reconcile came too late");
            } else {
                tracing::warn!(controller = name, object = %key, ?pause, error = &error as &dyn StdError, "a reconcile failed");
            }
        }
    }
    Ok(())
}

/// The API's answer that is the cause of an error.
pub fn api_status<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a kube::core::Status> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            return Some(status);
        }
        cause = error.source();
    }
    None
}

/// Whether the cause of an error is that the object has changed meanwhile.
pub fn is_conflict(error: &(dyn StdError + 'static)) -> bool {
    api_status(error).is_some_and(kube::core::Status::is_conflict)
}

/// Whether the cause of an error is that the object is not there.
pub fn is_not_found(error: &(dyn StdError + 'static)) -> bool {
    api_status(error).is_some_and(kube::core::Status::is_not_found)
}

/// What a write has answered; `None` where its object is gone: its watch is on the way.
pub fn unless_gone<T, E: StdError + 'static>(written: Result<T, E>) -> Result<Option<T>, E> {
    match written {
        Err(error) if is_not_found(&error) => Ok(None),
        written => written.map(Some),
    }
}

/// As [`unless_gone`]; `None` also where the object has changed meanwhile: it is looked at again.
pub fn unless_changed<T, E: StdError + 'static>(written: Result<T, E>) -> Result<Option<T>, E> {
    match written {
        Err(error) if is_conflict(&error) => Ok(None),
        written => unless_gone(written),
    }
}
