//! One priority level: who is served, and who waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::allocation::{Bounds, Demand, Shares, Wanted};
use super::dealer;
use super::metrics::LevelMetrics;
use super::queue_set::{Arrival, Place, QueueSet, Queuing, Refusal, Width};

/// `spec` of a PriorityLevelConfiguration.
#[derive(Clone, Debug, Deserialize)]
pub struct LevelSpec {
    r#type: String,
    limited: Option<Limited>,
    exempt: Option<Exempt>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limited {
    #[serde(default)]
    nominal_concurrency_shares: u32,
    #[serde(default)]
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Clone, Debug, Deserialize)]
struct LimitResponse {
    queuing: Option<QueuingSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueuingSpec {
    queues: usize,
    hand_size: usize,
    queue_length_limit: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exempt {
    #[serde(default)]
    nominal_concurrency_shares: u32,
    #[serde(default)]
    lendable_percent: u32,
}

impl LevelSpec {
    /// What it has of all seats.
    pub fn shares(&self) -> Shares {
        match &self.limited {
            Some(limited) if !self.is_exempt() => Shares {
                exempt: false,
                shares: limited.nominal_concurrency_shares,
                lendable_percent: limited.lendable_percent,
                borrowing_percent: limited.borrowing_limit_percent,
            },
            _ => {
                let exempt = self.exempt.clone().unwrap_or_default();
                Shares {
                    exempt: true,
                    shares: exempt.nominal_concurrency_shares,
                    lendable_percent: exempt.lendable_percent,
                    borrowing_percent: None,
                }
            }
        }
    }

    fn is_exempt(&self) -> bool {
        self.r#type == "Exempt"
    }

    fn queuing(&self) -> Queuing {
        match self.limited.as_ref().and_then(|limited| limited.limit_response.queuing.as_ref()) {
            Some(it) => {
                Queuing::Queues { queues: it.queues, hand: it.hand_size, length: it.queue_length_limit }
            }
            None => Queuing::None,
        }
    }
}

struct State {
    set: QueueSet,
    waiting: HashMap<u64, oneshot::Sender<Place>>,
    demand: Demand,
    bounds: Bounds,
}

/// A level that is in force.
pub struct Level {
    /// Its name.
    pub name: String,
    /// Its UID, for an answer's header.
    pub uid: HeaderValue,
    /// What it is measured by.
    pub metrics: LevelMetrics,
    exempt: bool,
    /// Of an exempt level: seats that are taken, and the most that were of late.
    taken: AtomicU32,
    high: AtomicU32,
    state: Mutex<State>,
}

/// What becomes of a request at a level.
pub enum Turn {
    /// It starts; an exempt one has no place.
    Now(Option<Place>),
    /// It waits until it is told.
    Later(Place, oneshot::Receiver<Place>, usize),
    /// It is refused.
    Refused(Refusal),
}

impl State {
    /// Starts all that can start.
    fn dispatch(&mut self, now: Duration) {
        while let Some(place) = self.set.start_next(now) {
            // Who has gone meanwhile takes its place away itself: it looks whether it was started.
            if let Some(waiting) = self.waiting.remove(&place.id) {
                let _ = waiting.send(place);
            }
        }
        self.demand.set(now.as_secs_f64(), self.set.demand().into());
    }
}

impl Level {
    /// A level as its object says, with no seats yet.
    pub fn new(name: &str, uid: HeaderValue, spec: &LevelSpec, metrics: LevelMetrics) -> Self {
        let state = State {
            set: QueueSet::new(spec.queuing(), 0),
            waiting: HashMap::new(),
            demand: Demand::default(),
            bounds: Bounds::default(),
        };
        Level {
            name: name.to_owned(),
            uid,
            metrics,
            exempt: spec.is_exempt(),
            taken: AtomicU32::new(0),
            high: AtomicU32::new(0),
            state: Mutex::new(state),
        }
    }

    /// Whether its requests never wait.
    pub fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Takes up what the object now says; the seats are to be shared out anew.
    pub fn configure(&self, now: Duration, spec: &LevelSpec, bounds: Bounds) {
        let mut state = self.state.lock();
        if state.set.queuing() != spec.queuing() {
            state.set.configure(spec.queuing());
        }
        if state.bounds != bounds {
            state.bounds = bounds;
            state.set.set_limit(now, bounds.nominal);
            self.metrics.bounds(bounds);
            self.metrics.limit(bounds.nominal);
        }
        state.dispatch(now);
    }

    /// The seats that it has now.
    pub fn limit(&self) -> u32 {
        self.state.lock().set.limit()
    }

    /// What it wants when seats are shared out anew.
    pub fn wanted(&self, now: Duration, periods: i32) -> Wanted {
        let mut state = self.state.lock();
        let (mut high, smoothed) = state.demand.take(now.as_secs_f64(), periods);
        if self.exempt {
            high = self.high.swap(self.taken.load(Ordering::Relaxed), Ordering::Relaxed).into();
        }
        self.metrics.demand(high, smoothed);
        Wanted { exempt: self.exempt, bounds: state.bounds, high, smoothed }
    }

    /// Gets its seats.
    pub fn set_limit(&self, now: Duration, limit: u32) {
        let mut state = self.state.lock();
        if state.set.limit() != limit {
            self.metrics.limit(limit);
            state.set.set_limit(now, limit);
            state.dispatch(now);
        }
    }

    /// A request of a flow comes.
    pub fn arrive(&self, now: Duration, flow: u64, width: Width) -> Turn {
        if self.exempt {
            let taken = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
            // Mostly it is no news.
            if self.high.load(Ordering::Relaxed) < taken {
                self.high.fetch_max(taken, Ordering::Relaxed);
            }
            return Turn::Now(None);
        }
        let mut state = self.state.lock();
        let hand = match state.set.queuing() {
            Queuing::None => dealer::Hand::new(),
            Queuing::Queues { queues, hand, .. } => dealer::deal(flow, queues, hand),
        };
        let turn = match state.set.arrive(now, &hand, width) {
            Arrival::Starts(place) => Turn::Now(Some(place)),
            Arrival::Refused(refusal) => return Turn::Refused(refusal),
            Arrival::Waits(place, length) => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(place.id, sender);
                Turn::Later(place, receiver, length)
            }
        };
        let demand = state.set.demand();
        state.demand.set(now.as_secs_f64(), demand.into());
        turn
    }

    /// A request that waits gives up. False if it was started meanwhile.
    pub fn give_up(&self, now: Duration, place: &Place) -> bool {
        let mut state = self.state.lock();
        let waited = state.set.give_up(now, place);
        state.waiting.remove(&place.id);
        state.dispatch(now);
        waited
    }

    /// A request was served.
    pub fn finish(&self, now: Duration, place: Option<&Place>) {
        let Some(place) = place else {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let mut state = self.state.lock();
        state.set.finish(now, place);
        state.dispatch(now);
    }

    /// A line of a dump: name, number of queues that are busy, requests that wait and that are served, seats.
    pub fn line(&self) -> String {
        let state = self.state.lock();
        if self.exempt {
            let taken = self.taken.load(Ordering::Relaxed);
            return format!("{}, <none>, false, {}, 0, {taken}, {taken}, 0\n", self.name, taken == 0);
        }
        let set = &state.set;
        let active = set.queues().filter(|(waiting, executing, _)| *waiting > 0 || *executing > 0).count();
        let (waiting, executing) = (set.waiting(), set.executing());
        let idle = waiting == 0 && executing == 0;
        format!("{}, {active}, {idle}, false, {waiting}, {executing}, {}\n", self.name, set.limit())
    }
}

/// A request that waits. Dropped, it gives up.
pub(super) struct Waiting {
    pub(super) level: Arc<Level>,
    pub(super) place: Place,
    pub(super) started: oneshot::Receiver<Place>,
    pub(super) clock: super::Clock,
    pub(super) is_over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over || self.level.give_up(self.clock.now(), &self.place) {
            return;
        }
        // It was started under the level's lock, so that the word is there.
        if let Ok(place) = self.started.try_recv() {
            self.level.finish(self.clock.now(), Some(&place));
        }
    }
}
