//! An API server with the operator host, for one test.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keelson_apiserver::ApiServer;
use keelson_apiserver::identity::{Identity, MASTERS};
use keelson_operator_kit::{ClusterFacts, Operator, SYSTEM_NAMESPACE};
use kube::api::PostParams;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long something may take that has to come about.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    server: Arc<ApiServer>,
    stop: CancellationToken,
    host: JoinHandle<Result<(), keelson_operator_catalog::Error>>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster without Operator objects.
    pub(crate) async fn start() -> Self {
        Cluster::with(keelson_operator_catalog::all()).await
    }

    /// Starts a cluster whose host knows these operators.
    pub(crate) async fn with(catalog: Vec<Arc<dyn Operator>>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_default())
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::start(keelson_apiserver::server::Config::new(
            folder.path().to_owned(),
            "127.0.0.1:0".parse().unwrap(),
        ))
        .await
        .unwrap();
        let server = Arc::new(server);
        let (stop, host) = start_host(catalog, &server);
        Cluster { client: server.administrator(), server, stop, host, folder }
    }

    /// Ends the host and starts it again.
    pub(crate) async fn restart_host(&mut self) {
        self.stop.cancel();
        let (stop, host) = start_host(keelson_operator_catalog::all(), &self.server);
        self.stop = stop;
        std::mem::replace(&mut self.host, host).await.unwrap().unwrap();
    }

    /// Ends it in order.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.host.await.unwrap().unwrap();
        Arc::into_inner(self.server).unwrap().shutdown().await;
    }

    /// Starts these operators and waits until they run.
    pub(crate) async fn install(&self, names: &[&str]) {
        let api: Api<keelson_operator_catalog::kind::Operator> = Api::all(self.client.clone());
        keelson_operator_catalog::install(self.client.clone(), "minimal").await.unwrap();
        for name in names {
            let object = keelson_operator_catalog::profile::manifest(name);
            api.create(&PostParams::default(), &object).await.unwrap();
        }
        let settled = keelson_operator_catalog::wait_until_settled(self.client.clone()).await.unwrap();
        assert_eq!(settled, format!("{0} of {0} running", names.len()));
    }
}

impl Cluster {
    /// A client that shows a token, over the network.
    pub(crate) fn client_with_token(&self, token: &str) -> Client {
        let mut config = kube::Config::new(format!("https://{}", self.server.address()).parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    }

    /// What kubectl answers, which has to succeed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.folder.path().join("kubeconfig");
        let url = format!("https://{}", self.server.address());
        let text = self.server.pki().kubeconfig(&url, "kubernetes-admin", &[MASTERS]).unwrap();
        self.server.pki().write_kubeconfig(&kubeconfig, &text).unwrap();
        let mut command = tokio::process::Command::new("kubectl");
        command.arg("--kubeconfig").arg(&kubeconfig).args(arguments).kill_on_drop(true);
        command.env("HOME", self.folder.path()).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap()
        );
        assert!(output.status.success(), "kubectl {arguments:?}: {text}");
        text
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) -> Api<Namespace> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let document = json!({"metadata": {"name": name}});
        api.create(&PostParams::default(), &serde_json::from_value(document).unwrap()).await.unwrap();
        api
    }

    /// Makes `kind: Thing` of the group `example.com`, in namespaces.
    pub(crate) async fn make_kind(&self, plural: &str) {
        let crd = json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true}}}]}});
        let crd: CustomResourceDefinition = serde_json::from_value(crd).unwrap();
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &crd).await.unwrap();
        await_condition(api, &crd.name_any(), is_crd_established()).await.unwrap();
    }
}

fn start_host(
    catalog: Vec<Arc<dyn Operator>>,
    server: &Arc<ApiServer>,
) -> (CancellationToken, JoinHandle<Result<(), keelson_operator_catalog::Error>>) {
    let stop = CancellationToken::new();
    let config = keelson_operator_catalog::Config {
        address: "127.0.0.1".parse().unwrap(),
        cluster: ClusterFacts {
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            pod_cidr: "10.42.0.0/16".parse().unwrap(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            ca_bundle: server.pki().authority().to_owned(),
        },
    };
    let client = server.client(Identity::user(keelson_operator_catalog::HOST_USER, &[]));
    let of = Arc::downgrade(server);
    let clients: keelson_operator_catalog::Clients = Arc::new(move |name: &str| {
        of.upgrade().unwrap().client(Identity::service_account(SYSTEM_NAMESPACE, name))
    });
    let host =
        tokio::spawn(keelson_operator_catalog::run_catalog(catalog, config, client, clients, stop.clone()));
    (stop, host)
}

/// Asks again and again until the answer is as wished.
pub(crate) async fn until<T: Debug, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    wished: impl Fn(&T) -> bool,
) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if wished(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "{what}: still {answer:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
