//! As much of an API server as the proxy's watches need.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

type Watcher = mpsc::UnboundedSender<Bytes>;

#[derive(Default)]
struct Resource {
    objects: BTreeMap<String, Value>,
    watchers: Vec<Watcher>,
}

#[derive(Default)]
struct State {
    services: Resource,
    slices: Resource,
}

/// Services and EndpointSlices.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<State>>);

impl State {
    fn of(&mut self, slices: bool) -> &mut Resource {
        if slices { &mut self.slices } else { &mut self.services }
    }
}

impl Api {
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, request: &Request<Body>) -> Response<BoxBody<Bytes, Infallible>> {
        let is_slices = request.uri().path().ends_with("/endpointslices");
        let mut state = self.0.lock().unwrap();
        let resource = state.of(is_slices);
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            let (sender, receiver) = mpsc::unbounded_channel();
            resource.watchers.push(sender);
            let frames =
                UnboundedReceiverStream::new(receiver).map(|line| Ok::<_, Infallible>(Frame::data(line)));
            return Response::new(BoxBody::new(StreamBody::new(frames)));
        }
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": resource.objects.values().collect::<Vec<_>>()});
        Response::new(Full::from(serde_json::to_vec(&list).unwrap()).boxed())
    }

    /// Creates, changes or deletes (`None`) an object.
    fn put(&self, is_slices: bool, name: &str, object: Option<Value>) {
        let mut state = self.0.lock().unwrap();
        let resource = state.of(is_slices);
        let (kind, object) = match object {
            Some(object) => match resource.objects.insert(name.to_owned(), object.clone()) {
                Some(_) => ("MODIFIED", object),
                None => ("ADDED", object),
            },
            None => match resource.objects.remove(name) {
                Some(object) => ("DELETED", object),
                None => return,
            },
        };
        let mut line = serde_json::to_vec(&json!({"type": kind, "object": object})).unwrap();
        line.push(b'\n');
        let line = Bytes::from(line);
        resource.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    pub(crate) fn service(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "2"},
            "spec": spec,
        });
        self.put(false, name, Some(object));
    }

    pub(crate) fn delete_service(&self, name: &str) {
        self.put(false, name, None);
    }

    /// The slice of a Service: ports (name, protocol, port) and endpoints (address, node).
    pub(crate) fn slice(&self, service: &str, ports: Value, endpoints: &[(String, &str)]) {
        let endpoint = |(address, node): &(String, &str)| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}});
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": service, "namespace": "default", "resourceVersion": "2",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        });
        self.put(true, service, Some(object));
    }
}
