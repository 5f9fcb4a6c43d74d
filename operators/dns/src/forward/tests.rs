use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::OpCode;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpListener;

use super::*;

/// A resolver at loopback. It has an address for every name, for `long.` only by TCP, and none for `missing.`.
pub(crate) struct Resolver {
    pub(crate) port: u16,
    pub(crate) asked: Arc<AtomicUsize>,
}

fn respond(bytes: &[u8], is_datagram: bool) -> Vec<u8> {
    let request = Message::from_vec(bytes).unwrap();
    let name = request.queries[0].name.clone();
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    response.add_query(request.queries[0].clone());
    if name.to_ascii() == "missing." {
        response.metadata.response_code = ResponseCode::NXDomain;
    } else if is_datagram && name.to_ascii() == "long." {
        response.metadata.truncation = true;
    } else {
        response.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    }
    response.to_vec().unwrap()
}

pub(crate) async fn resolver() -> Resolver {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = udp.local_addr().unwrap().port();
    let tcp = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            // A forged answer comes first.
            let mut forged = respond(&buffer[..length], true);
            forged[0] ^= 0xff;
            udp.send_to(&forged, peer).await.unwrap();
            udp.send_to(&respond(&buffer[..length], true), peer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut buffer).await.unwrap();
            let response = respond(&buffer, false);
            stream.write_u16(u16::try_from(response.len()).unwrap()).await.unwrap();
            stream.write_all(&response).await.unwrap();
        }
    });
    Resolver { port, asked }
}

/// Asks the resolvers that this text names, all at the port of `resolver`.
pub(crate) fn forwarder(folder: &tempfile::TempDir, resolver: &Resolver, text: &str) -> Forwarder {
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, text).unwrap();
    Forwarder::new(file, "10.96.0.10".parse().unwrap()).at_port(resolver.port)
}

fn query(name: &str) -> Query {
    Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
}

#[tokio::test]
async fn a_resolver_that_is_not_there_is_passed_over_and_an_answer_is_kept() {
    let (folder, resolver) = (tempfile::tempdir().unwrap(), resolver().await);
    // Nobody listens at the second address.
    let text = "nameserver 10.96.0.10\nnameserver 127.0.0.2\nnameserver 127.0.0.1\n";
    let forwarder = forwarder(&folder, &resolver, text);
    let answer = forwarder.ask(&query("example.com."), false, false).await.unwrap();
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(forwarder.resolvers.lock().addresses[0], IpAddr::from([127, 0, 0, 1]));
    forwarder.ask(&query("EXAMPLE.com."), false, false).await.unwrap();
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    forwarder.ask(&query("example.com."), true, false).await.unwrap();
    assert_eq!(resolver.asked.load(Ordering::SeqCst), 2);
    let missing = forwarder.ask(&query("missing."), false, false).await.unwrap();
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_a_datagram_comes_by_tcp() {
    let (folder, resolver) = (tempfile::tempdir().unwrap(), resolver().await);
    let forwarder = forwarder(&folder, &resolver, "nameserver 127.0.0.1");
    let answer = forwarder.ask(&query("long."), false, false).await.unwrap();
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn without_resolvers_nobody_answers() {
    let (folder, resolver) = (tempfile::tempdir().unwrap(), resolver().await);
    let nobody = forwarder(&folder, &resolver, "search example.com\n");
    assert!(nobody.ask(&query("example.com."), false, false).await.is_none());
    let no_file = Forwarder::new(folder.path().join("none"), "10.96.0.10".parse().unwrap());
    assert!(no_file.ask(&query("example.com."), false, false).await.is_none());
}
