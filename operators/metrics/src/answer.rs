//! What is answered to a path: [`Wanted`] says what it means (pure), [`Server`] looks it up (client).

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::api::{self, Include};
use crate::figures::PodUsage;
use crate::sampler::Sampler;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Health,
    Group,
    Resources,
    /// All nodes, or one.
    Nodes(Option<&'a str>),
    /// Pods of a namespace or of all, or one.
    Pods(Option<&'a str>, Option<&'a str>),
    Nothing,
}

impl<'a> Wanted<'a> {
    /// What a path asks for (pure).
    pub(crate) fn of(path: &'a str) -> Self {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] => Wanted::Health,
            ["apis", "metrics.k8s.io"] => Wanted::Group,
            ["apis", "metrics.k8s.io", "v1beta1", rest @ ..] => match rest {
                [] => Wanted::Resources,
                ["nodes"] => Wanted::Nodes(None),
                ["nodes", name] => Wanted::Nodes(Some(name)),
                ["pods"] => Wanted::Pods(None, None),
                ["namespaces", namespace, "pods"] => Wanted::Pods(Some(namespace), None),
                ["namespaces", namespace, "pods", name] => Wanted::Pods(Some(namespace), Some(name)),
                _ => Wanted::Nothing,
            },
            _ => Wanted::Nothing,
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Text(&'static str),
    Found(Value),
    /// Code, reason and message.
    Refused(StatusCode, &'static str, String),
}

/// Looks up what is asked for.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) sampler: Arc<Sampler>,
}

/// Whether the first form that is accepted and known is a table.
fn wants_table(accept: &str) -> bool {
    let forms = accept.split(',').map(|form| form.replace(' ', ""));
    let known = forms.filter(|form| form.starts_with("application/json") || form.starts_with("*/*"));
    known.into_iter().next().is_some_and(|form| {
        let parts: Vec<&str> = form.split(';').collect();
        parts.contains(&"as=Table") && parts.contains(&"g=meta.k8s.io")
    })
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The selectors of a question, and one of a name and further fields.
fn params(query: Option<&str>, name: Option<&str>, further: Option<&str>) -> ListParams {
    let fields = [
        parameter(query, "fieldSelector").filter(|text| !text.is_empty()),
        name.map(|name| format!("metadata.name={name}")),
        further.map(str::to_owned),
    ];
    let fields: Vec<String> = fields.into_iter().flatten().collect();
    let mut params = ListParams::default().match_any();
    params.label_selector = parameter(query, "labelSelector").filter(|text| !text.is_empty());
    params.field_selector = Some(fields.join(",")).filter(|text| !text.is_empty());
    params
}

fn refused(error: &(dyn std::error::Error + 'static)) -> Answer {
    if let Some(status) = keelson_operator_kit::controller::api_status(error)
        && status.code == 400
    {
        return Answer::Refused(StatusCode::BAD_REQUEST, "BadRequest", status.message.clone());
    }
    tracing::warn!(error, "what is used cannot be told");
    let text = keelson_operator_kit::operator::chain(error);
    Answer::Refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
}

fn labels<K>(object: &PartialObjectMeta<K>) -> Option<Value> {
    object.metadata.labels.as_ref().map(|labels| json!(labels))
}

type Rows = Vec<(Value, u64, u64)>;

fn sum(usage: &PodUsage) -> (u64, u64) {
    usage.values().fold((0, 0), |(cpu, memory), one| (cpu + one.cpu, memory + one.memory))
}

impl Server {
    /// What is answered to a path.
    pub(crate) async fn answer(&self, path: &str, query: Option<&str>, accept: &str) -> Answer {
        let (kind, rows, one) = match Wanted::of(path) {
            Wanted::Health => return Answer::Text("ok"),
            Wanted::Group => return Answer::Found(api::group()),
            Wanted::Resources => return Answer::Found(api::resources()),
            Wanted::Nothing => {
                let text = "the server could not find the requested resource";
                return Answer::Refused(StatusCode::NOT_FOUND, "NotFound", text.to_owned());
            }
            Wanted::Nodes(name) => {
                ("NodeMetrics", self.nodes(query, name).await, name.map(|name| ("nodes", name.to_owned())))
            }
            Wanted::Pods(namespace, name) => {
                let one = name.map(|name| ("pods", format!("{}/{name}", namespace.unwrap_or_default())));
                ("PodMetrics", self.pods(query, namespace, name).await, one)
            }
        };
        if parameter(query, "watch").is_some_and(|value| value == "true" || value == "1") {
            let text = "the server does not allow this method on the requested resource";
            return Answer::Refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text.to_owned());
        }
        let rows = match rows {
            Ok(rows) => rows,
            Err(answer) => return answer,
        };
        if let Some((resource, name)) = &one
            && rows.is_empty()
        {
            let text = format!("{resource}.metrics.k8s.io {name:?} not found");
            return Answer::Refused(StatusCode::NOT_FOUND, "NotFound", text);
        }
        if wants_table(accept) {
            let include = match parameter(query, "includeObject").as_deref() {
                Some("None") => Include::Nothing,
                Some("Object") => Include::Object,
                Some(_) | None => Include::Metadata,
            };
            return Answer::Found(api::table(&rows, include));
        }
        let mut items = rows.into_iter().map(|(object, ..)| object);
        match one.and_then(|_| items.next()) {
            Some(object) => Answer::Found(object),
            None => Answer::Found(api::list(kind, items.collect())),
        }
    }

    async fn nodes(&self, query: Option<&str>, name: Option<&str>) -> Result<Rows, Answer> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = nodes.list_metadata(&params(query, name, None)).await;
        let found = found.map_err(|error| refused(&error))?.items;
        let now = Timestamp::now().as_millisecond();
        let rows = self.sampler.ask(|figures| {
            let row = |node: &PartialObjectMeta<Node>| {
                let (name, labels) = (node.name_any(), labels(node));
                let usage = figures.node(&name)?;
                Some((api::node_metrics(&name, labels.as_ref(), usage, now), usage.cpu, usage.memory))
            };
            found.iter().filter_map(row).collect()
        });
        rows.await.map_err(|error| refused(&error))
    }

    async fn pods(
        &self,
        query: Option<&str>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Rows, Answer> {
        let pods: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let found = pods.list_metadata(&params(query, name, Some("status.phase=Running"))).await;
        let mut found = found.map_err(|error| refused(&error))?.items;
        found.sort_by_key(|pod| (pod.namespace(), pod.name_any()));
        let now = Timestamp::now().as_millisecond();
        let rows = self.sampler.ask(|figures| {
            let row = |pod: &PartialObjectMeta<Pod>| {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let usage = figures.pod(&namespace, &name)?;
                let (cpu, memory) = sum(&usage);
                Some((api::pod_metrics(&namespace, &name, labels(pod).as_ref(), &usage, now), cpu, memory))
            };
            found.iter().filter_map(row).collect()
        });
        rows.await.map_err(|error| refused(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_is_wanted() {
        let group = "/apis/metrics.k8s.io/v1beta1";
        for (path, expected) in [
            (group.to_owned(), Wanted::Resources),
            (format!("{group}/nodes/a"), Wanted::Nodes(Some("a"))),
            (format!("{group}/pods"), Wanted::Pods(None, None)),
            (format!("{group}/namespaces/n/pods/p"), Wanted::Pods(Some("n"), Some("p"))),
            (format!("{group}/namespaces/n/services"), Wanted::Nothing),
            ("/healthz".to_owned(), Wanted::Health),
        ] {
            assert_eq!(Wanted::of(&path), expected, "{path}");
        }
    }

    #[test]
    fn the_first_form_that_is_known_is_taken() {
        assert!(wants_table("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"));
        assert!(!wants_table("application/vnd.kubernetes.protobuf, application/json"));
        assert!(!wants_table("application/json,application/json;as=Table;v=v1;g=meta.k8s.io"));
    }

    #[test]
    fn selectors_are_handed_on() {
        let found = params(Some("labelSelector=a%3Db&fieldSelector=metadata.namespace%3Dx"), Some("p"), None);
        assert_eq!(found.label_selector.as_deref(), Some("a=b"));
        assert_eq!(found.field_selector.as_deref(), Some("metadata.namespace=x,metadata.name=p"));
    }
}
