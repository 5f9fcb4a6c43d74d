//! Which Events are the same (pure): a repetition raises a count, many alike become one, and a flood is cut.

use std::collections::{HashMap, VecDeque};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Note, Severity};

/// How many kinds of Events are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 1024;
/// From how many on, within [`ALIKE_FOR`], Events that differ only in their message are taken as one.
const ALIKE_AT_MOST: u32 = 10;
const ALIKE_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How many Events about one object may come at once, and how long it takes until one more may.
const BURST: f64 = 25.0;
const SECONDS_PER_EVENT: f64 = 300.0;

/// What to do about a [`Note`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write a new Event of this name.
    Create {
        /// Its name.
        name: String,
        /// Its message.
        message: String,
    },
    /// It was there before: raise its count.
    Repeat {
        /// The Event's name.
        name: String,
        /// How often it was seen, with this time.
        count: u32,
        /// Its message.
        message: String,
    },
    /// Too many about one object: leave it out.
    Drop,
}

type Alike = (String, Severity, &'static str);

/// What was written before.
#[derive(Debug, Default)]
pub struct Correlator {
    same: Memory<(Alike, String), (String, u32)>,
    alike: Memory<Alike, (u32, Timestamp)>,
    budget: Memory<String, (f64, Timestamp)>,
}

impl Correlator {
    /// Takes one more Event in.
    pub fn step(&mut self, note: &Note, now: Timestamp) -> Verdict {
        if !self.afford(note, now) {
            return Verdict::Drop;
        }
        let combined = self.are_many(note, now);
        let message = if combined {
            format!("(combined from similar events): {}", note.message)
        } else {
            note.message.clone()
        };
        // What is combined counts as the same, whatever its message.
        let key = (alike(note), if combined { String::new() } else { message.clone() });
        if let Some((name, count)) = self.same.get_mut(&key) {
            *count += 1;
            return Verdict::Repeat { name: name.clone(), count: *count, message };
        }
        let name = event_name(note, now);
        self.same.insert(key, (name.clone(), 1));
        Verdict::Create { name, message }
    }

    /// The Event that should have been repeated is gone: forgets it, and names the new one.
    pub fn begin_again(&mut self, note: &Note, now: Timestamp) -> String {
        let name = event_name(note, now);
        let own = (alike(note), note.message.clone());
        // What was not repeated under its own message was combined.
        let key = if self.same.get_mut(&own).is_some() { own } else { (alike(note), String::new()) };
        self.same.insert(key, (name.clone(), 1));
        name
    }

    fn afford(&mut self, note: &Note, now: Timestamp) -> bool {
        let object = object_of(note);
        let (tokens, since) = self.budget.get_mut(&object).map_or((BURST, now), |budget| *budget);
        let gained = now.duration_since(since).as_secs_f64() / SECONDS_PER_EVENT;
        let tokens = (tokens + gained.max(0.0)).min(BURST);
        let affordable = tokens >= 1.0;
        self.budget.insert(object, (if affordable { tokens - 1.0 } else { tokens }, now));
        affordable
    }

    fn are_many(&mut self, note: &Note, now: Timestamp) -> bool {
        // Only what is new counts towards being many of a kind.
        if self.same.get_mut(&(alike(note), note.message.clone())).is_some() {
            return false;
        }
        let key = alike(note);
        let count = match self.alike.get_mut(&key) {
            Some((count, since)) if now.duration_since(*since) < ALIKE_FOR => *count + 1,
            Some(_) | None => 1,
        };
        self.alike.insert(key, (count, now));
        count > ALIKE_AT_MOST
    }
}

fn object_of(note: &Note) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let object = &note.regarding;
    format!("{}/{}/{}/{}", part(&object.kind), part(&object.namespace), part(&object.name), part(&object.uid))
}

fn alike(note: &Note) -> Alike {
    (object_of(note), note.severity, note.reason)
}

fn event_name(note: &Note, now: Timestamp) -> String {
    format!("{}.{:x}", note.regarding.name.as_deref().unwrap_or("unnamed"), now.as_nanosecond())
}

/// A map that forgets what was put in first.
#[derive(Debug)]
struct Memory<K, V> {
    values: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Memory { values: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Memory<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            regarding: k8s_openapi::api::core::v1::ObjectReference {
                name: Some("web".to_owned()),
                ..Default::default()
            },
            severity: Severity::Normal,
            reason: "SuccessfulCreate",
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_repetition_raises_the_count_of_the_first() {
        let mut correlator = Correlator::default();
        let now = Timestamp::UNIX_EPOCH;
        let Verdict::Create { name, .. } = correlator.step(&note("a"), now) else { panic!("not created") };
        let again = correlator.step(&note("a"), now);
        assert_eq!(again, Verdict::Repeat { name, count: 2, message: "a".to_owned() });
    }

    #[test]
    fn many_alike_become_one() {
        let mut correlator = Correlator::default();
        let now = Timestamp::UNIX_EPOCH;
        for number in 0..10 {
            assert!(matches!(correlator.step(&note(&number.to_string()), now), Verdict::Create { .. }));
        }
        let Verdict::Create { message, .. } = correlator.step(&note("x"), now) else { panic!("not created") };
        assert_eq!(message, "(combined from similar events): x");
        assert!(matches!(correlator.step(&note("y"), now), Verdict::Repeat { count: 2, .. }));
    }

    #[test]
    fn what_begins_again_is_repeated_under_its_new_name() {
        let mut correlator = Correlator::default();
        let mut now = Timestamp::UNIX_EPOCH;
        for number in 0..12 {
            correlator.step(&note(&number.to_string()), now);
        }
        now += SignedDuration::from_secs(1);
        let combined = correlator.begin_again(&note("11"), now);
        let Verdict::Repeat { name, count, .. } = correlator.step(&note("x"), now) else {
            panic!("not repeated")
        };
        assert_eq!((name, count), (combined.clone(), 2));
        now += SignedDuration::from_secs(1);
        let plain = correlator.begin_again(&note("3"), now);
        assert_ne!(plain, combined);
        let Verdict::Repeat { name, .. } = correlator.step(&note("3"), now) else { panic!("not repeated") };
        assert_eq!(name, plain);
    }

    #[test]
    fn a_flood_about_one_object_is_cut_and_recovers_with_time() {
        let mut correlator = Correlator::default();
        let now = Timestamp::UNIX_EPOCH;
        let written = (0..100).filter(|_| correlator.step(&note("a"), now) != Verdict::Drop).count();
        assert_eq!(written, 25);
        let later = now + SignedDuration::from_mins(6);
        assert_ne!(correlator.step(&note("a"), later), Verdict::Drop);
    }
}
