//! Pods that cannot run as they are described.

use keelson_e2e::{BUSYBOX, Pod};
use serde_json::{Value, json};

use crate::{HOLD, Subject, condition, container, end};

fn waits<'a>(reason: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |pod: &Value| container(pod, "main")["state"]["waiting"]["reason"] == reason
}

pub(crate) fn images_that_are_not_to_be_had_say_why(subject: &Subject<'_>) {
    let pod = |name: &str, image: &str| {
        Pod::new(name).to_string().replace(BUSYBOX, &Value::from(image).to_string())
    };
    let never = Pod::new("image-never").container("imagePullPolicy: Never").to_string();
    let never = never.replace(BUSYBOX, "test.keelson.io/absent:1");
    let pods = [pod("image-absent", "127.0.0.1:1/absent:1"), pod("image-invalid", "lower/UPPER:1"), never];
    subject.cluster.apply(&pods.concat()).unwrap();
    let objects = subject.objects;

    let pod = objects.until("image-absent", "the pull fails", waits("ErrImagePull")).unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    let message = &container(&pod, "main")["state"]["waiting"]["message"];
    assert!(message.as_str().is_some_and(|text| text.contains("127.0.0.1:1")), "{message}");
    assert_eq!(condition(&pod, "ContainersReady")["reason"], "ContainersNotReady");
    assert_eq!(condition(&pod, "PodReadyToStartContainers")["status"], "True");
    objects.until_told("image-absent", "Pulling: Pulling image \"127.0.0.1:1/absent:1\"").unwrap();
    objects.until_told("image-absent", "Failed: Failed to pull image \"127.0.0.1:1/absent:1\": ").unwrap();
    objects.until_told("image-absent", "Failed: Error: ErrImagePull").unwrap();
    let pod = objects.until("image-absent", "the next pull waits", waits("ImagePullBackOff")).unwrap();
    let message = container(&pod, "main")["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("Back-off pulling image \"127.0.0.1:1/absent:1\": ErrImagePull: "),
        "{message}"
    );
    objects.until_told("image-absent", "BackOff: Back-off pulling image \"127.0.0.1:1/absent:1\"").unwrap();
    objects.until_told("image-absent", "Failed: Error: ImagePullBackOff").unwrap();

    let pod = objects.until("image-invalid", "the name is refused", waits("InvalidImageName")).unwrap();
    let message = container(&pod, "main")["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Failed to apply default image tag \"lower/UPPER:1\": "), "{message}");
    objects.until_told("image-invalid", "InspectFailed: ").unwrap();

    let pod = objects.until("image-never", "the image is missed", waits("ErrImageNeverPull")).unwrap();
    assert_eq!(
        container(&pod, "main")["state"]["waiting"]["message"],
        "Container image \"test.keelson.io/absent:1\" is not present with pull policy of Never"
    );
    objects.until_told("image-never", "ErrImageNeverPull: ").unwrap();
    // A pod that never ran ends as well.
    subject.cluster.kubectl(&["delete", "pod", "image-absent", "image-never", "image-invalid"]).unwrap();
}

pub(crate) fn commands_and_references_that_are_wrong_say_why(subject: &Subject<'_>) {
    let command = |pod: Pod| pod.to_string().replace("[sleep, infinity]", "[/no/such/program]");
    let reference =
        |kind: &str| format!("env: [{{name: A, valueFrom: {{{kind}: {{name: made-later, key: a}}}}}}]");
    let pods = [
        command(Pod::new("bad-command")),
        command(Pod::new("bad-command-never").spec("restartPolicy: Never")),
        Pod::new("bad-folder").spec("restartPolicy: Never").container("workingDir: /bin/busybox").to_string(),
        Pod::new("no-settings").container(&reference("configMapKeyRef")).to_string(),
        Pod::new("no-secret").metadata(HOLD).container(&reference("secretKeyRef")).to_string(),
        Pod::new("is-root").container("securityContext: {runAsNonRoot: true}").to_string(),
    ];
    subject.cluster.apply(&pods.concat()).unwrap();
    let objects = subject.objects;

    for (name, reason, message) in [
        ("no-settings", "CreateContainerConfigError", "configmap \"made-later\" not found"),
        ("no-secret", "CreateContainerConfigError", "secret \"made-later\" not found"),
        ("is-root", "CreateContainerConfigError", "container has runAsNonRoot and image will run as root"),
    ] {
        let pod = objects.until(name, reason, waits(reason)).unwrap();
        let found = container(&pod, "main")["state"]["waiting"]["message"].as_str().unwrap().to_owned();
        assert!(found.starts_with(message), "{name}: {found}");
        assert_eq!(pod["status"]["phase"], "Pending");
        objects.until_told(name, &format!("Failed: Error: {message}")).unwrap();
    }
    subject.cluster.kubectl(&["create", "configmap", "made-later", "--from-literal=a=b"]).unwrap();
    let pod = subject.until_runs("no-settings");
    assert_eq!(container(&pod, "main")["restartCount"], 0);
    assert_eq!(subject.cluster.exec("no-settings", &["sh", "-c", "echo $A"]).unwrap(), "b\n");
    // One that could never run ends without a trace of having run.
    subject.delete("no-secret");
    subject.release("no-secret");

    let failed = |it: &Value| {
        let main = container(it, "main");
        end(&main["lastState"]) == (128, "StartError") && main["state"]["waiting"].is_object()
    };
    let pod = objects.until("bad-command", "its command is not found", failed).unwrap();
    let main = container(&pod, "main");
    let reason = &main["state"]["waiting"]["reason"];
    assert!([json!("RunContainerError"), json!("CrashLoopBackOff")].contains(reason), "{main}");
    let told = objects.until_told("bad-command", "Failed: Error: ").unwrap();
    assert!(told.contains("/no/such/program") && told.contains("no such file or directory"), "{told}");
    objects.until("bad-command", "it waits", waits("CrashLoopBackOff")).unwrap();
    let pod = subject.until_phase("bad-command-never", "Failed");
    let state = &container(&pod, "main")["state"];
    assert_eq!(end(state), (128, "StartError"));
    let message = state["terminated"]["message"].as_str().unwrap();
    assert!(
        message.contains("/no/such/program") && message.contains("no such file or directory"),
        "{message}"
    );
    let pod = subject.until_phase("bad-folder", "Failed");
    assert_eq!(end(&container(&pod, "main")["state"]), (128, "StartError"), "{pod}");
}
