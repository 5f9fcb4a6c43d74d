//! Which volume suits a claim (pure).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use keelson_api::quantity::Quantity;
use keelson_operator_kit::selection::Selection;
use kube::ResourceExt;

/// The older way to name a class.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim; `None` where it says nothing, which a default may change, and empty where it wants none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let older = claim.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    older.or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// The class of a volume; empty where it has none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let older = volume.annotations().get(CLASS_ANNOTATION).map(String::as_str);
    older.or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or_default()
}

fn amount(text: Option<&String>) -> Option<Quantity> {
    text.and_then(|text| Quantity::parse(text).ok())
}

/// How much the claim asks for.
fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    amount(requests.get("storage").map(|it| &it.0))
}

/// How much the volume has.
fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    amount(volume.spec.as_ref()?.capacity.as_ref()?.get("storage").map(|it| &it.0))
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether the volume names the claim: by its UID, or, where the UID is still missing, by its name.
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let same_uid =
        reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.uid().as_ref());
    reference.name.as_deref() == claim.metadata.name.as_deref()
        && reference.namespace.as_deref() == claim.metadata.namespace.as_deref()
        && same_uid
}

/// Why a volume that a claim names cannot be had by it.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (Some(of_volume), Some(of_claim)) = (&volume.spec, &claim.spec) else {
        return Some("requested PV has no specification");
    };
    if capacity(volume).zip(requested(claim)).is_none_or(|(has, wants)| has.nano() < wants.nano()) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(of_volume.volume_mode.as_ref()) != mode(of_claim.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    if text(&of_volume.volume_attributes_class_name) != text(&of_claim.volume_attributes_class_name) {
        return Some("volumeAttributesClassName does not match");
    }
    let modes = of_volume.access_modes.as_deref().unwrap_or_default();
    if !of_claim.access_modes.iter().flatten().all(|wanted| modes.contains(wanted)) {
        return Some("incompatible accessMode");
    }
    None
}

/// The volume to bind the claim to: one that is reserved for it, otherwise the smallest that suits. A claim that waits for its first
/// consumer (`delayed`) gets only what is reserved for it.
pub fn find(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    delayed: bool,
) -> Option<Arc<PersistentVolume>> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    // A selector that cannot be read selects nothing.
    let selector = match selector.map(Selection::possibly_everything) {
        None => None,
        Some(Ok(selection)) => Some(selection),
        Some(Err(_)) => return None,
    };
    let suits = |volume: &&Arc<PersistentVolume>| {
        volume.metadata.deletion_timestamp.is_none() && mismatch(volume, claim).is_none()
    };
    if let Some(reserved) = volumes.iter().filter(suits).find(|volume| is_for(volume, claim)) {
        return Some(Arc::clone(reserved));
    }
    if delayed {
        return None;
    }
    let is_free = |volume: &&Arc<PersistentVolume>| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) && phase == Some("Available")
    };
    let selected = |volume: &&Arc<PersistentVolume>| {
        selector.as_ref().is_none_or(|selector| selector.matches(volume.labels()))
    };
    let order =
        |volume: &&Arc<PersistentVolume>| (capacity(volume).map_or(0, Quantity::nano), volume.name_any());
    volumes.iter().filter(suits).filter(is_free).filter(selected).min_by_key(order).cloned()
}
