//! The metrics API `metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top` and autoscalers.
//!
//! - `scrape`: what a kubelet tells; `figures`: what follows from two answers; pure, but for the asking
//! - `sampler`: asks kubelets for as long as somebody asks here
//! - `api`: objects, lists and tables; pure
//! - `answer`: what is answered to a path; `server`: HTTPS for the API server alone
//!
//! The API server passes the group on, as an APIService says. Kubelets are asked with a token of the operator's own account, which
//! may get `nodes/metrics`.
//!
//! **Guarantee**: while nobody asks, no kubelet is asked, nothing is remembered and nothing runs.
//!
//! Not done: watching.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceSpec, ServiceReference,
};
use keelson_operator_kit::apply::apply;
use keelson_operator_kit::publication::{self, Port, Publication, publish};
use keelson_operator_kit::{
    Context, Controller, Definition, Error, Fault, Informer, Next, Operator, SYSTEM_NAMESPACE, WorkQueue,
    async_trait, rule,
};
use kube::api::ObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::answer::Server;
use crate::sampler::Sampler;
use crate::scrape::Scraper;
use crate::server::{FrontProxy, Identity};

mod answer;
mod api;
mod figures;
mod sampler;
mod scrape;
mod server;

const NAME: &str = "metrics";
const API_SERVICE: &str = "v1beta1.metrics.k8s.io";
/// The ConfigMap by which the API server says whom extension servers are to believe.
const FRONT_PROXY: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

static DEFINITION: LazyLock<Definition> = LazyLock::new(|| {
    let named = |names: &[&str], rule: PolicyRule| PolicyRule {
        resource_names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..rule
    };
    let keep = ["get", "list", "watch", "update", "delete"];
    let mut definition = Definition::new(
        NAME,
        "Serves the metrics API: what nodes and pods use, for kubectl top and autoscalers.",
    )
    .with_rules([
        rule(&[""], &["nodes", "pods"], &["list"]),
        rule(&[""], &["nodes/metrics"], &["get"]),
        named(&[FRONT_PROXY.1], rule(&[""], &["configmaps"], &["get"])),
        rule(&["apiregistration.k8s.io"], &["apiservices"], &["create"]),
        named(
            &[API_SERVICE],
            rule(&["apiregistration.k8s.io"], &["apiservices"], &["get", "list", "watch", "patch"]),
        ),
    ]);
    definition.own_rules = vec![
        rule(&[""], &["services"], &["create"]),
        named(&[NAME], rule(&[""], &["services"], &keep)),
        rule(&["discovery.k8s.io"], &["endpointslices"], &["create"]),
        named(&[NAME], rule(&["discovery.k8s.io"], &["endpointslices"], &keep)),
        named(&[NAME], rule(&[""], &["serviceaccounts/token"], &["create"])),
    ];
    definition.roles = vec![reader()];
    definition
});

/// What whoever may view things may see of this.
fn reader() -> ClusterRole {
    let into = ["view", "edit", "admin"];
    let label = |role: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".to_owned());
    ClusterRole {
        metadata: ObjectMeta {
            name: Some("system:aggregated-metrics-reader".to_owned()),
            labels: Some(into.map(label).into()),
            ..ObjectMeta::default()
        },
        rules: Some(vec![rule(&["metrics.k8s.io"], &["pods", "nodes"], &["get", "list", "watch"])]),
        aggregation_rule: None,
    }
}

/// The operator.
pub struct Metrics;

/// The operator.
pub fn operator() -> Arc<dyn Operator> {
    Arc::new(Metrics)
}

fn publication() -> Publication {
    Publication {
        namespace: SYSTEM_NAMESPACE.to_owned(),
        name: NAME.to_owned(),
        labels: vec![("k8s-app", "metrics-server")],
        manager: "metrics.keelson.io",
        address: None,
        ports: vec![Port { name: "https", protocol: "TCP", port: 443 }],
    }
}

/// The registration, with the authority of the server's certificate in PEM.
fn api_service(authority: &str) -> APIService {
    APIService {
        metadata: ObjectMeta {
            name: Some(API_SERVICE.to_owned()),
            labels: Some([(keelson_operator_kit::OPERATOR_LABEL.to_owned(), NAME.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            ca_bundle: Some(ByteString(authority.as_bytes().to_vec())),
            group: Some("metrics.k8s.io".to_owned()),
            group_priority_minimum: 100,
            insecure_skip_tls_verify: None,
            service: Some(ServiceReference {
                name: Some(NAME.to_owned()),
                namespace: Some(SYSTEM_NAMESPACE.to_owned()),
                port: Some(443),
            }),
            version: Some("v1beta1".to_owned()),
            version_priority: 100,
        }),
        status: None,
    }
}

/// Why the server could not be made known.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("publish the server")]
    Service(#[from] publication::Error),
    #[error("register the group")]
    Group(#[from] keelson_operator_kit::apply::Error),
}

impl Fault for PublishError {}

/// The one thing that is looked at: how the API server reaches this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Registration;

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(API_SERVICE)
    }
}

/// (client) Whom to believe who asks.
async fn front_proxy(client: &Client) -> Result<FrontProxy, Error> {
    let (namespace, name) = FRONT_PROXY;
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace).get(name).await;
    let data =
        found.map_err(|error| Error::failed("find out whom to believe", error))?.data.unwrap_or_default();
    // An empty list of names is everybody whom the authority vouches for: one that cannot be read is not an empty one.
    let list = |field: &'static str| -> Result<Vec<String>, Error> {
        let Some(text) = data.get(field) else { return Ok(Vec::new()) };
        serde_json::from_str(text).map_err(|error| Error::failed("find out whom to believe", error))
    };
    let missing =
        |field: &'static str| Error::failed("find out whom to believe", format!("{field} is missing"));
    Ok(FrontProxy {
        authority: data
            .get("requestheader-client-ca-file")
            .cloned()
            .ok_or_else(|| missing("requestheader-client-ca-file"))?,
        names: list("requestheader-allowed-names")?,
        user_header: list("requestheader-username-headers")?
            .into_iter()
            .next()
            .ok_or_else(|| missing("requestheader-username-headers"))?,
    })
}

#[async_trait]
impl Operator for Metrics {
    fn definition(&self) -> &Definition {
        &DEFINITION
    }

    async fn run(&self, context: Context) -> Result<(), Error> {
        let client = &context.client;
        let front = front_proxy(client).await?;
        let identity = Identity::new(&format!("{NAME}.{SYSTEM_NAMESPACE}.svc"));
        let identity = identity.map_err(|error| Error::failed("make a certificate", error))?;
        let acceptor = server::tls(&identity, &front).map_err(|error| Error::failed("set up TLS", error))?;
        let before = publication::port_before(client, SYSTEM_NAMESPACE, NAME).await;
        let before = before.map_err(|error| Error::failed("look for an earlier server", error))?;
        let listener = server::listen(context.address, before).await;
        let listener = listener.map_err(|error| Error::failed("listen", error))?;
        let target = listener.local_addr().map_err(|error| Error::failed("listen", error))?;
        let scraper = Scraper::new(&context.cluster.ca_bundle);
        let scraper = scraper.map_err(|error| Error::failed("read the cluster's authority", error))?;
        let sampler = Arc::new(Sampler::new(client.clone(), (SYSTEM_NAMESPACE, NAME), scraper));

        let queue = WorkQueue::default();
        queue.add(Registration);
        let mut controller = Controller::new(&context);
        watch(&context, &mut controller, &queue);
        let (of_server, registration) = (client.clone(), api_service(&identity.authority));
        controller.reconcile(&queue, 1, move |Registration| {
            register(of_server.clone(), registration.clone(), target)
        });
        let kept = Arc::clone(&sampler);
        controller.task("sampler", until(&context, kept.keep()));
        let server = Server { client: client.clone(), sampler };
        controller.task("server", until(&context, server::serve(listener, acceptor, front, server)));
        controller.run().await
    }
}

/// A task that ends with the operator.
fn until(
    context: &Context,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<(), Error>> + Send + 'static {
    let shutdown = context.shutdown.clone();
    async move {
        shutdown.run_until_cancelled(task).await;
        Ok(())
    }
}

async fn register(
    client: Client,
    registration: APIService,
    target: SocketAddr,
) -> Result<Next, PublishError> {
    publish(&client, &publication(), target).await?;
    apply(&Api::all(client), NAME, &registration).await?;
    Ok(Next::OnChange)
}

/// Looks again when Service, slice or registration are no longer as they were.
fn watch(context: &Context, controller: &mut Controller, queue: &WorkQueue<Registration>) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let generation = |meta: &ObjectMeta| meta.generation;
    let again = || {
        let queue = queue.clone();
        move || queue.add(Registration)
    };
    let services: Api<Service> = Api::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let changed = again();
    let read = move |object: Service| Some((generation(&object.metadata), object.spec));
    controller.watch(services, named(NAME), &Informer::default(), read, move |_| changed());
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let changed = again();
    let read = move |object: EndpointSlice| Some((object.endpoints, object.ports));
    controller.watch(slices, named(NAME), &Informer::default(), read, move |_| changed());
    let registrations: Api<APIService> = Api::all(context.client.clone());
    let changed = again();
    let read = move |object: APIService| object.spec.map(|spec| (spec.ca_bundle, spec.service));
    let on_change = move |change: &keelson_operator_kit::informer::Change<_>| {
        // The API server writes how it fares into the status: that is no change.
        if change.old != change.new {
            changed();
        }
    };
    controller.watch(registrations, named(API_SERVICE), &Informer::default(), read, on_change);
}
