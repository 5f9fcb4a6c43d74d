//! `kubectl debug`: ephemeral containers, and copies of pods.

use keelson_e2e::{BUSYBOX, Pod};
use serde_json::Value;

use crate::{Subject, container, end};

pub(crate) fn containers_are_added_to_a_pod_and_its_copies(subject: &Subject<'_>) {
    let (cluster, objects) = (subject.cluster, subject.objects);
    subject.apply(&[Pod::new("looked-at").script("echo own > /tmp/mine; exec sleep 98765").grace(1)]);
    subject.until_runs("looked-at");
    let image = format!("--image={BUSYBOX}");
    let debug = |arguments: &[&str], command: &[&str]| {
        let head = ["debug", "looked-at", &image, "--attach=false", "--quiet"];
        cluster.kubectl(&[&head, arguments, &["--"], command].concat()).unwrap()
    };
    debug(
        &["-c", "looks", "--target=main"],
        &["sh", "-c", "ps; echo its file: $(cat /proc/1/root/tmp/mine); exec sleep 5000"],
    );
    debug(&["-c", "apart"], &["sh", "-c", "ps; exit 9"]);
    let here = |it: &Value| {
        container(it, "looks")["state"]["running"].is_object()
            && container(it, "apart")["state"]["terminated"].is_object()
    };
    let pod = objects.until("looked-at", "both containers to have begun", here).unwrap();
    assert_eq!(end(&container(&pod, "apart")["state"]), (9, "Error"));
    // They are never ready, and never started again.
    for name in ["looks", "apart"] {
        assert_eq!(container(&pod, name)["ready"], false, "{pod}");
        assert_eq!(container(&pod, name)["restartCount"], 0);
    }
    assert_eq!(pod["status"]["phase"], "Running");
    let said = subject.until_says(&["looked-at", "-c", "looks"], "its file:");
    assert!(said.contains("sleep 98765") && said.contains("its file: own"), "it sees its target: {said}");
    let said = cluster.kubectl(&["logs", "looked-at", "-c", "apart"]).unwrap();
    assert!(!said.contains("98765"), "{said}");
    assert_eq!(
        cluster.kubectl(&["exec", "looked-at", "-c", "looks", "--", "echo", "here"]).unwrap(),
        "here\n"
    );
    objects.until_told("looked-at", "Started: ").unwrap();

    // A copy that shares its processes, and one whose container has another command.
    let copy = ["--copy-to=copied", "--share-processes", "-c", "looks"];
    debug(&copy, &["sh", "-c", "sleep 1; ps; exec sleep 5000"]);
    let said = subject.until_says(&["copied", "-c", "looks"], "98765");
    assert!(said.contains("pause") || said.contains("keelson") || said.contains("sleep infinity"), "{said}");
    let changed =
        ["debug", "looked-at", "--copy-to=changed", "--container=main", "--attach=false", "--quiet"];
    cluster.kubectl(&[&changed[..], &["--", "sh", "-c", "echo other; exec sleep 5000"]].concat()).unwrap();
    assert_eq!(subject.until_says(&["changed"], "other"), "other\n");
}
