//! The variables that tell a container of a Service (pure).

use k8s_openapi::api::core::v1::Service;

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the link variables. A Service without an address has none.
pub(super) fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = spec.cluster_ip.as_deref().filter(|address| !address.is_empty() && *address != "None");
    let Some(address) = address.filter(|_| spec.type_.as_deref() != Some("ExternalName")) else {
        return Vec::new();
    };
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let mut out = vec![(format!("{prefix}_SERVICE_HOST"), address.to_owned())];
    if let Some(first) = ports.first() {
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|it| !it.is_empty()).unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.push((format!("{link}_PROTO"), lower));
        out.push((format!("{link}_PORT"), port.port.to_string()));
        out.push((format!("{link}_ADDR"), address.to_owned()));
        out.push((link, url));
    }
    out
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: serde_json::Value) -> Vec<String> {
        let service = serde_json::from_value(json!({"metadata": {"name": "redis-primary"}, "spec": spec}));
        variables(&service.unwrap()).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn a_service_gives_its_host_its_ports_and_links() {
        let found = of(json!({
            "clusterIP": "10.0.0.11",
            "ports": [{"name": "db", "port": 6379, "protocol": "TCP"}, {"name": "m-x", "port": 53, "protocol": "UDP"}],
        }));
        let expected = [
            "REDIS_PRIMARY_SERVICE_HOST=10.0.0.11",
            "REDIS_PRIMARY_SERVICE_PORT=6379",
            "REDIS_PRIMARY_SERVICE_PORT_DB=6379",
            "REDIS_PRIMARY_SERVICE_PORT_M_X=53",
            "REDIS_PRIMARY_PORT=tcp://10.0.0.11:6379",
            "REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp",
            "REDIS_PRIMARY_PORT_6379_TCP_PORT=6379",
            "REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.0.0.11",
            "REDIS_PRIMARY_PORT_6379_TCP=tcp://10.0.0.11:6379",
            "REDIS_PRIMARY_PORT_53_UDP_PROTO=udp",
            "REDIS_PRIMARY_PORT_53_UDP_PORT=53",
            "REDIS_PRIMARY_PORT_53_UDP_ADDR=10.0.0.11",
            "REDIS_PRIMARY_PORT_53_UDP=udp://10.0.0.11:53",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_headless_service_gives_none() {
        assert!(of(json!({"clusterIP": "None", "ports": [{"port": 1}]})).is_empty());
        assert!(of(json!({"type": "ExternalName", "externalName": "example.com"})).is_empty());
    }
}
