//! PodSecurity: a namespace's labels say which of the Pod Security Standards its pods have to keep.

use async_trait::async_trait;
use keelson_api::pod_security::{self, Level, LevelVersion, Policy};
use keelson_api::{GroupResource, Object, Status};
use serde::Deserialize;

use super::configuration::{ConfigError, Configurations};
use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::insight::pod_security::{Evaluations, Mode};
use crate::registry::Registry;

mod existing;
mod subject;

const AUDIT: &str = "pod-security.kubernetes.io/";
/// Paths of a pod that change nothing that a policy looks at.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// The plugin.
#[derive(Debug)]
pub struct PodSecurity {
    defaults: Policy,
    exemptions: Exemptions,
    metrics: Evaluations,
}

/// Whom no policy is for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct Defaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

/// `pod-security.admission.config.k8s.io/v1` `PodSecurityConfiguration`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSecurityConfiguration {
    defaults: Defaults,
    exemptions: Exemptions,
}

fn level_version(level: Option<&str>, version: Option<&str>) -> Option<LevelVersion> {
    let level = level.filter(|it| !it.is_empty()).map_or(Some(Level::Privileged), Level::parse)?;
    let minor = version.filter(|it| !it.is_empty()).map_or(Some(None), LevelVersion::parse_version)?;
    Some(LevelVersion { level, minor })
}

impl PodSecurity {
    /// The plugin as the file configures it.
    pub fn new(configurations: &Configurations, metrics: Evaluations) -> Result<Self, ConfigError> {
        let read: Option<PodSecurityConfiguration> =
            configurations.of("PodSecurity", "PodSecurityConfiguration")?;
        let PodSecurityConfiguration { defaults: own, exemptions } = read.unwrap_or_default();
        let mode = |name: &str, level: &Option<String>, version: &Option<String>| {
            level_version(level.as_deref(), version.as_deref()).ok_or_else(|| {
                let text = "must be privileged, baseline or restricted, at latest or v1.x";
                configurations.invalid(format!("PodSecurity: defaults.{name}: {text}"))
            })
        };
        let defaults = Policy {
            enforce: mode("enforce", &own.enforce, &own.enforce_version)?,
            audit: mode("audit", &own.audit, &own.audit_version)?,
            warn: mode("warn", &own.warn, &own.warn_version)?,
        };
        Ok(PodSecurity { defaults, exemptions, metrics })
    }

    fn is_exempt(&self, attributes: &Attributes<'_>) -> bool {
        let namespace = attributes.namespace.unwrap_or_default();
        self.exemptions.namespaces.iter().any(|it| it == namespace)
            || self.exemptions.usernames.contains(&attributes.identity.username)
    }

    fn has_exempt_runtime(&self, pod: &Object) -> bool {
        let class = pod.get_str(&["spec", "runtimeClassName"]).unwrap_or_default();
        !class.is_empty() && self.exemptions.runtime_classes.iter().any(|it| it == class)
    }

    fn namespace(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        new: &Object,
    ) -> Result<(), Status> {
        let (policy, faults) = Policy::of(new.labels(), &self.defaults);
        let before = attributes.old.map(|old| Policy::of(old.labels(), &self.defaults));
        let Some((old, old_faults)) = before.filter(|_| attributes.operation == Operation::Update) else {
            return invalid(attributes, &faults);
        };
        // Faults that were there before are no obstacle to another change.
        if faults != old_faults {
            invalid(attributes, &faults)?;
        }
        let relaxed = policy.enforce.minor == old.enforce.minor && policy.enforce.level <= old.enforce.level;
        if policy.enforce == old.enforce || policy.enforce.level == Level::Privileged || relaxed {
            return Ok(());
        }
        if self.exemptions.namespaces.iter().any(|it| it == attributes.name) {
            return Ok(());
        }
        let pods = registry.resource(&GroupResource::new("", "pods")).list();
        let mut found = existing::Found::default();
        for pod in pods.in_namespace(attributes.name) {
            if !found.has_room() {
                found.skip();
                continue;
            }
            let pod = cache::decode(&pod.bytes)?;
            let exempt = self.has_exempt_runtime(&pod);
            let violations = if exempt { Vec::new() } else { pod_security::evaluate(policy.enforce, &pod) };
            found.add(pod.name().unwrap_or_default(), &violations);
        }
        for text in found.warnings(attributes.name, policy.enforce) {
            attributes.remarks().warn(text);
        }
        Ok(())
    }

    fn pod(
        &self,
        attributes: &Attributes<'_>,
        policy: &Policy,
        pod: &Object,
        enforce: bool,
    ) -> Result<(), Status> {
        if self.has_exempt_runtime(pod) {
            self.metrics.exempt(attributes);
            return Ok(());
        }
        let remarks = attributes.remarks();
        let enforced = enforce.then(|| pod_security::evaluate(policy.enforce, pod));
        if enforce {
            remarks.annotate(&format!("{AUDIT}enforce-policy"), policy.enforce.to_string());
        }
        let of = |asked: LevelVersion| match &enforced {
            Some(known) if asked == policy.enforce => known.clone(),
            Some(_) | None => pod_security::evaluate(asked, pod),
        };
        let would = |policy: LevelVersion, violations: &[pod_security::Violation]| {
            format!("would violate PodSecurity \"{policy}\": {}", pod_security::details(violations))
        };
        let audited = of(policy.audit);
        let metrics = &self.metrics;
        if !audited.is_empty() {
            metrics.evaluated(attributes, Mode::Audit, policy.audit, false);
            remarks.annotate(&format!("{AUDIT}audit-violations"), would(policy.audit, &audited));
        }
        if let Some(violations) = &enforced {
            metrics.evaluated(attributes, Mode::Enforce, policy.enforce, violations.is_empty());
        }
        if let Some(violations) = enforced.as_ref().filter(|it| !it.is_empty()) {
            let details = pod_security::details(violations);
            let text = format!("violates PodSecurity \"{}\": {details}", policy.enforce);
            return Err(attributes.forbidden(&text));
        }
        let warned = of(policy.warn);
        if !warned.is_empty() {
            metrics.evaluated(attributes, Mode::Warn, policy.warn, false);
            remarks.warn(would(policy.warn, &warned));
        }
        Ok(())
    }
}

fn invalid(
    attributes: &Attributes<'_>,
    faults: &[keelson_api::validation::FieldError],
) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&attributes.resource.gvk(), attributes.name, faults))
}

#[async_trait]
impl Admission for PodSecurity {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        if !attributes.is_write() {
            return false;
        }
        if attributes.is_of("", "pods") {
            return !IGNORED.contains(&attributes.subresource);
        }
        attributes.subresource.is_empty()
            && (attributes.is("", "namespaces") || subject::template_path(attributes.resource).is_some())
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        if attributes.is_of("", "namespaces") {
            return self.namespace(registry, attributes, object);
        }
        if self.is_exempt(attributes) {
            self.metrics.exempt(attributes);
            return Ok(());
        }
        let is_pod = attributes.is_of("", "pods");
        let namespaces = registry.resource(&GroupResource::new("", "namespaces"));
        let found = namespaces.get(attributes.namespace.unwrap_or_default());
        let labels = found.as_ref().and_then(|namespace| namespace.labels.as_ref());
        let (policy, faults) = Policy::of(labels, &self.defaults);
        let open = |mode: &LevelVersion| mode.level == Level::Privileged;
        if faults.is_empty()
            && open(&policy.warn)
            && open(&policy.audit)
            && (!is_pod || open(&policy.enforce))
        {
            return Ok(());
        }
        if let Some(fault) = faults.first() {
            self.metrics.unreadable(attributes);
            let text = format!("Failed to parse policy: {fault}");
            attributes.remarks().annotate(&format!("{AUDIT}error"), text);
        }
        if is_pod {
            let old = attributes.old.filter(|_| attributes.operation == Operation::Update);
            if old.is_some_and(|old| !subject::is_significant(old, object)) {
                return Ok(());
            }
            return self.pod(attributes, &policy, object, true);
        }
        match subject::template(attributes.resource, object) {
            Some(template) => self.pod(attributes, &policy, &template, false),
            None => Ok(()),
        }
    }
}
