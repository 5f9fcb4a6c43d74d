//! What others have answered a moment ago (pure).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::time::Instant;

/// How many answers are kept, and the largest, in records.
const ENTRIES: usize = 1024;
const RECORDS: usize = 64;

/// How long an answer is kept at most.
const LONGEST: Duration = Duration::from_secs(30);

/// A question, with what changes its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// In lower case.
    pub(crate) name: Name,
    pub(crate) wanted: RecordType,
    pub(crate) signatures: bool,
    pub(crate) checking_disabled: bool,
}

/// Answers, the oldest of which make room.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: HashMap<Key, Kept>,
    /// In the order of arrival. A key is here once for each of its arrivals.
    order: VecDeque<(Instant, Key)>,
}

#[derive(Debug)]
struct Kept {
    answer: Message,
    arrived: Instant,
    ends: Instant,
}

impl Cache {
    /// An answer that still holds, with its times as they are now.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let kept = self.answers.get(key).filter(|kept| now < kept.ends)?;
        let age = u32::try_from(now.duration_since(kept.arrived).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        let records = answer.answers.iter_mut().chain(&mut answer.authorities);
        for record in records.chain(&mut answer.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Keeps an answer, if it says for how long.
    pub(crate) fn put(&mut self, key: Key, answer: &Message, now: Instant) {
        let Some(time) = lifetime(answer) else { return };
        while self.order.len() >= ENTRIES {
            let Some((arrived, oldest)) = self.order.pop_front() else { break };
            if self.answers.get(&oldest).is_some_and(|kept| kept.arrived == arrived) {
                self.answers.remove(&oldest);
            }
        }
        self.order.push_back((now, key.clone()));
        self.answers.insert(key, Kept { answer: answer.clone(), arrived: now, ends: now + time });
    }
}

/// How long an answer may be kept; `None` if not at all.
fn lifetime(answer: &Message) -> Option<Duration> {
    let soa = |record: &Record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    };
    let seconds = match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            answer.all_sections().map(|record| record.ttl).min()?
        }
        ResponseCode::NoError | ResponseCode::NXDomain => answer.authorities.iter().find_map(soa)?,
        _ => return None,
    };
    let kept = seconds > 0 && !answer.metadata.truncation && answer.all_sections().count() <= RECORDS;
    kept.then(|| Duration::from_secs(u64::from(seconds)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, SOA};

    fn key(name: &str) -> Key {
        let name = Name::from_ascii(name).unwrap();
        Key { name, wanted: RecordType::A, signatures: false, checking_disabled: false }
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("example.com.").unwrap();
        message.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1))));
        message
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a."), &answer(20), now);
        let later = cache.get(&key("a."), now + Duration::from_secs(15)).unwrap();
        assert_eq!(later.answers[0].ttl, 5);
        assert!(cache.get(&key("a."), now + Duration::from_secs(20)).is_none());
        assert!(cache.get(&key("b."), now).is_none());
        cache.put(key("c."), &answer(0), now);
        assert!(cache.get(&key("c."), now).is_none());
    }

    #[test]
    fn that_there_is_nothing_is_kept_only_as_long_as_the_authority_says() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut nothing = Message::error_msg(7, OpCode::Query, ResponseCode::NXDomain);
        cache.put(key("a."), &nothing, now);
        assert!(cache.get(&key("a."), now).is_none());
        let name = Name::from_ascii("example.com.").unwrap();
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 10);
        nothing.add_authority(Record::from_rdata(name, 3600, RData::SOA(soa)));
        cache.put(key("a."), &nothing, now);
        assert!(cache.get(&key("a."), now + Duration::from_secs(9)).is_some());
        assert!(cache.get(&key("a."), now + Duration::from_secs(10)).is_none());
        let mut failure = nothing;
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.put(key("b."), &failure, now);
        assert!(cache.get(&key("b."), now).is_none());
    }

    #[test]
    fn the_oldest_make_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..ENTRIES * 2 {
            cache.put(key(&format!("n{number}.")), &answer(20), now + Duration::from_micros(number as u64));
        }
        assert!(cache.answers.len() <= ENTRIES && cache.order.len() <= ENTRIES);
        assert!(cache.get(&key("n0."), now).is_none());
        assert!(cache.get(&key(&format!("n{}.", ENTRIES * 2 - 1)), now).is_some());
    }
}
