use super::*;

fn of(code: Code, message: &str) -> Failure {
    classify("https://a:2379", &Status::new(code, message))
}

#[test]
fn what_etcd_says_is_told_apart() {
    let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    assert!(matches!(full, Failure::Refused(StoreError::NoSpace)));
    let busy = of(Code::ResourceExhausted, "etcdserver: too many requests");
    assert!(matches!(busy, Failure::NotMade(_)));
    for large in [
        of(Code::InvalidArgument, "etcdserver: request is too large"),
        of(Code::ResourceExhausted, "grpc: received message larger than max (3145792 vs. 2097152)"),
    ] {
        assert!(matches!(large, Failure::Refused(StoreError::TooLarge { .. })), "{large:?}");
    }
    let past = of(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert!(matches!(past, Failure::Compacted));
    let forbidden = of(Code::PermissionDenied, "etcdserver: permission denied");
    assert!(matches!(forbidden, Failure::Refused(StoreError::Unavailable { .. })));
}

#[test]
fn what_may_have_been_made_is_not_taken_for_refused() {
    for message in ["etcdserver: request timed out", "etcdserver: leader changed", "transport error"] {
        assert!(matches!(of(Code::Unavailable, message), Failure::Lost(_)));
    }
    assert!(matches!(of(Code::Unknown, "h2 protocol error"), Failure::Lost(_)));
}

#[test]
fn addresses_are_checked() {
    let tls = Tls { ca: None, pair: None };
    let target = Target::read("https://[::1]:23790", &tls).unwrap();
    assert_eq!((target.host.as_str(), target.port, target.tls.is_some()), ("::1", 23790, true));
    assert_eq!(Target::read("http://etcd", &tls).unwrap().port, 2379);
    for bad in ["etcd:2379", "127.0.0.1:2379", "ftp://etcd", "https://etcd/path", ""] {
        assert!(matches!(Target::read(bad, &tls), Err(OpenError::Server { .. })), "{bad}");
    }
    let tls = Tls { ca: Some("/ca".into()), pair: None };
    assert!(matches!(Target::read("http://etcd", &tls), Err(OpenError::Plain { .. })));
}

#[test]
fn pauses_grow_to_a_bound() {
    let mut pause = Pause::default();
    let pauses: Vec<Duration> = (0..40).map(|_| pause.next()).collect();
    assert!(pauses[0] <= PAUSES.0 && pauses.iter().all(|it| *it <= PAUSES.1));
    assert!(pauses[39] >= PAUSES.1 / 2);
    pause.reset();
    assert!(pause.next() <= PAUSES.0);
}
