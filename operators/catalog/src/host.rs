//! The host: reconciles Operator objects, and runs what they name.
//!
//! A look goes through the steps [`observe`] -> [`validate`] (pure) -> [`decide`] (pure) -> [`act`] (client), then
//! [`status`] (pure) is written. Each operator has a [`runner`] of its own, whose every change of state asks for another
//! look, so that the status tells what was seen and not what was hoped for.

use std::collections::HashMap;
use std::sync::Arc;

use keelson_operator_kit as kit;
use keelson_operator_kit::operator::chain;
use keelson_operator_kit::recorder::reference;
use keelson_operator_kit::{
    Context, Controller, Definition, Fault, Informer, Next, ObjectKey, Readiness, Recorder, SYSTEM_NAMESPACE,
    WorkQueue,
};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::decide::{Plan, Standing, decide};
use self::runner::{RunState, Runner};
use self::status::{Note, Outcome};
use crate::crd::MANAGER;
use crate::kind::Operator;
use crate::{Clients, Config};

pub mod act;
pub mod decide;
pub mod observe;
pub mod runner;
pub mod status;
pub mod validate;

/// How many objects are looked at at the same time.
const AT_ONCE: usize = 4;

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Installing or removing.
    #[error("carry out what the object asks for")]
    Act(#[from] act::Error),
    /// The status.
    #[error("write the status of the Operator object")]
    Status(#[source] kube::Error),
}

impl Fault for Error {}

#[derive(Default)]
struct Entry {
    /// For which object, and which operator of the catalog is installed.
    installed: Option<(String, Definition)>,
    runner: Option<Runner>,
}

impl Entry {
    fn standing(&self) -> Standing {
        Standing {
            installed: self.installed.as_ref().map(|(uid, _)| uid.clone()),
            running: self.runner.as_ref().map(Runner::stands_for),
        }
    }

    async fn stop(&mut self) {
        if let Some(runner) = self.runner.take() {
            runner.stop().await;
        }
    }
}

struct Host {
    config: Config,
    client: Client,
    clients: Clients,
    catalog: Vec<Arc<dyn kit::Operator>>,
    recorder: Recorder,
    operators: Informer<Operator>,
    queue: WorkQueue<ObjectKey>,
    entries: Mutex<HashMap<ObjectKey, Arc<Mutex<Entry>>>>,
    shutdown: CancellationToken,
}

/// Watches Operator objects until shutdown; then everything that runs has ended.
pub async fn run(
    catalog: Vec<Arc<dyn kit::Operator>>,
    config: Config,
    client: Client,
    clients: Clients,
    shutdown: CancellationToken,
) -> Result<(), kit::Error> {
    let context = Context {
        client: client.clone(),
        name: MANAGER.into(),
        namespace: SYSTEM_NAMESPACE.into(),
        address: config.address,
        cluster: Arc::new(config.cluster.clone()),
        config: serde_json::Value::Null,
        recorder: Recorder::start(client.clone(), MANAGER.to_owned(), shutdown.clone()),
        shutdown: shutdown.clone(),
        readiness: Readiness::default(),
    };
    // When this future is dropped or ends early, so do the operators.
    let operators_end = shutdown.child_token();
    let _ends = operators_end.clone().drop_guard();
    let host = Arc::new(Host {
        config,
        client: client.clone(),
        clients,
        catalog,
        recorder: context.recorder.clone(),
        operators: Informer::default(),
        queue: WorkQueue::default(),
        entries: Mutex::default(),
        shutdown: operators_end.clone(),
    });
    let mut controller = Controller::new(&context);
    let (changed, queue) = (host.operators.clone(), host.queue.clone());
    controller.watch(
        Api::<Operator>::all(client),
        watcher::Config::default(),
        &host.operators,
        Some,
        move |change| {
            queue.add(change.key.clone());
            // Whoever waits for the same operator of the catalog may have its turn now.
            let of = change.new.as_ref().or(change.old.as_ref()).map(|it| it.catalog_name().to_owned());
            for (key, other) in changed.all() {
                if Some(other.catalog_name()) == of.as_deref() && key != change.key {
                    queue.add(key);
                }
            }
        },
    );
    let all = Arc::clone(&host);
    controller.reconcile(&host.queue, AT_ONCE, move |key| Arc::clone(&all).reconcile(key));
    let ended = controller.run().await;
    operators_end.cancel();
    let entries: Vec<_> = host.entries.lock().await.drain().collect();
    let stops = entries.into_iter().map(|(_, entry)| async move { entry.lock().await.stop().await });
    futures::future::join_all(stops).await;
    ended
}

impl Host {
    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Next, Error> {
        let entry = Arc::clone(self.entries.lock().await.entry(key.clone()).or_default());
        let mut entry = entry.lock().await;
        let Some(observed) = observe::observe(&self.operators, &key) else {
            entry.stop().await;
            self.entries.lock().await.remove(&key);
            return Ok(Next::OnChange);
        };
        let object = Arc::clone(&observed.operator);
        let validated = validate::validate(observed, &self.catalog);
        let (outcome, failure) = match decide(validated, &entry.standing()) {
            Plan::Remove { name, kinds_of, remove_finalizer } => {
                entry.stop().await;
                self.uninstall_other(&mut entry, object.catalog_name()).await?;
                let kinds = kinds_of.as_ref().map_or(&[][..], |operator| &operator.definition().crds);
                if let Some(name) = name {
                    act::remove(&self.client, &name, kinds).await?;
                }
                if remove_finalizer {
                    act::remove_finalizer(&self.client, &object).await?;
                }
                return Ok(Next::OnChange);
            }
            Plan::Refuse(refusal) => {
                entry.stop().await;
                self.uninstall_other(&mut entry, object.catalog_name()).await?;
                // Another object may have the same operator now, and take its rights along when it goes.
                entry.installed = None;
                (Outcome::Refused(refusal), None)
            }
            Plan::Run { runnable, uid, add_finalizer, install, start } => {
                if add_finalizer {
                    // The change of the object asks for the next look.
                    act::add_finalizer(&self.client, &object).await?;
                    return Ok(Next::OnChange);
                }
                let definition = runnable.operator.definition().clone();
                let version = definition.version;
                match self.install(&mut entry, &uid, definition, install).await {
                    Err(error) => {
                        (Outcome::NotInstalled { message: chain(&error) }, Some(Error::from(error)))
                    }
                    Ok(()) => {
                        if start {
                            entry.stop().await;
                            entry.runner = Some(self.start(runnable, uid, &key));
                        }
                        let run = entry.runner.as_ref().map_or(RunState::Standby, Runner::state);
                        (Outcome::Installed { version, run }, None)
                    }
                }
            }
        };
        self.write_status(&object, outcome).await?;
        failure.map_or(Ok(Next::OnChange), Err)
    }

    /// Stops another operator of the catalog, which the object named before, and takes its rights away.
    async fn uninstall_other(&self, entry: &mut Entry, name: &str) -> Result<(), act::Error> {
        let before = entry.installed.as_ref().map(|(_, before)| before.name);
        if let Some(before) = before.filter(|before| *before != name) {
            entry.stop().await;
            act::remove(&self.client, before, &[]).await?;
            entry.installed = None;
        }
        Ok(())
    }

    /// Applies what the operator needs.
    async fn install(
        &self,
        entry: &mut Entry,
        uid: &str,
        definition: Definition,
        install: bool,
    ) -> Result<(), act::Error> {
        self.uninstall_other(entry, definition.name).await?;
        if entry.installed.is_some() && !install {
            return Ok(());
        }
        act::install(&self.client, &definition).await?;
        entry.installed = Some((uid.to_owned(), definition));
        Ok(())
    }

    fn start(&self, runnable: validate::Runnable, uid: String, key: &ObjectKey) -> Runner {
        let (queue, key) = (self.queue.clone(), key.clone());
        let changed = move || queue.add(key.clone());
        Runner::start(runnable, uid, &self.config, &self.clients, &self.shutdown, changed)
    }

    async fn write_status(&self, object: &Operator, outcome: Outcome) -> Result<(), Error> {
        let old = object.status.clone().unwrap_or_default();
        let now = kit::time::now();
        let Some((new, note)) = status::status(&old, object.metadata.generation, outcome, now) else {
            return Ok(());
        };
        let api: Api<Operator> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"metadata": {"uid": object.uid()}, "status": new}));
        match api.patch_status(&object.name_any(), &params, &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            Err(error) => return Err(Error::Status(error)),
        }
        let name = object.catalog_name();
        match note {
            Some(Note::Began) => {
                tracing::info!(operator = name, "an operator runs");
                self.recorder.normal(&reference(object), "Running", "the operator has begun to act");
            }
            Some(Note::Wrong { reason, message }) => {
                tracing::warn!(operator = name, reason, message, "an operator is degraded");
                self.recorder.warning(&reference(object), reason, message);
            }
            None => {}
        }
        Ok(())
    }
}
