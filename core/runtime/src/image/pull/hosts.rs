//! `hosts.toml`: which hosts serve a registry's images, as containerd reads it from `certs.d/REGISTRY/hosts.toml`. It is read at
//! every pull, so that it may change while the node runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Why a file cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It cannot be read.
    #[error("read it")]
    Read(#[source] io::Error),
    /// It is not what it should be.
    #[error("understand it")]
    Toml(#[source] Box<toml::de::Error>),
    /// An address.
    #[error("{0:?} is no address of a host, as https://HOST:PORT")]
    Address(String),
    /// Something that is not followed.
    #[error("{host}: {field} is not supported")]
    Unsupported {
        /// Of which host.
        host: String,
        /// What.
        field: &'static str,
    },
}

/// A host, what it is asked for, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// `HOST[:PORT]`.
    pub(super) authority: String,
    /// Without TLS.
    pub(super) plain: bool,
    /// PEM files of authorities that it may have beside the usual ones.
    pub(super) authorities: Vec<PathBuf>,
    /// Its certificate is not looked at.
    pub(super) trusts_all: bool,
    /// It is asked which digest a tag stands for.
    pub(super) resolves: bool,
    /// It is asked for what has a digest.
    pub(super) pulls: bool,
}

/// The hosts that serve a registry's images.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    /// Asked first, in this order.
    pub(super) mirrors: Vec<Host>,
    /// Asked last: the registry itself, or what stands in its place.
    pub(super) server: Host,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Files {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<Files>,
    client: Option<toml::Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    header: Option<toml::Value>,
    /// How long to wait for a connection, which has a limit of its own here.
    #[serde(rename = "dial_timeout")]
    _dial_timeout: Option<toml::Value>,
}

impl Entry {
    /// Whether it is asked for that.
    fn may(&self, wanted: &str) -> bool {
        match self.capabilities.as_deref() {
            None | Some([]) => true,
            Some(all) => all.iter().any(|one| one.eq_ignore_ascii_case(wanted)),
        }
    }
}

fn host(address: &str, entry: Entry, folder: &Path) -> Result<Host, HostsError> {
    let wrong = || HostsError::Address(address.to_owned());
    let (plain, rest) = match address.split_once("://") {
        Some(("https", rest)) => (false, rest),
        Some(("http", rest)) => (true, rest),
        Some(_) => return Err(wrong()),
        None => (false, address),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(wrong());
    }
    let refused = [
        (entry.client.is_some(), "client"),
        (entry.override_path, "override_path"),
        (entry.header.is_some(), "header"),
        (!matches!(path.trim_matches('/'), "" | "v2"), "a path"),
    ];
    if let Some((_, field)) = refused.into_iter().find(|(is_set, _)| *is_set) {
        return Err(HostsError::Unsupported { host: address.to_owned(), field });
    }
    let (resolves, pulls) = (entry.may("resolve"), entry.may("pull"));
    let files = match entry.ca {
        None => Vec::new(),
        Some(Files::One(file)) => vec![file],
        Some(Files::Several(files)) => files,
    };
    Ok(Host {
        authority: authority.to_owned(),
        plain,
        // One that is not absolute lies beside the file.
        authorities: files.into_iter().map(|file| folder.join(file)).collect(),
        trusts_all: entry.skip_verify,
        resolves,
        pulls,
    })
}

fn parse(text: &str, folder: &Path, registry: Host) -> Result<Hosts, HostsError> {
    let wrong = |error| HostsError::Toml(Box::new(error));
    let mut document: toml::Table = toml::from_str(text).map_err(wrong)?;
    let entries = document.remove("host");
    let server = document.remove("server");
    // What stands outside of the hosts is the server's, and that of the registry itself if there is none.
    let own: Entry = toml::Value::Table(document).try_into().map_err(wrong)?;
    let server = match server {
        Some(server) => {
            let address: String = server.try_into().map_err(wrong)?;
            host(&address, own, folder)?
        }
        None => {
            let told = host(&registry.authority, own, folder)?;
            Host { authority: registry.authority, plain: registry.plain, ..told }
        }
    };
    let mut hosts = Hosts { mirrors: Vec::new(), server };
    let entries: toml::Table = match entries {
        Some(entries) => entries.try_into().map_err(wrong)?,
        None => toml::Table::new(),
    };
    for (address, entry) in entries {
        let entry: Entry = entry.try_into().map_err(wrong)?;
        // One that is only pushed to is none of ours.
        if entry.may("resolve") || entry.may("pull") {
            hosts.mirrors.push(host(&address, entry, folder)?);
        }
    }
    Ok(hosts)
}

/// What the files below `folder` say of a registry, which is `itself` where they say nothing. The answer to a fault is the file
/// that has it.
pub(super) fn read(folder: &Path, registry: &str, itself: Host) -> Result<Hosts, (PathBuf, HostsError)> {
    let alone = |server: Host| Hosts { mirrors: Vec::new(), server };
    if folder.as_os_str().is_empty() || registry.contains('/') || registry.starts_with('.') {
        return Ok(alone(itself));
    }
    // A colon is not liked everywhere.
    let other = registry.split_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = [Some(registry.to_owned()), other, Some("_default".to_owned())];
    for name in names.into_iter().flatten() {
        let folder = folder.join(name);
        let path = folder.join("hosts.toml");
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &folder, itself).map_err(|error| (path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, HostsError::Read(error))),
        }
    }
    Ok(alone(itself))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Host {
        Host {
            authority: "r.example:5000".to_owned(),
            plain: false,
            authorities: Vec::new(),
            trusts_all: false,
            resolves: true,
            pulls: true,
        }
    }

    #[test]
    fn hosts_are_asked_in_the_order_of_the_file_if_they_serve_images() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."http://10.0.0.1:5000"]
              capabilities = ["pull", "resolve"]
            [host."https://a.example/v2"]
              ca = "a.pem"
              skip_verify = true
            [host."https://push.example"]
              capabilities = ["push"]
            [host."https://digests.example"]
              capabilities = ["Pull"]
            [host."https://tags.example"]
              capabilities = ["resolve"]
        "#;
        let found = parse(text, Path::new("/certs.d/docker.io"), registry()).unwrap();
        let names: Vec<_> = found.mirrors.iter().map(|host| (host.authority.as_str(), host.plain)).collect();
        let others = [("digests.example", false), ("tags.example", false)];
        assert_eq!(names[..2], [("10.0.0.1:5000", true), ("a.example", false)]);
        assert_eq!(names[2..], others);
        let asked: Vec<_> = found.mirrors.iter().map(|host| (host.resolves, host.pulls)).collect();
        assert_eq!(asked, [(true, true), (true, true), (false, true), (true, false)]);
        assert_eq!(found.mirrors[1].authorities, [PathBuf::from("/certs.d/docker.io/a.pem")]);
        assert!(found.mirrors[1].trusts_all && !found.mirrors[0].trusts_all);
        assert_eq!(found.server.authority, "registry-1.docker.io");
    }

    #[test]
    fn what_stands_outside_of_the_hosts_is_the_registrys_own() {
        let folder = Path::new("/certs.d/r.example:5000");
        let found = parse("ca = \"own.pem\"\nskip_verify = true", folder, registry()).unwrap();
        assert_eq!(found.server.authority, "r.example:5000");
        assert_eq!(found.server.authorities, [folder.join("own.pem")]);
        assert!(found.server.trusts_all && !found.server.plain);
        let refused = parse("client = \"c.pem\"", folder, registry());
        assert!(matches!(refused, Err(HostsError::Unsupported { .. })));
    }

    #[test]
    fn what_would_not_be_followed_is_refused_and_no_file_says_nothing() {
        let with = |text: &str| parse(text, Path::new("/"), registry());
        assert!(matches!(
            with("[host.\"https://m\"]\nclient = \"c.pem\""),
            Err(HostsError::Unsupported { .. })
        ));
        assert!(matches!(with("[host.\"https://m/v2/x\"]"), Err(HostsError::Unsupported { .. })));
        assert!(matches!(with("[host.\"ftp://m\"]"), Err(HostsError::Address(_))));
        assert!(matches!(with("mirror = true"), Err(HostsError::Toml(_))));
        let folder = tempfile::tempdir().unwrap();
        let read = |registry: Host| read(folder.path(), "r.example:5000", registry);
        let alone = Hosts { mirrors: Vec::new(), server: registry() };
        assert_eq!(read(registry()).unwrap(), alone);
        fs::create_dir(folder.path().join("r.example_5000_")).unwrap();
        let path = folder.path().join("r.example_5000_/hosts.toml");
        fs::write(&path, "server = \"http://s.example\"").unwrap();
        assert!(read(registry()).unwrap().server.plain);
        fs::write(&path, "[").unwrap();
        assert_eq!(read(registry()).unwrap_err().0, path);
    }
}
