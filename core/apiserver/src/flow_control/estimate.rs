//! How many seats a request takes.

use keelson_api::GroupResource;

use super::queue_set::Width;
use crate::registry::Registry;
use crate::request_info::RequestInfo;

/// A list of so many bytes takes one seat.
const BYTES_PER_SEAT: u64 = 100_000;
/// The most seats of a list.
const LIST_SEATS: u64 = 10;
/// Watchers are told of a write after it was answered: so many of them take one seat. They share one frame, which
/// makes each a small part of what it costs a server that encodes for every watcher.
const WATCHERS_PER_SEAT: usize = 100;
/// For so long.
const TELLING_SECONDS: f64 = 0.001;
/// The most seats for that.
const TELLING_SEATS: u32 = 10;
/// So many objects are looked at to know how large they are.
const SAMPLE: usize = 8;

/// The seats of a request. No request takes more than a part of its level, of `limit` seats.
pub fn width(registry: &Registry, info: &RequestInfo, limit: u32) -> Width {
    let most = (limit * 3 / 20).max(1);
    if !info.is_resource {
        return Width::ONE;
    }
    let lists = info.verb == "list" || (info.verb == "watch" && info.flag("sendInitialEvents"));
    let writes = matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete")
        && info.parameter("dryRun").is_none();
    if !lists && !writes {
        return Width::ONE;
    }
    let Some(cache) = registry.known(&GroupResource::new(&info.group, &info.resource)) else {
        return Width::ONE;
    };
    if lists {
        return Width { seats: list(&cache, info).min(most), ..Width::ONE };
    }
    let watchers = cache.watchers(info.namespace.as_deref());
    if watchers < WATCHERS_PER_SEAT {
        return Width::ONE;
    }
    let seats = u32::try_from(watchers.div_ceil(WATCHERS_PER_SEAT)).unwrap_or(u32::MAX);
    let taken = seats.min(TELLING_SEATS).min(most);
    Width {
        seats: 1,
        later_seats: taken,
        later_seconds: TELLING_SECONDS * f64::from(seats) / f64::from(taken),
    }
}

/// By the bytes of the answer.
fn list(cache: &crate::cache::ResourceCache, info: &RequestInfo) -> u32 {
    if info.name.is_some() || info.object_name().is_some() {
        return 1;
    }
    let (count, average) = cache.size(SAMPLE);
    let limit = info.parameter("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let count = limit.map_or(count, |limit: u64| limit.min(count));
    let seats = count.saturating_mul(average).div_ceil(BYTES_PER_SEAT).clamp(1, LIST_SEATS);
    u32::try_from(seats).unwrap_or(1)
}
