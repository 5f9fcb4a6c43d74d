//! Which requests of kubelets for serving certificates are approved without anybody being asked (pure).
//!
//! A kubelet writes its own addresses into its Node, so that they alone prove little: who could have a certificate for an
//! address or a name of the API server, or of another node, could stand in its place.

use std::net::IpAddr;

use keelson_api::Object;
use serde_json::Value;

use super::request::Request;
use crate::identity::{Identity, NODES};

/// Says that an administrator holds the node to be one of the servers; kubelets may not set it.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Names under which API servers, or everybody for himself, are reached.
const SERVER_NAMES: [&str; 2] = ["localhost", "kubernetes"];

/// What is known when a request is decided on.
#[derive(Debug, Default)]
pub struct Known {
    /// The requester's Node, if there is one.
    pub node: Option<Object>,
    /// The addresses of all other Nodes.
    pub others: Vec<String>,
    /// The addresses at which API servers are reached, behind their Service or at their own.
    pub servers: Vec<IpAddr>,
    /// Names of API servers beside the usual ones.
    pub server_names: Vec<String>,
}

/// The addresses that a Node tells, of any type.
pub fn addresses(node: &Object) -> impl Iterator<Item = (&str, &str)> {
    let list = node.get(&["status", "addresses"]).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|address| Some((address["type"].as_str()?, address["address"].as_str()?)))
}

fn is_server_name(name: &str, known: &Known) -> bool {
    let name = name.to_ascii_lowercase();
    let first = name.split('.').next().unwrap_or_default();
    SERVER_NAMES.contains(&first) || known.server_names.iter().any(|own| own.eq_ignore_ascii_case(&name))
}

/// Why a request that its signer would sign is not approved by itself; `None` if it is.
pub fn refusal(request: &Request, who: &Identity, known: &Known) -> Option<String> {
    if !who.is_in(NODES) || request.common_name.as_deref() != Some(who.username.as_str()) {
        return Some("the requester is not the node that the certificate is for".to_owned());
    }
    let Some(name) = who.node() else { return Some("the requester is no node".to_owned()) };
    let Some(node) = &known.node else { return Some(format!("there is no Node {name}")) };
    let is_server = node.labels().is_some_and(|labels| labels.contains_key(CONTROL_PLANE));
    for wanted in &request.dns_names {
        if wanted != name && !addresses(node).any(|(kind, own)| kind != "InternalIP" && own == wanted) {
            return Some(format!("DNS name {wanted:?} is neither the node's name nor one of its addresses"));
        }
        if is_server_name(wanted, known) {
            return Some(format!("DNS name {wanted:?} is a name of the API server"));
        }
        if known.others.iter().any(|other| other == wanted) {
            return Some(format!("DNS name {wanted:?} is another node's"));
        }
    }
    for wanted in &request.ip_addresses {
        let is = |own: &str| own.parse::<IpAddr>().is_ok_and(|own| own == *wanted);
        if !addresses(node).any(|(_, own)| is(own)) {
            return Some(format!("address {wanted} is not one of the node's"));
        }
        if wanted.is_loopback() || wanted.is_unspecified() || wanted.is_multicast() {
            return Some(format!("address {wanted} is no address of one machine"));
        }
        if known.others.iter().any(|other| is(other)) {
            return Some(format!("address {wanted} is another node's"));
        }
        if known.servers.contains(wanted) && !is_server {
            return Some(format!(
                "address {wanted} is the API server's, and the node is not labelled as one"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn who(name: &str) -> Identity {
        Identity::user(format!("system:node:{name}"), &[NODES])
    }

    fn request(dns: &[&str], ips: &[&str]) -> Request {
        Request {
            common_name: Some("system:node:one".to_owned()),
            organizations: vec![NODES.to_owned()],
            dns_names: dns.iter().map(|it| (*it).to_owned()).collect(),
            ip_addresses: ips.iter().map(|it| it.parse().unwrap()).collect(),
            ..Request::default()
        }
    }

    fn known(labels: Value) -> Known {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "labels": labels},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "10.0.0.2"}, {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "10.0.0.3"}, {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": "one"}, {"type": "InternalDNS", "address": "one.lan"},
                {"type": "InternalDNS", "address": "kubernetes.default"}, {"type": "ExternalDNS", "address": "api.lan"},
                {"type": "InternalDNS", "address": "two"},
            ]},
        });
        Known {
            node: Some(Object::from_value(node).unwrap()),
            others: vec!["two".to_owned(), "10.0.0.3".to_owned()],
            servers: vec!["10.0.0.1".parse().unwrap(), "10.96.0.1".parse().unwrap()],
            server_names: vec!["api.lan".to_owned()],
        }
    }

    #[test]
    fn a_node_gets_a_certificate_for_its_own_name_and_addresses() {
        let known = known(json!({}));
        assert_eq!(refusal(&request(&["one"], &["10.0.0.2"]), &who("one"), &known), None);
        assert_eq!(refusal(&request(&["one", "one.lan"], &[]), &who("one"), &known), None);
    }

    #[test]
    fn nobody_gets_one_in_the_name_of_a_server_of_another_node_or_of_somebody_else() {
        let known = known(json!({}));
        let refused = |dns: &[&str], ips: &[&str]| refusal(&request(dns, ips), &who("one"), &known).unwrap();
        assert!(refused(&["three"], &[]).contains("neither"));
        assert!(refused(&["kubernetes.default"], &[]).contains("API server"));
        assert!(refused(&["api.lan"], &[]).contains("API server"));
        assert!(refused(&["two"], &[]).contains("another node's"));
        assert!(refused(&[], &["10.0.0.9"]).contains("not one of the node's"));
        assert!(refused(&[], &["10.0.0.3"]).contains("another node's"));
        assert!(refused(&[], &["10.0.0.1"]).contains("the API server's"));
        assert!(refused(&[], &["10.96.0.1"]).contains("not one of the node's"));
        assert!(refused(&["one"], &["127.0.0.1"]).contains("one machine"));
        let other = refusal(&request(&["one"], &[]), &who("two"), &known);
        assert!(other.unwrap().contains("not the node"));
        let stranger = Identity::user("system:node:one", &[]);
        assert!(refusal(&request(&["one"], &[]), &stranger, &known).is_some());
        let unknown = Known { node: None, ..known };
        assert!(refusal(&request(&["one"], &[]), &who("one"), &unknown).unwrap().contains("no Node"));
    }

    #[test]
    fn a_node_that_an_administrator_calls_a_server_may_have_its_address() {
        let known = known(json!({CONTROL_PLANE: ""}));
        assert_eq!(refusal(&request(&["one"], &["10.0.0.1"]), &who("one"), &known), None);
    }
}
