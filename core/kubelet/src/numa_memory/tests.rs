use std::sync::Arc;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use super::*;
use crate::topology::machine::Node;

const GIB: u64 = 1 << 30;

/// Nodes of 8 GiB each, of which the first keeps one; the second has a gigabyte in huge pages.
fn machine(count: u32) -> NumaMachine {
    let pages = |number: u32| (number == 1).then(|| ("hugepages-2Mi".to_owned(), GIB));
    let node = |number: u32| Node {
        memory: 8 * GIB,
        huge_pages: pages(number).into_iter().collect(),
        ..Node::default()
    };
    NumaMachine((0..count).map(|number| (number, node(number))).collect())
}

fn settings(node: u32) -> KubeletConfiguration {
    let text = format!(
        r#"{{"memoryManagerPolicy": "Static", "reservedMemory": [{{"numaNode": {node}, "limits": {{"memory": "1Gi"}}}}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn kept() -> Amounts {
    Amounts::from([("memory".to_owned(), GIB)])
}

fn container(name: &str, memory: &str) -> Value {
    json!({ "name": name, "resources": { "limits": { "cpu": "1", "memory": memory } } })
}

fn pod(uid: &str, init: &[Value], containers: &[Value]) -> PodModel {
    let pod = json!({ "metadata": { "name": uid, "namespace": "n", "uid": uid },
        "spec": { "initContainers": init, "containers": containers } });
    PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("keelson-memory-{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

async fn give(memory: &NumaMemory, pod: &PodModel, place: Option<Mask>) -> Result<Vec<String>, String> {
    for member in &pod.members {
        memory.allocate(pod, member, place).await.map_err(|error| error.to_string())?;
    }
    Ok(pod.members.iter().map(|member| memory.nodes(&pod.uid, member.name())).collect())
}

fn places(hints: &[Vec<Hint>]) -> Vec<(Vec<u32>, bool)> {
    let one = |hint: &Hint| (hint.nodes.map(|it| it.nodes().collect()).unwrap_or_default(), hint.preferred);
    hints.iter().flatten().map(one).collect()
}

#[tokio::test]
async fn memory_is_set_aside_at_as_few_nodes_as_can_be_and_the_promise_outlives_a_restart() {
    let folder = folder();
    let open = || NumaMemory::open(&folder, &settings(0), &machine(2), &kept());
    let memory = open().unwrap();
    let (six, seven, three) = (
        pod("six", &[], &[container("a", "6Gi")]),
        pod("seven", &[], &[container("a", "7Gi")]),
        pod("three", &[], &[container("a", "3Gi")]),
    );
    assert_eq!(
        places(&memory.hints(&six, &six.members[0])),
        [(vec![0], true), (vec![1], true), (vec![0, 1], false)]
    );
    assert_eq!(give(&memory, &six, None).await.unwrap(), ["0"]);
    assert_eq!(places(&memory.hints(&seven, &seven.members[0])), [(vec![1], true)], "a node is in one group");
    assert_eq!(give(&memory, &seven, None).await.unwrap(), ["1"]);
    assert_eq!(places(&memory.hints_of_pod(&three)), [(vec![], false)]);
    let told = give(&memory, &three, None).await.unwrap_err();
    assert_eq!(
        told,
        "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
    );

    let memory = open().unwrap();
    assert_eq!((memory.nodes("six", "a"), memory.nodes("three", "a")), ("0".to_owned(), String::new()));
    memory.release("six");
    memory.save().await.unwrap();
    assert_eq!(give(&memory, &three, None).await.unwrap(), ["0"]);
    let path = folder.join("memory_manager_state");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("seven", "other")).unwrap();
    assert!(open().unwrap_err().to_string().ends_with("is damaged: drain the node, and remove it"));
    fs::write(&path, text).unwrap();
    let told = NumaMemory::open(&folder, &KubeletConfiguration::default(), &machine(2), &kept());
    assert!(told.unwrap_err().to_string().contains("of another memoryManagerPolicy"));
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn what_no_node_has_alone_is_taken_from_several_which_then_stay_together() {
    let folder = folder();
    let memory = NumaMemory::open(&folder, &settings(0), &machine(2), &kept()).unwrap();
    let (ten, one) = (pod("ten", &[], &[container("a", "10Gi")]), pod("one", &[], &[container("a", "1Gi")]));
    assert_eq!(give(&memory, &ten, None).await.unwrap(), ["0-1"]);
    let taken = &memory.blocks("ten", "a")[0].taken;
    assert_eq!(*taken, BTreeMap::from([(0, 7 * GIB), (1, 3 * GIB)]));
    assert_eq!(places(&memory.hints(&one, &one.members[0])), [(vec![0, 1], false)]);
    assert_eq!(
        give(&memory, &one, Some(Mask::of([1]))).await.unwrap_err(),
        "preferred hint violates NUMA node allocation"
    );
    assert_eq!(give(&memory, &one, None).await.unwrap(), ["0-1"]);
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_container_has_the_memory_of_an_init_container_before_it_and_a_place_that_is_too_small_grows() {
    let folder = folder();
    let memory = NumaMemory::open(&folder, &settings(0), &machine(2), &kept()).unwrap();
    let large = pod("large", &[container("i", "6Gi")], &[container("a", "5Gi"), container("b", "2Gi")]);
    assert_eq!(places(&memory.hints_of_pod(&large)), [(vec![0], true), (vec![1], true), (vec![0, 1], false)]);
    assert_eq!(give(&memory, &large, Some(Mask::of([0]))).await.unwrap(), ["0", "0", "0"]);
    assert!(memory.release("large") && !memory.release("large"));
    let ten = pod("ten", &[], &[container("a", "10Gi")]);
    assert_eq!(give(&memory, &ten, Some(Mask::of([1]))).await.unwrap(), ["0-1"]);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn settings_that_are_not_of_this_machine_are_refused() {
    let open = |settings: &KubeletConfiguration, kept: &Amounts| {
        let folder = std::env::temp_dir();
        NumaMemory::open(&folder, settings, &machine(1), kept).unwrap_err().to_string()
    };
    let told = open(&settings(0), &Amounts::from([("memory".to_owned(), 2 * GIB)]));
    let text = "the total amount 1073741824 of type \"memory\" is not equal to the value 2147483648 determined by Node Allocatable feature";
    assert_eq!(told, text);
    assert_eq!(
        open(&settings(1), &kept()),
        "reservedMemory: the machine has no NUMA node 1 with 1073741824 of memory"
    );
}
