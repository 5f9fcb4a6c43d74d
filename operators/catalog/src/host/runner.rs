//! Runs one operator: under its Lease, and again after a pause when it fails (client).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use keelson_operator_kit as kit;
use keelson_operator_kit::controller::panic_message;
use keelson_operator_kit::leader_election::{self, Term, Timing, lead};
use keelson_operator_kit::operator::chain;
use keelson_operator_kit::{Context, Readiness, Recorder, SYSTEM_NAMESPACE};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::validate::Runnable;
use crate::{Clients, Config};

/// The Lease of an operator. Upstream's controllers renew every 2 s, which for ten operators would be most of what an
/// idle cluster writes. A server that ends in order gives its Leases up at once, and one that comes back after a crash
/// takes up its own, so the length only matters when a server of several is lost.
pub const TIMING: Timing = Timing {
    lease: Duration::from_secs(30),
    renew_within: Duration::from_secs(20),
    renew_every: Duration::from_secs(10),
    retry: Duration::from_secs(4),
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// One that ran for so long had recovered from what was before.
const CALM: Duration = Duration::from_secs(120);
/// How long an operator may take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// How an operator stands in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Somebody else holds its Lease, or nobody has taken it yet.
    Standby,
    /// It was started and has not begun to act.
    Starting,
    /// It acts.
    Running,
    /// It ended though it should not have.
    Failed {
        /// Why.
        message: String,
        /// When it is started again; `None` when its object has to change first.
        again: Option<Duration>,
    },
}

/// An operator that was started.
pub struct Runner {
    uid: String,
    config: Value,
    stop: CancellationToken,
    state: watch::Receiver<RunState>,
    task: JoinHandle<()>,
}

impl Runner {
    /// Starts an operator. `changed` is called whenever its state has changed.
    pub fn start(
        runnable: Runnable,
        uid: String,
        host: &Config,
        clients: &Clients,
        shutdown: &CancellationToken,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let stop = shutdown.child_token();
        let (sender, state) = watch::channel(RunState::Standby);
        let name = runnable.operator.definition().name;
        let config = runnable.config.clone();
        let supervisor = Supervisor {
            runnable,
            host: host.clone(),
            client: clients(name),
            state: sender,
            changed: Box::new(changed),
        };
        let task = tokio::spawn(supervisor.run(stop.clone()));
        Runner { uid, config, stop, state, task }
    }

    /// For which object and with which configuration it runs.
    pub fn stands_for(&self) -> (String, Value) {
        (self.uid.clone(), self.config.clone())
    }

    /// How it stands.
    pub fn state(&self) -> RunState {
        self.state.borrow().clone()
    }

    /// Ends it, in order if it lets itself be ended so.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(FAREWELL, &mut self.task).await.is_err() {
            tracing::warn!(object = self.uid, "an operator did not end in time and is dropped");
            self.task.abort();
        }
    }
}

struct Supervisor {
    runnable: Runnable,
    host: Config,
    client: kube::Client,
    state: watch::Sender<RunState>,
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Supervisor {
    async fn run(self, stop: CancellationToken) {
        let name = self.runnable.operator.definition().name;
        let election = leader_election::Config {
            namespace: SYSTEM_NAMESPACE.to_owned(),
            name: name.to_owned(),
            identity: self.host.identity(),
            timing: TIMING,
        };
        loop {
            match lead(self.client.clone(), &election, &stop, |term| self.supervise(term)).await {
                Term::Ended(()) | Term::NeverBegan => return,
                Term::Lost if stop.is_cancelled() => return,
                Term::Lost => self.set(RunState::Standby),
            }
        }
    }

    /// Keeps the operator running until the term ends.
    async fn supervise(&self, term: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.set(RunState::Starting);
            let began = Instant::now();
            let error = match self.once(&term).await {
                _ if term.is_cancelled() => return,
                Ok(()) => kit::Error::EndedEarly { task: "operator" },
                Err(error) => error,
            };
            let message = chain(&error);
            if matches!(error, kit::Error::InvalidConfig(_)) {
                self.set(RunState::Failed { message, again: None });
                term.cancelled().await;
                return;
            }
            if began.elapsed() >= CALM {
                pause = FIRST_PAUSE;
            }
            self.set(RunState::Failed { message, again: Some(pause) });
            tokio::select! {
                () = term.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Runs the operator once.
    async fn once(&self, term: &CancellationToken) -> Result<(), kit::Error> {
        let name = self.runnable.operator.definition().name;
        // What the operator leaves behind, its recorder above all, ends with the attempt.
        let attempt = term.child_token();
        let _ends = attempt.clone().drop_guard();
        let readiness = Readiness::default();
        let mut ready = readiness.subscribe();
        let context = Context {
            client: self.client.clone(),
            name: name.into(),
            namespace: SYSTEM_NAMESPACE.into(),
            address: self.host.address,
            cluster: Arc::new(self.host.cluster.clone()),
            config: self.runnable.config.clone(),
            // Events are signed as those of other Kubernetes' controllers are.
            recorder: Recorder::start(self.client.clone(), format!("{name}-controller"), attempt.clone()),
            shutdown: attempt.clone(),
            readiness: readiness.clone(),
        };
        let run = AssertUnwindSafe(self.runnable.operator.run(context)).catch_unwind();
        tokio::pin!(run);
        let is_ready = async { ready.wait_for(|ready| *ready).await.is_ok() };
        let ended = tokio::select! {
            biased;
            ended = &mut run => Some(ended),
            true = is_ready => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                self.set(RunState::Running);
                run.await
            }
        };
        ended.unwrap_or_else(|panic| {
            Err(kit::Error::Panicked { task: "operator", message: panic_message(&*panic) })
        })
    }

    fn set(&self, state: RunState) {
        self.state.send_replace(state);
        (self.changed)();
    }
}
