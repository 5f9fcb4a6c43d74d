//! Certificates of a node that came through requests, each in a file together with its key, and replaced while they are in use.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use jiff::Timestamp;
use keelson_apiserver::pki::Credential;
use keelson_apiserver::pki::renewal::{certified, due, validity};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How often the clock is looked at at least: a machine that slept, or whose clock was set, is not taken unawares.
const LOOK: Duration = Duration::from_secs(3600);
/// The first pause after a certificate could not be had, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A certificate in use.
struct Current {
    key: Arc<CertifiedKey>,
    /// When it is to be replaced, in seconds since 1970.
    due: i64,
    /// When it ends.
    end: i64,
}

/// A certificate and its key in a file. TLS asks for it in every handshake, as a server or as a client.
pub(crate) struct Rotated {
    subject: &'static str,
    file: PathBuf,
    current: ArcSwapOption<Current>,
    replaced: watch::Sender<u64>,
}

fn current(subject: &str, credential: &Credential) -> anyhow::Result<Current> {
    let key = certified(subject, credential)?;
    let (begin, end) = validity(&key).context("its validity cannot be read")?;
    Ok(Current { due: due(begin, end, rand::random()), end, key: Arc::new(key) })
}

/// Writes a file that only its owner may read; either the old or the new one is there at any time.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let aside = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        if let Err(error) = fs::remove_file(&aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

impl Rotated {
    /// From its file, if there is one.
    pub(crate) fn open(subject: &'static str, file: PathBuf) -> anyhow::Result<Arc<Self>> {
        let found = match fs::read_to_string(&file) {
            // Both are in one file: readers of either pass over the other.
            Ok(text) => {
                let credential = Credential { certificate: text.clone(), key: text };
                let read = current(subject, &credential);
                let damaged =
                    || format!("{} is damaged: remove it, and join again with --token", file.display());
                Some(Arc::new(read.with_context(damaged)?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        let (current, replaced) = (ArcSwapOption::new(found), watch::Sender::new(0));
        Ok(Arc::new(Rotated { subject, file, current, replaced }))
    }

    /// Whether there is one that has not ended.
    pub(crate) fn is_valid(&self) -> bool {
        self.current.load().as_ref().is_some_and(|current| current.end > Timestamp::now().as_second())
    }

    /// Whether there is one at all.
    pub(crate) fn is_there(&self) -> bool {
        self.current.load().is_some()
    }

    /// The user that the certificate is for.
    pub(crate) fn common_name(&self) -> Option<String> {
        let current = self.current.load();
        let (_, leaf) = X509Certificate::from_der(current.as_ref()?.key.cert.first()?).ok()?;
        leaf.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
    }

    /// Forgets a certificate that is not for this name and address.
    pub(crate) fn only_for(&self, name: &str, address: IpAddr) {
        let current = self.current.load();
        let leaf = current.as_ref().and_then(|current| current.key.cert.first());
        let fits = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok()).is_some_and(|(_, leaf)| {
            let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
            let has = |wanted: &GeneralName<'_>| names.value.general_names.contains(wanted);
            let at = match address {
                IpAddr::V4(address) => has(&GeneralName::IPAddress(&address.octets())),
                IpAddr::V6(address) => has(&GeneralName::IPAddress(&address.octets())),
            };
            at && has(&GeneralName::DNSName(name))
        });
        if !fits {
            self.current.store(None);
        }
    }

    /// Keeps a new one, and shows it from now on.
    pub(crate) fn store(&self, credential: &Credential) -> anyhow::Result<()> {
        let current = current(self.subject, credential)?;
        let now = Timestamp::now().as_second();
        let begin = validity(&current.key).map_or(now, |(begin, _)| begin);
        if begin > now {
            bail!(
                "the certificate that the server made begins {} s from now: the clocks of this machine and of the server \
                 differ. Set them right, for example with chrony, and start again",
                begin - now
            );
        }
        write_private(&self.file, format!("{}{}", credential.certificate, credential.key).as_bytes())?;
        self.current.store(Some(Arc::new(current)));
        self.replaced.send_modify(|times| *times += 1);
        Ok(())
    }

    /// Hears of every replacement.
    pub(crate) fn replacements(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// How long nothing has to be done; `None` if a new one is due.
    fn rest(&self, now: i64) -> Option<Duration> {
        let current = self.current.load();
        let left = current.as_ref()?.due - now;
        (left > 0).then(|| LOOK.min(Duration::from_secs(left.unsigned_abs())))
    }

    /// Asks for a new certificate in time, and for the first if there is none, until it is told to stop. One that cannot be
    /// had leaves the old one in its place.
    pub(crate) async fn keep(
        self: Arc<Self>,
        ask: impl Fn() -> BoxFuture<'static, anyhow::Result<Credential>> + Send,
        stop: CancellationToken,
    ) {
        let mut pause = RETRY.0;
        let work = async {
            loop {
                if let Some(rest) = self.rest(Timestamp::now().as_second()) {
                    pause = RETRY.0;
                    tokio::time::sleep(rest).await;
                    continue;
                }
                match ask().await.and_then(|made| self.store(&made)) {
                    Ok(()) => tracing::info!(subject = self.subject, "a certificate was made"),
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(
                            subject = self.subject,
                            error,
                            ?pause,
                            "a certificate could not be had yet"
                        );
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY.1);
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|current| Arc::clone(&current.key))
    }
}

impl fmt::Debug for Rotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotated").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Rotated {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl ResolvesClientCert for Rotated {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        self.is_there()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use keelson_apiserver::pki::Pki;

    use super::*;

    #[test]
    fn a_certificate_is_kept_for_its_owner_alone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path().join("authority")).unwrap();
        let file = dir.path().join("client.pem");
        let rotated = Rotated::open("client", file.clone()).unwrap();
        assert!(!rotated.is_there() && rotated.rest(0).is_none());
        let replacements = rotated.replacements();
        rotated.store(&pki.issue_client("system:node:one", &["system:nodes"]).unwrap()).unwrap();
        assert!(replacements.has_changed().unwrap());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Rotated::open("client", file.clone()).unwrap();
        assert!(again.is_valid());
        assert_eq!(again.common_name().as_deref(), Some("system:node:one"));
        fs::write(&file, "nothing").unwrap();
        let error = format!("{:#}", Rotated::open("client", file).unwrap_err());
        assert!(error.contains("is damaged"), "{error}");
    }

    #[tokio::test]
    async fn a_certificate_that_is_due_is_replaced_and_who_shows_it_hears_of_it() {
        use futures::FutureExt as _;
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path().join("authority")).unwrap());
        let rotated = Rotated::open("client", dir.path().join("client.pem")).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        // Of an hour's life, almost all of which is over.
        let (life, hour) = (Duration::from_secs(3600), Duration::from_secs(3500));
        let signed =
            pki.sign_request(request.der(), &["client auth"], life, std::time::SystemTime::now() - hour);
        rotated.store(&Credential { certificate: signed.unwrap(), key: key.serialize_pem() }).unwrap();
        let first = rotated.shown().unwrap();
        let mut replacements = rotated.replacements();
        let (stop, tries) = (CancellationToken::new(), Arc::new(std::sync::atomic::AtomicU32::new(0)));
        let ask = {
            let pki = Arc::clone(&pki);
            move || {
                // The first try fails: the old one stays.
                let failed = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
                let made = pki.issue_client("system:node:one", &["system:nodes"]);
                async move { if failed { bail!("not yet") } else { Ok(made?) } }.boxed()
            }
        };
        let keeping = tokio::spawn(Arc::clone(&rotated).keep(ask, stop.clone()));
        replacements.changed().await.unwrap();
        assert_ne!(rotated.shown().unwrap().cert, first.cert);
        assert_eq!(rotated.common_name().as_deref(), Some("system:node:one"));
        stop.cancel();
        keeping.await.unwrap();
    }

    #[test]
    fn a_certificate_is_due_in_the_last_third_of_its_life_and_one_for_another_address_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path().join("authority")).unwrap();
        let rotated = Rotated::open("serving", dir.path().join("serving.pem")).unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        rotated.store(&pki.new_serving("x", &["one".to_owned()], &[address]).unwrap()).unwrap();
        let now = Timestamp::now().as_second();
        assert_eq!(rotated.rest(now), Some(LOOK));
        assert_eq!(rotated.rest(now + 330 * 86_400), None);
        rotated.only_for("one", address);
        assert!(rotated.is_there());
        rotated.only_for("one", "192.0.2.2".parse().unwrap());
        assert!(!rotated.is_there());
    }
}
