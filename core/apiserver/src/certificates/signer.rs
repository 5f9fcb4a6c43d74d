//! The built-in signers: what each of them signs (pure).

use super::request::Request;

/// Clients of the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Kubelets as clients of the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Kubelets as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// No promises at all.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// All of them.
pub const BUILT_IN: [&str; 4] = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];

/// Whether the usages are a signature, the one that is needed, and at most key encipherment.
fn are(usages: &[String], needed: &str) -> bool {
    let has = |usage: &str| usages.iter().any(|it| it == usage);
    let known = ["digital signature", "key encipherment", needed];
    has("digital signature") && has(needed) && usages.iter().all(|usage| known.contains(&usage.as_str()))
}

fn of_node(request: &Request) -> Option<&'static str> {
    if request.organizations != ["system:nodes"] {
        return Some("subject organization is not system:nodes");
    }
    let name = request.common_name.as_deref().unwrap_or_default();
    if !name.starts_with("system:node:") {
        return Some("subject common name does not begin with system:node: ");
    }
    None
}

/// Why a signer does not sign a request for such usages; `None` if it does.
pub fn refusal(signer: &str, request: &Request, usages: &[String]) -> Option<String> {
    let names = request.names;
    let usage = |ok: bool| (!ok).then(|| format!("usages did not match {usages:?}"));
    let unwanted = [
        (names.email, "Email subjectAltNames are not allowed"),
        (names.uri, "URI subjectAltNames are not allowed"),
        (names.dns, "DNS subjectAltNames are not allowed"),
        (names.ip, "IP subjectAltNames are not allowed"),
    ];
    let refused =
        |kinds: &[(bool, &'static str)]| kinds.iter().find(|(is, _)| *is).map(|(_, why)| (*why).to_owned());
    match signer {
        KUBELET_CLIENT => of_node(request)
            .map(str::to_owned)
            .or_else(|| refused(&unwanted))
            .or_else(|| usage(are(usages, "client auth"))),
        KUBELET_SERVING => {
            let lacking =
                (!names.dns && !names.ip).then(|| "DNS or IP subjectAltName is required".to_owned());
            of_node(request)
                .map(str::to_owned)
                .or(lacking)
                .or_else(|| refused(&unwanted[..2]))
                .or_else(|| usage(are(usages, "server auth")))
        }
        CLIENT => {
            let known = ["digital signature", "key encipherment", "client auth"];
            let fits = usages.iter().any(|it| it == "client auth")
                && usages.iter().all(|it| known.contains(&it.as_str()));
            usage(fits)
        }
        LEGACY => None,
        other => Some(format!("{other:?} is no signer of this server")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Names;
    use super::*;

    fn request(name: &str, organizations: &[&str], names: Names) -> Request {
        Request {
            common_name: Some(name.to_owned()),
            organizations: organizations.iter().map(|it| (*it).to_owned()).collect(),
            names,
            ..Request::default()
        }
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn a_kubelet_gets_what_kubelets_need_and_nothing_else() {
        let client = usages(&["digital signature", "client auth"]);
        let node = request("system:node:one", &["system:nodes"], Names::default());
        assert_eq!(refusal(KUBELET_CLIENT, &node, &client), None);
        assert!(refusal(KUBELET_CLIENT, &node, &usages(&["client auth"])).is_some());
        assert!(refusal(KUBELET_CLIENT, &node, &usages(&["digital signature", "server auth"])).is_some());
        let named = request("system:node:one", &["system:nodes"], Names { dns: true, ..Names::default() });
        assert_eq!(refusal(KUBELET_CLIENT, &named, &client).unwrap(), "DNS subjectAltNames are not allowed");
        let grouped = request("system:node:one", &["system:nodes", "system:masters"], Names::default());
        assert!(refusal(KUBELET_CLIENT, &grouped, &client).is_some());
        let other = request("ann", &["system:nodes"], Names::default());
        assert!(refusal(KUBELET_CLIENT, &other, &client).is_some());
        let serving = usages(&["digital signature", "key encipherment", "server auth"]);
        assert_eq!(refusal(KUBELET_SERVING, &named, &serving), None);
        assert_eq!(
            refusal(KUBELET_SERVING, &node, &serving).unwrap(),
            "DNS or IP subjectAltName is required"
        );
    }

    #[test]
    fn a_client_certificate_is_for_clients() {
        let ann = request("ann", &["dev"], Names::default());
        assert_eq!(refusal(CLIENT, &ann, &usages(&["client auth"])), None);
        assert!(refusal(CLIENT, &ann, &usages(&["client auth", "server auth"])).is_some());
        assert!(refusal("example.com/other", &ann, &usages(&["client auth"])).is_some());
    }
}
