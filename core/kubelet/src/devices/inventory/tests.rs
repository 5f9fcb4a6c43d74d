use std::sync::Arc;

use keelson_devices::v1beta1::{NumaNode, TopologyInfo};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;

const NAME: &str = "example.com/gpu";

fn device(id: &str, health: &str, nodes: &[i64]) -> Device {
    let nodes: Vec<NumaNode> = nodes.iter().map(|id| NumaNode { id: *id }).collect();
    let topology = (!nodes.is_empty()).then_some(TopologyInfo { nodes });
    Device { id: id.to_owned(), health: health.to_owned(), topology }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// `a` to `d`, of which `d` is not healthy; `a` is at node 0, `b` and `c` at node 1.
fn inventory() -> Inventory {
    let mut found = Inventory::default();
    found.connect(NAME);
    let devices = [
        device("a", "Healthy", &[0]),
        device("b", "Healthy", &[1]),
        device("c", "Healthy", &[1]),
        device("d", "Unhealthy", &[0]),
    ];
    assert!(found.update(NAME, &devices) && !found.update(NAME, &devices), "the same is no news");
    found
}

fn container(name: &str, count: usize) -> Value {
    json!({ "name": name, "resources": { "limits": { NAME: count.to_string(), "cpu": "1" } } })
}

fn pod(uid: &str, init: &[Value], containers: &[Value]) -> PodModel {
    let pod = json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid },
        "spec": { "initContainers": init, "containers": containers } });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

/// Gives all containers of a pod what they ask for, as far as that goes.
fn give(
    inventory: &mut Inventory,
    pod: &PodModel,
    affinity: Option<&Nodes>,
) -> Result<Vec<String>, Shortage> {
    let mut told = Vec::new();
    for member in &pod.members {
        for demand in inventory.demands(member) {
            let Some(choice) = inventory.choice(pod, member.name(), &demand, affinity)? else { continue };
            let ids = choice.take(&[]);
            assert!(inventory.reserve(pod, member.name(), NAME, &ids));
            assert!(inventory.grant(&pod.uid, member.name(), NAME, ContainerAllocateResponse::default()));
            let ids: Vec<String> = ids.into_iter().collect();
            told.push(format!("{}={}", member.name(), ids.join(",")));
        }
    }
    Ok(told)
}

#[test]
fn a_device_is_given_once_until_its_pod_is_gone() {
    let mut found = inventory();
    let (one, two) = (pod("one", &[], &[container("x", 2)]), pod("two", &[], &[container("x", 2)]));
    assert_eq!(give(&mut found, &one, None).unwrap(), ["x=a,b"]);
    assert!(give(&mut found, &one, None).unwrap().is_empty(), "it has them");
    let told = give(&mut found, &two, None).unwrap_err().to_string();
    assert_eq!(
        told,
        "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1"
    );
    assert!(found.release("one") && !found.release("one"));
    assert_eq!(give(&mut found, &two, None).unwrap(), ["x=a,b"]);
}

#[test]
fn a_container_has_the_devices_of_init_containers_that_have_ended_and_never_those_of_a_sidecar() {
    let mut sidecar = container("s", 1);
    sidecar["restartPolicy"] = json!("Always");
    let mut found = inventory();
    let pod = pod("p", &[container("i", 2), sidecar, container("j", 2)], &[container("x", 2)]);
    assert_eq!(give(&mut found, &pod, None).unwrap(), ["i=a,b", "s=a", "j=b,c", "x=b,c"]);
}

#[test]
fn devices_near_a_container_come_first_and_a_plugin_may_choose_among_the_rest() {
    let mut found = inventory();
    let wants = |count| pod("p", &[], &[container("x", count)]);
    let near = Nodes::from([1]);
    let choice = |found: &Inventory, count| {
        let demand = Demand { resource: NAME.to_owned(), count };
        found.choice(&wants(count), "x", &demand, Some(&near)).unwrap().unwrap()
    };
    let one = choice(&found, 1);
    let question = one.question().unwrap();
    assert_eq!((question.available, question.size), (vec!["b".to_owned(), "c".to_owned()], 1));
    assert_eq!(one.take(&["a".to_owned(), "c".to_owned()]), Ids::from(["c".to_owned()]));
    assert_eq!(choice(&found, 2).question(), None);
    let all = choice(&found, 3);
    assert_eq!(all.question().unwrap().included, ["b", "c"]);
    assert_eq!(all.take(&[]).len(), 3);
    assert_eq!(give(&mut found, &wants(1), Some(&near)).unwrap(), ["x=b"]);
}

#[test]
fn places_for_devices_are_where_there_are_enough_together_with_what_the_pod_has() {
    let mut found = inventory();
    let told = |hints: Vec<Vec<Hint>>| -> Vec<(Vec<u32>, bool)> {
        let one =
            |hint: &Hint| (hint.nodes.map(|it| it.nodes().collect()).unwrap_or_default(), hint.preferred);
        hints[0].iter().map(one).collect()
    };
    let two = pod("p", &[container("i", 1)], &[container("x", 2)]);
    assert_eq!(told(found.hints(&two, &two.members[1], &[0, 1])), [(vec![1], true), (vec![0, 1], false)]);
    assert_eq!(told(found.hints_of_pod(&two, &[0, 1])), [(vec![1], true), (vec![0, 1], false)]);
    assert!(found.reserve(&two, "i", NAME, &Ids::from(["a".to_owned()])));
    assert_eq!(told(found.hints(&two, &two.members[1], &[0, 1])), [(vec![0, 1], false)]);
    assert_eq!(told(found.hints(&two, &two.members[0], &[0, 1])), [(vec![0], true), (vec![0, 1], false)]);
    let five = pod("q", &[], &[container("x", 5)]);
    assert_eq!(told(found.hints(&five, &five.members[0], &[0, 1])), [(vec![], false)]);
    found.update(NAME, &[device("a", "Healthy", &[])]);
    assert_eq!(found.hints(&five, &five.members[0], &[0, 1]), [[Hint::ANYWHERE]]);
}

#[test]
fn what_is_not_healthy_is_counted_and_not_given_and_what_has_gone_is_nothing_after_a_while() {
    let mut found = inventory();
    let count = |capacity, allocatable| Counts { capacity, allocatable };
    assert_eq!(found.counts(at(0))[NAME], count(4, 3));
    let one = pod("one", &[], &[container("x", 1)]);
    give(&mut found, &one, None).unwrap();
    found.disconnect(NAME, at(10));
    assert_eq!(found.counts(at(310))[NAME], count(4, 0));
    let health = |found: &Inventory| {
        let status = found.health("one")["x"][0].clone();
        (status.name, status.resources.unwrap()[0].health.clone().unwrap())
    };
    assert_eq!(health(&found), (NAME.to_owned(), "Unhealthy".to_owned()));
    let told = give(&mut found, &pod("two", &[], &[container("x", 1)]), None).unwrap_err().to_string();
    assert_eq!(told, "no healthy devices present; cannot allocate unhealthy devices example.com/gpu");
    assert_eq!(found.counts(at(311))[NAME], count(0, 0));
    assert_eq!(health(&found).1, "Unknown");
    // The name stays known while somebody has one.
    let told = give(&mut found, &pod("two", &[], &[container("x", 1)]), None).unwrap_err();
    assert_eq!(told, Shortage::Unregistered(NAME.to_owned()));
    found.connect(NAME);
    found.update(NAME, &[device("b", "Healthy", &[])]);
    let told = give(&mut found, &one, None).unwrap_err();
    assert_eq!(told, Shortage::Unhealthy(NAME.to_owned()));
}

#[test]
fn after_a_restart_a_plugin_is_waited_for_and_what_it_gave_stays_given() {
    let mut before = inventory();
    let one = pod("one", &[], &[container("x", 1)]);
    give(&mut before, &one, None).unwrap();
    let half = pod("half", &[], &[container("x", 1)]);
    assert!(before.reserve(&half, "x", NAME, &Ids::from(["b".to_owned()])));
    let mut after = Inventory::restore(before.entries(), before.registered().into_keys(), at(0));
    assert_eq!(after.pods().collect::<Vec<_>>(), ["one"], "what was not answered was not given");
    let shortage = give(&mut after, &half, None).unwrap_err();
    assert!(after.is_awaited(NAME, &shortage) && !after.is_met(NAME));
    assert_eq!(after.counts(at(1))[NAME], Counts::default());
    after.connect(NAME);
    after.update(NAME, &[device("a", "Healthy", &[]), device("b", "Healthy", &[])]);
    assert!(!after.is_awaited(NAME, &shortage) && after.is_met(NAME));
    assert_eq!(give(&mut after, &half, None).unwrap(), ["x=b"]);
}

#[test]
fn what_no_plugin_offers_is_somebody_elses() {
    let found = Inventory::default();
    assert!(found.demands(&pod("p", &[], &[container("x", 1)]).members[0]).is_empty());
}
