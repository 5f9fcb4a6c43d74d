//! The frame of an operator: what it knows of the cluster, filled by watches, and a queue of what is to be looked at.
//!
//! An operator says what it watches, what it keeps of that and what is to be looked at after a change ([`Observe`]), and
//! what a look is (a function that [`run`] is given). An operator with several queues builds its own
//! [`Controller`](crate::controller::Controller).

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::controller::{Controller, Fault, Next};
use crate::informer::{Change, Informer};
use crate::operator::{Context, Error};
use crate::recorder::Recorder;
use crate::work_queue::WorkQueue;

/// What an operator knows of the cluster: its informers, and whatever else bridges the time between two looks.
pub trait Observe: Sized + Send + Sync + 'static {
    /// What is looked at: the key of an object, or a [`Subject`](crate::subject::Subject) of one of several kinds.
    type Subject: Clone + Ord + Hash + Display + Send + Sync + 'static;

    /// Says what is watched.
    fn watch(watches: &mut Watches<'_, Self>);
}

/// Everything that the looks of an operator read, and what they write with.
pub struct World<O: Observe> {
    /// The API.
    pub client: Client,
    /// Writes Events.
    pub recorder: Recorder,
    /// What is to be looked at.
    pub queue: WorkQueue<O::Subject>,
    /// What is known of the cluster.
    pub known: O,
}

/// The watches of an operator, as they are set up.
pub struct Watches<'a, O: Observe> {
    controller: &'a mut Controller,
    world: &'a Arc<World<O>>,
}

impl<O: Observe> Watches<'_, O> {
    /// Keeps an informer up to date with all objects of a kind. `read` says what to keep of an object; `changed` is told
    /// of each change, once the informer has it.
    pub fn all<K, V>(
        &mut self,
        informer: fn(&O) -> &Informer<V>,
        read: impl Fn(K) -> Option<V> + Send + Sync + 'static,
        changed: impl Fn(&World<O>, &Change<V>) + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
        V: Send + Sync + 'static,
    {
        self.selected(Api::all(self.client()), Config::default(), informer, read, changed);
    }

    /// As [`Watches::all`], with those objects that `api` and `config` select.
    pub fn selected<K, V>(
        &mut self,
        api: Api<K>,
        config: Config,
        informer: fn(&O) -> &Informer<V>,
        read: impl Fn(K) -> Option<V> + Send + Sync + 'static,
        changed: impl Fn(&World<O>, &Change<V>) + Send + Sync + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
        V: Send + Sync + 'static,
    {
        let world = Arc::clone(self.world);
        let informer = informer(&self.world.known);
        self.controller.watch(api, config, informer, read, move |change| changed(&world, change));
    }

    /// The API.
    pub fn client(&self) -> Client {
        self.world.client.clone()
    }

    /// Has something looked at once everything is known, whether or not it changes.
    pub fn look_at(&self, subject: O::Subject) {
        self.world.queue.add(subject);
    }
}

/// Works until the operator has to end: takes what was put into the queue, at most `at_once` at the same time, and
/// gives it to `reconcile`.
pub async fn run<O, F, Fut, E>(context: Context, known: O, at_once: usize, reconcile: F) -> Result<(), Error>
where
    O: Observe,
    F: Fn(Arc<World<O>>, O::Subject) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Fault,
{
    let (client, recorder) = (context.client.clone(), context.recorder.clone());
    let world = Arc::new(World { client, recorder, queue: WorkQueue::default(), known });
    let mut controller = Controller::new(&context);
    O::watch(&mut Watches { controller: &mut controller, world: &world });
    let queue = world.queue.clone();
    controller.reconcile(&queue, at_once, move |subject| reconcile(Arc::clone(&world), subject));
    controller.run().await
}
