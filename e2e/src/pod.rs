//! The manifest of a pod.

use std::fmt;

use serde_json::Value;

use crate::BUSYBOX;

/// The manifest of a pod with one container, `main`, of the image [`BUSYBOX`], that sleeps until it is killed; whatever
/// else a test's pod has is added in YAML, a field at a time.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    metadata: Vec<String>,
    spec: Vec<String>,
    container: Vec<String>,
    command: String,
    grace: u32,
}

impl Pod {
    /// A pod in the default namespace.
    pub fn new(name: &str) -> Self {
        Pod {
            name: name.to_owned(),
            metadata: Vec::new(),
            spec: Vec::new(),
            container: Vec::new(),
            command: "[sleep, infinity]".to_owned(),
            grace: 0,
        }
    }

    /// A further field of its metadata, as `labels: {app: web}`.
    #[must_use]
    pub fn metadata(mut self, field: &str) -> Self {
        self.metadata.push(field.to_owned());
        self
    }

    /// A further field of its specification, as `hostNetwork: true`; none if it is empty.
    #[must_use]
    pub fn spec(mut self, field: &str) -> Self {
        self.spec.push(field.to_owned());
        self
    }

    /// A further field of its container, as `resources: {limits: {memory: 64Mi}}`; none if it is empty.
    #[must_use]
    pub fn container(mut self, field: &str) -> Self {
        self.container.push(field.to_owned());
        self
    }

    /// What a shell does in its container.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.command = format!("[sh, -c, {}]", Value::from(script));
        self
    }

    /// What a shell does once in its container, and ends: what it prints is what the test wants to know.
    #[must_use]
    pub fn prints(self, script: &str) -> Self {
        self.spec("restartPolicy: Never").script(script)
    }

    /// How long it may take to end, in seconds; without this it is killed at once.
    #[must_use]
    pub fn grace(mut self, seconds: u32) -> Self {
        self.grace = seconds;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A document of YAML, and the mark at its end.
impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pod { name, metadata, spec, container, command, grace } = self;
        let fields = |fields: &[String], indent: &str| -> String {
            let fields = fields.iter().filter(|field| !field.is_empty());
            fields.map(|field| format!("{indent}{field}\n")).collect()
        };
        write!(f, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n{}", fields(metadata, "  "))?;
        write!(f, "spec:\n  terminationGracePeriodSeconds: {grace}\n{}", fields(spec, "  "))?;
        write!(f, "  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: {command}\n")?;
        writeln!(f, "{}---", fields(container, "    "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_says_what_was_added() {
        let pod = Pod::new("a").metadata("labels: {app: web}").spec("hostNetwork: true").spec("");
        let pod = pod.script("echo \"it's\" $HOME").container("stdin: true").grace(7).to_string();
        let found: Value = serde_yaml_ng::from_str(pod.strip_suffix("---\n").unwrap()).unwrap();
        let container = json!({
            "name": "main",
            "image": BUSYBOX,
            "command": ["sh", "-c", "echo \"it's\" $HOME"],
            "stdin": true,
        });
        let wanted = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", "labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 7, "hostNetwork": true, "containers": [container]},
        });
        assert_eq!(found, wanted);
    }
}
