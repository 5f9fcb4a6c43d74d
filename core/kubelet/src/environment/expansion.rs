//! `$(NAME)` in commands, arguments and values (pure). `$$` is a dollar sign, an unknown name stays as it is.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// Replaces references to variables of the list.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    with(text, |name| env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str()))
}

/// Replaces references to variables of the list, and names those that have no value.
pub(crate) fn expand_known(text: &str, env: &[(String, String)]) -> (String, BTreeSet<String>) {
    let missing = RefCell::default();
    let text = with(text, |name| {
        let found = env.iter().rev().find(|(known, value)| known == name && !value.is_empty());
        if found.is_none() {
            BTreeSet::insert(&mut missing.borrow_mut(), name.to_owned());
        }
        found.map(|(_, value)| value.as_str())
    });
    (text, missing.into_inner())
}

/// Replaces references by what the function knows.
pub(super) fn with<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|open| open.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_dollars_escaped() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        for (text, expected) in [
            ("$(A)-$(B)", "1-$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(MISSING)", "$(MISSING)"),
            ("$A $(", "$A $("),
            ("price $", "price $"),
            ("$(A", "$(A"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_named() {
        let env = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())];
        assert_eq!(expand_known("$(A)/$$(C)", &env), ("1/$(C)".to_owned(), BTreeSet::new()));
        let missing = expand_known("$(A)/$(C)/$(B)/$(C)", &env).1;
        assert_eq!(missing.into_iter().collect::<Vec<_>>(), ["B", "C"]);
    }
}
