//! (pure) The drivers that have made themselves known, which of them can be asked, and since when nobody can.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::driver::Driver;

/// How long a driver may be away, as while it is replaced.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A driver that made itself known at a socket.
#[derive(Debug)]
struct Instance {
    socket: PathBuf,
    driver: Arc<Driver>,
    /// Its own socket has somebody behind it.
    is_up: bool,
    /// Its connection is watched until it is forgotten.
    _watch: DropGuard,
}

/// By name, those of the same name in the order in which they came.
#[derive(Debug)]
pub(super) struct Drivers {
    known: HashMap<String, Vec<Instance>>,
    /// Since when nobody of the name can be asked.
    gone: HashMap<String, Instant>,
    /// Drivers that have never been here are away since then, until that was swept once.
    start: Option<Instant>,
    /// After a sweep that failed there is no other before this.
    retry: Option<Instant>,
}

impl Drivers {
    /// None is known.
    pub(super) fn new(now: Instant) -> Self {
        Drivers { known: HashMap::new(), gone: HashMap::new(), start: Some(now), retry: None }
    }

    /// One has made itself known; whether anybody is behind its own socket is not known yet.
    pub(super) fn add(
        &mut self,
        name: &str,
        socket: &Path,
        driver: Arc<Driver>,
        watch: DropGuard,
        now: Instant,
    ) {
        let all = self.known.entry(name.to_owned()).or_default();
        all.retain(|one| one.socket != socket);
        all.push(Instance { socket: socket.to_owned(), driver, is_up: false, _watch: watch });
        self.judge(name, now);
    }

    /// One has taken its socket away.
    pub(super) fn remove(&mut self, name: &str, socket: &Path, now: Instant) {
        let Some(all) = self.known.get_mut(name) else { return };
        all.retain(|one| one.socket != socket);
        if all.is_empty() {
            self.known.remove(name);
        }
        self.judge(name, now);
    }

    /// A driver's connection came up, or broke.
    pub(super) fn connected(&mut self, name: &str, driver: &Arc<Driver>, is_up: bool, now: Instant) {
        let all = self.known.get_mut(name).into_iter().flatten();
        for one in all.filter(|one| Arc::ptr_eq(&one.driver, driver)) {
            one.is_up = is_up;
        }
        self.judge(name, now);
    }

    /// Whether anybody of the name can be asked.
    pub(super) fn is_usable(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|all| all.iter().any(|one| one.is_up))
    }

    /// The time since which a driver is away stays what it was, whatever becomes of others of its name that are away too.
    fn judge(&mut self, name: &str, now: Instant) {
        if self.is_usable(name) {
            self.gone.remove(name);
        } else {
            self.gone.entry(name.to_owned()).or_insert(now);
        }
    }

    /// Who is asked: the last one that came, of those that are connected if there are any.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Driver>> {
        let all = self.known.get(name)?;
        let found = all.iter().rev().find(|one| one.is_up).or(all.last());
        found.map(|one| Arc::clone(&one.driver))
    }

    /// When what drivers offered that are gone is to be taken back.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        let due = self.gone.values().chain(&self.start).map(|since| *since + PATIENCE).min()?;
        Some(self.retry.map_or(due, |retry| retry.max(due)))
    }

    /// Whether what a driver offered is to be taken back.
    pub(super) fn is_overdue(&self, name: &str, now: Instant) -> bool {
        let since = self.gone.get(name).copied();
        !self.is_usable(name) && since.is_none_or(|since| since + PATIENCE <= now)
    }

    /// All that was overdue at `now` was taken back.
    pub(super) fn swept(&mut self, now: Instant) {
        self.gone.retain(|_, since| now < *since + PATIENCE);
        (self.start, self.retry) = (None, None);
    }

    /// It was not: it is tried again at `retry`.
    pub(super) fn not_swept(&mut self, retry: Instant) {
        self.retry = Some(retry);
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn driver() -> Arc<Driver> {
        Arc::new(Driver::new("service", Path::new("/nonexistent")))
    }

    fn add(drivers: &mut Drivers, socket: &str, now: Instant) -> Arc<Driver> {
        let driver = driver();
        let watch = CancellationToken::new().drop_guard();
        drivers.add("d", Path::new(socket), Arc::clone(&driver), watch, now);
        driver
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_dies_with_its_socket_in_place_is_away_as_one_that_takes_it_along() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut drivers = Drivers::new(start);
        drivers.swept(at(30));
        let one = add(&mut drivers, "one", at(100));
        assert_eq!(drivers.next_sweep(), Some(at(130)), "it has to be reached first");
        drivers.connected("d", &one, true, at(101));
        assert_eq!((drivers.next_sweep(), drivers.is_overdue("d", at(500))), (None, false));
        drivers.connected("d", &one, false, at(200));
        assert_eq!(drivers.next_sweep(), Some(at(230)));
        assert!(!drivers.is_overdue("d", at(229)) && drivers.is_overdue("d", at(230)));
        // Its socket going too makes that no later.
        drivers.remove("d", Path::new("one"), at(210));
        assert_eq!(drivers.next_sweep(), Some(at(230)));
        let two = add(&mut drivers, "two", at(220));
        drivers.connected("d", &two, true, at(221));
        assert_eq!(drivers.next_sweep(), None);
        // What became of one that is forgotten says nothing.
        drivers.connected("d", &one, false, at(222));
        assert!(drivers.is_usable("d"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_of_a_name_the_last_one_that_is_there_is_asked() {
        let now = Instant::now();
        let mut drivers = Drivers::new(now);
        assert!(drivers.find("d").is_none());
        let (one, two) = (add(&mut drivers, "one", now), add(&mut drivers, "two", now));
        let asked = |drivers: &Drivers, who: &Arc<Driver>| Arc::ptr_eq(&drivers.find("d").unwrap(), who);
        assert!(asked(&drivers, &two), "nobody is known to be there");
        drivers.connected("d", &one, true, now);
        assert!(asked(&drivers, &one));
        drivers.connected("d", &two, true, now);
        assert!(asked(&drivers, &two));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_failed_is_made_again_also_when_something_changes_meanwhile() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut drivers = Drivers::new(start);
        assert_eq!(drivers.next_sweep(), Some(at(30)));
        drivers.not_swept(at(40));
        // Another driver comes and goes.
        let one = add(&mut drivers, "one", at(31));
        drivers.connected("d", &one, true, at(32));
        drivers.remove("d", Path::new("one"), at(33));
        assert_eq!(drivers.next_sweep(), Some(at(40)));
        assert!(drivers.is_overdue("never here", at(40)));
        drivers.swept(at(40));
        assert_eq!(drivers.next_sweep(), Some(at(63)));
        drivers.swept(at(63));
        assert_eq!(drivers.next_sweep(), None);
    }
}
