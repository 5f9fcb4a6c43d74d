//! Which slices a Service gets (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::endpoints::groups;
use crate::legacy;
use crate::packing::{Content, Packed, pack};
use crate::validate::{Family, Validated, ValidatedService};

/// The label that says which Service a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// We do.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of slices of a Service without an address of its own.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Slices to make.
    pub create: Vec<EndpointSlice>,
    /// Slices to write over.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// What to do about the Endpoints.
    pub endpoints: Legacy,
}

/// What to do about the Endpoints.
#[derive(Debug, Default)]
pub enum Legacy {
    /// Nothing.
    #[default]
    Keep,
    /// Make them.
    Create(Box<Endpoints>),
    /// Write over them.
    Update(Box<Endpoints>),
    /// Delete them.
    Delete(Arc<Endpoints>),
}

/// Decides.
pub fn decide(validated: Validated) -> Plan {
    match validated {
        Validated::NotOurs => Plan::default(),
        Validated::Gone { slices, endpoints } => Plan {
            delete: slices,
            endpoints: endpoints.map_or(Legacy::Keep, Legacy::Delete),
            ..Plan::default()
        },
        Validated::Ours(valid) => {
            let mut plan = Plan { endpoints: legacy::decide(&valid), ..Plan::default() };
            let of = |slice: &EndpointSlice, family: &Family| slice.address_type == family.as_str();
            for family in &valid.families {
                let slices = valid.slices.iter().filter(|slice| of(slice, family)).cloned().collect();
                decide_family(&valid, *family, slices, &mut plan);
            }
            let foreign = |slice: &&Arc<EndpointSlice>| !valid.families.iter().any(|it| of(slice, it));
            plan.delete.extend(valid.slices.iter().filter(foreign).cloned());
            plan
        }
    }
}

fn decide_family(valid: &ValidatedService, family: Family, slices: Vec<Arc<EndpointSlice>>, plan: &mut Plan) {
    let Packed { mut kept, mut emptied, mut new } = pack(groups(valid, family), slices);
    // That nothing is behind a Service is said by an empty slice.
    if kept.is_empty() && new.is_empty() {
        let is_blank = |slice: &Arc<EndpointSlice>| content_of(slice) == Content::default();
        match emptied.iter().position(is_blank) {
            Some(at) => kept.push((emptied.remove(at), Content::default())),
            None => new.push(Content::default()),
        }
    }
    let meta = metadata(valid);
    for (slice, content) in kept {
        let wanted = with(&slice, &meta, content);
        if *slice != wanted {
            plan.update.push(wanted);
        }
    }
    // A slice that would go is used for what would come.
    let mut emptied = emptied.into_iter();
    for content in new {
        match emptied.next() {
            Some(slice) => plan.update.push(with(&slice, &meta, content)),
            None => plan.create.push(EndpointSlice {
                address_type: family.as_str().to_owned(),
                endpoints: Some(content.endpoints),
                ports: Some(content.ports),
                metadata: meta.clone(),
            }),
        }
    }
    plan.delete.extend(emptied);
}

fn content_of(slice: &EndpointSlice) -> Content {
    Content {
        ports: slice.ports.clone().unwrap_or_default(),
        endpoints: slice.endpoints.clone().unwrap_or_default(),
    }
}

/// A slice with another content, and with the labels and the owner that it should have.
fn with(slice: &EndpointSlice, meta: &ObjectMeta, content: Content) -> EndpointSlice {
    let mut wanted = slice.clone();
    wanted.metadata.labels = meta.labels.clone();
    wanted.metadata.owner_references = meta.owner_references.clone();
    let old = content_of(slice);
    if old.endpoints != content.endpoints {
        wanted.endpoints = Some(content.endpoints);
    }
    if crate::endpoints::sorted(old.ports) != content.ports {
        wanted.ports = Some(content.ports);
    }
    wanted
}

fn metadata(valid: &ValidatedService) -> ObjectMeta {
    let mut labels: BTreeMap<String, String> = valid.service.labels.clone();
    labels.remove(HEADLESS);
    if valid.service.cluster_ip.is_none() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), valid.key.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    ObjectMeta {
        generate_name: Some(format!("{}-", valid.key.name())),
        namespace: Some(valid.key.namespace().to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: valid.key.name().to_owned(),
            uid: valid.service.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
