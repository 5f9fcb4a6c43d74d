//! The contract between an operator and the host that runs it.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::recorder::Recorder;

/// The namespace of operators' ServiceAccounts and Leases.
pub const SYSTEM_NAMESPACE: &str = "keelson-system";

/// The label that names the operator for which something was made. Roles and registrations of API groups that carry it go with
/// the operator.
pub const OPERATOR_LABEL: &str = "platform.keelson.io/operator";

/// A part of the platform that can be installed and removed while the cluster runs.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// What it is called, brings along and may do.
    fn definition(&self) -> &Definition;

    /// Works until `context.shutdown` is cancelled, then returns `Ok`.
    ///
    /// Calls [`Context::ready`] when it has begun to act. An `Err`, a panic, or an early return makes the host report
    /// the operator as degraded and start it again after a pause. May be called again after it has returned.
    async fn run(&self, context: Context) -> Result<(), Error>;
}

/// What an operator is called, brings along and may do.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its name in the catalog: a DNS label, also the name of its ServiceAccount, Lease and field manager.
    pub name: &'static str,
    /// One sentence for people.
    pub description: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The kinds that it brings; they are applied and established before it runs.
    pub crds: Vec<CustomResourceDefinition>,
    /// Exactly what it may do in the whole cluster. Its own Lease, and writing Events, need not be listed.
    pub rules: Vec<PolicyRule>,
    /// Exactly what it may do in [`SYSTEM_NAMESPACE`] alone.
    pub own_rules: Vec<PolicyRule>,
    /// Roles that it brings for others, as those that are aggregated to `view`.
    pub roles: Vec<ClusterRole>,
    /// The configuration where `spec.config` says nothing; `null` where the operator has none.
    pub default_config: serde_json::Value,
}

impl Definition {
    /// An operator of this workspace's version without kinds, rules or configuration of its own.
    pub fn new(name: &'static str, description: &'static str) -> Self {
        Definition {
            name,
            description,
            version: env!("CARGO_PKG_VERSION"),
            crds: Vec::new(),
            rules: Vec::new(),
            own_rules: Vec::new(),
            roles: Vec::new(),
            default_config: serde_json::Value::Null,
        }
    }

    /// Adds what it may do.
    #[must_use]
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = PolicyRule>) -> Self {
        self.rules.extend(rules);
        self
    }

    /// The operator that is this, and whose work is `run`, as [`Operator::run`] has it.
    pub fn run_by<F, Fut>(self, run: F) -> Arc<dyn Operator>
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Arc::new(Defined { definition: self, run })
    }
}

/// An operator that is nothing but its definition and its work.
struct Defined<F> {
    definition: Definition,
    run: F,
}

#[async_trait]
impl<F, Fut> Operator for Defined<F>
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        (self.run)(context).await
    }
}

/// A rule: these verbs on these resources of these groups (`""` is the core group).
pub fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let own = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
    PolicyRule {
        api_groups: own(groups),
        resources: own(resources),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}

/// What a running operator is given.
#[derive(Clone)]
pub struct Context {
    /// The API, as `system:serviceaccount:keelson-system:NAME`.
    pub client: Client,
    /// The name of the Operator object and in the catalog; also the field manager to write under.
    pub name: Arc<str>,
    /// The namespace of what the operator itself needs, [`SYSTEM_NAMESPACE`].
    pub namespace: Arc<str>,
    /// Where pods can reach this process.
    pub address: IpAddr,
    /// What is true of the whole cluster.
    pub cluster: Arc<ClusterFacts>,
    /// `spec.config` of the Operator object, laid over the defaults of its definition.
    pub config: serde_json::Value,
    /// Writes Events as this operator.
    pub recorder: Recorder,
    /// Is cancelled when the operator has to end.
    pub shutdown: CancellationToken,
    /// Hears that the operator has begun to act.
    pub readiness: Readiness,
}

impl Context {
    /// Says that the operator has begun to act; its Operator object then shows Ready.
    pub fn ready(&self) {
        self.readiness.set();
    }

    /// The configuration in the operator's own shape.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Error> {
        serde_json::from_value(self.config.clone()).map_err(Error::InvalidConfig)
    }
}

/// What is true of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The addresses of Services.
    pub service_cidr: IpNet,
    /// The addresses of pods, from which nodes are given theirs.
    pub pod_cidr: IpNet,
    /// The Service address of the cluster's name server.
    pub cluster_dns: IpAddr,
    /// The domain that the names of Services end with, such as `cluster.local`.
    pub cluster_domain: String,
    /// The certificates, in PEM, that verify the API server.
    pub ca_bundle: String,
}

/// Whether an operator has begun to act.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<bool>>);

impl Default for Readiness {
    fn default() -> Self {
        Readiness(Arc::new(watch::Sender::new(false)))
    }
}

impl Readiness {
    /// Says that it has.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Where it can be seen.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// Why an operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `spec.config` is not what the operator expects; it is started again when the object changes.
    #[error("invalid spec.config")]
    InvalidConfig(#[source] serde_json::Error),
    /// A task of it panicked.
    #[error("the task {task} panicked: {message}")]
    Panicked {
        /// Which task.
        task: &'static str,
        /// What it said.
        message: String,
    },
    /// A task of it returned though nobody had asked it to.
    #[error("the task {task} ended early")]
    EndedEarly {
        /// Which task.
        task: &'static str,
    },
    /// Something else failed.
    #[error("{action}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// `action` failed because of `source`.
    pub fn failed(action: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Failed { action, source: source.into() }
    }
}

/// An error with all its causes in one line, for conditions and Events.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
