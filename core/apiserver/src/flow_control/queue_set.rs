//! Fair queuing of the requests of one priority level, without clock or IO: the time is passed in.
//!
//! A request takes some of the level's seats for as long as it lasts. While seats are free it starts at once; otherwise it
//! waits in the emptiest of the queues that its flow was dealt. Virtual time says which queue is next: a queue is charged
//! for the work that was started from it, so that over time each busy queue gets the same share of the seats.

use std::collections::VecDeque;
use std::time::Duration;

/// What a request is reckoned to take until it has shown what it takes, in seconds.
const ESTIMATED_SERVICE: f64 = 0.003;

/// The form of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queuing {
    /// What finds no free seat is refused.
    None,
    /// What finds no free seat waits.
    Queues {
        /// How many queues there are.
        queues: usize,
        /// How many of them each flow uses.
        hand: usize,
        /// How many requests wait in a queue.
        length: usize,
    },
}

/// The seats that a request takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// While it is served.
    pub seats: u32,
    /// After it was answered, for the work that it leaves behind.
    pub later_seats: u32,
    /// How long those are taken, in seconds.
    pub later_seconds: f64,
}

impl Width {
    /// A request that takes one seat while it is served.
    pub const ONE: Width = Width { seats: 1, later_seats: 0, later_seconds: 0.0 };

    fn most(&self) -> u32 {
        self.seats.max(self.later_seats)
    }

    fn work(&self, served: f64) -> f64 {
        f64::from(self.seats) * served + f64::from(self.later_seats) * self.later_seconds
    }
}

/// A request's place, waiting or being served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Tells it apart from others.
    pub id: u64,
    queue: Option<usize>,
    width: Width,
    started: f64,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All seats are taken, and nothing waits at this level.
    ConcurrencyLimit,
    /// The queue is full.
    QueueFull,
}

/// What becomes of a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrival {
    /// It starts.
    Starts(Place),
    /// It waits, as the last of so many in its queue.
    Waits(Place, usize),
    /// It is refused.
    Refused(Refusal),
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, Width)>,
    waiting_work: f64,
    executing: u32,
    /// The virtual time from which its next request starts.
    next: f64,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }
}

/// The requests of a level.
#[derive(Clone, Debug)]
pub struct QueueSet {
    queuing: Queuing,
    limit: u32,
    queues: Vec<Queue>,
    /// Virtual time, and the real time at which it was read, in seconds.
    virtual_time: f64,
    read_at: f64,
    next_id: u64,
    robin: usize,
    executing: u32,
    seats: u32,
    waiting: u32,
    waiting_seats: u32,
    /// Queues of which something waits or is served.
    active: u32,
}

impl QueueSet {
    /// An empty level with a limit of seats.
    pub fn new(queuing: Queuing, limit: u32) -> Self {
        let mut set = QueueSet {
            queuing,
            limit,
            queues: Vec::new(),
            virtual_time: 0.0,
            read_at: 0.0,
            next_id: 0,
            robin: 0,
            executing: 0,
            seats: 0,
            waiting: 0,
            waiting_seats: 0,
            active: 0,
        };
        set.configure(queuing);
        set
    }

    /// Changes the level's form. What waits goes on to wait where it is.
    pub fn configure(&mut self, queuing: Queuing) {
        self.queuing = queuing;
        let wanted = match queuing {
            Queuing::None => 0,
            Queuing::Queues { queues, .. } => queues,
        };
        while self.queues.len() > wanted && self.queues.last().is_some_and(|queue| !queue.is_active()) {
            self.queues.pop();
        }
        if self.queues.len() < wanted {
            self.queues.resize_with(wanted, Queue::default);
        }
    }

    /// Changes the number of seats. [`Self::start_next`] then tells what can start.
    pub fn set_limit(&mut self, now: Duration, limit: u32) {
        self.advance(now);
        self.limit = limit;
    }

    /// The form.
    pub fn queuing(&self) -> Queuing {
        self.queuing
    }

    /// The number of seats.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Requests that are served.
    pub fn executing(&self) -> u32 {
        self.executing
    }

    /// Seats that are taken.
    pub fn seats(&self) -> u32 {
        self.seats
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Seats that are taken or waited for.
    pub fn demand(&self) -> u32 {
        self.seats + self.waiting_seats
    }

    /// Of each queue: how many wait, how many are served, and its virtual time.
    pub fn queues(&self) -> impl Iterator<Item = (usize, u32, f64)> + '_ {
        self.queues.iter().map(|queue| (queue.waiting.len(), queue.executing, queue.next))
    }

    /// Virtual time moves on as fast as each of the busy queues is served.
    fn advance(&mut self, now: Duration) {
        let now = now.as_secs_f64();
        let passed = (now - self.read_at).max(0.0);
        self.read_at = now;
        if self.waiting == 0 && self.executing == 0 {
            return;
        }
        if self.active > 0 {
            let served = self.demand().min(self.limit);
            self.virtual_time += passed * f64::from(served) / f64::from(self.active);
        }
    }

    /// Changes a queue, and counts it among those that are active if it now is.
    fn change<T>(&mut self, at: usize, change: impl FnOnce(&mut Queue) -> T) -> T {
        let queue = &mut self.queues[at];
        let was = queue.is_active();
        let outcome = change(queue);
        let is = queue.is_active();
        self.active = self.active + u32::from(is) - u32::from(was);
        outcome
    }

    fn has_room(&self, seats: u32) -> bool {
        if seats > self.limit {
            // It never fits: it is served alone.
            return self.executing == 0;
        }
        self.seats + seats <= self.limit
    }

    fn take(&mut self, width: Width) {
        self.executing += 1;
        self.seats += width.most();
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A request comes, whose flow was dealt a hand of queues.
    pub fn arrive(&mut self, now: Duration, hand: &[usize], width: Width) -> Arrival {
        let Queuing::Queues { length, .. } = self.queuing else {
            if !self.has_room(width.most()) {
                return Arrival::Refused(Refusal::ConcurrencyLimit);
            }
            self.take(width);
            let id = self.id();
            return Arrival::Starts(Place { id, queue: None, width, started: now.as_secs_f64() });
        };
        self.advance(now);
        let emptiest = hand.iter().copied().filter(|at| *at < self.queues.len()).min_by(|a, b| {
            let load =
                |at: usize| (self.queues[at].waiting_work, self.queues[at].next.max(self.virtual_time));
            load(*a).0.total_cmp(&load(*b).0).then(load(*a).1.total_cmp(&load(*b).1))
        });
        let Some(at) = emptiest else { return Arrival::Refused(Refusal::ConcurrencyLimit) };
        let full = self.queues[at].waiting.len() >= length;
        if full && self.seats >= self.limit {
            return Arrival::Refused(Refusal::QueueFull);
        }
        let id = self.id();
        let virtual_time = self.virtual_time;
        let queue = &mut self.queues[at];
        if !queue.is_active() {
            queue.next = queue.next.max(virtual_time);
        }
        if self.waiting == 0 && self.has_room(width.most()) {
            return Arrival::Starts(self.start(at, id, width));
        }
        if full {
            return Arrival::Refused(Refusal::QueueFull);
        }
        let position = self.change(at, |queue| {
            queue.waiting.push_back((id, width));
            queue.waiting_work += width.work(ESTIMATED_SERVICE);
            queue.waiting.len()
        });
        self.waiting += 1;
        self.waiting_seats += width.most();
        Arrival::Waits(Place { id, queue: Some(at), width, started: 0.0 }, position)
    }

    fn start(&mut self, at: usize, id: u64, width: Width) -> Place {
        self.take(width);
        self.change(at, |queue| {
            queue.executing += 1;
            queue.next += width.work(ESTIMATED_SERVICE);
        });
        Place { id, queue: Some(at), width, started: self.read_at }
    }

    /// Starts the next of those that wait, if there is room for it: that of the queue which would have finished first.
    pub fn start_next(&mut self, now: Duration) -> Option<Place> {
        if self.waiting == 0 {
            return None;
        }
        self.advance(now);
        let count = self.queues.len();
        let first = self.robin;
        let order = (0..count).map(|offset| (first + offset) % count);
        let mut best: Option<(f64, usize)> = None;
        for at in order {
            let queue = &self.queues[at];
            let Some((_, width)) = queue.waiting.front() else { continue };
            let finish = queue.next + width.work(ESTIMATED_SERVICE);
            if best.is_none_or(|(least, _)| finish < least) {
                best = Some((finish, at));
            }
        }
        let (_, at) = best?;
        let (id, width) = *self.queues[at].waiting.front()?;
        if !self.has_room(width.most()) {
            return None;
        }
        self.unqueue(at, 0);
        self.robin = (at + 1) % count;
        Some(self.start(at, id, width))
    }

    fn unqueue(&mut self, at: usize, position: usize) {
        let taken = self.change(at, |queue| {
            let (_, width) = queue.waiting.remove(position)?;
            let less = queue.waiting_work - width.work(ESTIMATED_SERVICE);
            queue.waiting_work = if queue.waiting.is_empty() { 0.0 } else { less };
            Some(width)
        });
        if let Some(width) = taken {
            self.waiting -= 1;
            self.waiting_seats -= width.most();
        }
    }

    /// A request that waits gives up. False if it does not wait any more.
    pub fn give_up(&mut self, now: Duration, place: &Place) -> bool {
        let Some(at) = place.queue else { return false };
        let found = self.queues[at].waiting.iter().position(|(id, _)| *id == place.id);
        let Some(position) = found else { return false };
        self.advance(now);
        self.unqueue(at, position);
        true
    }

    /// A request was served: its seats are free, and its queue is charged for what it really took.
    pub fn finish(&mut self, now: Duration, place: &Place) {
        self.advance(now);
        self.executing -= 1;
        self.seats -= place.width.most();
        let Some(at) = place.queue else { return };
        let later = if place.width.later_seats > 0 { place.width.later_seconds } else { 0.0 };
        let served = (self.read_at - place.started - later).max(0.0);
        self.change(at, |queue| {
            queue.executing -= 1;
            queue.next -= place.width.work(ESTIMATED_SERVICE) - place.width.work(served);
        });
    }
}

#[cfg(test)]
mod tests;
