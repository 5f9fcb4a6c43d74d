//! (client) Who pulled which image with which credentials, so that an image is not open to every pod of the node only
//! because one pod could pull it.
//!
//! As upstream's: a record per image in `image_manager/pulled`, with the Secrets and service accounts that opened its registry or
//! the mark that it needs none, and in `image_manager/pulling` an intent per pull under way, so that what a pull that nobody saw end
//! brought does not count as preloaded. Images without a record were not pulled by this kubelet: every pod may use them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::verification::Verification;

/// Uses by other Secrets that a record takes in.
const MAX_SECRETS: usize = 100;
/// Secrets or accounts by which one image was pulled that are remembered. Pods of others show their credentials again.
const MOST: usize = 1000;
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// A record that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// A file or folder of the records.
    #[error("records of images: {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it.
    #[error("the record {} is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The kubelet is stopping.
    #[error("the kubelet is stopping")]
    Interrupted,
}

/// A Secret, by which credentials came to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PullSecret {
    /// `metadata.uid`
    pub(crate) uid: String,
    /// `metadata.namespace`
    pub(crate) namespace: String,
    /// `metadata.name`
    pub(crate) name: String,
    /// SHA-256 of the credentials, hexadecimal.
    pub(crate) credential_hash: String,
}

/// A service account, in whose name a plugin gave credentials.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PullAccount {
    /// `metadata.namespace`
    pub(crate) namespace: String,
    /// `metadata.name`
    pub(crate) name: String,
    /// `metadata.uid`
    pub(crate) uid: String,
}

/// By what credentials came to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A Secret of its own.
    Secret(PullSecret),
    /// Its service account.
    Account(PullAccount),
}

impl PullSecret {
    fn is_of(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// By what an image of one repository was pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    /// The registry gives it to everybody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<PullSecret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<PullAccount>,
}

impl Credentials {
    /// Those of a pod, or such as every pod of the node has.
    fn of(holder: Option<Holder>) -> Self {
        let mut own = Self { node_pods_accessible: holder.is_none(), ..Self::default() };
        match holder {
            Some(Holder::Secret(secret)) => own.kubernetes_secrets.push(secret),
            Some(Holder::Account(account)) => own.kubernetes_service_accounts.push(account),
            None => {}
        }
        own
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: jiff::Timestamp,
    image_ref: String,
    /// By repository.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Credentials>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

/// What a pod may do with an image that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Use it.
    Open,
    /// Pull it again, which shows whether its credentials open the registry.
    Verify,
}

/// An image as a pod names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// With its tag or digest.
    pub(crate) image: String,
    /// Without.
    pub(crate) repository: String,
}

/// The records of this node.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    files: Arc<Mutex<Files>>,
    policy: Arc<Verification>,
}

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    /// Pulls under way, by name.
    pulling: BTreeMap<String, usize>,
}

fn hashed(text: &str) -> String {
    format!("sha256-{}", hex::encode(digest(&SHA256, text.as_bytes())))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::File { path, source }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| RecordError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), RecordError> {
    let folder = path.parent().unwrap_or(path);
    let work = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let staged = path.with_extension("tmp");
        let mut file = File::create(&staged)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        File::open(folder)?.sync_all()
    };
    work().map_err(failed(path))
}

impl Files {
    fn pulled(&self, image: &str) -> PathBuf {
        self.folder.join("pulled").join(hashed(image))
    }

    fn intent(&self, name: &str) -> PathBuf {
        self.folder.join("pulling").join(hashed(name))
    }

    /// Adds the credentials to the record of the image, which is made if there is none.
    fn note(&self, id: &str, repository: &str, new: Option<&Credentials>) -> Result<(), RecordError> {
        let path = self.pulled(id);
        let known: Option<Pulled> = read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, image = id, "the record of an image begins anew");
            None
        });
        let is_new = known.is_none();
        let mut record = known.unwrap_or_else(|| Pulled {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: jiff::Timestamp::now(),
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        let changed = new.is_some_and(|new| {
            let known = record.credential_mapping.entry(repository.to_owned()).or_default();
            merge(known, new)
        });
        if !changed && !is_new {
            return Ok(());
        }
        record.last_updated_time = jiff::Timestamp::now();
        write(&path, &record)
    }

    fn access(
        &self,
        id: &str,
        named: &Named,
        holders: &[Holder],
        policy: &Verification,
    ) -> Result<Access, RecordError> {
        let record = read::<Pulled>(&self.pulled(id))?;
        let under_way = || self.pulling.contains_key(&named.image) || self.intent(&named.image).exists();
        if !policy.verifies(&named.repository, record.is_some() || under_way()) {
            return Ok(Access::Open);
        }
        let Some(record) = record else { return Ok(Access::Verify) };
        let Some(known) = record.credential_mapping.get(&named.repository) else { return Ok(Access::Verify) };
        if known.node_pods_accessible {
            return Ok(Access::Open);
        }
        let Some(own) = holders.iter().find(|own| admits(known, own)) else { return Ok(Access::Verify) };
        if known.kubernetes_secrets.len() < MAX_SECRETS {
            self.note(id, &named.repository, Some(&Credentials::of(Some(own.clone()))))?;
        }
        Ok(Access::Open)
    }

    fn begin(&mut self, name: &str) -> Result<(), RecordError> {
        let intent = Intent {
            kind: "ImagePullIntent".to_owned(),
            api_version: API_VERSION.to_owned(),
            image: name.to_owned(),
        };
        write(&self.intent(name), &intent)?;
        *self.pulling.entry(name.to_owned()).or_default() += 1;
        Ok(())
    }

    fn end(&mut self, name: &str) -> Result<(), RecordError> {
        match self.pulling.get_mut(name) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return Ok(());
            }
            Some(_) | None => self.pulling.remove(name),
        };
        let path = self.intent(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Nobody waits for the pull any more, and what it brings yet is not known: its mark stays.
    fn leave(&mut self, name: &str) {
        match self.pulling.get_mut(name) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(self.pulling.remove(name)),
        }
    }

    fn intents(&self) -> Result<Vec<String>, RecordError> {
        let folder = self.folder.join("pulling");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(&folder))?,
        };
        let mut images = Vec::new();
        for entry in entries {
            match read::<Intent>(&entry.map_err(failed(&folder))?.path()) {
                Ok(intent) => images.extend(intent.map(|intent| intent.image)),
                // The others count all the same; its image stays marked.
                Err(error) => tracing::warn!(%error, "a pull that nobody saw end cannot be settled"),
            }
        }
        Ok(images)
    }
}

/// Takes in new credentials; says whether that changes anything.
fn merge(known: &mut Credentials, new: &Credentials) -> bool {
    let before = known.clone();
    known.node_pods_accessible |= new.node_pods_accessible;
    let secrets = &mut known.kubernetes_secrets;
    secrets.retain(|one| !new.kubernetes_secrets.iter().any(|new| one.is_of(new)));
    make_room(secrets, new.kubernetes_secrets.len());
    secrets.extend(new.kubernetes_secrets.iter().cloned());
    secrets.sort_by_key(|one| (one.namespace.clone(), one.name.clone(), one.uid.clone()));
    let accounts = &mut known.kubernetes_service_accounts;
    accounts.retain(|one| !new.kubernetes_service_accounts.contains(one));
    make_room(accounts, new.kubernetes_service_accounts.len());
    accounts.extend(new.kubernetes_service_accounts.iter().cloned());
    accounts.sort();
    *known != before
}

/// Forgets as many as are too many once others are added.
fn make_room<T>(known: &mut Vec<T>, more: usize) {
    let surplus = (known.len() + more).saturating_sub(MOST);
    known.drain(..surplus.min(known.len()));
}

/// The same credentials, or the same Secret with others: who may write it had the image before. Or the same account.
fn admits(known: &Credentials, own: &Holder) -> bool {
    match own {
        Holder::Secret(own) => known.kubernetes_secrets.iter().any(|one| {
            let same = !one.credential_hash.is_empty() && one.credential_hash == own.credential_hash;
            same || one.is_of(own)
        }),
        Holder::Account(own) => known.kubernetes_service_accounts.contains(own),
    }
}

impl Records {
    /// The records in `folder`; whose images are verified is the policy's to say.
    pub(crate) fn new(folder: PathBuf, policy: Verification) -> Self {
        let files = Files { folder, pulling: BTreeMap::new() };
        Self { files: Arc::new(Mutex::new(files)), policy: Arc::new(policy) }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Files) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        let files = Arc::clone(&self.files);
        let done = tokio::task::spawn_blocking(move || work(&mut files.lock())).await;
        done.map_err(|_| RecordError::Interrupted)?
    }

    /// What a pod with these credentials may do with an image that is there under `id`. What cannot be read is not open.
    pub(crate) async fn access(&self, id: &str, named: &Named, holders: Vec<Holder>) -> Access {
        let (id, named, policy) = (id.to_owned(), named.clone(), Arc::clone(&self.policy));
        let name = named.image.clone();
        self.with(move |files| files.access(&id, &named, &holders, &policy)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, image = name, "nothing is known of an image's credentials");
            Access::Verify
        })
    }

    /// A pull begins.
    pub(crate) async fn begin(&self, name: &str) -> Result<(), RecordError> {
        let name = name.to_owned();
        self.with(move |files| files.begin(&name)).await
    }

    /// A pull has failed.
    pub(crate) async fn fails(&self, name: &str) -> Result<(), RecordError> {
        let name = name.to_owned();
        self.with(move |files| files.end(&name)).await
    }

    /// A pull has brought the image `id`, with credentials of the pod's, or with such as every pod has, if any.
    pub(crate) async fn pulled(
        &self,
        id: &str,
        named: &Named,
        holder: Option<Holder>,
    ) -> Result<(), RecordError> {
        let (id, named) = (id.to_owned(), named.clone());
        let new = Credentials::of(holder);
        self.with(move |files| {
            // Without a record the intent stays, and with it the image's mark.
            files.note(&id, &named.repository, Some(&new))?;
            files.end(&named.image)
        })
        .await
    }

    /// Pulls whose end no kubelet saw.
    pub(crate) async fn interrupted(&self) -> Vec<String> {
        self.with(|files| files.intents()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "pulls that nobody saw end are not settled; their images stay closed to other pods");
            Vec::new()
        })
    }

    /// The image `id` is gone. What is being pulled just now may be the same: its record stays.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), RecordError> {
        let id = id.to_owned();
        self.with(move |files| {
            let path = files.pulled(&id);
            if !files.pulling.is_empty() {
                return Ok(());
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path)(error)),
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
    }

    /// A pull was given up that may bring its image yet. Until one of the name has ended, or the kubelet begins anew, that is open to
    /// nobody without a question.
    pub(crate) fn abandoned(&self, name: &str) {
        self.files.lock().leave(name);
    }

    /// Settles a pull whose end nobody saw: the image that it brought, if it is there, is open to nobody yet.
    pub(crate) async fn settle(&self, name: &str, id: Option<String>) -> Result<(), RecordError> {
        let name = name.to_owned();
        self.with(move |files| {
            if let Some(id) = id {
                files.note(&id, "", None)?;
            }
            files.end(&name)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(namespace: &str, hash: &str) -> Holder {
        Holder::Secret(PullSecret {
            uid: namespace.to_owned(),
            namespace: namespace.to_owned(),
            name: "registry".to_owned(),
            credential_hash: hash.to_owned(),
        })
    }

    fn account(namespace: &str, uid: &str) -> Holder {
        let (namespace, name, uid) = (namespace.to_owned(), "robot".to_owned(), uid.to_owned());
        Holder::Account(PullAccount { namespace, name, uid })
    }

    fn named(repository: &str) -> Named {
        Named { image: format!("{repository}:1"), repository: repository.to_owned() }
    }

    fn open(folder: &Path) -> Records {
        Records::new(folder.to_owned(), Verification::default())
    }

    fn records() -> (Records, PathBuf) {
        let folder = std::env::temp_dir().join(format!("keelson-records-{}", uuid::Uuid::new_v4()));
        (open(&folder), folder)
    }

    #[tokio::test]
    async fn an_image_is_open_to_those_whose_credentials_pulled_it() {
        let (records, folder) = records();
        let app = named("r.example/app");
        assert_eq!(records.access("sha256:1", &app, Vec::new()).await, Access::Open, "preloaded");
        records.begin(&app.image).await.unwrap();
        assert_eq!(records.access("sha256:1", &app, Vec::new()).await, Access::Verify, "under way");
        records.pulled("sha256:1", &app, Some(secret("a", "x"))).await.unwrap();
        // As a kubelet finds them that starts anew.
        let records = open(&folder);
        let access = async |secrets| records.access("sha256:1", &app, secrets).await;
        assert_eq!(access(Vec::new()).await, Access::Verify);
        assert_eq!(access(vec![secret("b", "y")]).await, Access::Verify);
        assert_eq!(access(vec![secret("b", "x")]).await, Access::Open, "the same credentials");
        assert_eq!(access(vec![secret("b", "z")]).await, Access::Open, "the same Secret, changed since");
        assert_eq!(
            records.access("sha256:1", &named("r.example/other"), vec![secret("a", "x")]).await,
            Access::Verify
        );
        records.begin(&app.image).await.unwrap();
        records.pulled("sha256:1", &app, None).await.unwrap();
        assert_eq!(access(Vec::new()).await, Access::Open, "the registry gives it to everybody");
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn an_image_is_open_to_pods_of_the_account_in_whose_name_it_was_pulled() {
        let (records, folder) = records();
        let app = named("r.example/app");
        records.pulled("sha256:1", &app, Some(account("a", "1"))).await.unwrap();
        let records = open(&folder);
        let access = async |holder| records.access("sha256:1", &app, vec![holder]).await;
        assert_eq!(access(account("a", "1")).await, Access::Open);
        for other in [account("a", "2"), account("b", "1"), secret("a", "1")] {
            assert_eq!(access(other.clone()).await, Access::Verify, "{other:?}");
        }
        records.pulled("sha256:1", &app, Some(account("b", "1"))).await.unwrap();
        records.pulled("sha256:1", &app, Some(secret("a", "x"))).await.unwrap();
        for one in [account("a", "1"), account("b", "1"), secret("c", "x")] {
            assert_eq!(access(one.clone()).await, Access::Open, "{one:?}");
        }
        let text = fs::read_to_string(folder.join("pulled").join(hashed("sha256:1"))).unwrap();
        assert!(
            text.contains(r#""kubernetesServiceAccounts":[{"namespace":"a","name":"robot","uid":"1"}"#),
            "{text}"
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_does_not_grow_without_an_end() {
        let mut known = Credentials::default();
        for number in 0..=MOST {
            let uid = number.to_string();
            assert!(merge(&mut known, &Credentials::of(Some(account("a", &uid)))));
            assert!(merge(&mut known, &Credentials::of(Some(secret(&uid, &uid)))));
            assert!(admits(&known, &account("a", &uid)) && admits(&known, &secret(&uid, "")));
        }
        assert_eq!((known.kubernetes_service_accounts.len(), known.kubernetes_secrets.len()), (MOST, MOST));
        let last = Credentials::of(Some(account("a", &MOST.to_string())));
        assert!(!merge(&mut known, &last), "it is known");
    }

    #[tokio::test]
    async fn the_policy_says_whose_images_are_verified() {
        let (_, folder) = records();
        let app = named("r.example/app");
        let preloaded = async |policy: Verification| {
            Records::new(folder.clone(), policy).access("sha256:9", &app, Vec::new()).await
        };
        let listed = |list: &str| Verification::Listed(vec![list.to_owned()]);
        assert_eq!(preloaded(Verification::Always).await, Access::Verify);
        assert_eq!(preloaded(listed("r.example/other")).await, Access::Verify);
        assert_eq!(preloaded(listed("r.example/*")).await, Access::Open);
        open(&folder).pulled("sha256:9", &app, Some(secret("a", "x"))).await.unwrap();
        assert_eq!(preloaded(Verification::Preloaded).await, Access::Verify);
        assert_eq!(preloaded(Verification::Never).await, Access::Open);
        assert_eq!(preloaded(listed("r.example/app")).await, Access::Open);
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_pull_that_nobody_saw_end_opens_nothing_and_one_that_failed_leaves_nothing() {
        let (records, folder) = records();
        let app = named("r.example/app");
        records.begin(&app.image).await.unwrap();
        let records = open(&folder);
        assert_eq!(records.interrupted().await, std::slice::from_ref(&app.image));
        records.settle(&app.image, Some("sha256:1".to_owned())).await.unwrap();
        assert_eq!(records.access("sha256:1", &app, Vec::new()).await, Access::Verify);
        let other = named("r.example/other");
        records.begin(&other.image).await.unwrap();
        records.fails(&other.image).await.unwrap();
        assert_eq!(records.access("sha256:2", &other, Vec::new()).await, Access::Open);
        assert!(records.interrupted().await.is_empty());
        fs::remove_dir_all(folder).unwrap();
    }
}
