//! ResourceQuota: what a write uses is written into the quotas of its namespace before the object is, so that no two
//! writes use the same room.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use keelson_api::quota;
use keelson_api::resource_list::{self, ResourceList};
use keelson_api::{GroupResource, Object, Status};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::configuration::{ConfigError, Configurations};
use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::identity::{Identity, MASTERS};
use crate::registry::{Record, Registry, Target, WriteOptions};

mod limited;

use limited::LimitedResource;

/// Writes in one namespace take turns; namespaces that share a place wait for each other, too.
const PLACES: usize = 64;

/// The plugin. The operator `resourcequota` sets the limits in the status, and lowers what is used.
pub struct ResourceQuota {
    turns: Vec<Mutex<()>>,
    limited: Vec<LimitedResource>,
}

/// `apiserver.config.k8s.io/v1` `ResourceQuotaConfiguration`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceQuotaConfiguration {
    limited_resources: Vec<LimitedResource>,
}

/// A quota that is about a write.
struct Concerned {
    name: String,
    /// What the write uses more of what the quota limits.
    more: ResourceList,
}

impl ResourceQuota {
    /// The plugin as the file configures it.
    pub fn new(configurations: &Configurations) -> Result<Self, ConfigError> {
        let read: Option<ResourceQuotaConfiguration> =
            configurations.of("ResourceQuota", "ResourceQuotaConfiguration")?;
        let turns = std::iter::repeat_with(Mutex::default).take(PLACES).collect();
        Ok(ResourceQuota { turns, limited: read.unwrap_or_default().limited_resources })
    }

    fn turn(&self, namespace: &str) -> Option<&Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % PLACES as u64).unwrap_or(0);
        self.turns.get(place)
    }

    /// Checks a write against all quotas of its namespace; those that it has to be written into.
    fn check(
        &self,
        quotas: &[Object],
        attributes: &Attributes<'_>,
        object: &Object,
    ) -> Result<Vec<Concerned>, Status> {
        let resource = attributes.group_resource();
        let about: Vec<&Object> =
            quotas.iter().filter(|quota| quota::is_about(quota, &resource, object)).collect();
        for quota in &about {
            stated(quota, attributes, object)?;
        }
        let new = quota::usage(&resource, object);
        let old = match (attributes.operation, attributes.old) {
            (Operation::Update, Some(old)) => quota::usage(&resource, old),
            (_, _) => ResourceList::new(),
        };
        let more = quota::increase(&new, &old);
        if more.is_empty() {
            return Ok(Vec::new());
        }
        let covered = limited::insufficient(&self.limited, &resource, object, &more, &about);
        if let Some(text) = covered {
            return Err(attributes.forbidden(&text));
        }
        let mut concerned = Vec::new();
        for quota in about {
            let more = quota::masked(&more, &quota::hard(quota, "status"));
            if more.is_empty() {
                continue;
            }
            granted(quota, &more, attributes)?;
            concerned.push(Concerned { name: quota.name().unwrap_or_default().to_owned(), more });
        }
        Ok(concerned)
    }
}

/// Refuses what a quota limits and the object does not say, and what the quota does not know yet.
fn stated(quota: &Object, attributes: &Attributes<'_>, object: &Object) -> Result<(), Status> {
    let name = quota.name().unwrap_or_default();
    let hard = quota::hard(quota, "status");
    let own = attributes.group_resource();
    let relevant: ResourceList = hard.into_iter().filter(|(name, _)| quota::source(name) == own).collect();
    let missing = quota::missing(&own, object, &relevant);
    if !missing.is_empty() {
        let text = format!("failed quota: {name}: must specify {}", missing.join("; "));
        return Err(attributes.forbidden(&text));
    }
    let used = quota::used(quota);
    if relevant.keys().all(|name| used.contains_key(name)) {
        return Ok(());
    }
    let names: Vec<&str> = relevant.keys().map(String::as_str).collect();
    Err(attributes.forbidden(&format!("status unknown for quota: {name}, resources: {}", names.join(","))))
}

/// What a quota then uses, or the refusal.
fn granted(quota: &Object, more: &ResourceList, attributes: &Attributes<'_>) -> Result<ResourceList, Status> {
    let (hard, used) = (quota::hard(quota, "status"), quota::used(quota));
    quota::grant(&hard, &used, more).map_err(|names| {
        let name = quota.name().unwrap_or_default();
        attributes.forbidden(&quota::exceeded(name, &names, more, &used, &hard))
    })
}

async fn charge(
    registry: &Registry,
    attributes: &Attributes<'_>,
    namespace: &str,
    concerned: &Concerned,
) -> Result<(), Status> {
    let catalog = registry.catalog();
    let resource = catalog.find("", "v1", "resourcequotas").ok_or_else(Status::path_not_found)?;
    let target = Target {
        resource: Arc::clone(resource),
        namespace: Some(namespace.to_owned()),
        name: concerned.name.clone(),
        subresource: "status".to_owned(),
    };
    let options = WriteOptions {
        identity: Identity::user("system:apiserver", &[MASTERS]),
        manager: "kube-apiserver".to_owned(),
        served: None,
        record: Record::Track,
        admitted: true,
        ..attributes.options.clone()
    };
    let change = |live: &Object| {
        let sums = granted(live, &concerned.more, attributes)?;
        let mut quota = live.clone();
        quota.set(&["status", "used"], resource_list::to_value(&sums));
        Ok(quota)
    };
    match registry.update(&target, &options, change).await {
        // The quota went meanwhile, and limits nothing any more.
        Err(status) if status.code == 404 => Ok(()),
        outcome => outcome.map(drop),
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        if attributes.namespace.is_none() || attributes.resource.plural == "events" {
            return false;
        }
        let changes_usage =
            || ["services", "persistentvolumeclaims"].iter().any(|plural| attributes.is("", plural));
        match attributes.operation {
            Operation::Create => attributes.subresource.is_empty(),
            Operation::Update => {
                changes_usage()
                    || attributes.is("resource.k8s.io", "resourceclaims")
                    || (attributes.is_of("", "pods") && attributes.subresource == "resize")
            }
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let (Some(object), Some(namespace)) = (object, attributes.namespace) else { return Ok(()) };
        let cache = registry.resource(&GroupResource::new("", "resourcequotas"));
        let read = || -> Result<Vec<Object>, Status> {
            let listing = cache.list();
            listing.in_namespace(namespace).map(|quota| cache::decode(&quota.bytes)).collect()
        };
        if self.limited.is_empty() && cache.list().in_namespace(namespace).next().is_none() {
            return Ok(());
        }
        if attributes.dry_run {
            return self.check(&read()?, attributes, object).map(drop);
        }
        let _turn = match self.turn(namespace) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        for concerned in self.check(&read()?, attributes, object)? {
            charge(registry, attributes, namespace, &concerned).await?;
        }
        Ok(())
    }
}
