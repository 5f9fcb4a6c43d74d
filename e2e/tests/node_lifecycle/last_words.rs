//! What containers leave to say when they end.

use keelson_e2e::Pod;

use crate::{Subject, container, end};

pub(crate) fn they_are_a_file_s_or_a_log_s(subject: &Subject<'_>) {
    let fallback = "terminationMessagePolicy: FallbackToLogsOnError";
    let custom = "terminationMessagePath: /dev/custom/words";
    let user = "securityContext: {runAsUser: 1000}";
    let long = "i=0; while test $i -lt 500; do i=$((i+1)); echo 0123456789; done";
    let cases: [(&str, &str, &[&str], i64, String); 10] = [
        ("words-file", "echo -n DONE > /dev/termination-log; echo log", &[], 0, "DONE".into()),
        ("words-custom", "echo -n DONE > /dev/custom/words", &[custom], 0, "DONE".into()),
        ("words-user", "echo -n DONE > /dev/custom/words", &[custom, user], 0, "DONE".into()),
        ("words-none", "echo log; exit 1", &[], 1, String::new()),
        ("words-log", "echo -n DONE; exit 1", &[fallback], 1, "DONE".into()),
        ("words-well", "echo -n DONE; exit 0", &[fallback], 0, String::new()),
        (
            "words-file-first",
            "echo -n OK > /dev/termination-log; echo log; exit 1",
            &[fallback],
            1,
            "OK".into(),
        ),
        ("words-file-well", "echo -n OK > /dev/termination-log; echo log", &[fallback], 0, "OK".into()),
        // The end of a long file, and of a long log.
        (
            "words-long-file",
            &format!("{{ {long}; }} > /dev/termination-log"),
            &[],
            0,
            "0123456789\n".repeat(500)[5500 - 4096..].to_owned(),
        ),
        ("words-long-log", &format!("{long}; exit 1"), &[fallback], 1, "0123456789\n".repeat(80)),
    ];
    let pods = cases.iter().map(|(name, script, fields, ..)| {
        let pod = Pod::new(name).spec("restartPolicy: Never").script(script);
        fields.iter().fold(pod, |pod, field| pod.container(field))
    });
    subject.apply(&pods.collect::<Vec<_>>());
    for (name, _, _, code, words) in &cases {
        let over = subject.until_phase(name, if *code == 0 { "Succeeded" } else { "Failed" });
        let state = &container(&over, "main")["state"];
        assert_eq!(end(state).0, *code, "{name}");
        assert_eq!(state["terminated"]["message"].as_str().unwrap_or_default(), words, "{name}");
    }
}
