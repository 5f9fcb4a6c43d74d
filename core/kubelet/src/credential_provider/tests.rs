use std::fs;
use std::path::Path;

use super::*;

fn auths(all: &[(&str, &str)]) -> Auths {
    let one = |(location, user): &(&str, &str)| {
        ((*location).to_owned(), exchange::Auth { username: (*user).to_owned(), password: "p".to_owned() })
    };
    all.iter().map(one).collect()
}

#[test]
fn the_most_specific_credentials_are_tried_first() {
    let chosen = |answers: &[Auths], image: &str| -> Vec<String> {
        let pattern = Pattern::parse(image).unwrap();
        let answers: Vec<Answered> = answers.iter().map(|auths| (Arc::new(auths.clone()), None)).collect();
        choose(answers.iter(), image, &pattern).into_iter().map(|(auth, _)| auth.username).collect()
    };
    let answers = [
        auths(&[("https://a.example/v1/", "host"), ("a.example/team", "team"), ("*.example", "any")]),
        auths(&[("a.example", "other"), ("b.example", "foreign")]),
    ];
    assert_eq!(chosen(&answers, "a.example/team/app"), ["team", "host", "other", "any"]);
    assert_eq!(chosen(&answers, "c.example/app"), ["any"]);
    let usual = [auths(&[("https://index.docker.io/v1/", "usual")])];
    assert_eq!(chosen(&usual, "docker.io/library/busybox"), ["usual"]);
    assert_eq!(chosen(&usual, "a.example/app"), Vec::<String>::new());
}

/// A plugin that writes down that it ran and answers after `pause`.
fn plugins(folder: &Path, cache: &str, script: &str) -> Plugins {
    plugins_with(folder, cache, script, &crate::testing::no_api())
}

fn plugins_with(folder: &Path, cache: &str, script: &str, client: &kube::Client) -> Plugins {
    let (programs, configuration) = (folder.join("bin"), folder.join("config.yaml"));
    fs::create_dir_all(&programs).unwrap();
    // A program that was just written may still be open for writing in a process that another test is about to start.
    let program = programs.join("own");
    if !program.exists() {
        std::os::unix::fs::symlink("/bin/sh", program).unwrap();
    }
    let own = folder.join("own.sh");
    fs::write(&own, format!("cat >> {}/asked\necho >> {0}/asked\n{script}\n", folder.display())).unwrap();
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: own\n  \
         apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['*.example']\n  defaultCacheDuration: {cache}\n  \
         args: [{}]\n",
        own.display()
    );
    fs::write(&configuration, text).unwrap();
    let registry = keelson_metrics::Registry::default();
    let counted = Counted {
        errors: registry.counters("errors", "Errors.", &["plugin_name"]).unwrap(),
        duration: registry.histograms("duration", "Duration.", &["plugin_name"], &[1.0]).unwrap(),
    };
    Plugins::new(Some(&CredentialProviders::open(&configuration, &programs).unwrap()), client, &counted)
}

fn pod(name: &str, account: &str) -> PodModel {
    let pod = serde_json::json!({ "metadata": { "name": name, "namespace": "n", "uid": format!("uid-{name}") },
        "spec": { "containers": [{ "name": "a" }], "serviceAccountName": account } });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

/// An API with the account `robot`, whose tokens are named after the pods that they are bound to, and one without annotations.
fn accounts() -> kube::Client {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    let api = tower::service_fn(|request: http::Request<kube::client::Body>| async {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let answer = match path.rsplit('/').next().unwrap() {
            "token" => {
                let spec = &asked["spec"];
                assert_eq!(
                    (&spec["audiences"], &spec["expirationSeconds"]),
                    (&json!(["registry"]), &json!(3600))
                );
                let token = format!("token-of-{}", spec["boundObjectRef"]["name"].as_str().unwrap());
                let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                json!({ "metadata": {}, "spec": { "audiences": [] }, "status": { "token": token, "expirationTimestamp": ends } })
            }
            "robot" => {
                json!({ "metadata": { "name": "robot", "uid": "1", "annotations": { "role": "puller", "other": "x" } } })
            }
            _ => json!({ "metadata": { "name": "plain", "uid": "2" } }),
        };
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
            serde_json::to_vec(&answer).unwrap(),
        )))
    });
    kube::Client::new(api, "default")
}

const ANSWER: &str = r#"echo '{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry", "auth": {"*.example": {"username": "u", "password": "p"}}}'"#;

#[tokio::test]
async fn who_wants_the_same_image_at_the_same_time_shares_one_run_and_then_its_answer() {
    let folder = std::env::temp_dir().join(format!("keelson-provider-{}", uuid::Uuid::new_v4()));
    let all = plugins(&folder, "1h", ANSWER);
    let asked = || fs::read_to_string(folder.join("asked")).unwrap_or_default().lines().count();
    let pod = pod("p", "");
    let (one, two) = tokio::join!(all.find("a.example/x", &pod), all.find("a.example/x", &pod));
    assert_eq!((one[0].0.username.as_str(), one == two, asked()), ("u", true, 1));
    assert_eq!((all.find("a.example/y", &pod).await.len(), asked()), (1, 1), "for all of the registry");
    assert_eq!((all.find("b.example/y", &pod).await.len(), asked()), (1, 2));
    assert_eq!((all.find("a.other/y", &pod).await.len(), asked()), (0, 2), "nobody asks about others");
    assert!(!all.ask_by_account("a.example/x"));
    let question = fs::read_to_string(folder.join("asked")).unwrap();
    let question: serde_json::Value = serde_json::from_str(question.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&question["kind"], &question["image"]),
        (&"CredentialProviderRequest".into(), &"a.example/x".into())
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_plugin_that_fails_is_counted_and_asked_again() {
    let folder = std::env::temp_dir().join(format!("keelson-provider-{}", uuid::Uuid::new_v4()));
    let all = plugins(&folder, "1h", "echo no >&2; exit 1");
    for _ in 0..2 {
        assert!(all.find("a.example/x", &pod("p", "")).await.is_empty());
    }
    let counted = &all.all[0].counted;
    assert_eq!(counted.errors.with_label_values(&["own"]).get(), 2);
    assert_eq!(counted.duration.with_label_values(&["own"]).get_sample_count(), 2);
    let all = plugins(&folder, "0s", ANSWER);
    for _ in 0..2 {
        assert_eq!(all.find("a.example/x", &pod("p", "")).await.len(), 1);
    }
    assert_eq!(fs::read_to_string(folder.join("asked")).unwrap().lines().count(), 4, "good for once");
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_plugin_is_asked_in_the_name_of_the_pods_account() {
    let attributes = |cache: &str, required: bool| {
        format!(
            "1h\n  tokenAttributes: {{serviceAccountTokenAudience: registry, cacheType: {cache}, requireServiceAccount: {required}{}}}",
            if required { ", requiredServiceAccountAnnotationKeys: [role]" } else { "" }
        )
    };
    let folder = std::env::temp_dir().join(format!("keelson-provider-{}", uuid::Uuid::new_v4()));
    let all = plugins_with(&folder, &attributes("ServiceAccount", true), ANSWER, &accounts());
    let asked = || fs::read_to_string(folder.join("asked")).unwrap_or_default();
    assert!(all.ask_by_account("a.example/x") && !all.ask_by_account("a.other/x"));
    let (_, account) = all.find("a.example/x", &pod("one", "robot")).await.remove(0);
    let account = account.unwrap();
    assert_eq!(
        (account.namespace.as_str(), account.name.as_str(), account.uid.as_str()),
        ("n", "robot", "1")
    );
    let question: serde_json::Value = serde_json::from_str(asked().trim()).unwrap();
    assert_eq!(
        (&question["serviceAccountToken"], &question["serviceAccountAnnotations"]),
        (&"token-of-one".into(), &serde_json::json!({ "role": "puller" }))
    );
    assert_eq!(all.find("a.example/x", &pod("two", "robot")).await.len(), 1);
    assert_eq!(asked().lines().count(), 1, "the answer is for all pods of the account");
    for without in [pod("three", "plain"), pod("four", "")] {
        assert!(all.find("a.example/x", &without).await.is_empty());
    }
    assert_eq!(asked().lines().count(), 1, "the plugin is not meant for those");
    // For one pod alone, and for pods without an account.
    let all = plugins_with(&folder, &attributes("Token", false), ANSWER, &accounts());
    for (own, runs) in [("one", 2), ("one", 2), ("two", 3)] {
        assert_eq!(all.find("a.example/x", &pod(own, "robot")).await.len(), 1);
        assert_eq!(asked().lines().count(), runs, "{own}");
    }
    let (_, account) = all.find("a.example/x", &pod("alone", "")).await.remove(0);
    assert_eq!((account, asked().lines().last().unwrap().contains("serviceAccount")), (None, false));
    all.forget("uid-one");
    fs::remove_dir_all(&folder).unwrap();
}
