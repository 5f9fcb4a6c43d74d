use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData};
use serde_json::json;

use super::*;
use crate::zone::tests::{add_service, add_slice, empty};

fn request(name: &str, wanted: RecordType) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    request
}

fn done(zone: &Zone, request: &Message) -> Message {
    match begin(zone, request) {
        Step::Done(response) => response,
        Step::Ask(query, _) => panic!("{query} is asked of others"),
    }
}

fn zone() -> Zone {
    let mut zone = empty();
    add_service(&mut zone, "web", json!({"clusterIP": "10.96.0.7"}));
    add_service(
        &mut zone,
        "alias",
        json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
    );
    add_service(&mut zone, "away", json!({"type": "ExternalName", "externalName": "example.com"}));
    add_service(
        &mut zone,
        "ring",
        json!({"type": "ExternalName", "externalName": "ring.default.svc.cluster.local"}),
    );
    add_service(&mut zone, "many", json!({"clusterIP": "None"}));
    let endpoints: Vec<_> = (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    add_slice(&mut zone, "many-1", "many", &endpoints);
    zone
}

#[test]
fn an_answer_repeats_the_question_and_says_that_it_is_the_authority() {
    let request = request("WEB.default.svc.cluster.local.", RecordType::A);
    let response = done(&zone(), &request);
    assert_eq!(response.metadata.id, request.metadata.id);
    assert_eq!(response.queries, request.queries);
    assert!(response.metadata.authoritative && response.metadata.recursion_available);
    assert!(response.answers[0].name.eq_case(&request.queries[0].name));
    assert!((5..=30).contains(&response.answers[0].ttl));
    assert!(response.edns.is_none());
}

#[test]
fn no_name_and_no_data_come_with_the_authority_s_record() {
    let zone = zone();
    for (name, code) in [("nope.default.svc", ResponseCode::NXDomain), ("default.svc", ResponseCode::NoError)]
    {
        let response = done(&zone, &request(&format!("{name}.cluster.local."), RecordType::A));
        assert_eq!(response.metadata.response_code, code);
        assert!(response.answers.is_empty());
        assert_eq!(response.authorities[0].record_type(), RecordType::SOA);
    }
}

#[test]
fn aliases_are_followed_here_and_elsewhere_and_not_in_circles() {
    let zone = zone();
    let local = done(&zone, &request("alias.default.svc.cluster.local.", RecordType::A));
    let types: Vec<_> = local.answers.iter().map(Record::record_type).collect();
    assert_eq!(types, [RecordType::CNAME, RecordType::A]);

    let Step::Ask(query, response) = begin(&zone, &request("away.default.svc.cluster.local.", RecordType::A))
    else {
        panic!("it is elsewhere")
    };
    assert_eq!(query.name.to_ascii(), "example.com.");
    let mut others = Message::error_msg(1, OpCode::Query, ResponseCode::NoError);
    others.add_answer(Record::from_rdata(query.name, 60, RData::A(A::new(192, 0, 2, 1))));
    assert_eq!(finish(response.clone(), Some(others)).answers.len(), 2);
    assert_eq!(finish(response, None).metadata.response_code, ResponseCode::ServFail);

    let circle = done(&zone, &request("ring.default.svc.cluster.local.", RecordType::A));
    assert_eq!(circle.metadata.response_code, ResponseCode::ServFail);
    let itself = done(&zone, &request("ring.default.svc.cluster.local.", RecordType::CNAME));
    assert_eq!(itself.answers.len(), 1);
}

#[test]
fn an_answer_that_is_too_long_is_cut_where_it_fits_and_says_so() {
    let mut request = request("many.default.svc.cluster.local.", RecordType::A);
    let response = done(&zone(), &request);
    assert_eq!(response.answers.len(), 200);
    let short = encode(&response, datagram_limit(&request)).unwrap();
    let read = Message::from_vec(&short).unwrap();
    assert!(short.len() <= 512 && read.metadata.truncation);
    assert!(read.answers.len() > 20, "{}", read.answers.len());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    request.set_edns(edns);
    assert_eq!(datagram_limit(&request), LARGEST_DATAGRAM);
    assert!(done(&zone(), &request).edns.is_some());
    let whole = Message::from_vec(&encode(&response, u16::MAX).unwrap()).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 200);
}

#[test]
fn different_questions_have_different_records_first() {
    let zone = zone();
    let mut request = request("many.default.svc.cluster.local.", RecordType::A);
    request.metadata.id = 0;
    let first = done(&zone, &request).answers.remove(0);
    request.metadata.id = 1;
    assert_ne!(done(&zone, &request).answers[0], first);
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let zone = zone();
    let code = |request: &Message| done(&zone, request).metadata.response_code;
    let mut other = request("web.default.svc.cluster.local.", RecordType::A);
    other.metadata.op_code = OpCode::Update;
    assert_eq!(code(&other), ResponseCode::NotImp);
    let mut two = request("web.default.svc.cluster.local.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    assert_eq!(code(&request("cluster.local.", RecordType::AXFR)), ResponseCode::Refused);
    let mut chaos = request("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut future = request("web.default.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    assert_eq!(code(&future), ResponseCode::BADVERS);

    assert!(read(&[0; 11]).is_none());
    let response = done(&zone, &request("web.default.svc.cluster.local.", RecordType::A));
    assert!(read(&response.to_vec().unwrap()).is_none(), "a response is not answered");
    let mut broken = request("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    broken.truncate(20);
    let refusal = read(&broken).unwrap().unwrap_err();
    assert_eq!(refusal.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(refusal.metadata.id.to_be_bytes(), broken[..2]);
}
