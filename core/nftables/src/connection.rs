//! Committing transactions, and reading back what the kernel has.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use crate::attribute::Reader;
use crate::batch::Batch;
use crate::chain::{Family, Table};
use crate::expression::Verdict;
use crate::message::{self, Head};
use crate::set::Data;
use crate::socket::{Socket, SocketError};

/// How often a dump is begun anew because the rule set changed below it.
const DUMPS: usize = 10;

/// A transaction was not applied; nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// No exchange with the kernel.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel refused a change.
    #[error("{change}{}", hint(.detail))]
    Refused {
        /// Which change, in words.
        change: String,
        /// The kernel's own words, if any.
        detail: Option<String>,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel neither acknowledged nor refused.
    #[error("the kernel did not answer the transaction")]
    Unanswered,
}

impl TransactionError {
    /// Whether something that was to be changed or deleted is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
    }
}

fn hint(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
}

/// The rule set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// No exchange with the kernel.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel refused; `ENOENT` when the table or set is not there.
    #[error("read {what}")]
    Refused {
        /// What was to be read.
        what: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// It changed each time while it was read.
    #[error("{what} keeps changing while it is read")]
    Unstable {
        /// What was to be read.
        what: String,
    },
    /// The answer ended too early.
    #[error("the kernel did not finish its answer about {what}")]
    Unfinished {
        /// What was to be read.
        what: String,
    },
}

impl DumpError {
    /// Whether what was to be read is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
    }
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainState {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Of a base chain: hook number and priority.
    pub hook: Option<(u32, i32)>,
    /// Of a base chain: whether what reaches its end is lost.
    pub drops: bool,
    /// Of a base chain: filter, nat or route.
    pub kind: Option<String>,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleState {
    /// Its chain.
    pub chain: String,
    /// The kernel's name for it.
    pub handle: u64,
    /// Its expressions, encoded; counters count in them.
    pub expressions: Vec<u8>,
    /// Its comment, or nothing.
    pub comment: String,
}

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, in a set.
    None,
    /// A value, in a map.
    Data(Data),
    /// A verdict, in a verdict map.
    Verdict(Verdict),
}

/// An element as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementState {
    /// The key.
    pub key: Data,
    /// The last of a range.
    pub key_end: Option<Data>,
    /// What it leads to.
    pub value: Value,
    /// For how long it was added.
    pub timeout: Option<Duration>,
    /// How long it still stays.
    pub expires: Option<Duration>,
}

/// A connection to the kernel's nftables of one network namespace.
#[derive(Debug)]
pub struct Connection {
    pub(crate) socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Connects to the nftables of the calling thread's network namespace.
    pub fn open() -> Result<Self, SocketError> {
        Ok(Self { socket: Socket::open()?, sequence: 1 })
    }

    /// Applies a batch: all of it, or nothing and the first error.
    pub fn commit(&mut self, mut batch: Batch) -> Result<(), TransactionError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.drain();
        batch.message("end".to_owned(), Head::batch(message::BATCH_END), |_| {});
        let first = self.sequence;
        let count = u32::try_from(batch.messages.len()).unwrap_or(u32::MAX);
        self.sequence = first.wrapping_add(count).max(1);
        let bytes = &mut batch.out.bytes;
        for (index, (start, _)) in (0_u32..).zip(&batch.messages) {
            let place = start + message::SEQUENCE.start;
            bytes[place..place + 4].copy_from_slice(&first.wrapping_add(index).to_ne_bytes());
        }
        // Refusals are always told; of the acknowledgements that of the last change says enough.
        let last = batch.messages.len() - 2;
        let place = batch.messages[last].0 + message::FLAGS.start;
        let flags = u16::from_ne_bytes([bytes[place], bytes[place + 1]]) | message::FLAG_ACK;
        bytes[place..place + 2].copy_from_slice(&flags.to_ne_bytes());

        self.socket.send(&batch.out.bytes)?;
        let mut acknowledged = false;
        while let Some(datagram) = self.socket.receive()? {
            for one in message::read(datagram).filter(|one| one.kind == message::ERROR) {
                let Some((number, detail)) = one.error() else { continue };
                let index = one.sequence.wrapping_sub(first) as usize;
                if number != 0 {
                    let change = batch.messages.get(index).map_or("the transaction", |(_, label)| label);
                    return Err(TransactionError::Refused {
                        change: change.to_owned(),
                        detail,
                        source: io::Error::from_raw_os_error(number),
                    });
                }
                acknowledged |= index == last;
            }
        }
        if acknowledged { Ok(()) } else { Err(TransactionError::Unanswered) }
    }

    /// Deletes a table with all that is in it, if there is one.
    pub fn remove_table(&mut self, table: &Table) -> Result<(), TransactionError> {
        let mut batch = Batch::new();
        batch.clear_table(table);
        self.commit(batch)
    }

    /// The generation of the whole rule set of this network namespace: it changes with every transaction of anybody.
    pub fn generation(&mut self) -> Result<u32, DumpError> {
        let head = Head::new(message::GET_GENERATION, 0, Family::Inet);
        let mut id = None;
        self.exchange("the generation", head, &[], |one| id = one.attributes().u32(1))?;
        id.ok_or_else(|| DumpError::Unfinished { what: "the generation".to_owned() })
    }

    /// The names of the tables of a family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, DumpError> {
        let head = Head::new(message::GET_TABLE, message::FLAG_DUMP, family);
        self.dump("tables", head, &[], |reader| reader.text(1))
    }

    /// The chains of a family, of all tables.
    pub fn chains(&mut self, family: Family) -> Result<Vec<ChainState>, DumpError> {
        let head = Head::new(message::GET_CHAIN, message::FLAG_DUMP, family);
        self.dump("chains", head, &[], |reader| {
            let hook = reader.nested(4);
            Some(ChainState {
                table: reader.text(1)?,
                name: reader.text(3)?,
                hook: hook.u32(1).zip(hook.u32(2)).map(|(number, priority)| (number, priority.cast_signed())),
                drops: reader.u32(5) == Some(0),
                kind: reader.text(7),
            })
        })
    }

    /// The rules of a table, chain by chain in order.
    pub fn rules(&mut self, table: &Table) -> Result<Vec<RuleState>, DumpError> {
        let head = Head::new(message::GET_RULE, message::FLAG_DUMP, table.family);
        let rules = self.dump("rules", head, &[(1, &table.name)], |reader| {
            let rule = RuleState {
                chain: reader.text(2)?,
                handle: reader.u64(3)?,
                expressions: reader.find(4)?.to_vec(),
                comment: reader.find(7).and_then(comment).unwrap_or_default(),
            };
            Some((reader.text(1)?, rule))
        })?;
        Ok(rules.into_iter().filter(|(name, _)| *name == table.name).map(|(_, rule)| rule).collect())
    }

    /// The elements of a set or map. The kernel shows some twice while it gives a set another size; here they are told once.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<ElementState>, DumpError> {
        let head = Head::new(message::GET_ELEMENT, message::FLAG_DUMP, table.family);
        let what = format!("elements of {} {set}", table.name);
        let lists = self.dump(&what, head, &[(1, &table.name), (2, set)], |reader| {
            Some(reader.nested(3).filter_map(|(_, one)| element(Reader::new(one))).collect::<Vec<_>>())
        })?;
        let mut seen = HashSet::new();
        let found = lists.into_iter().flatten();
        Ok(found.filter(|one| seen.insert((one.key.clone(), one.key_end.clone()))).collect())
    }

    fn dump<T>(
        &mut self,
        what: &str,
        head: Head,
        arguments: &[(u16, &str)],
        mut parse: impl FnMut(Reader<'_>) -> Option<T>,
    ) -> Result<Vec<T>, DumpError> {
        for _ in 0..DUMPS {
            let mut found = Vec::new();
            let interrupted =
                self.exchange(what, head, arguments, |one| found.extend(parse(one.attributes())))?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(DumpError::Unstable { what: what.to_owned() })
    }

    /// One request and all answers to it; whether the kernel says that they do not belong together.
    pub(crate) fn exchange(
        &mut self,
        what: &str,
        head: Head,
        arguments: &[(u16, &str)],
        each: impl FnMut(&message::Received<'_>),
    ) -> Result<bool, DumpError> {
        let mut out = crate::attribute::Writer::default();
        message::write(&mut out, head, |out| {
            for (kind, text) in arguments {
                out.put_text(*kind, text);
            }
        });
        self.exchange_bytes(what, head, &mut out.bytes, each)
    }

    /// As [`Connection::exchange`], of a request that is already written.
    pub(crate) fn exchange_bytes(
        &mut self,
        what: &str,
        head: Head,
        request: &mut [u8],
        mut each: impl FnMut(&message::Received<'_>),
    ) -> Result<bool, DumpError> {
        self.socket.drain();
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1).max(1);
        request[message::SEQUENCE].copy_from_slice(&sequence.to_ne_bytes());
        self.socket.send(request)?;
        let mut interrupted = false;
        while let Some(datagram) = self.socket.receive()? {
            for one in message::read(datagram).filter(|one| one.sequence == sequence) {
                interrupted |= one.flags & message::FLAG_DUMP_INTERRUPTED != 0;
                match one.kind {
                    message::DONE => return Ok(interrupted),
                    message::ERROR => match one.error() {
                        Some((0, _)) => return Ok(interrupted),
                        Some((number, _)) => {
                            let source = io::Error::from_raw_os_error(number);
                            return Err(DumpError::Refused { what: what.to_owned(), source });
                        }
                        None => return Err(DumpError::Unfinished { what: what.to_owned() }),
                    },
                    _ => each(&one),
                }
            }
        }
        // A single answer has no end mark.
        let single = head.flags & message::FLAG_DUMP == 0;
        if single { Ok(interrupted) } else { Err(DumpError::Unfinished { what: what.to_owned() }) }
    }
}

/// From a rule's user data, as [`crate::Rule`] writes it.
fn comment(data: &[u8]) -> Option<String> {
    let (head, rest) = data.split_at_checked(2)?;
    let text = rest.get(..usize::from(head[1]).checked_sub(1)?)?;
    (head[0] == 0).then(|| String::from_utf8_lossy(text).into_owned())
}

fn element(reader: Reader<'_>) -> Option<ElementState> {
    let data = |kind: u16| reader.nested(kind).find(1).map(|bytes| Data(bytes.to_vec()));
    let verdict = reader.nested(2).nested(2);
    let value = match (verdict.u32(1), data(2)) {
        (Some(code), _) => Value::Verdict(Verdict::decode(code, verdict.text(2))?),
        (None, Some(data)) => Value::Data(data),
        (None, None) => Value::None,
    };
    Some(ElementState {
        key: data(1)?,
        key_end: data(10),
        value,
        timeout: reader.u64(4).map(Duration::from_millis),
        expires: reader.u64(5).map(Duration::from_millis),
    })
}
