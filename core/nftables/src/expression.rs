//! What rules are made of.
//!
//! The kernel evaluates expressions over sixteen registers of four bytes. Values are in network order as they stand in the
//! packet, but marks, interface indexes, states and random numbers, which are in the machine's order.

use std::net::IpAddr;
use std::time::Duration;

use crate::attribute::Writer;
use crate::chain::Family;

/// One of the sixteen four-byte registers; longer values take those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The register with this number; numbers above 15 wrap.
    pub const fn new(number: u8) -> Self {
        Self(number % 16)
    }

    fn wire(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// From where in the packet bytes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// The IP header.
    Network,
    /// The TCP, UDP, SCTP or ICMP header.
    Transport,
}

/// What is known of a packet beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The firewall mark, 4 bytes, machine's order.
    Mark,
    /// The name of the interface it came by, 16 bytes.
    InputName,
    /// The name of the interface it leaves by, 16 bytes.
    OutputName,
    /// The transport protocol, 1 byte.
    Protocol,
}

impl Meta {
    const fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputName => 6,
            Self::OutputName => 7,
            Self::Protocol => 16,
        }
    }
}

/// What is known of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackKey {
    /// A bit of [`ct_state`].
    State,
    /// Bits of [`ct_status`].
    Status,
    /// The IPv4 address to which its first packet was sent, 4 bytes in network order.
    OriginalDestination,
    /// The port to which its first packet was sent, 2 bytes in network order.
    OriginalPort,
}

impl ConntrackKey {
    const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Status => 2,
            Self::OriginalDestination => 20,
            Self::OriginalPort => 12,
        }
    }

    /// What has a value in each direction needs to know which.
    const fn is_directed(self) -> bool {
        match self {
            Self::State | Self::Status => false,
            Self::OriginalDestination | Self::OriginalPort => true,
        }
    }
}

/// Bits of [`ConntrackKey::State`].
pub mod ct_state {
    /// Belongs to no connection and cannot open one.
    pub const INVALID: u32 = 1;
    /// Packets went both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// The first one.
    pub const NEW: u32 = 8;
}

/// Bits of [`ConntrackKey::Status`].
pub mod ct_status {
    /// The source is translated.
    pub const SOURCE_NAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// How [`Expression::Compare`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less, byte by byte.
    Less,
    /// Greater, byte by byte.
    Greater,
}

impl Comparison {
    const fn number(self) -> u32 {
        match self {
            Self::Equal => 0,
            Self::NotEqual => 1,
            Self::Less => 2,
            Self::Greater => 4,
        }
    }
}

/// Where a packet goes now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Lost.
    Drop,
    /// Done with this hook's chain.
    Accept,
    /// Through that chain and back.
    Jump(String),
    /// Through that chain, not back.
    Goto(String),
    /// Back to the chain that jumped here.
    Return,
}

impl Verdict {
    pub(crate) fn encode(&self, out: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (0_i32, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        out.nest(2, |nest| {
            nest.put(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                nest.put_text(2, chain);
            }
        });
    }

    pub(crate) fn decode(code: u32, chain: Option<String>) -> Option<Self> {
        match code.cast_signed() {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -3 => chain.map(Self::Jump),
            -4 => chain.map(Self::Goto),
            -5 => Some(Self::Return),
            _ => None,
        }
    }
}

/// Which address [`Expression::Nat`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// How the sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP port unreachable.
    PortUnreachable,
    /// TCP reset; only after the protocol was matched.
    TcpReset,
}

/// Which address is looked up in the routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibInput {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What the routing tables say of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressType {
    /// One of this host's.
    Local,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the packet; does not match a packet that is too short.
    Payload {
        /// From which header.
        base: PayloadBase,
        /// The first byte.
        offset: u32,
        /// How many.
        length: u32,
        /// To where.
        to: Register,
    },
    /// Loads what is known of the packet.
    Meta {
        /// What.
        key: Meta,
        /// To where.
        to: Register,
    },
    /// Sets it.
    SetMeta {
        /// What.
        key: Meta,
        /// From where.
        from: Register,
    },
    /// Loads what is known of the connection; states are 4 bytes in the machine's order.
    Conntrack {
        /// What.
        key: ConntrackKey,
        /// To where.
        to: Register,
    },
    /// Matches if the register compares so.
    Compare {
        /// How.
        how: Comparison,
        /// What.
        from: Register,
        /// With what; its length says how many bytes.
        with: Vec<u8>,
    },
    /// `(from & mask) ^ xor`.
    Bitwise {
        /// What.
        from: Register,
        /// To where.
        to: Register,
        /// As long as the value.
        mask: Vec<u8>,
        /// As long as the value.
        xor: Vec<u8>,
    },
    /// Matches if the key is in the set.
    InSet {
        /// The set's name.
        set: String,
        /// Where the key begins.
        key: Register,
    },
    /// Matches if it is not.
    NotInSet {
        /// The set's name.
        set: String,
        /// Where the key begins.
        key: Register,
    },
    /// Loads the key's value from a map; does not match without one.
    Map {
        /// The map's name.
        map: String,
        /// Where the key begins.
        key: Register,
        /// Where the value goes.
        to: Register,
    },
    /// Does what the verdict map says of the key; goes on without an entry.
    VerdictMap {
        /// The map's name.
        map: String,
        /// Where the key begins.
        key: Register,
    },
    /// Adds the key, or renews it, with its value in the map.
    Remember {
        /// The dynamic map's name.
        map: String,
        /// Where the key begins.
        key: Register,
        /// Where the value begins.
        value: Register,
        /// How long.
        timeout: Duration,
    },
    /// A random number of `modulus` ones that begin with `offset`, 4 bytes, machine's order.
    Random {
        /// At least 1.
        modulus: u32,
        /// The smallest.
        offset: u32,
        /// To where.
        to: Register,
    },
    /// Loads a constant.
    Immediate {
        /// The constant.
        value: Vec<u8>,
        /// To where.
        to: Register,
    },
    /// Does it.
    Verdict(Verdict),
    /// Changes an address, and a port. Ends the chain.
    Nat {
        /// Which.
        kind: NatKind,
        /// Of which family the address is.
        family: Family,
        /// Where the new address is.
        address: Register,
        /// Where the new port is.
        port: Option<Register>,
    },
    /// Changes the source to the leaving interface's address, with a random port. Ends the chain.
    Masquerade,
    /// Changes the destination to this host. Ends the chain.
    Redirect {
        /// Where the new port is.
        port: Option<Register>,
    },
    /// Refuses. Ends the chain.
    Reject(Reject),
    /// Counts packets and bytes.
    Counter,
    /// Loads the kind of an address as the routing tables see it; compare with [`Expression::is_local`].
    AddressType {
        /// Of which.
        of: FibInput,
        /// To where.
        to: Register,
    },
}

impl Expression {
    /// Matches an address type loaded by [`Expression::AddressType`].
    pub fn address_type(how: Comparison, from: Register, with: AddressType) -> Self {
        let number: u32 = match with {
            AddressType::Local => 2,
        };
        Self::Compare { how, from, with: number.to_ne_bytes().to_vec() }
    }

    /// The bytes of an address in network order.
    pub fn address_bytes(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }

    /// An interface's name as [`Meta::InputName`] loads it.
    pub fn interface_bytes(name: &str) -> Vec<u8> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Conntrack { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::InSet { .. } | Self::NotInSet { .. } | Self::Map { .. } | Self::VerdictMap { .. } => {
                "lookup"
            }
            Self::Remember { .. } => "dynset",
            Self::Random { .. } => "numgen",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Nat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Redirect { .. } => "redir",
            Self::Reject(_) => "reject",
            Self::Counter => "counter",
            Self::AddressType { .. } => "fib",
        }
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.put_text(1, self.name());
        out.nest(2, |data| self.encode_data(data));
    }

    fn encode_data(&self, out: &mut Writer) {
        match self {
            Self::Payload { base, offset, length, to } => {
                out.put_u32(1, to.wire());
                out.put_u32(2, if *base == PayloadBase::Network { 1 } else { 2 });
                out.put_u32(3, *offset);
                out.put_u32(4, *length);
            }
            Self::Meta { key, to } => {
                out.put_u32(1, to.wire());
                out.put_u32(2, key.number());
            }
            Self::SetMeta { key, from } => {
                out.put_u32(2, key.number());
                out.put_u32(3, from.wire());
            }
            Self::Conntrack { key, to } => {
                out.put_u32(1, to.wire());
                out.put_u32(2, key.number());
                if key.is_directed() {
                    out.put(3, &[0]);
                }
            }
            Self::Compare { how, from, with } => {
                out.put_u32(1, from.wire());
                out.put_u32(2, how.number());
                out.nest(3, |data| data.put(1, with));
            }
            Self::Bitwise { from, to, mask, xor } => {
                out.put_u32(1, from.wire());
                out.put_u32(2, to.wire());
                out.put_u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                out.nest(4, |data| data.put(1, mask));
                out.nest(5, |data| data.put(1, xor));
            }
            Self::InSet { set, key } => lookup(out, set, *key, None, 0),
            Self::NotInSet { set, key } => lookup(out, set, *key, None, 1),
            Self::Map { map, key, to } => lookup(out, map, *key, Some(to.wire()), 0),
            Self::VerdictMap { map, key } => lookup(out, map, *key, Some(0), 0),
            Self::Remember { map, key, value, timeout } => {
                out.put_text(1, map);
                out.put_u32(3, 1);
                out.put_u32(4, key.wire());
                out.put_u32(5, value.wire());
                out.put_u64(6, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            }
            Self::Random { modulus, offset, to } => {
                out.put_u32(1, to.wire());
                out.put_u32(2, *modulus);
                out.put_u32(3, 1);
                out.put_u32(4, *offset);
            }
            Self::Immediate { value, to } => {
                out.put_u32(1, to.wire());
                out.nest(2, |data| data.put(1, value));
            }
            Self::Verdict(verdict) => {
                out.put_u32(1, 0);
                out.nest(2, |data| verdict.encode(data));
            }
            Self::Nat { kind, family, address, port } => {
                out.put_u32(1, u32::from(*kind == NatKind::Destination));
                out.put_u32(2, u32::from(family.number()));
                out.put_u32(3, address.wire());
                if let Some(port) = port {
                    out.put_u32(5, port.wire());
                }
            }
            // Fully random source ports keep parallel connections from taking the same one.
            Self::Masquerade => out.put_u32(1, 1 << 4),
            Self::Redirect { port } => {
                if let Some(port) = port {
                    out.put_u32(1, port.wire());
                }
            }
            Self::Reject(Reject::PortUnreachable) => {
                out.put_u32(1, 0);
                out.put(2, &[3]);
            }
            Self::Reject(Reject::TcpReset) => {
                out.put_u32(1, 1);
                out.put(2, &[0]);
            }
            Self::Counter => {}
            Self::AddressType { of, to } => {
                out.put_u32(1, to.wire());
                out.put_u32(2, 3);
                out.put_u32(3, if *of == FibInput::Source { 1 } else { 2 });
            }
        }
    }
}

fn lookup(out: &mut Writer, set: &str, key: Register, to: Option<u32>, flags: u32) {
    out.put_text(1, set);
    out.put_u32(2, key.wire());
    if let Some(to) = to {
        out.put_u32(3, to);
    }
    out.put_u32(5, flags);
}
