//! What a proxy's path means (pure): which server, and which path there.

use std::net::IpAddr;

use keelson_api::{Object, Status};
use serde_json::Value;

/// The name of a proxied object, as `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) https: bool,
    pub(crate) name: String,
    /// A number, or a port's name; empty for none.
    pub(crate) port: String,
}

/// Whether a name is one that a Service's or container's port can have.
fn is_port_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=15).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && !text.contains("--")
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.parse::<u16>().is_ok_and(|port| port != 0) || is_port_name(text)
}

impl Named {
    /// Reads a path's segment.
    pub(crate) fn parse(kind: &str, segment: &str) -> Result<Self, Status> {
        let invalid = || Status::bad_request(format!("invalid {kind} request {segment:?}"));
        let (scheme, name, port) = match segment.split(':').collect::<Vec<_>>().as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return Err(invalid()),
        };
        let is_scheme = matches!(scheme, "" | "http" | "https");
        if name.is_empty() || !is_scheme || !is_port(port) {
            return Err(invalid());
        }
        Ok(Named { https: scheme == "https", name: name.to_owned(), port: port.to_owned() })
    }
}

/// Splits a path behind its first `segments` segments: the part up to there, and what follows with its slash.
pub(crate) fn split(path: &str, segments: usize) -> (&str, &str) {
    let (mut seen, mut inside) = (0, false);
    for (at, byte) in path.bytes().enumerate() {
        match (byte, inside) {
            (b'/', true) if seen == segments => return path.split_at(at),
            (b'/', _) => inside = false,
            (_, false) => {
                inside = true;
                seen += 1;
            }
            (_, true) => {}
        }
    }
    (path, "")
}

/// Whether a path up to its subresource has so many segments, and no more when it is decoded.
pub(crate) fn is_plain(prefix: &str, segments: usize) -> bool {
    let decoded = percent_encoding::percent_decode_str(prefix).decode_utf8_lossy();
    let mut parts = decoded.split('/').filter(|part| !part.is_empty());
    parts.by_ref().take(segments).last() == Some("proxy") && parts.next().is_none()
}

/// Whether the proxy may go to an address: none of this machine, of its link, or of a group.
pub(crate) fn is_proxyable(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local)
}

/// 400 for an address to which the proxy does not go.
pub(crate) fn not_allowed() -> Status {
    Status::bad_request("address not allowed")
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn port_of(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0)
}

/// A pod's address, and the port that is asked for: a number, the name of a container's port, or the first of all; the
/// scheme's if there are none.
pub(crate) fn pod(pod: &Object, asked: &Named) -> Result<(IpAddr, u16), Status> {
    let address = pod.get_str(&["status", "podIP"]).and_then(|address| address.parse().ok());
    let address: IpAddr = address.ok_or_else(not_allowed)?;
    if !is_proxyable(address) {
        return Err(not_allowed());
    }
    let containers = list(pod.get(&["spec", "containers"]));
    let mut ports = containers.flat_map(|container| list(container.get("ports")));
    let number = |port: &Value| port.get("containerPort").and_then(port_of);
    let port = match asked.port.as_str() {
        "" => ports.next().and_then(number).or(Some(if asked.https { 443 } else { 80 })),
        text => text.parse().ok().or_else(|| ports.find(|port| port["name"] == text).and_then(number)),
    };
    let invalid = || Status::bad_request(format!("pod {:?} has no port named {:?}", asked.name, asked.port));
    Ok((address, port.ok_or_else(invalid)?))
}

/// The name of the Service's port that is asked for by number or name.
pub(crate) fn service_port(service: &Object, asked: &Named) -> Result<String, Status> {
    let Ok(number) = asked.port.parse::<u16>() else { return Ok(asked.port.clone()) };
    let mut ports = list(service.get(&["spec", "ports"]));
    let found = ports.find(|port| port.get("port").and_then(port_of) == Some(number));
    let found = found.ok_or_else(|| {
        Status::unavailable(format!("no service port {number} found for service {:?}", asked.name))
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
}

/// The ready endpoints of a slice that are said to be pods: the pods' names, their addresses, and the number of the port
/// of that name.
pub(crate) fn endpoints(slice: &Object, port: &str) -> Vec<(String, IpAddr, u16)> {
    let mut ports = list(slice.get(&["ports"]));
    let named = ports.find(|it| it["name"].as_str().unwrap_or_default() == port);
    let Some(number) = named.and_then(|it| it.get("port")).and_then(port_of) else { return Vec::new() };
    let is_ready = |endpoint: &&Value| endpoint["conditions"]["ready"] != Value::Bool(false);
    let is_pod = |endpoint: &&Value| endpoint["targetRef"]["kind"] == "Pod";
    let ready = list(slice.get(&["endpoints"])).filter(is_ready).filter(is_pod);
    let found = ready.filter_map(|endpoint| {
        let address: IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
        Some((endpoint["targetRef"]["name"].as_str()?.to_owned(), address, number))
    });
    found.filter(|(_, address, _)| is_proxyable(*address)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(text: &str) -> Option<(bool, String, String)> {
        Named::parse("pod", text).ok().map(|it| (it.https, it.name, it.port))
    }

    #[test]
    fn names_carry_a_scheme_and_a_port() {
        let is = |https: bool, name: &str, port: &str| Some((https, name.to_owned(), port.to_owned()));
        assert_eq!(named("a"), is(false, "a", ""));
        assert_eq!(named("a:80"), is(false, "a", "80"));
        assert_eq!(named("a:web"), is(false, "a", "web"));
        assert_eq!(named("https:a:"), is(true, "a", ""));
        assert_eq!(named("http:a:web"), is(false, "a", "web"));
        for bad in ["", ":80", "ftp:a:80", "a:b:c:d", "a:65536", "a:-x", "a:0"] {
            assert_eq!(named(bad), None, "{bad}");
        }
        let text = Named::parse("service", "a:b:c:d").unwrap_err().message;
        assert_eq!(text, "invalid service request \"a:b:c:d\"");
    }

    #[test]
    fn a_path_is_split_behind_the_subresource_and_otherwise_kept() {
        let path = "/api/v1/nodes/n/proxy//a/%2e%2e/b/";
        assert_eq!(split(path, 5), ("/api/v1/nodes/n/proxy", "//a/%2e%2e/b/"));
        assert_eq!(split("/api/v1/nodes/n/proxy", 5), ("/api/v1/nodes/n/proxy", ""));
        assert_eq!(split("/api/v1/nodes/n/proxy/", 5), ("/api/v1/nodes/n/proxy", "/"));
    }

    #[test]
    fn an_encoded_slash_makes_no_other_path() {
        assert!(is_plain("/api/v1/nodes/n/proxy", 5));
        assert!(is_plain("/api/v1/nodes/https:n%3A10/proxy", 5));
        assert!(!is_plain("/api/v1/nodes%2Fn/proxy/x", 5));
        assert!(!is_plain("/api/v1/watch%2Fnodes/n/proxy", 5));
    }

    #[test]
    fn the_proxy_does_not_go_to_the_machine_itself_or_its_link() {
        for bad in
            ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert!(!is_proxyable(bad.parse().unwrap()), "{bad}");
        }
        assert!(is_proxyable("10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_pods_port_is_a_number_a_name_or_its_first() {
        let object = Object::from_value(json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "ports": [{"containerPort": 8080}, {"name": "web", "containerPort": 81}]}]},
            "status": {"podIP": "10.0.0.9"}}));
        let object = object.unwrap();
        let port = |text: &str| pod(&object, &Named::parse("pod", text).unwrap()).map(|(_, port)| port);
        assert_eq!(port("p").unwrap(), 8080);
        assert_eq!(port("p:web").unwrap(), 81);
        assert_eq!(port("p:99").unwrap(), 99);
        assert_eq!(port("p:other").unwrap_err().code, 400);
        let bare = Object::from_value(json!({"status": {"podIP": "127.0.0.1"}})).unwrap();
        let refused = pod(&bare, &Named::parse("pod", "p").unwrap()).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (400, "address not allowed"));
    }

    #[test]
    fn endpoints_are_ready_pods_with_the_ports_name() {
        let pod = json!({"kind": "Pod", "name": "p"});
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": pod, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "targetRef": pod, "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]}, {"addresses": ["127.0.0.1"], "targetRef": pod}]});
        let slice = Object::from_value(slice).unwrap();
        assert_eq!(endpoints(&slice, "web"), [("p".to_owned(), "10.0.0.1".parse().unwrap(), 8080)]);
        assert_eq!(endpoints(&slice, ""), []);
    }
}
