//! Has file systems grow with their volumes. Who resizes volumes (external-resizer) leaves to the node what is to be done there, in the status
//! of the claim; the node says there how that went.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition as Condition,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_csi::v1;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Drivers;
use super::bearer::Bearer;
use super::driver::{CsiError, Driver};
use super::mount::{Lifecycle, Wanted, capability};
use super::node_object::is_conflict;
use super::record::Layout;
use crate::event::EventType;
use crate::resources::amount;

mod refusal;

use refusal::Failure;
pub(super) use refusal::Refusals;

/// How often a claim is written that others write, too.
const TRIES: usize = 3;
const STORAGE: &str = "storage";
const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
const FILE_SYSTEM_PENDING: &str = "FileSystemResizePending";
const NODE_ERROR: &str = "NodeResizeError";
/// Conditions that have no point when a volume has its size.
const CONDITIONS: [&str; 4] = ["Resizing", FILE_SYSTEM_PENDING, "ControllerResizeError", NODE_ERROR];

/// A file system that is to grow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Growth {
    /// The claim that is to be told; `None` where another node has told it already.
    claim: Option<PersistentVolumeClaim>,
    size: Quantity,
}

/// What a claim and its volume say (pure).
#[derive(Debug, Clone, PartialEq)]
enum Size {
    /// Both say the same.
    Settled(Quantity),
    /// Somebody else has to do something first.
    Unsettled,
    /// The file system is to grow to this.
    Due(Quantity),
}

fn status_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let statuses = claim.status.as_ref()?.allocated_resource_statuses.as_ref()?;
    statuses.get(STORAGE).map(String::as_str).filter(|status| !status.is_empty())
}

/// The next whole byte of what is told in thousandths.
fn bytes(quantity: &Quantity) -> Option<i128> {
    amount(quantity).map(|thousandths| (thousandths + 999).div_euclid(1000))
}

fn storage(map: Option<&BTreeMap<String, Quantity>>) -> Option<(Quantity, i128)> {
    let found = map?.get(STORAGE)?;
    Some((found.clone(), bytes(found)?))
}

fn size(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Size {
    let Some((wanted, bytes)) = storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref())) else {
        return Size::Unsettled;
    };
    match status_of(claim) {
        Some(PENDING | IN_PROGRESS) => return Size::Due(wanted),
        Some(_) => return Size::Unsettled,
        None => {}
    }
    let status = claim.status.as_ref();
    let has = storage(status.and_then(|status| status.capacity.as_ref())).map(|(_, bytes)| bytes);
    if has.is_some_and(|has| has >= bytes) {
        return Size::Settled(wanted);
    }
    // Older resizers say it by the condition alone.
    let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let is_pending = |it: &Condition| it.type_ == FILE_SYSTEM_PENDING && it.status == "True";
    if conditions.any(is_pending) { Size::Due(wanted) } else { Size::Unsettled }
}

/// Whether a volume has become larger than it was on this node (pure).
fn is_outgrown(known: Option<&Quantity>, size: &Quantity) -> bool {
    known.and_then(bytes).zip(bytes(size)).is_some_and(|(known, size)| known < size)
}

/// Whether a pod may have its volume all the same: the driver cannot make it larger while it is used so (pure).
pub(super) fn is_mountable(error: &CsiError) -> bool {
    Failure::of(error) == Failure::InUse
}

/// Whether a claim asks for another size than its volume is about to get (pure).
fn asks_otherwise(claim: &PersistentVolumeClaim, size: &Quantity) -> bool {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    storage(requests).map(|(_, bytes)| bytes) != bytes(size)
}

/// Whether what was found out for a claim goes for it as it is now (pure): nobody else has taken up its growth meanwhile.
fn is_same_growth(known: &PersistentVolumeClaim, now: &PersistentVolumeClaim) -> bool {
    known.metadata.uid == now.metadata.uid && status_of(known) == status_of(now)
}

/// The claim's conditions without those of resizing, and with one of ours (pure).
fn conditions(claim: &PersistentVolumeClaim, keep: &[&str], ours: Option<Condition>) -> Vec<Condition> {
    let all = claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let stays =
        |it: &Condition| !CONDITIONS.contains(&it.type_.as_str()) || keep.contains(&it.type_.as_str());
    all.into_iter().filter(stays).chain(ours).collect()
}

/// What the claim says when the file system has grown (pure).
fn finished(claim: &PersistentVolumeClaim, size: &Quantity) -> Value {
    let statuses = status_of(claim).map(|_| json!({STORAGE: null}));
    let mut status = json!({"capacity": {STORAGE: size}, "conditions": conditions(claim, &[], None)});
    if let Some(statuses) = statuses {
        status["allocatedResourceStatuses"] = statuses;
    }
    status
}

/// What the claim says when it has not, and, if it is `infeasible`, that somebody else has to choose another size (pure).
fn failed(claim: &PersistentVolumeClaim, error: &CsiError, infeasible: bool, now: Time) -> Value {
    let condition = Condition {
        type_: NODE_ERROR.to_owned(),
        status: "True".to_owned(),
        message: Some(format!("failed to expand pvc with {error}")),
        last_transition_time: Some(now),
        ..Condition::default()
    };
    let kept = ["Resizing", FILE_SYSTEM_PENDING, "ControllerResizeError"];
    let mut status = json!({"conditions": conditions(claim, &kept, Some(condition))});
    if infeasible {
        status["allocatedResourceStatuses"] = json!({STORAGE: INFEASIBLE});
    }
    status
}

impl Drivers {
    /// Whether a driver is to be asked while the volume is used.
    pub(super) fn is_growth_due(&self, wanted: &Wanted, growth: &Growth) -> bool {
        self.refusals.lock().is_due(&wanted.name, &growth.size, Instant::now())
    }

    /// Looks whether the file system of a volume is to grow.
    pub(super) async fn growth(&self, wanted: &Wanted) -> Result<Option<Growth>, CsiError> {
        if wanted.lifecycle == Lifecycle::Ephemeral || wanted.read_only {
            return Ok(None);
        }
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = volumes.get(&wanted.name).await.map_err(CsiError::api("read PV", &wanted.name))?;
        let capacity = storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()));
        let known = self.grown.lock().get(&wanted.name).cloned();
        if capacity.is_some_and(|(now, _)| known.as_ref() == Some(&now)) {
            return Ok(None);
        }
        let Some(of) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return Ok(None) };
        let name = of.name.as_deref().unwrap_or_default();
        let namespace = of.namespace.as_deref().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get(name).await.map_err(CsiError::api("read PVC", name))?;
        match size(&volume, &claim) {
            // Another node has it, too, and was first.
            Size::Settled(size) if is_outgrown(known.as_ref(), &size) => {
                Ok(Some(Growth { claim: None, size }))
            }
            Size::Settled(size) => {
                self.grown.lock().insert(wanted.name.clone(), size);
                Ok(None)
            }
            Size::Unsettled => Ok(None),
            Size::Due(size) => Ok(Some(Growth { claim: Some(claim), size })),
        }
    }

    /// Writes the status of a claim, which is made from the claim as it is. Answers it as it is after that.
    async fn tell_claim(
        &self,
        claim: &PersistentVolumeClaim,
        status: impl Fn(&PersistentVolumeClaim) -> Value + Send,
    ) -> Result<PersistentVolumeClaim, CsiError> {
        let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let failed = || CsiError::api("write the status of PVC", &name);
        let mut known = claim.clone();
        let mut tries = 1;
        loop {
            let version = known.resource_version();
            let told = json!({"metadata": {"resourceVersion": version}, "status": status(&known)});
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(told)).await {
                Err(error) if is_conflict(&error) && tries < TRIES => {}
                told => return told.map_err(failed()),
            }
            tries += 1;
            let now = api.get(&name).await.map_err(failed())?;
            if !is_same_growth(&known, &now) {
                let text = format!("write the status of PVC {name:?}: somebody else has taken up its growth");
                return Err(CsiError::Refused(text));
            }
            known = now;
        }
    }

    /// Has the driver make a file system larger, and says so. Who calls works on the volume alone.
    pub(super) async fn expand(
        &self,
        driver: &Driver,
        bearer: &Bearer,
        wanted: &Wanted,
        group: Option<u32>,
        Growth { mut claim, size }: Growth,
    ) -> Result<(), CsiError> {
        if let Some(pending) = claim.as_ref().filter(|claim| status_of(claim) == Some(PENDING)) {
            let in_progress = |_: &_| json!({"allocatedResourceStatuses": {STORAGE: IN_PROGRESS}});
            let told = self.tell_claim(pending, in_progress).await?;
            claim = Some(told);
        }
        // A driver that does nothing for it on the node has done so.
        if driver.expands
            && let Err(error) = self.call_expand(driver, bearer, wanted, group, &size).await
        {
            self.refused(bearer, wanted, claim.as_ref(), &size, &error).await;
            return Err(error);
        }
        self.refusals.lock().forget(&wanted.name);
        if let Some(claim) = &claim {
            self.tell_claim(claim, |claim| finished(claim, &size)).await?;
        }
        self.grown.lock().insert(wanted.name.clone(), size);
        if claim.is_none() && !driver.expands {
            return Ok(());
        }
        let text = format!(
            "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
            wanted.name, self.config.node_name
        );
        self.tell_pod(bearer, EventType::Normal, "FileSystemResizeSuccessful", text);
        Ok(())
    }

    /// Notes that a driver has not made a volume larger, and says so. That it cannot be said changes nothing of why.
    async fn refused(
        &self,
        bearer: &Bearer,
        wanted: &Wanted,
        claim: Option<&PersistentVolumeClaim>,
        size: &Quantity,
        error: &CsiError,
    ) {
        let failure = Failure::of(error);
        let was_final = self.refusals.lock().is_final(&wanted.name);
        let mut is_told = true;
        if let Some(claim) = claim.filter(|_| failure != Failure::Unknown) {
            let now = Time(jiff::Timestamp::now());
            let status = |claim: &PersistentVolumeClaim| {
                // Who asks for another size after a failure that was final gets a chance to have that.
                let infeasible = failure == Failure::Infeasible || was_final && asks_otherwise(claim, size);
                failed(claim, error, infeasible, now.clone())
            };
            if let Err(untold) = self.tell_claim(claim, status).await {
                tracing::warn!(volume = wanted.name, %error, %untold, "a claim is not told that it has not grown");
                is_told = false;
            }
        }
        let noted = failure.noted(is_told);
        self.refusals.lock().note(&wanted.name, size, noted, Instant::now());
        // That it has to wait for the end of its pods the claim says, and nothing else, as with upstream's kubelet.
        if failure != Failure::InUse {
            let text =
                format!("NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {error}", wanted.name);
            self.tell_pod(bearer, EventType::Warning, "VolumeResizeFailed", text);
        }
    }

    async fn call_expand(
        &self,
        driver: &Driver,
        bearer: &Bearer,
        wanted: &Wanted,
        group: Option<u32>,
        size: &Quantity,
    ) -> Result<(), CsiError> {
        let bytes = bytes(size).and_then(|bytes| i64::try_from(bytes).ok());
        let Layout { record: _, staged, target } = wanted.layout(&self.config.data_dir, &bearer.uid);
        let request = v1::NodeExpandVolumeRequest {
            volume_id: wanted.handle.clone(),
            volume_path: driver.path(&target),
            capacity_range: bytes.map(|required_bytes| v1::CapacityRange { required_bytes, limit_bytes: 0 }),
            staging_target_path: if driver.stages { driver.path(&staged) } else { String::new() },
            volume_capability: Some(capability(wanted, driver, group)),
            secrets: self.secret(wanted.expand_secret.as_ref()).await?.into_iter().collect(),
        };
        driver.expand(request).await
    }

    fn tell_pod(&self, bearer: &Bearer, kind: EventType, reason: &'static str, text: String) {
        let (namespace, name) = (bearer.namespace.clone(), bearer.name.clone());
        self.recorder.tell_named(namespace, name, bearer.uid.clone(), kind, reason, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    use tonic::Code;

    fn volume(capacity: &str) -> PersistentVolume {
        from_value(json!({"spec": {"capacity": {"storage": capacity}}})).unwrap()
    }

    fn claim(status: Value) -> PersistentVolumeClaim {
        from_value(json!({"metadata": {"name": "c"}, "status": status})).unwrap()
    }

    #[test]
    fn a_file_system_grows_when_the_resizer_leaves_that_to_the_node() {
        let two = || Quantity("2Gi".to_owned());
        let of = |status: Value| size(&volume("2Gi"), &claim(status));
        let old = json!({"storage": "1Gi"});
        assert_eq!(of(json!({"capacity": {"storage": "2048Mi"}})), Size::Settled(two()));
        // The volume is larger already, and the resizer about to say so.
        assert_eq!(of(json!({"capacity": old})), Size::Unsettled);
        let status =
            |status: &str| of(json!({"capacity": old, "allocatedResourceStatuses": {"storage": status}}));
        assert_eq!(status(PENDING), Size::Due(two()));
        assert_eq!(status(IN_PROGRESS), Size::Due(two()));
        assert_eq!(status(INFEASIBLE), Size::Unsettled);
        assert_eq!(status("ControllerResizeInProgress"), Size::Unsettled);
        let conditions = json!([{"type": FILE_SYSTEM_PENDING, "status": "True"}]);
        assert_eq!(of(json!({"capacity": old, "conditions": conditions})), Size::Due(two()));
    }

    #[test]
    fn a_file_system_grows_on_each_node_on_which_it_was_smaller() {
        let outgrown = |known: Option<&str>| {
            let known = known.map(|known| Quantity(known.to_owned()));
            is_outgrown(known.as_ref(), &Quantity("2Gi".to_owned()))
        };
        assert!(outgrown(Some("1Gi")));
        assert!(!outgrown(Some("2048Mi")));
        // It was just mounted, as large as it is.
        assert!(!outgrown(None));
    }

    #[test]
    fn what_was_found_out_goes_for_a_claim_whose_growth_nobody_else_has_taken_up() {
        let of = |uid: &str, status: &str| -> PersistentVolumeClaim {
            let statuses = json!({"allocatedResourceStatuses": {"storage": status}});
            from_value(json!({"metadata": {"name": "c", "uid": uid}, "status": statuses})).unwrap()
        };
        let known = of("1", IN_PROGRESS);
        let mut labelled = known.clone();
        labelled.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        assert!(is_same_growth(&known, &labelled));
        assert!(!is_same_growth(&known, &of("2", IN_PROGRESS)), "another claim of the name");
        assert!(!is_same_growth(&known, &of("1", "ControllerResizeInProgress")));
    }

    #[test]
    fn a_claim_says_that_it_has_grown_or_why_it_cannot() {
        let conditions = json!([
            {"type": FILE_SYSTEM_PENDING, "status": "True"},
            {"type": "Unused", "status": "True"},
        ]);
        let claim =
            claim(json!({"conditions": conditions, "allocatedResourceStatuses": {"storage": PENDING}}));
        let done = finished(&claim, &Quantity("2Gi".to_owned()));
        assert_eq!(done["capacity"]["storage"], "2Gi");
        assert_eq!(done["allocatedResourceStatuses"], json!({"storage": null}));
        assert_eq!(done["conditions"].as_array().unwrap().len(), 1);
        let error = |code| CsiError::Call { call: "NodeExpandVolume", code, message: "no".to_owned() };
        let now = || Time(jiff::Timestamp::UNIX_EPOCH);
        let never = failed(&claim, &error(Code::OutOfRange), true, now());
        assert_eq!(never["allocatedResourceStatuses"]["storage"], INFEASIBLE);
        let types: Vec<&str> =
            never["conditions"].as_array().unwrap().iter().filter_map(|it| it["type"].as_str()).collect();
        assert_eq!(types, [FILE_SYSTEM_PENDING, "Unused", NODE_ERROR]);
        let asking = |size: &str| {
            let requests = json!({"requests": {"storage": size}});
            let claim = json!({"metadata": {"name": "c"}, "spec": {"resources": requests}});
            asks_otherwise(&from_value(claim).unwrap(), &Quantity("2Gi".to_owned()))
        };
        assert!(asking("1Gi") && !asking("2048Mi"));
        assert!(is_mountable(&error(Code::FailedPrecondition)) && !is_mountable(&error(Code::OutOfRange)));
        assert_eq!(
            failed(&claim, &error(Code::Internal), false, now()).get("allocatedResourceStatuses"),
            None
        );
    }
}
