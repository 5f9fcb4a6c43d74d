//! (pure) Why a pull has failed, in upstream's words.

use tonic::Code;

use crate::memory::Why;
use crate::runtime_client::RuntimeError;

/// What most failures are called.
pub(crate) const ERR_IMAGE_PULL: &str = "ErrImagePull";
/// What runtimes begin a text with that has a name of its own, and what is said of it.
const NAMED: [(&str, &str); 2] = [
    ("RegistryUnavailable", "the registry is unavailable"),
    ("SignatureValidationFailed", "the signature validation failed"),
];

/// Whether a container that waits for this reason waits for another pull.
pub(crate) fn is_of_pull(reason: &str) -> bool {
    reason == ERR_IMAGE_PULL || NAMED.iter().any(|(name, _)| *name == reason)
}

/// What a runtime said. A code that says nothing is left out.
fn text(error: &RuntimeError) -> String {
    if error.status.code() == Code::Unknown { error.message() } else { error.text() }
}

/// What was said of all tries, each text once.
pub(super) fn of_all(errors: &[RuntimeError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = text(error);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
}

/// What the container waits for whose image was not pulled.
pub(super) fn why(image: &str, text: &str) -> Why {
    for (name, meaning) in NAMED {
        if let Some(rest) = text.strip_prefix(name) {
            return Why::new(name, format!("image pull failed for {image} because {meaning}{rest}"));
        }
    }
    Why::new(ERR_IMAGE_PULL, text)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn error(code: Code, message: &str) -> RuntimeError {
        RuntimeError { call: "PullImage", status: Status::new(code, message) }
    }

    #[test]
    fn each_try_is_told_once_and_with_its_code_if_that_says_something() {
        let (unknown, missing) = (error(Code::Unknown, "denied"), error(Code::NotFound, "no such tag"));
        assert_eq!(of_all(&[unknown]), "denied");
        let again = || error(Code::Unknown, "denied");
        assert_eq!(
            of_all(&[again(), missing, again()]),
            "[denied, rpc error: code = NotFound desc = no such tag]"
        );
    }

    #[test]
    fn registries_that_are_away_and_signatures_that_are_wrong_have_names_of_their_own() {
        let told = why("app:1", "RegistryUnavailable: connection refused");
        let text = "image pull failed for app:1 because the registry is unavailable: connection refused";
        assert_eq!(told, Why::new("RegistryUnavailable", text));
        let told = why("app:1", "SignatureValidationFailed");
        let text = "image pull failed for app:1 because the signature validation failed";
        assert_eq!(told, Why::new("SignatureValidationFailed", text));
        assert_eq!(why("app:1", "denied"), Why::new("ErrImagePull", "denied"));
        assert!(is_of_pull("SignatureValidationFailed") && !is_of_pull("ErrImageNeverPull"));
    }
}
