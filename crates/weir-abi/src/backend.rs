//! Backends: where a packet goes once its backend is known, in one cache line.
use crate::{Address, Family, Words};

/// No backend has this id.
pub const NO_BACKEND_ID: u32 = 0;

/// A backend of one service as stored: 64 bytes. (A real server that serves two services is two backends.)
///
/// | word | content |
/// | --- | --- |
/// | 0, 1 | outer destination: the real server's address |
/// | 2, 3 | outer source |
/// | 4 | next hop's MAC (bits 0-47, first byte lowest), MTU towards it in bytes (48-63) |
/// | 5 | source MAC (bits 0-47), [`BackendState`] (48-55), [`Encapsulation`] (56-62), [`SPREAD_SOURCE`] (63) |
/// | 6 | egress interface index (low 32), one's-complement sum of the constant outer IPv4 header words (32-47), VLAN id of the egress tag (48-63; 0 = untagged) |
/// | 7 | service id (low 32), end of draining in seconds of CLOCK_BOOTTIME (high 32; 0 = not draining) |
///
/// Words 0-3 of an id change only after every reference to it is gone and a grace period has passed.
pub type BackendRecord = [u64; 8];

/// Whether a backend gets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BackendState {
    /// Unused id, or a backend that gets nothing: its flows move.
    Down = 0,
    /// Gets new flows (when the ring names it) and keeps its own.
    Up = 1,
    /// Keeps its flows, gets no new ones.
    Draining = 2,
}

/// How a backend's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encapsulation {
    /// IPv4 in IPv4, protocol 4 (RFC 2003).
    Ip4InIp4 = 1,
    /// IPv6 in IPv6, next header 41 (RFC 2473).
    Ip6InIp6 = 2,
    /// IPv4 in IPv6, next header 4 (RFC 2473).
    Ip4InIp6 = 3,
    /// IPv6 in IPv4, protocol 41 (RFC 4213).
    Ip6InIp4 = 4,
    /// GUE variant 1 over IPv4: UDP, then the packet itself (draft-ietf-intarea-gue, section 4).
    GueInIp4 = 5,
    /// GUE variant 1 over IPv6.
    GueInIp6 = 6,
    /// No outer header: only the MAC addresses change (layer-2 direct server return).
    Layer2 = 7,
    /// The backend is this machine: packets are left to its network stack as they are.
    Local = 8,
}

/// Bit of the encapsulation's byte: the outer source is word 2 and 3 with the control record's source mask filled in
/// from the flow's hash.
pub const SPREAD_SOURCE: u8 = 1 << 7;

impl Encapsulation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ip4InIp4,
        Self::Ip6InIp6,
        Self::Ip4InIp6,
        Self::Ip6InIp4,
        Self::GueInIp4,
        Self::GueInIp6,
        Self::Layer2,
        Self::Local,
    ];

    /// The encapsulation with this number; the bit [`SPREAD_SOURCE`] does not count.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte & !SPREAD_SOURCE)
    }
    /// Bytes the outer header adds.
    pub fn overhead(self) -> u16 {
        match self {
            Self::Ip4InIp4 | Self::Ip6InIp4 => 20,
            Self::GueInIp4 => 28,
            Self::Ip6InIp6 | Self::Ip4InIp6 => 40,
            Self::GueInIp6 => 48,
            Self::Layer2 | Self::Local => 0,
        }
    }
    /// Family of the outer header; `None` where there is none.
    pub fn outer_family(self) -> Option<Family> {
        match self {
            Self::Ip4InIp4 | Self::Ip6InIp4 | Self::GueInIp4 => Some(Family::V4),
            Self::Ip6InIp6 | Self::Ip4InIp6 | Self::GueInIp6 => Some(Family::V6),
            Self::Layer2 | Self::Local => None,
        }
    }
    /// The protocol number of an outer IPv4 header, if there is one.
    fn outer_ipv4_protocol(self) -> Option<u8> {
        match self {
            Self::Ip4InIp4 => Some(4),
            Self::Ip6InIp4 => Some(41),
            Self::GueInIp4 => Some(17),
            Self::Ip6InIp6 | Self::Ip4InIp6 | Self::GueInIp6 | Self::Layer2 | Self::Local => None,
        }
    }
}

/// A view of a backend record.
#[derive(Clone, Copy, Debug)]
pub struct Backend<W>(pub W);

impl<W: Words> Backend<W> {
    /// Outer destination.
    #[inline(always)]
    pub fn destination(&self) -> Address {
        Address([self.0.load(0), self.0.load(1)])
    }
    /// Outer source.
    #[inline(always)]
    pub fn source(&self) -> Address {
        Address([self.0.load(2), self.0.load(3)])
    }
    /// Word 4: next hop's MAC and MTU, taken together.
    #[inline(always)]
    pub fn next_hop(&self) -> MacAnd16 {
        MacAnd16(self.0.load(4))
    }
    /// Word 5: source MAC, state and encapsulation, taken together.
    #[inline(always)]
    pub fn origin(&self) -> MacAnd16 {
        MacAnd16(self.0.load(5))
    }
    /// Whether the backend may get packets of its own flows (up or draining).
    #[inline(always)]
    pub fn is_alive(&self) -> bool {
        self.state_byte() != BackendState::Down as u8
    }
    #[inline(always)]
    fn state_byte(&self) -> u8 {
        (self.0.load(5) >> 48) as u8
    }
    /// The state; an unknown number reads as down.
    pub fn state(&self) -> BackendState {
        match self.state_byte() {
            1 => BackendState::Up,
            2 => BackendState::Draining,
            _ => BackendState::Down,
        }
    }
    /// The encapsulation's number, with the bit [`SPREAD_SOURCE`].
    #[inline(always)]
    pub fn encapsulation_byte(&self) -> u8 {
        (self.0.load(5) >> 56) as u8
    }
    /// The encapsulation, if it is a known one.
    pub fn encapsulation(&self) -> Option<Encapsulation> {
        Encapsulation::from_byte(self.encapsulation_byte())
    }
    /// Whether the outer source is spread over the director's source prefix.
    pub fn spreads_source(&self) -> bool {
        self.encapsulation_byte() & SPREAD_SOURCE != 0
    }
    /// Word 6: where packets leave, taken together.
    #[inline(always)]
    pub fn egress(&self) -> Egress {
        Egress(self.0.load(6))
    }
    /// The service the backend belongs to.
    #[inline(always)]
    pub fn service_id(&self) -> u32 {
        self.0.load(7) as u32
    }
    /// When draining ends, in seconds of CLOCK_BOOTTIME; 0 = not draining.
    pub fn drain_until(&self) -> u32 {
        (self.0.load(7) >> 32) as u32
    }
}

/// Word 6 of a backend record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress(pub u64);

impl Egress {
    /// Packs the three.
    pub fn new(ifindex: u32, outer_sum: u16, vlan: u16) -> Self {
        Self(ifindex as u64 | (outer_sum as u64) << 32 | (vlan as u64) << 48)
    }
    /// Egress interface index.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        self.0 as u32
    }
    /// One's-complement sum of the outer IPv4 header words that are the same in every packet.
    #[inline(always)]
    pub fn outer_sum(self) -> u16 {
        (self.0 >> 32) as u16
    }
    /// VLAN id of the tag that leaving frames get, 1 to 4094; 0 = none.
    #[inline(always)]
    pub fn vlan(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// A MAC address and 16 more bits in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAnd16(pub u64);

impl MacAnd16 {
    /// Packs the two.
    pub fn new(mac: [u8; 6], rest: u16) -> Self {
        let r = rest.to_le_bytes();
        Self(u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], r[0], r[1]]))
    }
    /// The MAC address in packet order.
    #[inline(always)]
    pub fn mac(self) -> [u8; 6] {
        let b = self.0.to_le_bytes();
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }
    /// The other 16 bits.
    #[inline(always)]
    pub fn rest(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Everything a backend record says, by name; what user space builds records from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFields {
    /// Outer destination and source.
    pub destination: Address,
    /// Outer source.
    pub source: Address,
    /// Next hop's MAC.
    pub next_hop_mac: [u8; 6],
    /// MTU towards the next hop, bytes of IP packet.
    pub mtu: u16,
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// State.
    pub state: BackendState,
    /// Outer header.
    pub encapsulation: Encapsulation,
    /// Whether `source` is a network whose host bits are filled in by flow ([`SPREAD_SOURCE`]).
    pub spread_source: bool,
    /// Egress interface index.
    pub ifindex: u32,
    /// VLAN id of the egress tag; 0 = none.
    pub vlan: u16,
    /// Owner.
    pub service_id: u32,
    /// End of draining, seconds of CLOCK_BOOTTIME; 0 = not draining.
    pub drain_until: u32,
}

impl BackendFields {
    /// The record, with the outer header's constant sum computed.
    pub fn record(&self) -> BackendRecord {
        let spread = if self.spread_source { SPREAD_SOURCE } else { 0 };
        let kind = u16::from_le_bytes([self.state as u8, self.encapsulation as u8 | spread]);
        [
            self.destination.0[0],
            self.destination.0[1],
            self.source.0[0],
            self.source.0[1],
            MacAnd16::new(self.next_hop_mac, self.mtu).0,
            MacAnd16::new(self.source_mac, kind).0,
            Egress::new(self.ifindex, self.constant_sum(), self.vlan).0,
            self.service_id as u64 | u64::from(self.drain_until) << 32,
        ]
    }

    /// Sum over version/IHL, flags (DF), TTL 64, protocol, source and destination; native-endian 16-bit words, all
    /// carries folded (RFC 1071). Zero where there is no outer IPv4 header.
    fn constant_sum(&self) -> u16 {
        let Some(protocol) = self.encapsulation.outer_ipv4_protocol() else { return 0 };
        let (s, d) = (self.source.octets(), self.destination.octets());
        let pairs =
            [[0x45, 0], [0x40, 0], [64, protocol], [s[0], s[1]], [s[2], s[3]], [d[0], d[1]], [d[2], d[3]]];
        let mut sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_ne_bytes(*pair))).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}
