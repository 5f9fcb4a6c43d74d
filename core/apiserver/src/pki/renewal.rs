//! Certificates that take their own place before they end, while those who show them run.
//!
//! A [`Renewed`] is what TLS asks for its certificate in every handshake, as a server or as a client. [`Renewed::keep`] has
//! a new one made at some moment between 70 and 90 % of the old one's life, so that many servers do not do it at once.
//! **Invariant: a certificate that cannot be made anew leaves the old one in its place.**

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use keelson_store::raft_store::PeerCertificate;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Credential, LEAF_LIFETIME, Pki, PkiError};

/// How often the clock is looked at at least: a machine that slept, or whose clock was set, is not taken unawares.
const LOOK: Duration = Duration::from_secs(3600);
/// The pause after a certificate could not be made.
const RETRY: Duration = Duration::from_secs(60);

type Make = Box<dyn Fn() -> Result<Credential, PkiError> + Send + Sync>;

/// A certificate, and the moment at which it is to be replaced.
struct Current {
    key: Arc<CertifiedKey>,
    /// In seconds since 1970.
    due: i64,
}

/// A certificate that is replaced in time.
pub struct Renewed {
    subject: String,
    make: Make,
    current: ArcSwap<Current>,
}

/// When a certificate is to be replaced whose life begins and ends at these seconds since 1970; `jitter` is at least 0 and
/// less than 1.
pub fn due(begin: i64, end: i64, jitter: f64) -> i64 {
    let life = end.saturating_sub(begin).max(0);
    // In thousandths, so that no precision is lost where it counts.
    let part = 700 + (jitter.clamp(0.0, 1.0) * 200.0) as i64;
    begin.saturating_add(life / 1000 * part)
}

/// Makes a certificate usable for TLS.
pub fn certified(subject: &str, credential: &Credential) -> Result<CertifiedKey, PkiError> {
    let unusable = |source| PkiError::Unusable { subject: subject.to_owned(), source };
    let missing = || unusable(rustls::Error::General("it holds no certificate or no key".to_owned()));
    let (chain, key) = credential.to_der().filter(|(chain, _)| !chain.is_empty()).ok_or_else(missing)?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(unusable)
}

/// When a certificate's life begins and ends, in seconds since 1970.
pub fn validity(key: &CertifiedKey) -> Option<(i64, i64)> {
    let (_, leaf) = X509Certificate::from_der(key.cert.first()?).ok()?;
    Some((leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp()))
}

impl Current {
    fn new(subject: &str, credential: &Credential, jitter: f64) -> Result<Self, PkiError> {
        let key = certified(subject, credential)?;
        let (begin, end) = validity(&key).ok_or_else(|| PkiError::Unusable {
            subject: subject.to_owned(),
            source: rustls::Error::General("its validity cannot be read".to_owned()),
        })?;
        Ok(Current { key: Arc::new(key), due: due(begin, end, jitter) })
    }
}

impl Renewed {
    /// Begins with a certificate; `make` makes those that follow.
    fn new(
        subject: &str,
        first: &Credential,
        make: impl Fn() -> Result<Credential, PkiError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, PkiError> {
        let current = Current::new(subject, first, rand::random())?;
        let (subject, make) = (subject.to_owned(), Box::new(make));
        Ok(Arc::new(Renewed { subject, make, current: ArcSwap::from_pointee(current) }))
    }

    /// The certificate of a server, from its files or new. The authority's own certificate is shown behind it, so that
    /// who knows nothing but its digest can verify the server.
    pub fn serving(
        pki: &Arc<Pki>,
        file: &str,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Arc<Self>, PkiError> {
        let first = pki.serving(file, names, addresses)?.behind(pki.authority());
        let (pki, subject) = (Arc::clone(pki), file.to_owned());
        let (names, addresses) = (names.to_vec(), addresses.to_vec());
        Renewed::new(file, &first, move || {
            Ok(pki.new_serving(&subject, &names, &addresses)?.behind(pki.authority()))
        })
    }

    /// The certificate of one that is server and client to others of its kind, from its files or new.
    pub fn peer(pki: &Arc<Pki>, file: &str, names: &[String]) -> Result<Arc<Self>, PkiError> {
        let first = pki.peer(file, names)?;
        let (pki, subject, names) = (Arc::clone(pki), file.to_owned(), names.to_vec());
        Renewed::new(file, &first, move || pki.new_peer(&subject, &names))
    }

    /// The certificate of a user without groups; it is on no disk.
    pub fn client(pki: Arc<Pki>, user: &str) -> Result<Arc<Self>, PkiError> {
        let (first, subject) = (pki.issue_client(user, &[])?, user.to_owned());
        Renewed::new(user, &first, move || pki.issue_client(&subject, &[]))
    }

    /// The certificate that is shown now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().key)
    }

    /// Replaces the certificate if its time has come; says how long nothing has to be done then.
    fn look(&self, now: i64) -> Duration {
        if now >= self.current.load().due {
            let made = (self.make)().and_then(|made| Current::new(&self.subject, &made, rand::random()));
            match made {
                Ok(made) => {
                    tracing::info!(subject = self.subject, "a certificate was renewed");
                    self.current.store(Arc::new(made));
                }
                Err(error) => {
                    tracing::error!(
                        subject = self.subject,
                        error = &error as &dyn std::error::Error,
                        "a certificate could not be renewed: the old one is kept"
                    );
                    return RETRY;
                }
            }
        }
        let left = self.current.load().due.saturating_sub(now).max(1);
        LOOK.min(Duration::from_secs(left.unsigned_abs()))
    }

    /// Renews the certificate in time until it is told to stop.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let pause = self.look(Timestamp::now().as_second());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Writes the administrator's kubeconfig anew before its certificate ends, until it is told to stop.
pub(crate) async fn keep_kubeconfig(pki: Arc<Pki>, path: PathBuf, url: String, stop: CancellationToken) {
    let next = || {
        let now = Timestamp::now().as_second();
        due(now, now.saturating_add(LEAF_LIFETIME.as_secs().cast_signed()), rand::random())
    };
    let mut at = next();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if Timestamp::now().as_second() < at {
            continue;
        }
        match pki.write_administrator(&path, &url) {
            Ok(()) => at = next(),
            Err(error) => tracing::error!(
                path = %path.display(),
                error = &error as &dyn std::error::Error,
                "the administrator's kubeconfig could not be renewed"
            ),
        }
    }
}

impl Credential {
    /// The same with another certificate, in PEM, at the end of its chain.
    fn behind(mut self, authority: &str) -> Self {
        if CertificateDer::from_pem_slice(authority.as_bytes()).is_ok() {
            self.certificate.push_str(authority);
        }
        self
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl PeerCertificate for Renewed {
    /// Connections of members last, so that nobody has to keep their certificate: it is looked at when one is made.
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.look(Timestamp::now().as_second());
        Some(Renewed::current(self))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_certificate_is_due_between_seven_and_nine_tenths_of_its_life() {
        assert_eq!(due(1000, 2000, 0.0), 1700);
        assert_eq!(due(1000, 2000, 0.5), 1800);
        assert!(due(1000, 2000, 0.999) < 1900);
        assert_eq!(due(2000, 1000, 0.5), 2000);
    }

    #[test]
    fn a_certificate_is_replaced_when_its_time_has_come_and_kept_while_it_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path()).unwrap());
        let fails = Arc::new(AtomicBool::new(true));
        let (own, failing) = (Arc::clone(&pki), Arc::clone(&fails));
        let renewed = Renewed::new("ann", &pki.issue_client("ann", &[]).unwrap(), move || {
            match failing.load(Ordering::Relaxed) {
                true => Err(PkiError::Unreadable { path: "/nowhere".into() }),
                false => own.issue_client("ann", &[]),
            }
        })
        .unwrap();
        let first = renewed.current();
        let due = renewed.current.load().due;
        assert_eq!(renewed.look(due - 2 * 3600), LOOK);
        assert_eq!(renewed.look(due - 5), Duration::from_secs(5));
        assert_eq!(renewed.look(due), RETRY);
        assert!(Arc::ptr_eq(&first, &renewed.current()));
        fails.store(false, Ordering::Relaxed);
        renewed.look(due);
        assert_ne!(first.cert, renewed.current().cert);
    }

    #[test]
    fn a_renewed_server_certificate_takes_the_place_of_the_one_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path()).unwrap());
        let names = ["localhost".to_owned()];
        let renewed = Renewed::serving(&pki, "apiserver", &names, &[]).unwrap();
        renewed.look(i64::MAX);
        let stored = pki.serving("apiserver", &names, &[]).unwrap().to_der().unwrap().0;
        let shown = renewed.current();
        assert_eq!((shown.cert.len(), shown.cert.first()), (2, stored.first()));
    }

    #[test]
    fn a_members_certificate_is_renewed_when_a_connection_is_made_in_its_last_days() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path()).unwrap());
        let names = ["a".to_owned()];
        let renewed = Renewed::peer(&pki, "member", &names).unwrap();
        let shown = |renewed: &Renewed| PeerCertificate::current(renewed).unwrap();
        let first = shown(&renewed);
        assert!(Arc::ptr_eq(&first, &shown(&renewed)));
        renewed.current.store(Arc::new(Current { key: Arc::clone(&first), due: 0 }));
        let second = shown(&renewed);
        assert_ne!(first.cert, second.cert);
        assert!(Arc::ptr_eq(&second, &shown(&renewed)), "and no more often than that");
        // Who starts again shows the new one.
        let again = Renewed::peer(&pki, "member", &names).unwrap();
        assert_eq!(shown(&again).cert, second.cert);
    }
}
