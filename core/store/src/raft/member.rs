//! Who the members are.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A member as the others know it. It is kept as one text, `NAME ADDRESS ADDRESS...`; that of a member without peers
/// is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Text", into = "Text")]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where it listens for its peers: `HOST:PORT`.
    pub(crate) addresses: Vec<String>,
}

/// The form in which members are stored.
#[derive(Serialize, Deserialize)]
struct Text {
    addr: String,
}

impl From<Text> for Member {
    fn from(text: Text) -> Self {
        let mut words = text.addr.split(' ').map(str::to_owned);
        let name = words.next().unwrap_or_default();
        Member { name, addresses: words.collect() }
    }
}

impl From<Member> for Text {
    fn from(member: Member) -> Self {
        let words: Vec<String> = std::iter::once(member.name).chain(member.addresses).collect();
        Text { addr: words.join(" ") }
    }
}

/// Why a member cannot be called so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidMember {
    /// The name is not one.
    #[error("the name of a member is a lower-case DNS name, not {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// An address is not one, or there is none.
    #[error("a member has addresses of the form HOST:PORT, not {address:?}")]
    Address {
        /// The address; empty where there is none.
        address: String,
    },
}

impl Member {
    /// Checks and takes a name and addresses.
    pub(crate) fn new(name: &str, addresses: &[String]) -> Result<Self, InvalidMember> {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let label = |label: &str| {
            label.starts_with(letter)
                && label.ends_with(letter)
                && label.chars().all(|c| letter(c) || c == '-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(InvalidMember::Name { name: name.to_owned() });
        }
        let good = |address: &String| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
                    && !address.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
            })
        };
        if let Some(address) = addresses.iter().find(|address| !good(address)) {
            return Err(InvalidMember::Address { address: address.clone() });
        }
        if addresses.is_empty() {
            return Err(InvalidMember::Address { address: String::new() });
        }
        Ok(Member { name: name.to_owned(), addresses: addresses.to_vec() })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Who this member is, for all time. A folder that is wiped becomes another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) member: u64,
    /// Not known before a cluster has been made or joined.
    pub(crate) cluster: Option<u64>,
    /// Whether it joins a cluster and never makes one.
    pub(crate) joins: bool,
}

const FILE: &str = "member.json";

/// The file. One that was written by an earlier version has no checksum.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<u32>,
}

/// Why the file is not believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is damaged; run `keelson members rebuild` if there are other members, or `keelson snapshot restore` if there are none",
    path.display()
)]
struct Damaged {
    path: PathBuf,
}

impl Identity {
    /// Reads the identity of a folder, if it has one.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let kept = serde_json::from_slice::<Kept>(&bytes).ok();
                let whole = kept.filter(|it| it.checksum.is_none_or(|sum| sum == it.identity.checksum()));
                let damaged = || io::Error::new(io::ErrorKind::InvalidData, Damaged { path });
                whole.map(|kept| Some(kept.identity)).ok_or_else(damaged)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn checksum(&self) -> u32 {
        let mut bytes = Vec::from(self.member.to_be_bytes());
        bytes.extend(self.cluster.map_or([0; 9], |it| {
            let mut known = [1; 9];
            known[1..].copy_from_slice(&it.to_be_bytes());
            known
        }));
        bytes.push(self.joins.into());
        crc32fast::hash(&bytes)
    }

    /// Writes it; when this returns, it is durable.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let partial = dir.join("member.json.tmp");
        let mut file = File::create(&partial)?;
        let kept = Kept { identity: *self, checksum: Some(self.checksum()) };
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        fs::rename(&partial, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_stored_as_one_text_and_read_back() {
        for (name, addresses) in [("", vec![]), ("a", vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()])] {
            let member = Member { name: name.to_owned(), addresses };
            let bytes = postcard::to_allocvec(&member).unwrap();
            assert_eq!(postcard::from_bytes::<Member>(&bytes).unwrap(), member);
        }
        assert_eq!(postcard::from_bytes::<Member>(&[0]).unwrap(), Member::default());
    }

    #[test]
    fn who_a_member_is_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        for cluster in [None, Some(u64::MAX)] {
            let identity = Identity { member: u64::MAX - 1, cluster, joins: true };
            identity.write(dir.path()).unwrap();
            assert_eq!(Identity::read(dir.path()).unwrap(), Some(identity));
        }
        let path = dir.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in [whole.replacen("true", "false", 1), whole.replacen("5", "4", 1), "{".to_owned()] {
            fs::write(&path, &damaged).unwrap();
            let refused = Identity::read(dir.path()).unwrap_err().to_string();
            assert!(refused.contains("keelson members rebuild"), "{damaged}: {refused}");
        }
        // As it was once written.
        fs::write(&path, r#"{"member":7,"cluster":8,"joins":false}"#).unwrap();
        let before = Identity { member: 7, cluster: Some(8), joins: false };
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(before));
    }

    #[test]
    fn a_member_without_a_proper_name_or_address_is_refused() {
        let here = ["127.0.0.1:2380".to_owned()];
        assert!(Member::new("server-1.example", &here).is_ok());
        for name in ["", "Server", "a b", "-a", "a..b"] {
            assert_eq!(Member::new(name, &here), Err(InvalidMember::Name { name: name.to_owned() }));
        }
        for address in ["", "host", "host:", ":1", "host:0", "http://host:1", "a b:1"] {
            assert!(Member::new("a", &[address.to_owned()]).is_err(), "{address}");
        }
        assert!(Member::new("a", &[]).is_err());
    }
}
