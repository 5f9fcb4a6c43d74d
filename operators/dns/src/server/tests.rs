use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use super::*;
use crate::forward::tests::{Resolver, forwarder, resolver};
use crate::zone::tests::{add_service, add_slice, empty};

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
    _resolver: Resolver,
}

async fn start() -> Running {
    let (folder, resolver) = (tempfile::tempdir().unwrap(), resolver().await);
    let mut zone = empty();
    add_service(&mut zone, "web", json!({"clusterIP": "10.96.0.7"}));
    add_service(&mut zone, "many", json!({"clusterIP": "None"}));
    let endpoints: Vec<_> = (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    add_slice(&mut zone, "many-1", "many", &endpoints);
    let clients = Clients::new("10.42.0.0/16".parse().unwrap(), IpAddr::from([127, 0, 0, 1]));
    let server = Server {
        zone: Arc::new(RwLock::new(zone)),
        clients: Arc::new(RwLock::new(clients)),
        forwarder: Arc::new(forwarder(&folder, &resolver, "nameserver 127.0.0.1")),
    };
    let sockets = Sockets::open(IpAddr::from([127, 0, 0, 1]), None).await.unwrap();
    let (address, shutdown) = (sockets.address(), CancellationToken::new());
    tokio::spawn(server.run(sockets, shutdown.clone()));
    Running { address, shutdown, _folder: folder, _resolver: resolver }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

async fn by_udp(server: &Running, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let question = question(name);
    socket.send_to(&question.to_vec().unwrap(), server.address).await.unwrap();
    let mut buffer = vec![0; 4096];
    let (length, peer) = timeout(SILENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((peer, answer.metadata.id), (server.address, question.metadata.id));
    answer
}

async fn by_tcp(stream: &mut TcpStream, name: &str) -> Message {
    let bytes = question(name).to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

#[tokio::test]
async fn a_datagram_is_answered_from_the_zone_or_by_others() {
    let server = start().await;
    let web = by_udp(&server, "web.default.svc.cluster.local.").await;
    assert_eq!(web.answers[0].data.to_string(), "10.96.0.7");
    let nope = by_udp(&server, "nope.default.svc.cluster.local.").await;
    assert_eq!(nope.metadata.response_code, ResponseCode::NXDomain);
    let other = by_udp(&server, "example.com.").await;
    assert_eq!(other.answers[0].data.to_string(), "192.0.2.1");
    assert!(!other.metadata.authoritative);
}

#[tokio::test]
async fn a_long_answer_is_cut_in_a_datagram_and_whole_in_a_connection() {
    let server = start().await;
    assert!(by_udp(&server, "many.default.svc.cluster.local.").await.metadata.truncation);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(by_tcp(&mut stream, "many.default.svc.cluster.local.").await.answers.len(), 200);
    let second = by_tcp(&mut stream, "long.").await;
    assert_eq!(second.answers.len(), 1);
}

#[tokio::test]
async fn the_port_from_before_is_taken_again_if_it_is_free() {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let first = Sockets::open(loopback, None).await.unwrap();
    let port = first.address().port();
    let second = Sockets::open(loopback, Some(port)).await.unwrap();
    assert_ne!(second.address().port(), port);
    drop(first);
    let again = Sockets::open(loopback, Some(port)).await.unwrap();
    assert_eq!(again.address().port(), port);
}
