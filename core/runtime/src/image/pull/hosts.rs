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

/// A host, and how it is spoken to.
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
}

/// The hosts that serve a registry's images.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    /// Asked first, in this order.
    pub(super) mirrors: Vec<Host>,
    /// In place of the registry itself.
    pub(super) server: Option<Host>,
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
    })
}

/// Whether images are asked for there at all.
fn serves(entry: &Entry) -> bool {
    let has = |wanted: &str| {
        entry.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one.eq_ignore_ascii_case(wanted)))
    };
    has("pull") && has("resolve")
}

fn parse(text: &str, folder: &Path) -> Result<Hosts, HostsError> {
    let wrong = |error| HostsError::Toml(Box::new(error));
    let mut document: toml::Table = toml::from_str(text).map_err(wrong)?;
    let mut hosts = Hosts::default();
    let entries = document.remove("host");
    let server = document.remove("server");
    // What stands outside of the hosts is the server's.
    let own: Entry = toml::Value::Table(document).try_into().map_err(wrong)?;
    if let Some(server) = server {
        let address: String = server.try_into().map_err(wrong)?;
        hosts.server = Some(host(&address, own, folder)?);
    }
    let entries: toml::Table = match entries {
        Some(entries) => entries.try_into().map_err(wrong)?,
        None => toml::Table::new(),
    };
    for (address, entry) in entries {
        let entry: Entry = entry.try_into().map_err(wrong)?;
        if serves(&entry) {
            hosts.mirrors.push(host(&address, entry, folder)?);
        }
    }
    Ok(hosts)
}

/// What the files below `folder` say of a registry; nothing where there is none. The answer to a fault is the file that has it.
pub(super) fn read(folder: &Path, registry: &str) -> Result<Hosts, (PathBuf, HostsError)> {
    if folder.as_os_str().is_empty() || registry.contains('/') || registry.starts_with('.') {
        return Ok(Hosts::default());
    }
    // A colon is not liked everywhere.
    let other = registry.split_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = [Some(registry.to_owned()), other, Some("_default".to_owned())];
    for name in names.into_iter().flatten() {
        let folder = folder.join(name);
        let path = folder.join("hosts.toml");
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &folder).map_err(|error| (path, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, HostsError::Read(error))),
        }
    }
    Ok(Hosts::default())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        "#;
        let found = parse(text, Path::new("/certs.d/docker.io")).unwrap();
        let names: Vec<_> = found.mirrors.iter().map(|host| (host.authority.as_str(), host.plain)).collect();
        assert_eq!(names, [("10.0.0.1:5000", true), ("a.example", false)]);
        assert_eq!(found.mirrors[1].authorities, [PathBuf::from("/certs.d/docker.io/a.pem")]);
        assert!(found.mirrors[1].trusts_all && !found.mirrors[0].trusts_all);
        assert_eq!(found.server.unwrap().authority, "registry-1.docker.io");
    }

    #[test]
    fn what_would_not_be_followed_is_refused_and_no_file_says_nothing() {
        let with = |text: &str| parse(text, Path::new("/"));
        assert!(matches!(
            with("[host.\"https://m\"]\nclient = \"c.pem\""),
            Err(HostsError::Unsupported { .. })
        ));
        assert!(matches!(with("[host.\"https://m/v2/x\"]"), Err(HostsError::Unsupported { .. })));
        assert!(matches!(with("[host.\"ftp://m\"]"), Err(HostsError::Address(_))));
        assert!(matches!(with("mirror = true"), Err(HostsError::Toml(_))));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), "r.example:5000").unwrap(), Hosts::default());
        fs::create_dir(folder.path().join("r.example_5000_")).unwrap();
        let path = folder.path().join("r.example_5000_/hosts.toml");
        fs::write(&path, "server = \"http://s.example\"").unwrap();
        assert!(read(folder.path(), "r.example:5000").unwrap().server.unwrap().plain);
        fs::write(&path, "[").unwrap();
        assert_eq!(read(folder.path(), "r.example:5000").unwrap_err().0, path);
    }
}
