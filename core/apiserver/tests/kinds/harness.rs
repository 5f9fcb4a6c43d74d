//! A server with a folder of its own, and plain requests to it.

use http::{Method, Request};
use keelson_apiserver::server::Config;
use keelson_apiserver::{ApiServer, Identity};
use serde_json::Value;

pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) dir: tempfile::TempDir,
}

/// An answer: its code and document.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) u16, pub(crate) Value);

impl Answer {
    /// The document of a request that went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.0 < 300, "{} {}", self.0, self.1);
        self.1
    }

    /// The message of a request that failed with a code.
    #[track_caller]
    pub(crate) fn fails(self, code: u16) -> String {
        assert_eq!(self.0, code, "{}", self.1);
        self.1["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// A server whose configuration is changed before it starts.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
        change(&mut config);
        Server { api: ApiServer::start(config).await.unwrap(), dir }
    }

    pub(crate) async fn start_in(dir: tempfile::TempDir) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = Config::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
        Server { api: ApiServer::start(config).await.unwrap(), dir }
    }

    /// Ends it and starts it again on the same folder.
    #[allow(dead_code)]
    pub(crate) async fn restart(self) -> Self {
        self.api.shutdown().await;
        Self::start_in(self.dir).await
    }

    /// Ends it and starts it again on the same folder, with another configuration.
    #[allow(dead_code)]
    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        self.api.shutdown().await;
        let mut config = Config::new(self.dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
        change(&mut config);
        Server { api: ApiServer::start(config).await.unwrap(), dir: self.dir }
    }

    async fn send(
        &self,
        client: &kube::Client,
        method: Method,
        path: &str,
        kind: &str,
        body: String,
    ) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(kube::client::Body::from(body.into_bytes())).unwrap();
        let response = client.send(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.unwrap();
        Answer(code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn administrator(&self, method: Method, path: &str, kind: &str, body: String) -> Answer {
        self.send(&self.api.administrator(), method, path, kind, body).await
    }

    /// A request in another name.
    #[allow(dead_code)]
    pub(crate) async fn act(&self, who: Identity, method: Method, path: &str, body: Value) -> Answer {
        self.act_as(who, method, path, "application/json", body).await
    }

    /// A request in another name, of any media type.
    pub(crate) async fn act_as(
        &self,
        who: Identity,
        method: Method,
        path: &str,
        kind: &str,
        body: Value,
    ) -> Answer {
        self.send(&self.api.client(who), method, path, kind, body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.administrator(Method::GET, path, "application/json", String::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.administrator(Method::POST, path, "application/json", body.to_string()).await
    }

    #[allow(dead_code)]
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.administrator(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> Answer {
        self.administrator(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }

    /// Applies a configuration; `query` is what comes after the `?`.
    pub(crate) async fn apply(&self, path: &str, query: &str, body: Value) -> Answer {
        let path = format!("{path}?{query}");
        self.administrator(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string()).await
    }

    /// A patch of any media type.
    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &str) -> Answer {
        self.administrator(Method::PATCH, path, kind, body.to_owned()).await
    }

    #[allow(dead_code)]
    pub(crate) async fn json_patch(&self, path: &str, body: Value) -> Answer {
        self.administrator(Method::PATCH, path, "application/json-patch+json", body.to_string()).await
    }

    #[allow(dead_code)]
    pub(crate) async fn delete(&self, path: &str, body: Value) -> Answer {
        self.administrator(Method::DELETE, path, "application/json", body.to_string()).await
    }
}
