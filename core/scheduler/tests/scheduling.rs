//! The whole scheduler against an API that keeps its objects in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use keelson_scheduler::{Config, run};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Lists what it was given, watches what is sent, and notes what is written.
struct Api {
    lists: Vec<(&'static str, Value)>,
    watches: Mutex<Vec<(&'static str, mpsc::Receiver<Value>)>>,
    written: watch::Sender<Vec<(String, Value)>>,
}

fn whole(code: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

impl Api {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Answer, Infallible> {
        let path = request.uri().path().to_owned();
        let watching = request.uri().query().unwrap_or_default().contains("watch=true");
        if *request.method() != Method::GET {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            self.written.send_modify(|all| all.push((path, value.clone())));
            return Ok(whole(201, &value));
        }
        let kind = path.rsplit('/').next().unwrap_or_default();
        if !watching {
            let items =
                self.lists.iter().find(|(name, _)| *name == kind).map_or(json!([]), |(_, it)| it.clone());
            return Ok(whole(200, &json!({"metadata": {"resourceVersion": "1"}, "items": items})));
        }
        let mut watches = self.watches.lock().unwrap();
        let events = match watches.iter().position(|(name, _)| *name == kind) {
            Some(at) => {
                let (_, receiver) = watches.swap_remove(at);
                stream::unfold(receiver, |mut receiver| async {
                    let event = receiver.recv().await?;
                    Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), receiver))
                })
                .boxed()
            }
            None => stream::pending().boxed(),
        };
        Ok(Response::new(StreamBody::new(events).boxed_unsync()))
    }
}

struct Cluster {
    written: watch::Receiver<Vec<(String, Value)>>,
    pods: mpsc::Sender<Value>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), keelson_scheduler::Error>>,
}

impl Cluster {
    fn start(nodes: Value, pods: Value) -> Self {
        let (sender, receiver) = mpsc::channel(16);
        let (written, seen) = watch::channel(Vec::new());
        let lists = vec![("nodes", nodes), ("pods", pods)];
        let api = Arc::new(Api { lists, watches: Mutex::new(vec![("pods", receiver)]), written });
        let service = tower::service_fn(move |request| api.clone().answer(request));
        let client = Client::new(service, "default");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(Config::default(), client, shutdown.clone()));
        Cluster { written: seen, pods: sender, shutdown, task }
    }

    /// Waits until something was written to `path`, and says what.
    async fn written_to(&mut self, path: &str) -> Value {
        let find =
            |all: &Vec<(String, Value)>| all.iter().find(|(to, _)| to == path).map(|(_, it)| it.clone());
        let wait = async {
            let all = self.written.wait_for(|all| find(all).is_some()).await.unwrap();
            find(&all).unwrap()
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.unwrap_or_else(|_| panic!("nothing was written to {path}"))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn node(name: &str, cpu: &str) -> Value {
    let allocatable = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
    json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "2"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"},
    })
}

#[tokio::test]
async fn a_pod_is_bound_to_the_node_that_has_room_and_an_event_says_so() {
    let mut cluster =
        Cluster::start(json!([node("small", "1"), node("large", "4")]), json!([pod("web", "2")]));
    let binding = cluster.written_to("/api/v1/namespaces/shop/pods/web/binding").await;
    assert_eq!(binding["target"], json!({"kind": "Node", "name": "large"}));
    assert_eq!(binding["metadata"]["uid"], "uid-web");
    let event = cluster.written_to("/api/v1/namespaces/shop/events").await;
    assert_eq!(event["reason"], "Scheduled");
    assert_eq!(event["message"], "Successfully assigned shop/web to large");
    assert_eq!(event["involvedObject"]["uid"], "uid-web");
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_without_room_is_told_why_and_bound_when_another_goes() {
    let mut running = pod("old", "1");
    running["spec"]["nodeName"] = json!("a");
    let mut cluster = Cluster::start(json!([node("a", "1")]), json!([running.clone(), pod("new", "1")]));
    let status = cluster.written_to("/api/v1/namespaces/shop/pods/new/status").await;
    let condition = &status["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(
        condition["message"],
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 No preemption victims found for incoming pod."
    );
    let event = cluster.written_to("/api/v1/namespaces/shop/events").await;
    assert_eq!((&event["reason"], &event["type"]), (&json!("FailedScheduling"), &json!("Warning")));
    assert_eq!(event["message"], condition["message"]);
    cluster.pods.send(json!({"type": "DELETED", "object": running})).await.unwrap();
    let binding = cluster.written_to("/api/v1/namespaces/shop/pods/new/binding").await;
    assert_eq!(binding["target"]["name"], "a");
    cluster.stop().await;
}
