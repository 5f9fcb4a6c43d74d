//! Tokens in Secrets that nobody has used for a year: one that was once made for an account goes, in two steps (pure).
//!
//! First its Secret is marked, and its token is taken no longer; when another year has passed without use, it is deleted.
//! A Secret that somebody has made themselves is not listed by its account, and stays.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The label with the day of the last use, which the API server writes.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label of a Secret whose token is taken no longer.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// The ConfigMap that says since when uses are written down, its namespace and its key.
pub const TRACKING: (&str, &str, &str) =
    ("kube-system", "kube-apiserver-legacy-service-account-token-tracking", "since");

/// For so long a token must not have been used.
const PERIOD: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What is seen of a Secret with a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacySecret {
    /// Its UID.
    pub uid: String,
    /// At which revision it is so.
    pub resource_version: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Whether it is about to go.
    pub ending: bool,
    /// The day of its last use, as it is written.
    pub last_used: Option<String>,
    /// Since when its token is taken no longer, as it is written.
    pub invalid_since: Option<String>,
    /// Whether its account lists it.
    pub listed: bool,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyPlan {
    /// Nothing.
    Keep,
    /// Its token is no longer to be taken from this day on.
    Mark {
        /// Which Secret.
        uid: String,
        /// The day.
        since: String,
    },
    /// It goes, if it has not changed.
    Delete {
        /// At which revision.
        resource_version: String,
    },
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

fn parse(text: &str) -> Option<Date> {
    // Only the one form, as the days are compared as texts elsewhere.
    text.parse::<Date>().ok().filter(|date| date.to_string() == text)
}

/// The beginning of what is too long ago.
fn limit(now: Timestamp) -> Timestamp {
    now.checked_sub(PERIOD).unwrap_or(Timestamp::MIN)
}

/// Whether uses have been written down for long enough, by what the ConfigMap says.
pub fn is_tracked_long_enough(since: &str, now: Timestamp) -> bool {
    parse(since).and_then(|since| since.tomorrow().ok()).is_some_and(|after| after <= day(limit(now)))
}

/// Whether a Secret may have to go, if no pod mounts it.
pub fn is_unused(secret: &LegacySecret, now: Timestamp) -> bool {
    let is_old = secret.created.is_some_and(|created| created < limit(now));
    let is_unused = match &secret.last_used {
        None => true,
        Some(day_of_use) => parse(day_of_use).is_some_and(|used| used < day(limit(now))),
    };
    is_old && is_unused && secret.listed && !secret.ending
}

/// Decides about a Secret that is not used.
pub fn decide(secret: &LegacySecret, mounted: bool, now: Timestamp) -> LegacyPlan {
    if mounted || !is_unused(secret, now) {
        return LegacyPlan::Keep;
    }
    match secret.invalid_since.as_deref().and_then(parse) {
        None => LegacyPlan::Mark { uid: secret.uid.clone(), since: day(now).to_string() },
        Some(since) if since < day(limit(now)) => {
            LegacyPlan::Delete { resource_version: secret.resource_version.clone() }
        }
        Some(_) => LegacyPlan::Keep,
    }
}

/// The Secrets that a pod needs.
pub fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    found.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    for volume in spec.volumes.iter().flatten() {
        found.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        let sources = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
        found.extend(sources.filter_map(|source| Some(source.secret.as_ref()?.name.clone())));
        found.extend(
            volume.csi.as_ref().and_then(|it| Some(it.node_publish_secret_ref.as_ref()?.name.clone())),
        );
    }
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let containers = spec.containers.iter().chain(init).map(|it| (&it.env, &it.env_from));
    for (env, from) in containers.chain(ephemeral.map(|it| (&it.env, &it.env_from))) {
        let refs = env.iter().flatten().filter_map(|it| it.value_from.as_ref()?.secret_key_ref.as_ref());
        found.extend(refs.map(|it| it.name.clone()));
        found.extend(from.iter().flatten().filter_map(|it| Some(it.secret_ref.as_ref()?.name.clone())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-06-15T12:00:00Z".parse().unwrap()
    }

    fn secret(change: impl FnOnce(&mut LegacySecret)) -> LegacySecret {
        let mut secret = LegacySecret {
            uid: "u".to_owned(),
            resource_version: "7".to_owned(),
            created: Some("2020-01-01T00:00:00Z".parse().unwrap()),
            listed: true,
            ..LegacySecret::default()
        };
        change(&mut secret);
        secret
    }

    #[test]
    fn a_token_that_nobody_uses_is_marked_and_goes_a_year_later() {
        let plan = |change: &dyn Fn(&mut LegacySecret)| decide(&secret(|it| change(it)), false, now());
        let mark = LegacyPlan::Mark { uid: "u".to_owned(), since: "2026-06-15".to_owned() };
        assert_eq!(plan(&|_| {}), mark);
        assert_eq!(plan(&|it| it.last_used = Some("2025-06-14".to_owned())), mark);
        assert_eq!(plan(&|it| it.invalid_since = Some("yesterday".to_owned())), mark);
        let delete = LegacyPlan::Delete { resource_version: "7".to_owned() };
        assert_eq!(plan(&|it| it.invalid_since = Some("2025-06-14".to_owned())), delete);
        assert_eq!(plan(&|it| it.invalid_since = Some("2025-06-15".to_owned())), LegacyPlan::Keep);
    }

    #[test]
    fn what_is_used_or_new_or_somebodys_own_stays() {
        let keeps = |change: &dyn Fn(&mut LegacySecret)| {
            decide(&secret(|it| change(it)), false, now()) == LegacyPlan::Keep
        };
        assert!(keeps(&|it| it.last_used = Some("2025-06-15".to_owned())));
        assert!(keeps(&|it| it.last_used = Some("long ago".to_owned())));
        assert!(keeps(&|it| it.created = Some("2026-01-01T00:00:00Z".parse().unwrap())));
        assert!(keeps(&|it| it.created = None));
        assert!(keeps(&|it| it.listed = false));
        assert!(keeps(&|it| it.ending = true));
        assert_eq!(decide(&secret(|_| {}), true, now()), LegacyPlan::Keep);
    }

    #[test]
    fn nothing_goes_before_uses_were_written_down_for_a_year() {
        assert!(is_tracked_long_enough("2025-06-14", now()));
        assert!(!is_tracked_long_enough("2025-06-15", now()));
        assert!(!is_tracked_long_enough("", now()));
    }

    #[test]
    fn a_pod_needs_the_secrets_of_its_volumes_variables_and_images() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "imagePullSecrets": [{"name": "a"}],
            "volumes": [{"name": "v", "secret": {"secretName": "b"}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "c"}}]}}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "d"}}]}],
            "initContainers": [{"name": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "e", "key": "k"}}}]}],
        }}))
        .unwrap();
        assert_eq!(secrets_of(&pod).into_iter().collect::<String>(), "abcde");
    }
}
