//! Operators that do not behave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_operator_catalog::kind::Operator as Object;
use keelson_operator_catalog::profile::manifest;
use keelson_operator_kit::{Context, Definition, Error, Operator, async_trait, condition};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, until};

/// Panics when it is run first, and acts when it is run again; `config.valid` has to be true.
struct Shaky {
    definition: Definition,
    runs: AtomicU32,
}

impl Shaky {
    fn operator(name: &'static str) -> Arc<dyn Operator> {
        let mut definition = Definition::new(name, "Fails.");
        definition.default_config = json!({"valid": true});
        Arc::new(Shaky { definition, runs: AtomicU32::new(0) })
    }
}

#[derive(serde::Deserialize)]
struct Config {
    valid: bool,
}

#[async_trait]
impl Operator for Shaky {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        assert!(context.config::<Config>()?.valid);
        assert!(
            self.definition.name == "steady" || self.runs.fetch_add(1, Ordering::SeqCst) > 0,
            "the first time"
        );
        context.ready();
        context.shutdown.cancelled().await;
        Ok(())
    }
}

fn told(object: &Object, type_: &str) -> Option<(String, String, String)> {
    let found = condition::find(&object.status.as_ref()?.conditions, type_)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

#[tokio::test]
async fn an_operator_that_panics_is_told_and_started_again_while_others_run() {
    let cluster = Cluster::with(vec![Shaky::operator("shaky"), Shaky::operator("steady")]).await;
    cluster.install(&["steady"]).await;
    let api: Api<Object> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &manifest("shaky")).await.unwrap();
    let degraded = || async { told(&api.get("shaky").await.unwrap(), "Degraded") };
    let why = until("it is told", degraded, |it| it.as_ref().is_some_and(|it| it.0 == "True")).await;
    assert_eq!(why.unwrap().2, "the task operator panicked: the first time");
    let steady = api.get("steady").await.unwrap();
    assert_eq!(told(&steady, "Ready").unwrap().0, "True");
    until("it recovers", degraded, |it| it.as_ref().is_some_and(|it| it.0 == "False")).await;
    assert_eq!(told(&api.get("shaky").await.unwrap(), "Ready").unwrap().1, "Running");
    cluster.end().await;
}

#[tokio::test]
async fn a_configuration_that_the_operator_does_not_understand_waits_for_a_change() {
    let cluster = Cluster::with(vec![Shaky::operator("steady")]).await;
    cluster.install(&["steady"]).await;
    let api: Api<Object> = Api::all(cluster.client.clone());
    let configure = |valid: serde_json::Value| {
        let patch = Patch::Merge(json!({"spec": {"config": {"valid": valid}}}));
        let api = api.clone();
        async move { api.patch("steady", &PatchParams::default(), &patch).await.unwrap() }
    };
    let reason = || async { told(&api.get("steady").await.unwrap(), "Ready").map(|it| it.1) };
    configure(json!("perhaps")).await;
    until("it is told", reason, |it| it.as_deref() == Some("InvalidConfig")).await;
    configure(json!(true)).await;
    until("it runs", reason, |it| it.as_deref() == Some("Running")).await;
    cluster.end().await;
}
