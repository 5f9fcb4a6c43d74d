//! Who a container's process is: the user of the pod or of the image, looked up in the image's own files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("{0} is no user or group number")]
    Range(i64),
    #[error("read {file} of the image")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What the pod asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) name: &'a str,
    /// `USER[:GROUP]` of the image.
    pub(crate) image: &'a str,
    pub(crate) groups: &'a [i64],
    /// Only `groups`, not those of the image's group file.
    pub(crate) strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The image's two files; one that does not exist is empty.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads the files below `root`, whose links lead nowhere else.
    pub(crate) fn read(root: &Path) -> Result<Self, UserError> {
        Ok(Self { passwd: read(root, "etc/passwd")?, group: read(root, "etc/group")? })
    }

    /// Name, uid, gid, home.
    fn users(&self) -> impl Iterator<Item = (&str, u32, u32, &str)> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some((name, uid, gid, fields.nth(1).unwrap_or("/")))
        })
    }

    /// Name, gid, members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }

    pub(crate) fn resolve(&self, wanted: &Wanted<'_>) -> Result<User, UserError> {
        let (image_user, image_group) = wanted.image.split_once(':').unwrap_or((wanted.image, ""));
        let from_image = wanted.uid.is_none() && wanted.name.is_empty();
        let user = match wanted.uid {
            Some(uid) => uid.to_string(),
            None if !wanted.name.is_empty() => wanted.name.to_owned(),
            None => image_user.to_owned(),
        };
        let user = if user.is_empty() { "0".to_owned() } else { user };
        let number = user.parse::<i64>().ok();
        let entry = match number {
            Some(number) => self.users().find(|(_, uid, ..)| i64::from(*uid) == number),
            None => Some(
                self.users()
                    .find(|(name, ..)| *name == user)
                    .ok_or_else(|| UserError::NoUser(user.clone()))?,
            ),
        };
        let uid = match (number, entry) {
            (Some(number), _) => u32::try_from(number).map_err(|_| UserError::Range(number))?,
            (None, Some((_, uid, ..))) => uid,
            (None, None) => return Err(UserError::NoUser(user)),
        };
        let gid = match wanted.gid {
            Some(gid) => u32::try_from(gid).map_err(|_| UserError::Range(gid))?,
            None if from_image && !image_group.is_empty() => self.group_number(image_group)?,
            None => entry.map_or(0, |(_, _, gid, _)| gid),
        };
        let mut groups = vec![gid];
        if !wanted.strict
            && let Some((name, ..)) = entry
        {
            let member = |members: &str| members.split(',').any(|one| one.trim() == name);
            groups.extend(self.groups().filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
        }
        for group in wanted.groups {
            groups.push(u32::try_from(*group).map_err(|_| UserError::Range(*group))?);
        }
        groups.sort_unstable();
        groups.dedup();
        let home = entry.map_or("/", |(_, _, _, home)| home);
        let home = if home.is_empty() { "/" } else { home };
        Ok(User { uid, gid, groups, home: home.to_owned() })
    }

    fn group_number(&self, group: &str) -> Result<u32, UserError> {
        if let Ok(number) = group.parse() {
            return Ok(number);
        }
        let found = self.groups().find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
        found.ok_or_else(|| UserError::NoGroup(group.to_owned()))
    }
}

fn read(root: &Path, file: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read { file, source };
    let folder = File::open(root).map_err(failed)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = match openat2(&folder, file, how) {
        Ok(opened) => File::from(opened),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let mut bytes = Vec::new();
    opened.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:w:/srv:/bin/sh\n".to_owned(),
            group: "root:x:0:\nwheel:x:10:root,web\nweb:x:102:\n".to_owned(),
        }
    }

    #[test]
    fn a_name_is_looked_up_with_its_groups() {
        let user =
            accounts().resolve(&Wanted { image: "web", groups: &[2000], ..Wanted::default() }).unwrap();
        assert_eq!(user, User { uid: 101, gid: 102, groups: vec![10, 102, 2000], home: "/srv".to_owned() });
    }

    #[test]
    fn a_number_needs_no_entry_and_the_pod_overrides_the_image() {
        let wanted = Wanted { uid: Some(1234), image: "web:web", strict: true, ..Wanted::default() };
        let user = accounts().resolve(&wanted).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (1234, 0, vec![0]));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let result = accounts().resolve(&Wanted { image: "ghost", ..Wanted::default() });
        assert!(matches!(result, Err(UserError::NoUser(_))));
    }
}
