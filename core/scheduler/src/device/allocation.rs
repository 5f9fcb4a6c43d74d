//! What is written at a claim that gets devices (pure).

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as resource;

use super::claim::{Claim, Request, Wanted};
use super::class::Class;
use super::slice::{Device, Reach, Slice};

/// A device that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Its request.
    pub request: &'a Request,
    /// What of the request it is for.
    pub wanted: &'a Wanted,
    /// Its slice.
    pub slice: &'a Slice,
    /// It.
    pub device: &'a Device,
}

/// The result for a claim. `served` are its requests, with what of each was chosen, and its class.
pub fn result(
    claim: &Claim,
    chosen: &[Chosen<'_>],
    served: &[(&Request, &Wanted, &Class)],
) -> Result<resource::AllocationResult, String> {
    let results = chosen.iter().map(|one| resource::DeviceRequestAllocationResult {
        request: one.request.full_name(one.wanted),
        driver: one.device.id.pool.driver.to_string(),
        pool: one.device.id.pool.pool.to_string(),
        device: one.device.id.device.to_string(),
        admin_access: one.wanted.admin_access.then_some(true),
        tolerations: Some(one.wanted.tolerations.clone()).filter(|all| !all.is_empty()),
        ..resource::DeviceRequestAllocationResult::default()
    });
    let config = config(claim, served);
    Ok(resource::AllocationResult {
        devices: Some(resource::DeviceAllocationResult {
            results: Some(results.collect()),
            config: Some(config).filter(|config| !config.is_empty()),
        }),
        node_selector: node_selector(chosen)?,
        allocation_timestamp: None,
    })
}

/// What drivers are told: what the classes say, each once, then what the claim says of what was chosen.
fn config(
    claim: &Claim,
    served: &[(&Request, &Wanted, &Class)],
) -> Vec<resource::DeviceAllocationConfiguration> {
    let mut config: Vec<resource::DeviceAllocationConfiguration> = Vec::new();
    let mut of_class: HashMap<&str, std::ops::Range<usize>> = HashMap::new();
    for (request, wanted, class) in served {
        let name = request.full_name(wanted);
        if let Some(range) = of_class.get(&*class.name) {
            for one in config.get_mut(range.clone()).into_iter().flatten() {
                one.requests.get_or_insert_default().push(name.clone());
            }
            continue;
        }
        let start = config.len();
        config.extend(class.config.iter().map(|one| resource::DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(vec![name.clone()]),
            opaque: one.opaque.clone(),
        }));
        of_class.insert(&class.name, start..config.len());
    }
    for one in &claim.config {
        let requests = one.requests.as_deref().unwrap_or_default();
        let concerned = served.iter().filter(|(request, wanted, _)| {
            requests.iter().any(|name| *name == request.name || *name == request.full_name(wanted))
        });
        let times = if requests.is_empty() { 1 } else { concerned.count() };
        config.extend((0..times).map(|_| resource::DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: Some(requests.to_vec()),
            opaque: one.opaque.clone(),
        }));
    }
    for one in &mut config {
        // Nothing is said of requests where all are meant.
        let count = one.requests.as_ref().map_or(0, Vec::len);
        if count == 0 || count == claim.requests.len() {
            one.requests = None;
        }
    }
    config
}

/// From where all of them can be reached; `None` is everywhere.
fn node_selector(chosen: &[Chosen<'_>]) -> Result<Option<core::NodeSelector>, String> {
    let mut term = core::NodeSelectorTerm::default();
    for one in chosen {
        match &one.slice.reach {
            Reach::All => {}
            Reach::Node(node) => {
                let field = core::NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![node.to_string()]),
                };
                let match_fields = Some(vec![field]);
                let term = core::NodeSelectorTerm { match_fields, ..core::NodeSelectorTerm::default() };
                return Ok(Some(core::NodeSelector { node_selector_terms: vec![term] }));
            }
            Reach::Nodes { said, .. } => match said.node_selector_terms.as_slice() {
                [] => {}
                [more] => {
                    add(more.match_fields.as_ref(), &mut term.match_fields);
                    add(more.match_expressions.as_ref(), &mut term.match_expressions);
                }
                terms => {
                    let count = terms.len();
                    return Err(format!("unsupported ResourceSlice.NodeSelector with {count} terms"));
                }
            },
        }
    }
    let is_empty = term.match_fields.is_none() && term.match_expressions.is_none();
    Ok((!is_empty).then(|| core::NodeSelector { node_selector_terms: vec![term] }))
}

fn add(
    from: Option<&Vec<core::NodeSelectorRequirement>>,
    to: &mut Option<Vec<core::NodeSelectorRequirement>>,
) {
    for one in from.into_iter().flatten() {
        let to = to.get_or_insert_default();
        if !to.contains(one) {
            to.push(one.clone());
        }
    }
}
