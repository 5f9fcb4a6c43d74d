//! Runs operators against the cluster of the current kubeconfig: `run NAME...`; ends when its standard input does.

use std::error::Error;
use std::io::Read;
use std::sync::Arc;

use keelson_operator_kit::{ClusterFacts, Context, Operator, Readiness, Recorder, SYSTEM_NAMESPACE};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn all() -> Vec<Arc<dyn Operator>> {
    vec![
        keelson_operator_replicaset::operator(),
        keelson_operator_deployment::operator(),
        keelson_operator_endpointslice::operator(),
        keelson_operator_disruption::operator(),
        keelson_operator_nodelifecycle::operator(),
    ]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let names: Vec<String> = std::env::args().skip(1).collect();
    let client = Client::try_default().await?;
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    for operator in all() {
        let name = operator.definition().name;
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let context = context(&client, &operator, &shutdown)?;
        running.spawn(async move { (name, operator.run(context).await) });
    }
    let stop = shutdown.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.cancel();
    });
    while let Some(ended) = running.join_next().await {
        let (name, outcome) = ended?;
        outcome.map_err(|error| format!("{name}: {}", keelson_operator_kit::operator::chain(&error)))?;
    }
    Ok(())
}

fn context(
    client: &Client,
    operator: &Arc<dyn Operator>,
    shutdown: &CancellationToken,
) -> Result<Context, Box<dyn Error>> {
    let definition = operator.definition();
    Ok(Context {
        client: client.clone(),
        name: definition.name.into(),
        namespace: SYSTEM_NAMESPACE.into(),
        address: "127.0.0.1".parse()?,
        cluster: Arc::new(ClusterFacts {
            service_cidr: "10.96.0.0/16".parse()?,
            pod_cidr: "10.42.0.0/16".parse()?,
            cluster_dns: "10.96.0.10".parse()?,
            cluster_domain: "cluster.local".to_owned(),
            ca_bundle: String::new(),
        }),
        config: definition.default_config.clone(),
        recorder: Recorder::start(client.clone(), definition.name.to_owned(), shutdown.clone()),
        shutdown: shutdown.clone(),
        readiness: Readiness::default(),
    })
}
