use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;

/// An API that knows one token, lets its user read pods of nodes, and counts what it is asked.
fn api(asked: Arc<AtomicUsize>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let asked = Arc::clone(&asked);
        async move {
            asked.fetch_add(1, Ordering::SeqCst);
            let path = request.uri().path().to_owned();
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&bytes).unwrap();
            review["status"] = if path.ends_with("/tokenreviews") {
                let known = review["spec"]["token"] == "good";
                json!({"authenticated": known, "user": {"username": "scraper", "groups": ["g"]}})
            } else {
                let of = &review["spec"]["resourceAttributes"];
                assert_eq!((&of["name"], &of["resource"]), (&json!("node-1"), &json!("nodes")));
                let known = review["spec"]["user"] == "scraper" && review["spec"]["groups"] == json!(["g"]);
                json!({"allowed": known && of["subresource"] == "pods" && of["verb"] == "get"})
            };
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(review.to_string().into_bytes())))
        }
    });
    kube::Client::new(service, "default")
}

fn token(text: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, text.parse().unwrap())])
}

#[test]
fn a_path_stands_for_a_subresource_and_what_had_none_before_for_proxy_too() {
    let cases: [(&str, &[&str]); 12] = [
        ("/stats/summary", &["stats"]),
        ("/metrics", &["metrics"]),
        ("/metrics/cadvisor", &["metrics"]),
        ("/metricsx", &["proxy"]),
        ("/logs/", &["log"]),
        ("/pods", &["pods", "proxy"]),
        ("/runningpods/", &["pods", "proxy"]),
        ("/healthz/ping", &["healthz", "proxy"]),
        ("/configz", &["configz", "proxy"]),
        ("/flagz", &["configz"]),
        ("/statusz", &["statusz"]),
        ("/exec/n/p/c", &["proxy"]),
    ];
    for (path, expected) in cases {
        assert_eq!(subresources(path), expected, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_for_once_as_long_as_it_holds() {
    let asked = Arc::new(AtomicUsize::new(0));
    let access = Access::new(api(Arc::clone(&asked)), "node-1", &KubeletConfiguration::default());
    for _ in 0..3 {
        let peer = access.authenticate(None, &token("Bearer good")).await.unwrap();
        access.authorize(&peer, &Method::GET, "/pods").await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let peer = access.authenticate(None, &token("bearer good")).await.unwrap();
    let refused = access.authorize(&peer, &Method::GET, "/stats/summary").await.unwrap_err();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.text, "Forbidden (user=scraper, verb=get, resource=nodes, subresource(s)=[stats])\n");
    access.authorize(&peer, &Method::GET, "/stats/summary").await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    tokio::time::advance(Duration::from_secs(30)).await;
    access.authorize(&peer, &Method::GET, "/stats/summary").await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_in_without_a_token_that_is_somebodys() {
    let asked = Arc::new(AtomicUsize::new(0));
    let access = Access::new(api(Arc::clone(&asked)), "node-1", &KubeletConfiguration::default());
    for headers in
        [HeaderMap::new(), token("Basic good"), token("Bearer "), token("Bearer bad"), token("Bearer bad")]
    {
        let refused = access.authenticate(None, &headers).await.unwrap_err();
        assert_eq!((refused.status, refused.text.as_str()), (StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
