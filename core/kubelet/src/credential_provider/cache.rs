//! (pure) Answers of a plugin for as long as they are good.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::SignedDuration;
use tokio::time::{Duration, Instant};

use super::Auths;
use super::exchange::CacheKeyType;

/// What is no longer good goes at the latest after this.
const PURGE: Duration = Duration::from_secs(15 * 60);
/// No more answers are kept; those that are good for the least time make room.
const MAX: usize = 4096;
/// No answer is kept for longer, a year: others keep it for ever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const GLOBAL: &str = "global";

/// Answers, by image, by registry or for all.
#[derive(Debug)]
pub(super) struct Cache {
    kept: HashMap<String, (Arc<Auths>, Instant)>,
    purged: Instant,
}

fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

/// Images have no line's end.
fn whole(key: &str, kept_for: &str) -> String {
    format!("{key}\n{kept_for}")
}

impl Cache {
    pub(super) fn new(now: Instant) -> Self {
        Cache { kept: HashMap::new(), purged: now }
    }

    /// The answer that is for an image, first of all its own, among those that were kept for the same.
    pub(super) fn get(&mut self, image: &str, kept_for: &str, now: Instant) -> Option<Arc<Auths>> {
        if now > self.purged + PURGE {
            self.purge(now);
        }
        [image, registry(image), GLOBAL].into_iter().find_map(|key| {
            self.kept
                .get(&whole(key, kept_for))
                .filter(|(_, ends)| now <= *ends)
                .map(|(auths, _)| Arc::clone(auths))
        })
    }

    /// Keeps an answer, unless it is good for this once only.
    pub(super) fn put(
        &mut self,
        (image, kept_for): (&str, &str),
        of: CacheKeyType,
        auths: &Arc<Auths>,
        lasts: SignedDuration,
        now: Instant,
    ) {
        let Ok(lasts) = Duration::try_from(lasts) else { return };
        if lasts.is_zero() {
            return;
        }
        let key = match of {
            CacheKeyType::Image => image,
            CacheKeyType::Registry => registry(image),
            CacheKeyType::Global => GLOBAL,
        };
        if self.kept.len() >= MAX {
            self.purge(now);
        }
        if self.kept.len() >= MAX {
            let first = self.kept.iter().min_by_key(|(_, (_, ends))| *ends).map(|(key, _)| key.clone());
            first.map(|key| self.kept.remove(&key));
        }
        self.kept.insert(whole(key, kept_for), (Arc::clone(auths), now + lasts.min(LONGEST)));
    }

    fn purge(&mut self, now: Instant) {
        self.kept.retain(|_, (_, ends)| now <= *ends);
        self.purged = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_again_for_what_it_is_for_while_it_is_good() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        let auths = Arc::new(Auths::new());
        let hour = SignedDuration::from_hours(1);
        let later = now + Duration::from_secs(3601);
        cache.put(("a.example/x", ""), CacheKeyType::Image, &auths, hour, now);
        assert!(cache.get("a.example/x", "", now).is_some() && cache.get("a.example/y", "", now).is_none());
        assert!(
            cache.get("a.example/x", "", later).is_none() && cache.kept.is_empty(),
            "what has ended is gone"
        );
        cache.put(("a.example/x", ""), CacheKeyType::Registry, &auths, hour, now);
        assert!(cache.get("a.example/y", "", now).is_some() && cache.get("b.example/y", "", now).is_none());
        cache.put(("a.example/x", ""), CacheKeyType::Global, &auths, hour, now);
        assert!(cache.get("b.example/y", "", now).is_some());
        let mut own = Cache::new(now);
        own.put(("a.example/x", "one"), CacheKeyType::Global, &auths, hour, now);
        assert!(own.get("a.example/x", "one", now).is_some() && own.get("a.example/x", "two", now).is_none());
        let mut cache = Cache::new(now);
        for lasts in [SignedDuration::ZERO, SignedDuration::from_secs(-1)] {
            cache.put(("a.example/x", ""), CacheKeyType::Global, &auths, lasts, now);
        }
        assert!(cache.get("a.example/x", "", now).is_none(), "good for once");
        for number in 0..MAX {
            cache.put((&format!("a.example/{number}"), ""), CacheKeyType::Image, &auths, hour, now);
        }
        cache.put(("a.example/last", ""), CacheKeyType::Image, &auths, hour, now);
        assert_eq!(cache.kept.len(), MAX);
    }
}
