//! Whence a request comes, and what it shows of its sender.

use std::net::IpAddr;

use http::{HeaderMap, header};

/// Addresses of proxies that are recorded. Further ones are left out: the list is the sender's choice.
const MOST: usize = 32;

/// The addresses that a request has passed: those that proxies tell, and at last the other end of the connection. All but
/// the last are what the client says.
pub(super) fn ips(headers: &HeaderMap, remote: Option<IpAddr>) -> Vec<String> {
    let parse = |text: &str| text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut found: Vec<IpAddr> = text("x-forwarded-for").split(',').filter_map(parse).take(MOST).collect();
    if let Some(ip) = parse(text("x-real-ip")).filter(|ip| !found.contains(ip)) {
        found.push(ip);
    }
    if let Some(ip) = remote.map(|ip| ip.to_canonical()).filter(|ip| found.last() != Some(ip)) {
        found.push(ip);
    }
    found.iter().map(ToString::to_string).collect()
}

/// By what a sender tried to be known, for the record of a failure. Must be asked before the credentials are taken out.
pub fn attempted(headers: &HeaderMap, has_certificate: bool) -> String {
    let mut methods = Vec::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        let scheme = value.to_str().unwrap_or_default().trim().split(' ').next().unwrap_or_default();
        for known in ["basic", "bearer"] {
            if scheme.eq_ignore_ascii_case(known) && !methods.contains(&known) {
                methods.push(known);
            }
        }
    }
    if has_certificate {
        methods.push("x509");
    }
    if methods.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", methods.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_other_end_of_the_connection_comes_last() {
        let remote = Some("10.0.0.1".parse().unwrap());
        assert_eq!(ips(&headers(&[]), remote), ["10.0.0.1"]);
        let told = headers(&[("x-forwarded-for", "1.2.3.4, bad, ::ffff:5.6.7.8"), ("x-real-ip", "1.2.3.4")]);
        assert_eq!(ips(&told, remote), ["1.2.3.4", "5.6.7.8", "10.0.0.1"]);
        assert_eq!(ips(&headers(&[("x-real-ip", "10.0.0.1")]), remote), ["10.0.0.1"]);
        assert!(ips(&headers(&[("x-forwarded-for", "me\"")]), None).is_empty());
    }

    #[test]
    fn a_failure_tells_what_was_tried_and_not_the_secret() {
        let told = attempted(&headers(&[("authorization", "Bearer hush")]), false);
        assert_eq!(told, "Authentication failed, attempted: bearer");
        assert_eq!(attempted(&headers(&[]), true), "Authentication failed, attempted: x509");
        assert_eq!(attempted(&headers(&[]), false), "Authentication failed, no credentials provided");
    }
}
