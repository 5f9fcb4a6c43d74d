//! What tests of this crate share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::configuration::KubeletConfiguration;

/// The configuration of a node that nothing listens on.
pub(crate) fn config() -> Config {
    Config {
        node_name: "node-1".into(),
        node_ip: "192.0.2.1".parse().unwrap(),
        bind: "127.0.0.1:10250".parse().unwrap(),
        data_dir: "/nonexistent".into(),
        log_dir: "/nonexistent/logs".into(),
        cri_socket: "/nonexistent/cri.sock".into(),
        image_socket: None,
        pod_cidr: "10.42.0.0/24".parse().ok(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        cgroup_root: "/keelson-0badcafe".into(),
        settings: KubeletConfiguration {
            resolv_conf: Some("/nonexistent/resolv.conf".into()),
            ..KubeletConfiguration::default()
        },
        credential_providers: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        version: "v1.36.0".into(),
        serving: Arc::new(rustls::server::ResolvesServerCertUsingSni::new()),
        client_ca: String::new(),
    }
}

/// An API that has nothing.
pub(crate) fn no_api() -> kube::Client {
    let api = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        http::Response::builder().status(404).body(kube::client::Body::empty())
    });
    kube::Client::new(api, "default")
}

/// What a runtime answers.
pub(crate) enum Answer {
    /// One message.
    One(Vec<u8>),
    /// A message, after which others may come.
    First(Vec<u8>),
}

impl Answer {
    /// One message.
    pub(crate) fn one(message: &impl Message) -> Self {
        Self::One(message.encode_to_vec())
    }

    fn body(self) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> {
        let (message, ends) = match self {
            Self::One(message) => (message, true),
            Self::First(message) => (message, false),
        };
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from(frame)))]);
        let rest = futures::stream::once(async move {
            if !ends {
                std::future::pending::<()>().await;
            }
            Ok(Frame::trailers(trailers))
        });
        StreamBody::new(first.chain(rest).boxed())
    }
}

/// A runtime that serves one connection. `answer` is asked by the name of the call; nothing is sent before it has an answer.
pub(crate) fn runtime(
    answer: impl Fn(&str) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
) -> (PathBuf, JoinHandle<()>) {
    let socket = std::env::temp_dir().join(format!("keelson-cri-{}.sock", uuid::Uuid::new_v4()));
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let path = socket.clone();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let path = request.uri().path();
            let answer = answer(path.rsplit_once('/').map_or(path, |(_, call)| call));
            async move {
                let body = answer.await.body();
                http::Response::builder().header("content-type", "application/grpc").body(body)
            }
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.serve_connection(TokioIo::new(stream), service).await.unwrap();
    });
    (socket, server)
}
