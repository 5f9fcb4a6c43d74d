//! CNI plugins of others, written as shell scripts.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;

use keelson_network::{PodNetwork, Protocol};

use crate::harness::{Namespace, Node, in_a_node, ip, pod, port};

const LIST: &str = r#"{
  "cniVersion": "1.0.0", "name": "theirs",
  "plugins": [{ "type": "first", "bridge": "b" }, { "type": "second", "capabilities": { "portMappings": true } }]
}"#;

/// A plugin that writes down what it is told, and answers or fails.
fn plugin(node: &Node, name: &str, add: &str) {
    let folder = node.folder().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let log = node.folder().join("log");
    let script = format!(
        "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $input\" >> {}\n\
         case $CNI_COMMAND in ADD) {add};; esac\n",
        log.display()
    );
    let path = folder.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn log(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.folder().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn install(node: &Node) {
    fs::create_dir_all(node.folder().join("net.d")).unwrap();
    fs::write(node.folder().join("net.d/10-theirs.conflist"), LIST).unwrap();
    let result = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.7/24","gateway":"10.9.0.1"}]}'"#;
    plugin(node, "first", result);
    plugin(node, "second", result);
}

#[test]
fn somebody_elses_configuration_is_executed_in_order_and_undone_in_reverse() {
    in_a_node(async |node: Node| {
        install(&node);
        let network = PodNetwork::start(node.config()).await.unwrap();
        assert!(!ip("link").contains("keel0badcafe"), "our bridge is not made");
        network.status().await.unwrap();
        let a = Namespace::new();
        let ports = [port(Protocol::Tcp, 8080, 80, None)];
        let added = network.add(a.path(), &pod("a"), &ports).await.unwrap();
        assert_eq!(added.ips, [IpAddr::from([10, 9, 0, 7])]);
        assert_eq!(added.gateway, Some(IpAddr::from([10, 9, 0, 1])));
        drop(network);

        // The configuration may be another one meanwhile: the pod is disconnected by the one that connected it.
        fs::remove_file(node.folder().join("net.d/10-theirs.conflist")).unwrap();
        let network = PodNetwork::start(node.config()).await.unwrap();
        network.check("a").await.unwrap();
        network.del("a").await.unwrap();
        network.del("a").await.unwrap();
        let log = log(&node);
        let calls: Vec<_> =
            log.iter().map(|line| line.split(' ').take(4).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            calls,
            [
                "ADD first a eth0",
                "ADD second a eth0",
                "CHECK first a eth0",
                "CHECK second a eth0",
                "DEL second a eth0",
                "DEL first a eth0"
            ]
        );
        assert!(log[0].contains("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a;"));
        assert!(!log[0].contains("prevResult") && !log[0].contains("portMappings"));
        assert!(log[1].contains(r#""prevResult":{"cniVersion":"1.0.0""#));
        assert!(log[1].contains(r#""portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]"#));
        assert!(log[4].contains("prevResult"));
        network.remove_all().await.unwrap();
        node.assert_empty();
    });
}

#[test]
fn a_failing_plugin_is_named_and_what_the_others_did_is_undone() {
    in_a_node(async |node: Node| {
        install(&node);
        plugin(
            &node,
            "second",
            r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses left"}'; exit 1"#,
        );
        let network = PodNetwork::start(node.config()).await.unwrap();
        let a = Namespace::new();
        let error = network.add(a.path(), &pod("a"), &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "CNI plugin second failed to ADD: no addresses left");
        let commands: Vec<_> =
            log(&node).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(commands, ["ADD", "ADD", "DEL", "DEL"]);
        fs::remove_file(node.folder().join("bin/second")).unwrap();
        let error = network.status().await.unwrap_err();
        assert!(error.to_string().starts_with("CNI plugin \"second\" is in none of"), "{error}");
        assert_eq!(fs::read_dir(node.state().join("pods")).unwrap().count(), 0);
    });
}
