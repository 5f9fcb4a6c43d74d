//! What to do (pure).

use crate::validate::{ValidatedNamespace, ValidatedSecret};

/// What a namespace lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Make its `default` account.
    pub make_account: bool,
    /// What to do about its bundle.
    pub bundle: BundlePlan,
}

/// What to do about a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundlePlan {
    /// It is right.
    Keep,
    /// It is missing.
    Make,
    /// It says something else.
    Repair,
}

/// What to do about a Secret for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlan {
    /// It has all it needs.
    Keep,
    /// Its account is gone, or another one has come in its place.
    Delete {
        /// The Secret's UID: nothing else is to be deleted.
        uid: String,
        /// The account to look for once more before.
        account: String,
        /// Which account of that name it must be.
        account_uid: Option<String>,
    },
    /// It lacks something.
    Fill {
        /// The Secret's UID, to which the token is bound.
        uid: String,
        /// Whose token.
        account: String,
        /// The account's UID.
        account_uid: String,
        /// Whether it lacks the token, too.
        token: bool,
    },
}

/// Compares a namespace with what it has to hold.
pub fn namespace(seen: &ValidatedNamespace) -> NamespacePlan {
    let bundle = match seen.bundle {
        None => BundlePlan::Make,
        Some(false) => BundlePlan::Repair,
        Some(true) => BundlePlan::Keep,
    };
    NamespacePlan { make_account: !seen.has_account, bundle }
}

/// Compares a Secret with its account.
pub fn token_secret(secret: &ValidatedSecret) -> SecretPlan {
    let ValidatedSecret { seen, account } = secret;
    let (uid, account) = (seen.uid.clone(), account.clone());
    let same = |live: &String| seen.account_uid.as_ref().is_none_or(|wanted| wanted == live);
    match seen.live_account_uid.clone().filter(same) {
        None => SecretPlan::Delete { uid, account, account_uid: seen.account_uid.clone() },
        Some(_) if seen.has_token && seen.has_surroundings && seen.account_uid.is_some() => SecretPlan::Keep,
        Some(account_uid) => SecretPlan::Fill { uid, account, account_uid, token: !seen.has_token },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::ObservedSecret;

    fn secret(named: Option<&str>, live: Option<&str>, token: bool, surroundings: bool) -> ValidatedSecret {
        let seen = ObservedSecret {
            uid: "s".to_owned(),
            account: Some("robot".to_owned()),
            account_uid: named.map(str::to_owned),
            live_account_uid: live.map(str::to_owned),
            has_token: token,
            has_surroundings: surroundings,
            ..ObservedSecret::default()
        };
        ValidatedSecret { seen, account: "robot".to_owned() }
    }

    #[test]
    fn a_namespace_gets_what_it_lacks_and_no_more() {
        let plan = namespace(&ValidatedNamespace { has_account: true, bundle: Some(false) });
        assert_eq!(plan, NamespacePlan { make_account: false, bundle: BundlePlan::Repair });
        let plan = namespace(&ValidatedNamespace { has_account: false, bundle: None });
        assert_eq!(plan, NamespacePlan { make_account: true, bundle: BundlePlan::Make });
    }

    #[test]
    fn a_secret_whose_account_was_made_anew_goes() {
        let plan = token_secret(&secret(Some("old"), Some("new"), true, true));
        let (uid, account) = ("s".to_owned(), "robot".to_owned());
        assert_eq!(plan, SecretPlan::Delete { uid, account, account_uid: Some("old".to_owned()) });
    }

    #[test]
    fn a_new_secret_gets_a_token_and_one_with_an_old_bundle_keeps_its_token() {
        let fill = |token| SecretPlan::Fill {
            uid: "s".to_owned(),
            account: "robot".to_owned(),
            account_uid: "a".to_owned(),
            token,
        };
        assert_eq!(token_secret(&secret(None, Some("a"), false, false)), fill(true));
        assert_eq!(token_secret(&secret(Some("a"), Some("a"), true, false)), fill(false));
        assert_eq!(token_secret(&secret(Some("a"), Some("a"), true, true)), SecretPlan::Keep);
    }
}
