//! Tables, chains and rules.

use crate::attribute::Writer;
use crate::expression::Expression;

/// The layer that a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }
}

/// A table: the unit that somebody owns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Which packets its chains see.
    pub family: Family,
    /// At most 255 bytes; unique in its family and network namespace.
    pub name: String,
}

impl Table {
    /// A table's name in its family.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

/// Where in a packet's way a base chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Every packet that arrives.
    Prerouting,
    /// For a process here.
    Input,
    /// To be sent on.
    Forward,
    /// From a process here.
    Output,
    /// Every packet that leaves.
    Postrouting,
}

impl Hook {
    const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What happens to a packet at the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It goes on to the next chain of the hook.
    Accept,
    /// It is lost.
    Drop,
}

/// What a chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Reached by a jump.
    Regular,
    /// Sees every packet of its hook.
    Filter {
        /// Where.
        hook: Hook,
        /// Lower goes first: -300 raw, -200 connection tracking, -100 destination NAT, 0 filter, 100 source NAT.
        priority: i32,
        /// At its end.
        policy: Policy,
    },
    /// Sees the first packet of a connection.
    Nat {
        /// Where.
        hook: Hook,
        /// As of [`ChainKind::Filter`].
        priority: i32,
    },
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Unique in the table; at most 127 bytes.
    pub name: String,
    /// What it is for.
    pub kind: ChainKind,
}

impl Chain {
    /// A chain that others jump to.
    pub fn regular(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: ChainKind::Regular }
    }

    /// A chain of filter type with policy accept.
    pub fn filter(name: impl Into<String>, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), kind: ChainKind::Filter { hook, priority, policy: Policy::Accept } }
    }

    /// A chain of NAT type.
    pub fn nat(name: impl Into<String>, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), kind: ChainKind::Nat { hook, priority } }
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.put_text(3, &self.name);
        let (kind, hook, priority, policy) = match self.kind {
            ChainKind::Regular => return,
            ChainKind::Filter { hook, priority, policy } => ("filter", hook, priority, policy),
            ChainKind::Nat { hook, priority } => ("nat", hook, priority, Policy::Accept),
        };
        out.nest(4, |nest| {
            nest.put_u32(1, hook.number());
            nest.put(2, &priority.to_be_bytes());
        });
        out.put_u32(5, u32::from(policy == Policy::Accept));
        out.put_text(7, kind);
    }
}

/// Expressions that are evaluated one after the other, until one does not match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// In order.
    pub expressions: Vec<Expression>,
    /// Shown by `nft list`; at most 120 bytes are kept.
    pub comment: String,
}

impl Rule {
    /// A rule without a comment.
    pub fn new(expressions: impl IntoIterator<Item = Expression>) -> Self {
        Self { expressions: expressions.into_iter().collect(), comment: String::new() }
    }

    /// With words for a person who lists it.
    #[must_use]
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.comment = text.into();
        self
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.nest(4, |list| {
            for expression in &self.expressions {
                list.nest(1, |one| expression.encode(one));
            }
        });
        if self.comment.is_empty() {
            return;
        }
        // User data has a format of its own: kind 0 (comment), length, text with its final zero.
        let mut end = self.comment.len().min(120);
        while !self.comment.is_char_boundary(end) {
            end -= 1;
        }
        let text = &self.comment.as_bytes()[..end];
        let mut data = vec![0, u8::try_from(end + 1).unwrap_or(u8::MAX)];
        data.extend_from_slice(text);
        data.push(0);
        out.put(7, &data);
    }
}
