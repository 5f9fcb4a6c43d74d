//! Ephemeral containers: they come later, stay, and have no promises to keep.

use std::collections::HashSet;

use super::super::FieldError;
use super::super::at::At;
use super::{Pod, container};
use crate::object::Object;

const NOT_FOR_THEM: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub(super) fn all(spec: &At<'_>, pod: &Pod<'_>, errors: &mut Vec<FieldError>) {
    let list = spec.field("ephemeralContainers");
    if list.is_empty() {
        return;
    }
    let others = ["containers", "initContainers"].map(|field| spec.field(field));
    let mut seen: HashSet<&str> =
        others.iter().flat_map(At::items).map(|it| it.field("name").text()).collect();
    for it in list.items() {
        container::one(&it, pod, &mut seen, errors);
        let target = it.field("targetContainerName");
        let known = |name: &str| {
            others.iter().flat_map(At::items).any(|container| container.field("name").text() == name)
        };
        if !target.is_empty() && !known(target.text()) {
            errors.push(target.not_found());
        }
        let image = it.field("image");
        if image.text().trim() != image.text() {
            errors.push(image.invalid("must not have leading or trailing whitespace"));
        }
        for field in NOT_FOR_THEM.map(|field| it.field(field)).iter().filter(|field| !field.is_empty()) {
            errors.push(field.forbidden("cannot be set for an Ephemeral Container"));
        }
        for mount in it.field("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"].map(|field| mount.field(field)) {
                if !field.is_empty() {
                    errors.push(field.forbidden("cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// Existing ones neither change nor go.
pub(in super::super) fn update(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    if old.annotation("kubernetes.io/config.mirror").is_some() {
        *errors = vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
        return;
    }
    super::pod(new, errors);
    let (list, before) =
        (At::of(new, "spec").field("ephemeralContainers"), At::of(old, "spec").field("ephemeralContainers"));
    for it in before.items() {
        let name = it.field("name");
        match list.items().find(|new| new.field("name").text() == name.text()) {
            Some(new) if new.value == it.value => {}
            Some(_) => {
                errors.push(list.forbidden(format!(
                    "existing ephemeral containers {:?} may not be changed\n",
                    name.text()
                )))
            }
            None => {
                errors.push(list.forbidden(format!(
                    "existing ephemeral containers {:?} may not be removed\n",
                    name.text()
                )))
            }
        }
    }
}
