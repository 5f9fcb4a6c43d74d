use super::*;

const NODE: &str = "a";

fn name_of(handle: &str) -> String {
    name::attachment(handle, "d", NODE)
}

fn pod(namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

fn wanted(reach: Reach) -> BTreeMap<String, Wanted> {
    let wanted = Wanted {
        driver: "d".into(),
        handle: "h".into(),
        volume: "pv".into(),
        reach,
        pods: vec![pod("n", "p")],
    };
    BTreeMap::from([(name_of("h"), wanted)])
}

fn attachment() -> AttachmentView {
    AttachmentView {
        uid: "u".into(),
        driver: "d".into(),
        node: NODE.into(),
        volume: "pv".into(),
        created: Timestamp::UNIX_EPOCH,
        ending: false,
        attached: false,
        error: None,
    }
}

fn healthy(in_use: &[&str], attached: &[&str]) -> NodeView {
    let names = |handles: &[&str]| handles.iter().map(|handle| name::volume("d", handle)).collect();
    NodeView { health: Health::Well, in_use: names(in_use), attached: names(attached), ..NodeView::default() }
}

/// The cluster, of which a test says what matters to it.
struct Case {
    node: Option<NodeView>,
    wanted: BTreeMap<String, Wanted>,
    found: Option<AttachmentView>,
    elsewhere: Elsewhere,
    unwanted_for: Duration,
    now: i64,
}

impl Default for Case {
    fn default() -> Self {
        Case {
            node: Some(healthy(&[], &[])),
            wanted: BTreeMap::new(),
            found: None,
            elsewhere: Elsewhere::default(),
            unwanted_for: Duration::ZERO,
            now: 1,
        }
    }
}

impl Case {
    fn decide(self) -> Plan {
        let found = self.found.into_iter().map(|view| (name_of("h"), Arc::new(view))).collect();
        decide(&Situation {
            name: NODE,
            node: self.node.as_ref(),
            wanted: &self.wanted,
            found: &found,
            handles: &BTreeMap::from([(name_of("h"), "h".to_owned())]),
            elsewhere: &|_| self.elsewhere.clone(),
            unwanted_for: &|_| self.unwanted_for,
            now: Timestamp::from_second(self.now).unwrap(),
        })
    }
}

#[test]
fn what_pods_want_is_attached_and_then_told_to_the_node_and_to_them() {
    let plan = Case { wanted: wanted(Reach::Exclusive), ..Case::default() }.decide();
    let [Attach { name, driver, volume, .. }] = plan.attach.as_slice() else { panic!("{plan:?}") };
    assert_eq!((name, driver.as_str(), volume.as_str()), (&name_of("h"), "d", "pv"));

    let made = || Case { wanted: wanted(Reach::Exclusive), found: Some(attachment()), ..Case::default() };
    let waits = made().decide();
    assert_eq!(waits, Plan { next: Some(Duration::from_secs(119)), ..Plan::default() });

    let attached = || Some(AttachmentView { attached: true, ..attachment() });
    let plan = Case { found: attached(), ..made() }.decide();
    assert_eq!(plan.report, Some(BTreeSet::from([name::volume("d", "h")])));
    assert_eq!(plan.told.iter().map(|it| &it.news).collect::<Vec<_>>(), [&News::Attached]);

    let settled = Case { found: attached(), node: Some(healthy(&["h"], &["h"])), ..made() }.decide();
    assert_eq!(settled, Plan::default());
}

#[test]
fn pods_are_told_what_the_driver_says_or_that_it_says_nothing() {
    let made = || Case { wanted: wanted(Reach::Shared), found: Some(attachment()), ..Case::default() };
    let late = Case { now: 120, ..made() }.decide();
    let expected = "timed out waiting for external-attacher of d CSI driver to attach volume h".to_owned();
    assert_eq!(late.told[0].news, News::Failed(expected, None));
    let error = Some(("no room".to_owned(), None));
    let plan = Case { found: Some(AttachmentView { error, ..attachment() }), ..made() }.decide();
    assert_eq!(plan.told[0].news, News::Failed("no room".to_owned(), None));
    assert_eq!((plan.report, plan.detach, plan.attach), (None, vec![], vec![]));
}

#[test]
fn an_exclusive_volume_waits_until_no_other_node_has_it() {
    let attached = |pods: Vec<ObjectReference>| Elsewhere { attached: true, pods };
    let case = |reach, elsewhere| Case { wanted: wanted(reach), elsewhere, ..Case::default() }.decide();
    let told = |elsewhere| match case(Reach::Exclusive, elsewhere) {
        Plan { attach, told, .. } if attach.is_empty() => match &told[0].news {
            News::Elsewhere(why) => why.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(
        told(attached(vec![])),
        "Volume is already exclusively attached to one node and can't be attached to another"
    );
    assert_eq!(told(attached(vec![pod("n", "q")])), "Volume is already used by pod(s) q");
    assert_eq!(
        told(attached(vec![pod("n", "q"), pod("m", "r")])),
        "Volume is already used by pod(s) q and 1 pod(s) in different namespaces"
    );
    assert_eq!(
        told(attached(vec![pod("m", "r")])),
        "Volume is already used by 1 pod(s) in different namespaces"
    );
    assert_eq!(case(Reach::Shared, attached(vec![])).attach.len(), 1);
}

#[test]
fn what_nobody_wants_is_detached_when_the_node_no_longer_uses_it() {
    let unwanted = |node: Option<NodeView>, unwanted_for: Duration| {
        let found = Some(AttachmentView { attached: true, ..attachment() });
        Case { node, found, unwanted_for, ..Case::default() }.decide()
    };
    let consents = |plan: &Plan| plan.detach.iter().map(|it| it.consent).collect::<Vec<_>>();
    let free = unwanted(Some(healthy(&[], &["h"])), Duration::ZERO);
    assert_eq!((consents(&free), free.report), (vec![Consent::Asked], Some(BTreeSet::new())));

    // A node that works has all the time.
    let used = unwanted(Some(healthy(&["h"], &["h"])), LONGEST_UNMOUNT);
    assert_eq!(used, Plan::default());
    let ill = || Some(NodeView { health: Health::Ill, ..healthy(&["h"], &["h"]) });
    let early = unwanted(ill(), Duration::from_secs(60));
    assert_eq!((consents(&early), early.next), (vec![], Some(Duration::from_secs(300))));
    assert_eq!(consents(&unwanted(ill(), LONGEST_UNMOUNT)), [Consent::Assumed]);
    let gone = ill().map(|node| NodeView { out_of_service: true, ..node });
    assert_eq!(consents(&unwanted(gone, Duration::ZERO)), [Consent::Assumed]);
    assert_eq!(consents(&unwanted(None, Duration::ZERO)), []);
    assert_eq!(consents(&unwanted(None, LONGEST_UNMOUNT)), [Consent::Assumed]);
}

#[test]
fn a_node_that_was_made_anew_keeps_its_volumes_until_it_has_said_what_it_uses() {
    let found = || Some(AttachmentView { attached: true, ..attachment() });
    let anew = || NodeView { health: Health::Silent, ..healthy(&[], &["h"]) };
    let case = || Case { node: Some(anew()), found: found(), ..Case::default() };
    assert_eq!(case().decide(), Plan { next: Some(LONGEST_UNMOUNT), ..Plan::default() });
    let late = Case { unwanted_for: LONGEST_UNMOUNT, ..case() }.decide();
    assert_eq!(late.detach[0].consent, Consent::Assumed);
    let over = Case { node: Some(NodeView { out_of_service: true, ..anew() }), ..case() }.decide();
    assert_eq!(over.detach[0].consent, Consent::Assumed);
}

#[test]
fn an_attachment_that_is_going_is_no_longer_told_and_made_anew_only_when_it_has_gone() {
    let found = Some(AttachmentView { attached: true, ending: true, ..attachment() });
    let node = Some(healthy(&[], &["h"]));
    let plan = Case { wanted: wanted(Reach::Shared), found, node, ..Case::default() }.decide();
    assert_eq!(plan, Plan { report: Some(BTreeSet::new()), ..Plan::default() });
}

#[test]
fn a_node_keeps_what_others_have_attached_to_it() {
    let mut node = healthy(&[], &[]);
    node.attached.insert("kubernetes.io/iscsi/x".to_owned());
    assert_eq!(Case { node: Some(node), ..Case::default() }.decide(), Plan::default());
}

#[test]
fn a_node_that_attaches_by_itself_is_left_alone() {
    let node = Some(NodeView { attacher: Attacher::Kubelet, ..healthy(&[], &["h"]) });
    let found = Some(AttachmentView { attached: true, ..attachment() });
    assert_eq!(Case { node, found, ..Case::default() }.decide(), Plan::default());
}
