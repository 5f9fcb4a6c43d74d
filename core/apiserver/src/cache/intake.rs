//! What the store tells the watch cache.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use keelson_api::GroupResource;
use keelson_store::{Event, Observer, Revision, Snapshot};

use super::{Cached, Objects, ResourceCache, WatchCache, WatchEvent, split};

/// A resource with its new events, each with the key of its object.
type Touched<'a> = (Arc<ResourceCache>, Vec<(&'a str, Arc<WatchEvent>)>);

/// An event with its document, where that can be opened, and the key of its object.
type Found<'a> = (&'a Event, Option<Bytes>, &'a str);

fn touch<'a>(
    touched: &mut Vec<Touched<'a>>,
    cache: &Arc<ResourceCache>,
    key: &'a str,
    event: Arc<WatchEvent>,
) {
    match touched.iter_mut().find(|(known, _)| Arc::ptr_eq(known, cache)) {
        Some((_, events)) => events.push((key, event)),
        None => touched.push((Arc::clone(cache), vec![(key, event)])),
    }
}

impl WatchCache {
    fn take_up<'a>(&self, event: &'a Event, touched: &mut Vec<Touched<'a>>) {
        let Some((resource, name)) = split(event.key.as_str()) else { return };
        let cache = self.resource(&resource);
        match self.open(event.key.as_str(), &event.value, event.revision.get()) {
            Some(bytes) => touch(touched, &cache, name, cache.apply(event, bytes, name)),
            None => cache.skip(name, event.revision.get()),
        }
    }

    /// Takes up events of one revision. Who saw some of a resource's would take the others for seen.
    fn take_up_together<'a>(&self, events: &'a [Event], touched: &mut Vec<Touched<'a>>) {
        let mut found: HashMap<GroupResource, Vec<Found<'a>>> = HashMap::new();
        for event in events {
            let Some((resource, name)) = split(event.key.as_str()) else { continue };
            let bytes = self.open(event.key.as_str(), &event.value, event.revision.get());
            found.entry(resource).or_default().push((event, bytes, name));
        }
        for (resource, changes) in found {
            let cache = self.resource(&resource);
            let (mut opened, mut sealed) = (Vec::new(), Vec::new());
            for (event, bytes, name) in changes {
                match bytes {
                    Some(bytes) => opened.push((event, bytes, name)),
                    None => sealed.push((event, name)),
                }
            }
            for (change, seen) in opened.iter().zip(cache.apply_together(&opened)) {
                touch(touched, &cache, change.2, seen);
            }
            sealed.into_iter().for_each(|(event, name)| cache.skip(name, event.revision.get()));
        }
    }
}

impl Observer for WatchCache {
    fn restored(&self, snapshot: &Snapshot) {
        let mut found: HashMap<GroupResource, Objects> = HashMap::new();
        for (key, entry) in snapshot.range("/registry/", None) {
            let Some((resource, name)) = split(key.as_str()) else { continue };
            let are_pods = resource == GroupResource::new("", "pods");
            let revision = entry.modified.get();
            let Some(bytes) = self.open(key.as_str(), &entry.value, revision) else { continue };
            let object = Cached::read(bytes, revision, name, are_pods);
            found.entry(resource).or_default().insert(name.into(), Arc::new(object));
        }
        let revision = snapshot.revision().get();
        let known: Vec<GroupResource> = self.resources.read().keys().cloned().collect();
        for resource in known {
            found.entry(resource).or_default();
        }
        for (resource, objects) in found {
            self.resource(&resource).restore(objects, revision);
        }
        // Last: nobody may be told of this revision while a resource is still as it was before.
        self.revision.store(revision, Ordering::Release);
    }

    fn applied(&self, events: &[Event]) {
        let mut touched: Vec<Touched<'_>> = Vec::new();
        for together in events.chunk_by(|a, b| a.revision == b.revision) {
            match together {
                [event] => self.take_up(event, &mut touched),
                several => self.take_up_together(several, &mut touched),
            }
        }
        if let Some(last) = events.last() {
            self.revision.store(last.revision.get(), Ordering::Release);
        }
        for (cache, events) in touched {
            let events: Vec<(&str, &WatchEvent)> = events.iter().map(|(key, it)| (*key, &**it)).collect();
            cache.followers.wake(&events);
        }
        self.trim();
    }

    fn progressed(&self, revision: Revision) {
        self.revision.store(revision.get(), Ordering::Release);
    }

    fn compacted(&self, revision: Revision) {
        self.compact(revision.get());
    }
}

#[cfg(test)]
mod tests {
    use keelson_store::{Entry, EventKind, Key};

    use super::*;

    fn event(revision: u64, kind: EventKind, name: &str) -> Event {
        let value = Bytes::from_static(b"{}");
        let revision = Revision::new(revision);
        let previous = (kind != EventKind::Created).then(|| Entry {
            value: value.clone(),
            created: Revision::new(1),
            modified: Revision::new(1),
        });
        let key = Key::new(format!("/registry/core/configmaps/default/{name}")).unwrap();
        Event { revision, key, kind, value, previous }
    }

    #[test]
    fn who_reads_few_events_at_once_gets_all_that_share_a_revision() {
        let cache = WatchCache::default();
        let resource = GroupResource::new("", "configmaps");
        cache.applied(&[event(5, EventKind::Created, "x")]);
        let several: Vec<Event> =
            ["a", "b", "c"].map(|name| event(9, EventKind::Created, name)).into_iter().collect();
        cache.applied(&several);
        cache.applied(&[event(12, EventKind::Created, "d")]);
        let configmaps = cache.resource(&resource);
        let revisions = |after, limit| -> Vec<u64> {
            configmaps.events_after(after, limit).unwrap().iter().map(|event| event.revision).collect()
        };
        assert_eq!(revisions(5, 1), [9, 9, 9]);
        assert_eq!(revisions(0, 2), [5, 9, 9, 9]);
        assert_eq!(revisions(9, 1), [12]);
        assert!(revisions(5, 0).is_empty());
        assert_eq!(configmaps.list_at(9).unwrap().objects.len(), 4);
        assert_eq!(configmaps.list_at(7).unwrap().objects.len(), 1);
    }

    #[test]
    fn a_list_carries_a_revision_up_to_which_nothing_has_changed() {
        let cache = WatchCache::default();
        cache.applied(&[event(5, EventKind::Created, "x")]);
        cache.progressed(Revision::new(30));
        let configmaps = cache.resource(&GroupResource::new("", "configmaps"));
        assert_eq!((cache.revision(), configmaps.list().revision, configmaps.newest()), (30, 30, 5));
        assert!(configmaps.events_after(30, 10).unwrap().is_empty());
    }

    fn change(revision: u64, name: &str, bytes: usize) -> Event {
        let value = Bytes::from(format!("{{\"x\":\"{}\"}}", "x".repeat(bytes)));
        let kind = if revision == 1 { EventKind::Created } else { EventKind::Updated };
        let revision = Revision::new(revision);
        let key = Key::new(format!("/registry/core/{name}")).unwrap();
        Event { revision, key, kind, value, previous: None }
    }

    #[test]
    fn events_of_all_resources_together_take_no_more_bytes_than_they_may() {
        let cache = WatchCache::default();
        cache.limit_history(1 << 20);
        for revision in 1..=200 {
            let name = if revision % 20 == 0 { "secrets/default/a" } else { "configmaps/default/a" };
            cache.applied(&[change(revision, name, 20_000)]);
            assert!(cache.history_bytes() <= 1 << 20);
        }
        let configmaps = cache.resource(&GroupResource::new("", "configmaps"));
        let expired = configmaps.events_after(1, 10).unwrap_err();
        assert!(configmaps.events_after(expired.oldest, 1).is_ok_and(|events| !events.is_empty()));
        assert!(configmaps.list_at(expired.oldest - 1).is_err());
        // Who takes little keeps all of it, since it was first heard of.
        let secrets = cache.resource(&GroupResource::new("", "secrets"));
        assert_eq!(secrets.events_after(19, 100).unwrap().len(), 10);
        drop((configmaps, secrets));
        cache.restored(&keelson_store::Engine::new(keelson_store::engine::Config::default()).snapshot());
        assert_eq!(cache.history_bytes(), 0);
    }

    #[test]
    fn what_is_compacted_away_can_be_read_no_more_and_who_has_seen_everything_goes_on() {
        let cache = WatchCache::default();
        for revision in 1..=9 {
            cache.applied(&[change(revision, "configmaps/default/a", 10)]);
        }
        let configmaps = cache.resource(&GroupResource::new("", "configmaps"));
        let pinned = configmaps.list_at(3).unwrap();
        configmaps.pin(&pinned);
        cache.compact(5);
        assert!(configmaps.list_at(3).is_err() && configmaps.list_at(4).is_err());
        assert_eq!(configmaps.list_at(5).unwrap().revision, 5);
        assert!(configmaps.events_after(4, 10).is_err());
        assert_eq!(configmaps.events_after(5, 10).unwrap().len(), 4);
        cache.compact(50);
        assert!(configmaps.events_after(9, 10).unwrap().is_empty());
    }
}
