//! Rows of Services and of what leads to them.

use serde_json::{Value, json};

use super::row::{Row, or_none, pairs, shortened};

fn balancer(row: &Row<'_>) -> String {
    let found = row.items(&["status", "loadBalancer", "ingress"]).iter();
    let named = |entry: &Value, field: &str| {
        entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut all: Vec<String> =
        found.filter_map(|entry| named(entry, "ip").or_else(|| named(entry, "hostname"))).collect();
    all.sort();
    all.dedup();
    all.join(",")
}

pub(super) fn service(row: &Row<'_>) -> Vec<Value> {
    let listed: Vec<&str> = row.items(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let kind = row.text(&["spec", "type"]);
    let external = match kind {
        "ExternalName" => row.text(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let given = balancer(row);
            let all: Vec<&str> =
                given.split(',').filter(|text| !text.is_empty()).chain(listed.iter().copied()).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => or_none(listed.join(",")),
    };
    let ports = row.items(&["spec", "ports"]).iter().map(|port| {
        let number = |field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node => format!("{}:{node}/{protocol}", number("port")),
        }
    });
    vec![
        row.name(),
        json!(kind),
        row.text_or(&["spec", "clusterIP"], "<none>"),
        json!(external),
        json!(or_none(ports.collect::<Vec<_>>().join(","))),
        row.age(),
        json!(pairs(row.get(&["spec", "selector"]))),
    ]
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn endpoints(row: &Row<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in row.items(&["subsets"]) {
        for port in list(subset, "ports") {
            for address in list(subset, "addresses") {
                let ip = address["ip"].as_str().unwrap_or("");
                all.push(if ip.contains(':') {
                    format!("[{ip}]:{}", port["port"])
                } else {
                    format!("{ip}:{}", port["port"])
                });
            }
        }
        // A Service without ports still has addresses.
        if list(subset, "ports").is_empty() {
            let addresses = list(subset, "addresses").iter().filter_map(|it| it["ip"].as_str());
            all.extend(addresses.map(str::to_owned));
        }
    }
    let shown =
        if row.count(&["subsets"]) > 0 && all.is_empty() { String::new() } else { shortened(&all, 3) };
    vec![row.name(), json!(shown), row.age()]
}

pub(super) fn endpoint_slice(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row
        .items(&["ports"])
        .iter()
        .map(|port| match (&port["port"], &port["name"]) {
            (Value::Null, Value::String(name)) => name.clone(),
            (Value::Null, _) => "*".to_owned(),
            (number, _) => number.to_string(),
        })
        .collect();
    let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports, 3) };
    let addresses: Vec<String> = row
        .items(&["endpoints"])
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses, 3) };
    vec![row.name(), json!(row.text(&["addressType"])), json!(ports), json!(addresses), row.age()]
}

pub(super) fn ingress(row: &Row<'_>) -> Vec<Value> {
    let rules = row.items(&["spec", "rules"]);
    let (mut hosts, mut is_cut): (Vec<&str>, bool) = (Vec::new(), false);
    for rule in rules {
        is_cut |= hosts.len() == 3;
        let host = rule["host"].as_str().filter(|host| !host.is_empty() && !is_cut);
        hosts.extend(host);
    }
    let hosts = match (hosts.len(), is_cut) {
        (0, _) => "*".to_owned(),
        (_, false) => hosts.join(","),
        (_, true) => format!("{} + {} more...", hosts.join(","), rules.len() - 3),
    };
    let ports = if row.count(&["spec", "tls"]) > 0 { "80, 443" } else { "80" };
    vec![
        row.name(),
        row.text_or(&["spec", "ingressClassName"], "<none>"),
        json!(hosts),
        json!(balancer(row)),
        json!(ports),
        row.age(),
    ]
}

pub(super) fn ingress_class(row: &Row<'_>) -> Vec<Value> {
    let part = |field: &str| row.text(&["spec", "parameters", field]);
    let parameters = match (part("kind"), part("apiGroup")) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", part("name")),
        (kind, group) => format!("{kind}.{group}/{}", part("name")),
    };
    vec![row.name(), json!(row.text(&["spec", "controller"])), json!(parameters), row.age()]
}

pub(super) fn network_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.selector(&["spec", "podSelector"]), row.age()]
}
