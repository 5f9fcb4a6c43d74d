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
        choose(answers.iter(), image, &pattern).into_iter().map(|auth| auth.username).collect()
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
    Plugins::new(Some(&CredentialProviders::open(&configuration, &programs).unwrap()), &counted)
}

const ANSWER: &str = r#"echo '{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry", "auth": {"*.example": {"username": "u", "password": "p"}}}'"#;

#[tokio::test]
async fn who_wants_the_same_image_at_the_same_time_shares_one_run_and_then_its_answer() {
    let folder = std::env::temp_dir().join(format!("keelson-provider-{}", uuid::Uuid::new_v4()));
    let all = plugins(&folder, "1h", ANSWER);
    let asked = || fs::read_to_string(folder.join("asked")).unwrap_or_default().lines().count();
    let (one, two) = tokio::join!(all.find("a.example/x"), all.find("a.example/x"));
    assert_eq!((one[0].username.as_str(), one == two, asked()), ("u", true, 1));
    assert_eq!((all.find("a.example/y").await.len(), asked()), (1, 1), "for all of the registry");
    assert_eq!((all.find("b.example/y").await.len(), asked()), (1, 2));
    assert_eq!((all.find("a.other/y").await.len(), asked()), (0, 2), "nobody asks about others");
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
        assert!(all.find("a.example/x").await.is_empty());
    }
    let counted = &all.0[0].counted;
    assert_eq!(counted.errors.with_label_values(&["own"]).get(), 2);
    assert_eq!(counted.duration.with_label_values(&["own"]).get_sample_count(), 2);
    let all = plugins(&folder, "0s", ANSWER);
    for _ in 0..2 {
        assert_eq!(all.find("a.example/x").await.len(), 1);
    }
    assert_eq!(fs::read_to_string(folder.join("asked")).unwrap().lines().count(), 4, "good for once");
    fs::remove_dir_all(&folder).unwrap();
}
