//! Who may pull what when: the same thing once, and not too much at a time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::progress::UnderWay;
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, Semaphore, SemaphorePermit};

/// Blobs fetched at once, of all images.
const PLACES: usize = 8;

/// The pulls of this machine.
#[derive(Debug)]
pub(crate) struct Pulls {
    turns: Mutex<HashMap<String, Weak<Turn<()>>>>,
    places: Semaphore,
    pub(crate) under_way: UnderWay,
}

impl Default for Pulls {
    fn default() -> Self {
        Self { turns: Mutex::default(), places: Semaphore::new(PLACES), under_way: UnderWay::default() }
    }
}

impl Pulls {
    /// One's turn to bring the thing of this digest; others wait until it is given back.
    pub(super) async fn turn(&self, digest: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(digest).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(Turn::new(()));
                    turns.insert(digest.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// A place among those who fetch; `None` never, while the runtime runs.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn the_same_thing_has_one_turn_and_nothing_is_kept_of_it() {
        let pulls = Pulls::default();
        let first = pulls.turn("sha256:1").await;
        assert!(pulls.turn("sha256:1").now_or_never().is_none());
        assert!(pulls.turn("sha256:2").now_or_never().is_some());
        drop(first);
        assert!(pulls.turn("sha256:1").now_or_never().is_some());
        assert!(pulls.turns.lock().len() <= 1);
    }
}
