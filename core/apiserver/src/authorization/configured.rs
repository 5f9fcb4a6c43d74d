//! The authorizers of this server, by flags once and for all, or by a file that may change.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::options::{Mode, OptionsError, Parts};
use super::{Authorizer, Decision, Opinion, Union};
use crate::identity::Identity;
use crate::reload::{self, ReloadMetrics, WatchedFile};
use crate::request_info::RequestInfo;

/// The authorizers that decide now.
pub(crate) struct Configured {
    current: ArcSwap<Union>,
    /// Where they come from, until that is watched.
    file: Mutex<Option<Source>>,
}

struct Source {
    file: WatchedFile,
    parts: Parts,
    /// Those that are no webhooks. They may change their places alone.
    own: Vec<Mode>,
}

impl Configured {
    /// Authorizers that stay.
    pub(super) fn fixed(union: Union) -> Self {
        Configured { current: ArcSwap::from_pointee(union), file: Mutex::new(None) }
    }

    /// The authorizers of a file with a text.
    pub(super) fn by_file(parts: &Parts, path: &Path, text: &str) -> Result<Self, OptionsError> {
        let (union, own) = parts.of_file(path, text)?;
        let file = WatchedFile::new(path, text.as_bytes());
        let source = Source { file, parts: parts.clone(), own };
        Ok(Configured { current: ArcSwap::from_pointee(union), file: Mutex::new(Some(source)) })
    }

    /// Follows the file, if there is one, until told to stop.
    pub(crate) async fn follow_file(self: Arc<Self>, metrics: ReloadMetrics, stop: CancellationToken) {
        let Some(Source { file, parts, own }) = self.file.lock().take() else { return };
        let path = file.path().to_owned();
        let take = |text: &str| {
            let (union, now) = parts.of_file(&path, text)?;
            if now != own {
                let fault = "authorizers: Forbidden: Node and RBAC may change their places, but are not added or taken away while the server runs";
                return Err(OptionsError::File { path: path.clone(), fault: fault.to_owned() });
            }
            self.current.store(Arc::new(union));
            Ok(())
        };
        reload::keep(file, metrics, stop, take).await;
    }
}

#[async_trait]
impl Authorizer for Configured {
    async fn authorize(&self, who: &Identity, info: &RequestInfo) -> Decision {
        self.current.load_full().authorize(who, info).await
    }

    async fn explain(&self, who: &Identity, info: &RequestInfo) -> Opinion {
        self.current.load_full().explain(who, info).await
    }

    fn gaps(&self, who: &Identity) -> Vec<&'static str> {
        self.current.load().gaps(who)
    }
}
