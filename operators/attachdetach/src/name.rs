//! How attachments and volumes are called (pure), as everywhere in Kubernetes: drivers and kubelets find them by these names.

use ring::digest::{SHA256, digest};

/// The name of the attachment of a driver's volume to a node.
pub fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(digest(&SHA256, format!("{handle}{driver}{node}").as_bytes())))
}

/// Whether an attachment may be called so.
pub fn is_attachment(name: &str) -> bool {
    let hash = name.strip_prefix("csi-").unwrap_or_default();
    hash.len() == 64 && hash.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// What precedes driver and handle in the name of a volume.
const VOLUME: &str = "kubernetes.io/csi/";

/// The name of a driver's volume in `status.volumesInUse` and `status.volumesAttached` of a node.
pub fn volume(driver: &str, handle: &str) -> String {
    format!("{VOLUME}{driver}^{handle}")
}

/// The name of the attachment of the volume of a name to a node; `None` if it is not a driver's.
pub fn attachment_of_volume(volume: &str, node: &str) -> Option<String> {
    let (driver, handle) = volume.strip_prefix(VOLUME)?.split_once('^')?;
    Some(attachment(handle, driver, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_named_by_a_hash_of_handle_driver_and_node() {
        // echo -n hdn | sha256sum
        let name = "csi-9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d";
        assert_eq!(attachment("h", "d", "n"), name);
        assert!(is_attachment(name));
        assert!(!is_attachment("csi-mine") && !is_attachment(&name[4..]));
        assert_eq!(volume("d", "h^1"), "kubernetes.io/csi/d^h^1");
        assert_eq!(attachment_of_volume("kubernetes.io/csi/d^h^1", "n"), Some(attachment("h^1", "d", "n")));
        assert_eq!(attachment_of_volume("kubernetes.io/iscsi/x", "n"), None);
    }
}
