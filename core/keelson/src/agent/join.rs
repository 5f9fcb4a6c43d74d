//! How a machine becomes a node of a cluster: by a token it learns whom to believe and asks for a certificate of its own.

use std::error::Error as StdError;

use anyhow::{Context, bail};
use keelson_apiserver::pki::Credential;
use rustls::pki_types::CertificateDer;

use super::connector;
use super::request::{CLIENT, RequestError, Wanted};
use super::servers::Servers;
use crate::connection;
use crate::join_token::JoinToken;

/// What a machine has got.
pub(crate) struct Joined {
    /// The cluster's authority, in PEM.
    pub(crate) authority: String,
    /// The node's own certificate and key.
    pub(crate) credential: Credential,
}

/// The HTTP status of a refusal, where there is one.
fn code(error: &(dyn StdError + 'static)) -> Option<u16> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            return Some(status.code);
        }
        next = error.source();
    }
    None
}

/// What to do about an error, where that is known.
fn advice(error: &anyhow::Error, id: &str) -> Option<String> {
    let text = format!("{error:#}");
    if let Some(RequestError::Denied { .. }) = error.downcast_ref::<RequestError>() {
        return None;
    }
    match code(error.as_ref()) {
        Some(401) => Some(format!(
            "the cluster does not know the token {id}: it has expired or was deleted, or it is not a token of this cluster. \
             Make another with `keelson token create` on a server"
        )),
        Some(403) => Some(format!(
            "the token {id} is not for an agent: make one that is with `keelson token create --role agent` on a server"
        )),
        Some(_) | None if text.contains("not valid yet") || text.contains("certificate expired") => Some(
            "the server's certificate does not count now by this machine's clock: set the clocks of both machines right, \
             for example with chrony, and start again"
                .to_owned(),
        ),
        Some(_) | None => None,
    }
}

async fn attempt(url: &str, token: &JoinToken, node: &str) -> anyhow::Result<Joined> {
    let authority = connection::authority(url, token.authority).await?;
    let tls = connector::tls(authority.clone(), None)?;
    let client = connector::client(Servers::only(url), tls, Some(&token.bootstrap.reveal()))?;
    let credential = Wanted { signer: CLIENT, node, address: None }.ask(&client).await?;
    Ok(Joined { authority: pem(&authority), credential })
}

/// Joins as the node of that name.
pub(crate) async fn join(url: &str, token: &JoinToken, node: &str) -> anyhow::Result<Joined> {
    match attempt(url, token, node).await {
        Ok(joined) => Ok(joined),
        Err(error) => match advice(&error, &token.bootstrap.id) {
            Some(advice) => {
                tracing::debug!(error = format!("{error:#}"), "the cluster refuses this machine");
                bail!("{advice}")
            }
            None => Err(error).context("join the cluster"),
        },
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|it| std::str::from_utf8(it).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use keelson_apiserver::pki::Pki;
    use kube::core::Status;

    use super::*;
    use crate::connection::first_certificate;

    fn refused(code: u16) -> anyhow::Error {
        let status = Status::failure("no", "No").with_code(code).boxed();
        RequestError::Create(kube::Error::Api(status)).into()
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        assert!(advice(&refused(401), "abcdef").unwrap().contains("expired or was deleted"));
        assert!(advice(&refused(403), "abcdef").unwrap().contains("--role agent"));
        assert_eq!(advice(&refused(500), "abcdef"), None);
        let clock = anyhow::anyhow!("invalid peer certificate: certificate not valid yet: ...");
        assert!(advice(&clock, "abcdef").unwrap().contains("clock"));
    }

    #[test]
    fn a_certificate_in_pem_is_the_same_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let own = Pki::open(dir.path()).unwrap();
        let certificate = first_certificate(own.authority().as_bytes()).unwrap();
        assert_eq!(first_certificate(pem(&certificate).as_bytes()).unwrap(), certificate);
    }
}
