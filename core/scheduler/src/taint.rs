//! Taints of nodes and the tolerations of pods.

use k8s_openapi::api::core::v1 as core;

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They are not scheduled here.
    NoSchedule,
    /// They are scheduled here when nothing else is left.
    PreferNoSchedule,
    /// They are not scheduled here, and those that run here are evicted.
    NoExecute,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: Box<str>,
    /// Its value, often empty.
    pub value: Box<str>,
    /// Its effect.
    pub effect: Effect,
}

/// A toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    key: Option<Box<str>>,
    matching: Matching,
    effect: Option<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matching {
    Exists,
    Equal(Box<str>),
    Above(i64),
    Below(i64),
}

impl Effect {
    fn read(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }

    /// Whether it forbids scheduling.
    pub fn forbids(self) -> bool {
        match self {
            Effect::NoSchedule | Effect::NoExecute => true,
            Effect::PreferNoSchedule => false,
        }
    }
}

impl Taint {
    /// A taint without a value.
    pub fn new(key: &str, effect: Effect) -> Self {
        Taint { key: key.into(), value: "".into(), effect }
    }

    /// Reads a taint; `None` where its effect is unknown, which the API does not admit.
    pub fn read(taint: &core::Taint) -> Option<Self> {
        Some(Taint {
            key: taint.key.as_str().into(),
            value: taint.value.as_deref().unwrap_or_default().into(),
            effect: Effect::read(&taint.effect)?,
        })
    }
}

impl Toleration {
    /// Reads a toleration; `None` where it can tolerate nothing.
    pub fn read(toleration: &core::Toleration) -> Option<Self> {
        let value = toleration.value.as_deref().unwrap_or_default();
        let matching = match toleration.operator.as_deref() {
            Some("Exists") => Matching::Exists,
            None | Some("" | "Equal") => Matching::Equal(value.into()),
            Some("Gt") => Matching::Above(value.parse().ok()?),
            Some("Lt") => Matching::Below(value.parse().ok()?),
            Some(_) => return None,
        };
        let effect = match toleration.effect.as_deref() {
            None | Some("") => None,
            Some(effect) => Some(Effect::read(effect)?),
        };
        let key = toleration.key.as_deref().filter(|key| !key.is_empty()).map(Into::into);
        Some(Toleration { key, matching, effect })
    }

    /// Whether it tolerates the taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let number = || taint.value.parse::<i64>().ok();
        self.effect.is_none_or(|effect| effect == taint.effect)
            && self.key.as_ref().is_none_or(|key| *key == taint.key)
            && match &self.matching {
                Matching::Exists => true,
                Matching::Equal(value) => *value == taint.value,
                Matching::Above(bound) => number().is_some_and(|value| value > *bound),
                Matching::Below(bound) => number().is_some_and(|value| value < *bound),
            }
    }
}

/// Whether one of the tolerations tolerates the taint.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn tolerates(toleration: Value, taint: Value) -> bool {
        let taint = Taint::read(&from_value(taint).unwrap()).unwrap();
        Toleration::read(&from_value(toleration).unwrap()).is_some_and(|it| it.tolerates(&taint))
    }

    #[test]
    fn key_value_and_effect_must_agree() {
        let taint = json!({"key": "a", "value": "1", "effect": "NoSchedule"});
        assert!(tolerates(json!({"operator": "Exists"}), taint.clone()));
        assert!(tolerates(json!({"key": "a", "operator": "Exists"}), taint.clone()));
        assert!(tolerates(json!({"key": "a", "value": "1"}), taint.clone()));
        assert!(!tolerates(json!({"key": "a", "value": "2"}), taint.clone()));
        assert!(!tolerates(json!({"key": "b", "operator": "Exists"}), taint.clone()));
        assert!(!tolerates(json!({"key": "a", "value": "1", "effect": "NoExecute"}), taint));
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let taint = json!({"key": "sla", "value": "950", "effect": "NoSchedule"});
        assert!(tolerates(json!({"key": "sla", "operator": "Gt", "value": "900"}), taint.clone()));
        assert!(!tolerates(json!({"key": "sla", "operator": "Lt", "value": "900"}), taint.clone()));
        assert!(!tolerates(json!({"key": "sla", "operator": "Gt", "value": "x"}), taint));
    }
}
