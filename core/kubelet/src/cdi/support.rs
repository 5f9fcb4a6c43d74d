//! (pure) Whether a runtime knows CDI devices by their names.

use keelson_cri::v1;
use serde_json::Value;

/// The first numbers of a version, as 1, 6 and 20 of `1.6.20~ds1`.
fn numbers(version: &str) -> [u32; 3] {
    let text = version.strip_prefix('v').unwrap_or(version);
    let mut parts = text.split(|it: char| !it.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

/// What containerd says of its settings.
fn is_enabled(status: &v1::StatusResponse) -> Option<bool> {
    let config: Value = serde_json::from_str(status.info.get("config")?).ok()?;
    config["enableCDI"].as_bool()
}

/// By what the runtime says of itself, as CRI has no feature for that. One of which nothing is known is taken not to: what it gets in other
/// words does it no harm.
pub(super) fn knows_names(version: &v1::VersionResponse, status: &v1::StatusResponse) -> bool {
    let number = numbers(&version.runtime_version);
    match version.runtime_name.as_str() {
        "keelson" => true,
        // With 1.7 it is off unless the owner has it on.
        "containerd" => number >= [1, 7, 2] && is_enabled(status).unwrap_or(number >= [2, 0, 0]),
        "cri-o" => number >= [1, 28, 0],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(name: &str, version: &str, config: Option<&str>) -> bool {
        let version = v1::VersionResponse {
            runtime_name: name.to_owned(),
            runtime_version: version.to_owned(),
            ..v1::VersionResponse::default()
        };
        let info = config.map(|config| ("config".to_owned(), config.to_owned()));
        let status = v1::StatusResponse { info: info.into_iter().collect(), ..v1::StatusResponse::default() };
        knows_names(&version, &status)
    }

    #[test]
    fn names_are_for_runtimes_that_are_known_to_know_them() {
        assert!(knows("keelson", "0.1.0", None));
        assert!(!knows("containerd", "1.6.20~ds1", Some(r#"{"containerd": {}}"#)));
        assert!(!knows("containerd", "1.7.0", Some(r#"{"enableCDI": true}"#)), "in annotations alone");
        assert!(!knows("containerd", "v1.7.27", Some(r#"{"enableCDI": false}"#)));
        assert!(knows("containerd", "v1.7.27", Some(r#"{"enableCDI": true}"#)));
        assert!(!knows("containerd", "v2.0.5", Some(r#"{"enableCDI": false}"#)));
        assert!(knows("containerd", "v2.3.0-beta.1", None));
        assert!(knows("cri-o", "1.28.0", None) && !knows("cri-o", "1.27.9", None));
        assert!(!knows("docker", "28.0.0", None));
    }
}
