//! FlowSchemas and PriorityLevelConfigurations. A number that is nought counts as not set, but for shares.

use serde_json::{Map, Value};

use super::fill;

fn number(map: &mut Map<String, Value>, field: &str, default: i64) {
    if map.get(field).and_then(Value::as_i64) == Some(0) {
        map.remove(field);
    }
    fill(map, field, default);
}

pub(super) fn schema(spec: &mut Map<String, Value>) {
    number(spec, "matchingPrecedence", 1000);
}

pub(super) fn level(spec: &mut Map<String, Value>) {
    if let Some(Value::Object(exempt)) = spec.get_mut("exempt") {
        fill(exempt, "nominalConcurrencyShares", 0);
        fill(exempt, "lendablePercent", 0);
    }
    let Some(Value::Object(limited)) = spec.get_mut("limited") else { return };
    fill(limited, "nominalConcurrencyShares", 30);
    fill(limited, "lendablePercent", 0);
    let queuing = limited.get_mut("limitResponse").and_then(|response| response.get_mut("queuing"));
    if let Some(Value::Object(queuing)) = queuing {
        number(queuing, "handSize", 8);
        number(queuing, "queues", 64);
        number(queuing, "queueLengthLimit", 50);
    }
}
