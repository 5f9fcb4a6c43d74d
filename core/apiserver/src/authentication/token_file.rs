//! Tokens from a file, fixed for the life of the server: lines of `token,user,uid,"group1,group2"`.

use std::collections::HashMap;

use async_trait::async_trait;
use ring::digest::{SHA256, digest};

use super::{Authenticated, TokenAuthenticator, known_audiences};
use crate::identity::{AUTHENTICATED, Identity};

/// What is wrong with the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// A line lacks columns.
    #[error("line {line}: a token needs at least 3 columns (token, user name, user uid), found {found}")]
    Columns {
        /// Which line.
        line: usize,
        /// How many it has.
        found: usize,
    },
    /// A line has an empty token.
    #[error("line {line}: the token is empty")]
    Empty {
        /// Which line.
        line: usize,
    },
    /// A quote is not closed.
    #[error("line {line}: a quote is not closed")]
    Quote {
        /// Which line.
        line: usize,
    },
}

/// Who holds which token. Only digests are kept.
pub(super) struct TokenFile {
    users: HashMap<[u8; 32], Identity>,
    audiences: Vec<String>,
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// The columns of a line; `None` for an open quote.
fn columns(line: &str) -> Option<Vec<String>> {
    let (mut columns, mut column, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(std::mem::take(&mut column)),
            _ => column.push(letter),
        }
    }
    columns.push(column);
    (!quoted).then(|| columns.iter().map(|column| column.trim().to_owned()).collect())
}

impl TokenFile {
    /// Reads the file's text.
    pub(super) fn parse(text: &str, audiences: Vec<String>) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (place, line) in text.lines().enumerate() {
            let number = place + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line).ok_or(TokenFileError::Quote { line: number })?;
            let [token, user, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::Columns { line: number, found: columns.len() });
            };
            if token.is_empty() {
                return Err(TokenFileError::Empty { line: number });
            }
            let groups = rest.first().map_or("", String::as_str).split(',').map(str::trim);
            let groups: Vec<&str> = groups.filter(|group| !group.is_empty()).collect();
            let mut identity = Identity::user(user.as_str(), &groups);
            identity.uid = Some(uid.clone()).filter(|uid| !uid.is_empty());
            debug_assert!(identity.is_in(AUTHENTICATED));
            if users.insert(hash(token), identity).is_some() {
                tracing::warn!(line = number, "a token is in the file more than once: the last one counts");
            }
        }
        Ok(TokenFile { users, audiences })
    }
}

#[async_trait]
impl TokenAuthenticator for TokenFile {
    async fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Option<Authenticated>, String> {
        let Some(identity) = self.users.get(&hash(token)) else { return Ok(None) };
        let audiences = known_audiences(&self.audiences, audiences);
        Ok(audiences.map(|audiences| Authenticated { identity: identity.clone(), audiences }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_a_user_with_groups() {
        let text = "secret,ann,7,\"dev, ops\"\nother,bob,8\n\n# none\n";
        let file = TokenFile::parse(text, vec!["api".into()]).unwrap();
        let who = file.authenticate("secret", &["api"]).await.unwrap().unwrap();
        assert_eq!(who.identity.groups, ["dev", "ops", AUTHENTICATED]);
        assert_eq!((who.identity.username.as_str(), who.identity.uid.as_deref()), ("ann", Some("7")));
        assert!(file.authenticate("secret", &["vault"]).await.unwrap().is_none());
        assert!(file.authenticate("secre", &["api"]).await.unwrap().is_none());
    }

    #[test]
    fn a_broken_line_is_named() {
        let fails = |text: &str| TokenFile::parse(text, Vec::new()).err();
        assert_eq!(fails("a,b,c\na,b"), Some(TokenFileError::Columns { line: 2, found: 2 }));
        assert_eq!(fails(",b,c"), Some(TokenFileError::Empty { line: 1 }));
        assert_eq!(fails("a,b,c,\"d"), Some(TokenFileError::Quote { line: 1 }));
    }
}
