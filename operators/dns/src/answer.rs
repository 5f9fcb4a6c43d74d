//! From a question to an answer (pure): what is asked of others in between is said, not done.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

use crate::zone::{Lookup, Zone};

/// The largest datagram that is sent, in bytes, whatever a client would take: it fits into one packet everywhere.
pub(crate) const LARGEST_DATAGRAM: u16 = 1232;

/// How many names may stand for one another.
const ALIASES: usize = 8;

/// An answer, or what is missing.
#[derive(Debug)]
pub(crate) enum Step {
    /// The answer.
    Done(Message),
    /// Somebody else has to be asked, whose answer comes behind what there is.
    Ask(Query, Message),
}

/// Reads a request: itself, or the refusal of what is none; nothing if it deserves no answer.
pub(crate) fn read(bytes: &[u8]) -> Option<Result<Message, Message>> {
    /// Of a header, and the bit that marks responses.
    const HEADER: usize = 12;
    const RESPONSE: u8 = 0x80;
    let (header, _) = bytes.split_at_checked(HEADER)?;
    let &[high, low, flags, ..] = header else { return None };
    if flags & RESPONSE != 0 {
        return None;
    }
    Some(Message::from_vec(bytes).map_err(|_| {
        Message::error_msg(u16::from_be_bytes([high, low]), OpCode::Query, ResponseCode::FormErr)
    }))
}

/// Answers from the zone as far as it goes.
pub(crate) fn begin(zone: &Zone, request: &Message) -> Step {
    let mut response = response(request);
    let refusal = refusal(request);
    let (None, [query]) = (refusal, request.queries.as_slice()) else {
        response.metadata.response_code = refusal.unwrap_or(ResponseCode::FormErr);
        return Step::Done(response);
    };
    let mut name = query.name.clone();
    for _ in 0..ALIASES {
        let found = zone.look_up(&name, query.query_type);
        let negative = matches!(found, Lookup::NoName | Lookup::NoData);
        match found {
            Lookup::Elsewhere => return Step::Ask(Query::query(name, query.query_type), response),
            Lookup::NoName => response.metadata.response_code = ResponseCode::NXDomain,
            Lookup::NoData => {}
            Lookup::Found { mut answers, additionals } => {
                rotate(&mut answers, request.metadata.id);
                response.answers.append(&mut answers);
                response.additionals = additionals;
            }
            Lookup::Alias(record, target) => {
                response.metadata.authoritative = true;
                response.answers.push(*record);
                if !matches!(query.query_type, RecordType::CNAME | RecordType::ANY) {
                    name = target;
                    continue;
                }
            }
        }
        response.metadata.authoritative = true;
        if negative && zone.holds(&name) {
            response.authorities.push(zone.soa());
        }
        return Step::Done(response);
    }
    response.metadata.response_code = ResponseCode::ServFail;
    Step::Done(response)
}

/// Adds what others have answered; `None` if nobody has.
pub(crate) fn finish(mut response: Message, others: Option<Message>) -> Message {
    match others {
        Some(others) => {
            response.answers.extend(others.answers);
            response.authorities = others.authorities;
            response.additionals = others.additionals;
            response.metadata.response_code = others.metadata.response_code;
            // What others vouch for is not all of an answer that begins here.
            response.metadata.authentic_data =
                others.metadata.authentic_data && !response.metadata.authoritative;
        }
        None => response.metadata.response_code = ResponseCode::ServFail,
    }
    response
}

/// The response's bytes, and if they are too many, those of as much as fits, marked as truncated.
pub(crate) fn encode(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(limit);
    if let Some(bytes) = encoded(response).filter(fits) {
        return Some(bytes);
    }
    let mut shorter = response.clone();
    shorter.additionals = Vec::new();
    shorter.authorities = Vec::new();
    if let Some(bytes) = encoded(&shorter).filter(fits) {
        return Some(bytes);
    }
    shorter.metadata.truncation = true;
    // So many answers fit, and so many do not.
    let (mut fitting, mut too_many) = (0, shorter.answers.len());
    let first = |count: usize| {
        let mut part = shorter.clone();
        part.answers.truncate(count);
        encoded(&part).filter(fits)
    };
    while fitting + 1 < too_many {
        let middle = usize::midpoint(fitting, too_many);
        if first(middle).is_some() { fitting = middle } else { too_many = middle }
    }
    first(fitting)
}

/// The largest datagram for the sender of a request, in bytes.
pub(crate) fn datagram_limit(request: &Message) -> u16 {
    request.max_payload().min(LARGEST_DATAGRAM)
}

/// Whether the sender of a request understands signatures.
pub(crate) fn wants_signatures(request: &Message) -> bool {
    request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

fn encoded(response: &Message) -> Option<Vec<u8>> {
    match response.to_vec() {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            // Longer than any message can be.
            tracing::debug!(error = &error as &dyn std::error::Error, "an answer could not be written");
            None
        }
    }
}

fn response(request: &Message) -> Message {
    let mut response = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_DATAGRAM).set_dnssec_ok(wants_signatures(request));
        response.edns = Some(edns);
    }
    response
}

fn refusal(request: &Message) -> Option<ResponseCode> {
    if request.version() > 0 {
        return Some(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    (query.query_class != DNSClass::IN || transfer).then_some(ResponseCode::Refused)
}

/// Clients take the first record, so that each question has another one first.
fn rotate(answers: &mut [Record], id: u16) {
    if !answers.is_empty() {
        let by = usize::from(id) % answers.len();
        answers.rotate_left(by);
    }
}

#[cfg(test)]
mod tests;
