//! The node's resolvers, as `resolv.conf` names them (pure).

use std::net::IpAddr;

/// As many as the C library asks.
const RESOLVERS: usize = 3;

/// The resolvers of a file, in its order. Those with a zone (`fe80::1%eth0`) are left out.
pub(crate) fn resolvers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    let addresses = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse().ok()).flatten()
    });
    addresses.take(RESOLVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_name_servers_count() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 127.0.0.53 # stub\nnameserver fe80::1%eth0\n\
                    nameserver\tfd00::1\noptions edns0\nnameserver x\n nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let expected: [IpAddr; 3] =
            ["127.0.0.53".parse().unwrap(), "fd00::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
        assert!(resolvers("").is_empty());
    }
}
