//! Looks at volumes while they are published: has file systems grow, and publishes those again whose drivers ask for that
//! (`requiresRepublish`): they renew what is in them, as with newer tokens.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;

use super::Drivers;
use super::bearer::Bearer;
use super::mount::Wanted;

/// How often they are.
const EVERY: Duration = Duration::from_secs(30);
/// How many at once.
const AT_ONCE: usize = 4;

/// A volume that is published.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) bearer: Bearer,
    pub(super) wanted: Wanted,
    pub(super) group: Option<u32>,
}

/// All of them, by the pod's UID and the volume's name. It is known anew when pods are looked at after a restart.
#[derive(Debug, Default)]
pub(super) struct PublishedVolumes(Mutex<HashMap<(String, String), Entry>>);

impl PublishedVolumes {
    pub(super) fn add(&self, bearer: Bearer, wanted: &Wanted, group: Option<u32>) {
        let key = (bearer.uid.clone(), wanted.name.clone());
        self.0.lock().insert(key, Entry { bearer, wanted: wanted.clone(), group });
    }

    /// A pod has none any more.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().retain(|(of, _), _| of != uid);
    }

    fn all(&self) -> Vec<Entry> {
        self.0.lock().values().cloned().collect()
    }
}

/// Those whose drivers ask for it (pure).
fn due(entries: Vec<Entry>, drivers: &HashMap<String, CSIDriverSpec>) -> Vec<(Entry, &CSIDriverSpec)> {
    let asks = |entry: &Entry| {
        // A block device has no content that a driver would renew.
        let asks = |spec: &&CSIDriverSpec| spec.requires_republish == Some(true) && !entry.wanted.block;
        drivers.get(&entry.wanted.driver).filter(asks)
    };
    entries.into_iter().filter_map(|entry| asks(&entry).map(|spec| (entry, spec))).collect()
}

impl Drivers {
    pub(super) async fn keep_republished(&self) {
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        loop {
            tokio::time::sleep(EVERY).await;
            let entries = self.published.all();
            if entries.is_empty() {
                continue;
            }
            let drivers = match api.list(&ListParams::default()).await {
                Ok(list) => list.items.into_iter().map(|it| (it.name_any(), it.spec)).collect(),
                Err(error) => {
                    tracing::warn!(%error, "it is not known which drivers are to be called again");
                    continue;
                }
            };
            let again = async |(entry, spec): (Entry, &CSIDriverSpec)| {
                if let Err(error) = self.republish(&entry, spec).await {
                    let (volume, driver) = (&entry.wanted.name, &entry.wanted.driver);
                    tracing::warn!(volume, driver, pod = ?entry.bearer, %error, "a volume is not published again");
                }
            };
            let grow = async |entry: Entry| {
                if let Err(error) = self.expand_published(&entry).await {
                    let (volume, driver) = (&entry.wanted.name, &entry.wanted.driver);
                    tracing::warn!(volume, driver, pod = ?entry.bearer, %error, "a volume's file system is not expanded");
                }
            };
            futures::stream::iter(entries.clone()).for_each_concurrent(AT_ONCE, grow).await;
            futures::stream::iter(due(entries, &drivers)).for_each_concurrent(AT_ONCE, again).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn volumes_are_published_again_while_their_pods_have_them_and_their_drivers_ask_for_it() {
        let known = PublishedVolumes::default();
        let pod = |uid: &str| {
            let meta = json!({"name": "p", "namespace": "n", "uid": uid});
            Bearer::of(&from_value(json!({"metadata": meta})).unwrap())
        };
        for (uid, driver) in [("1", "asks"), ("2", "asks"), ("3", "does-not"), ("4", "unknown")] {
            known.add(pod(uid), &Wanted { driver: driver.to_owned(), ..Wanted::example() }, None);
        }
        known.add(pod("5"), &Wanted { driver: "asks".to_owned(), block: true, ..Wanted::example() }, None);
        known.forget("2");
        let spec = |asks: bool| from_value(json!({"requiresRepublish": asks})).unwrap();
        let drivers = HashMap::from([("asks".to_owned(), spec(true)), ("does-not".to_owned(), spec(false))]);
        let due: Vec<String> = due(known.all(), &drivers).into_iter().map(|(it, _)| it.bearer.uid).collect();
        assert_eq!(due, ["1"]);
    }
}
