//! (pure) Of which images that are there a pod has to show that it may have them: `imagePullCredentialsVerificationPolicy` (KEP-2535).

use super::name::Name;
use crate::configuration::KubeletConfiguration;

/// Whose images are verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Nobody's.
    Never,
    /// Those that the kubelet has pulled.
    #[default]
    Preloaded,
    /// All but the listed ones: repositories, or `PREFIX/*`.
    Listed(Vec<String>),
    /// All.
    Always,
}

/// What may be configured.
const POLICIES: &str =
    "must be NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify";

impl Verification {
    /// The policy of a kubelet, whose settings are checked.
    pub(crate) fn of(settings: &KubeletConfiguration) -> Self {
        match settings.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => Verification::Never,
            "AlwaysVerify" => Verification::Always,
            "NeverVerifyAllowlistedImages" => {
                Verification::Listed(settings.preloaded_images_verification_allowlist.clone())
            }
            _ => Verification::Preloaded,
        }
    }

    /// Whether credentials are to be shown for a repository's image, which the kubelet has pulled or not.
    pub(crate) fn verifies(&self, repository: &str, is_pulled: bool) -> bool {
        match self {
            Verification::Never => false,
            Verification::Preloaded => is_pulled,
            Verification::Listed(list) => !list.iter().any(|one| match one.strip_suffix('*') {
                Some(prefix) => repository.starts_with(prefix),
                None => repository == one,
            }),
            Verification::Always => true,
        }
    }
}

/// What cannot be, if anything: the field, its value and why.
pub(crate) fn check(settings: &KubeletConfiguration) -> Result<(), (&'static str, String, &'static str)> {
    let policy = &settings.image_pull_credentials_verification_policy;
    let list = &settings.preloaded_images_verification_allowlist;
    const LIST: &str = "preloadedImagesVerificationAllowlist";
    match policy.as_str() {
        "NeverVerify" | "NeverVerifyPreloadedImages" | "AlwaysVerify" => match list.first() {
            Some(first) => Err((
                LIST,
                first.clone(),
                "may only be set if imagePullCredentialsVerificationPolicy is NeverVerifyAllowlistedImages",
            )),
            None => Ok(()),
        },
        "NeverVerifyAllowlistedImages" => {
            list.iter().try_for_each(|one| check_pattern(one).map_err(|why| (LIST, format!("{one:?}"), why)))
        }
        _ => Err(("imagePullCredentialsVerificationPolicy", format!("{policy:?}"), POLICIES)),
    }
}

/// Upstream's texts.
fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    if pattern != pattern.trim() {
        return Err("leading/trailing spaces are not allowed");
    }
    let prefix = pattern.strip_suffix("/*");
    let rest = prefix.unwrap_or(pattern);
    if rest.contains('*') {
        return Err("not a valid wildcard pattern, only patterns ending with '/*' are allowed");
    }
    match (prefix, rest) {
        (Some(""), _) => Err("at least registry hostname is required"),
        (Some(_), _) => Ok(()),
        (None, "") => Err("the supplied pattern is too short"),
        (None, rest) => match Name::parse(rest) {
            Err(_) => Err("failed to parse as an image name"),
            Ok(name) if name.repository() != rest => {
                Err("neither tag nor digest is accepted in an image reference")
            }
            Ok(_) => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_repositories_and_all_below_a_folder_can_be_listed() {
        let told = |policy: &str, list: &[&str]| {
            check(&KubeletConfiguration {
                image_pull_credentials_verification_policy: policy.to_owned(),
                preloaded_images_verification_allowlist: list.iter().map(|one| (*one).to_owned()).collect(),
                ..KubeletConfiguration::default()
            })
            .map_err(|(field, _, why)| (field, why))
        };
        let listed = |one: &str| told("NeverVerifyAllowlistedImages", &[one]).map_err(|(_, why)| why);
        for fine in ["r.example/app", "r.example:5000/team/*", "r.example/*"] {
            assert_eq!(listed(fine), Ok(()), "{fine}");
        }
        assert!(listed("r.example/a*").unwrap_err().starts_with("not a valid wildcard pattern"));
        assert!(listed("r.example/app:1").unwrap_err().starts_with("neither tag nor digest"));
        assert!(
            listed("app").unwrap_err().starts_with("neither tag nor digest"),
            "the registry is to be named"
        );
        assert_eq!(listed("/*"), Err("at least registry hostname is required"));
        assert_eq!(listed(" r.example/app"), Err("leading/trailing spaces are not allowed"));
        assert_eq!(listed(""), Err("the supplied pattern is too short"));
        assert_eq!(listed("A/B"), Err("failed to parse as an image name"));
        assert_eq!(told("AlwaysVerify", &[]), Ok(()));
        assert_eq!(
            told("AlwaysVerify", &["r.example/app"]).unwrap_err().0,
            "preloadedImagesVerificationAllowlist"
        );
        assert_eq!(told("Sometimes", &[]).unwrap_err(), ("imagePullCredentialsVerificationPolicy", POLICIES));
    }
}
