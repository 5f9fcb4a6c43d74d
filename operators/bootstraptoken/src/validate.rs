//! Which tokens have expired, and which may sign (pure).

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::observe::Token;

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// After this time.
    After(Duration),
    /// It has ended, or nobody can tell when.
    Passed,
}

/// A token that may sign.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningToken {
    /// Its public part.
    pub id: String,
    /// Its secret part.
    pub secret: String,
}

/// When a token ends.
pub fn expiry(token: &Token, now: Timestamp) -> Expiry {
    if token.expiration.is_empty() {
        return Expiry::Never;
    }
    let Ok(end) = token.expiration.parse::<Timestamp>() else { return Expiry::Passed };
    match Duration::try_from(end.duration_since(now)) {
        Ok(left) if !left.is_zero() => Expiry::After(left),
        Ok(_) | Err(_) => Expiry::Passed,
    }
}

/// The token as one that may sign, if it is: its Secret must be named after its id.
pub fn signing(token: &Token, now: Timestamp) -> Option<SigningToken> {
    let named = token.name.strip_prefix("bootstrap-token-")?;
    let is_id = named.len() == 6 && named.bytes().all(|it| it.is_ascii_digit() || it.is_ascii_lowercase());
    let is_good = is_id && named == token.id && !token.secret.is_empty() && token.signs;
    (is_good && expiry(token, now) != Expiry::Passed)
        .then(|| SigningToken { id: token.id.clone(), secret: token.secret.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(change: impl FnOnce(&mut Token)) -> Token {
        let mut token = Token {
            name: "bootstrap-token-abcdef".to_owned(),
            uid: "u".to_owned(),
            id: "abcdef".to_owned(),
            secret: "0123456789abcdef".to_owned(),
            expiration: "2026-01-02T00:00:00Z".to_owned(),
            signs: true,
        };
        change(&mut token);
        token
    }

    #[test]
    fn a_token_ends_when_it_says_and_at_once_if_that_cannot_be_read() {
        let now: Timestamp = "2026-01-01T23:59:00Z".parse().unwrap();
        let of = |text: &str| expiry(&token(|it| it.expiration = text.to_owned()), now);
        assert_eq!(of("2026-01-02T00:00:00Z"), Expiry::After(Duration::from_secs(60)));
        assert_eq!(of("2026-01-02T01:00:00+01:00"), Expiry::After(Duration::from_secs(60)));
        assert_eq!(of("2026-01-01T23:59:00Z"), Expiry::Passed);
        assert_eq!(of("tomorrow"), Expiry::Passed);
        assert_eq!(of(""), Expiry::Never);
    }

    #[test]
    fn only_a_live_token_of_its_own_name_that_may_sign_does() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let signs = |change: &dyn Fn(&mut Token)| signing(&token(|it| change(it)), now).is_some();
        assert!(signs(&|_| {}));
        assert!(!signs(&|it| it.signs = false));
        assert!(!signs(&|it| it.id = "fedcba".to_owned()));
        assert!(!signs(&|it| it.name = "other".to_owned()));
        assert!(!signs(&|it| it.secret.clear()));
        assert!(!signs(&|it| it.expiration = "2025-01-01T00:00:00Z".to_owned()));
    }
}
