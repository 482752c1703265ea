//! Services: the open-addressed table that says what is balanced, and how.
//!
//! The map holds two halves. User space builds the whole next table in the half that is not live and then changes the
//! control record's table word, so a lookup never meets a half-built table. Within a live half only word 3 (the ring),
//! word 5 (the policy) and the turn in word 7 change in place, each in one store.
use crate::{Address, Family, RingRange, Words};

/// What a packet must carry to belong to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Address,
    /// Family of the VIP.
    pub family: Family,
    /// IP protocol number; 0 marks the entry that says "this address is a VIP", whatever the protocol.
    pub protocol: u8,
    /// Destination port in network byte order as it stands in the packet (a native-endian load); 0 = every port.
    pub port: u16,
    /// 0: one address. Else the service is for a whole prefix of this length, and `vip` is the network's address.
    pub prefix_len: u8,
}

impl ServiceKey {
    /// Word 2 of the record: port, protocol, family, prefix length. Never zero.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        self.port as u64
            | (self.protocol as u64) << 16
            | (self.family as u64) << 24
            | (self.prefix_len as u64) << 32
    }
    /// The key of the entry that marks this key's VIP as ours.
    #[must_use]
    #[inline(always)]
    pub fn vip_only(self) -> Self {
        Self { protocol: 0, port: 0, ..self }
    }
}

/// A service as stored: 64 bytes, one cache line. All zero = empty entry, which ends a probe sequence.
///
/// | word | content |
/// | --- | --- |
/// | 0, 1 | VIP |
/// | 2 | port (bits 0-15), protocol (16-23), family (24-31; 0 = entry empty), prefix length (32-39; 0 = one address) |
/// | 3 | ring ([`RingRange`]; 0 = no backend can take a flow) |
/// | 4 | service id (low 32), [`Traits`] (high 32; 0 = a service like most, for which the short way through the datapath is enough) |
/// | 5 | [`Policy`] |
/// | 6 | fingerprint of the ring; for user space, 0 = no ring |
/// | 7 | source list (low 32; 0 = none), whose turn it is (high 32; written by the datapath) |
pub type ServiceRecord = [u64; 8];

/// What happens to a packet of a service that has no backend for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoBackend {
    /// Dropped, with a reason.
    Drop = 0,
    /// Passed to the kernel.
    Pass = 1,
    /// Answered with an ICMP error: host unreachable (RFC 792), address unreachable (RFC 4443).
    Unreachable = 2,
}

impl NoBackend {
    /// The behaviour with this number; an unknown one drops.
    #[inline(always)]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Pass,
            2 => Self::Unreachable,
            _ => Self::Drop,
        }
    }
}

/// Which parts of a flow choose its slot in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HashFields {
    /// All of the 5-tuple.
    Flow = 0,
    /// The source address.
    Source = 1,
    /// The source address and the destination port.
    SourceAndPort = 2,
    /// The destination port.
    Port = 3,
    /// Source and destination port.
    Ports = 4,
}

/// Where in a packet the id of a server is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerIds {
    /// Nowhere.
    None = 0,
    /// In QUIC connection ids of Katran's layouts 1, 2 and 3.
    Quic = 1,
    /// In QUIC connection ids of the plaintext form of QUIC-LB (draft-ietf-quic-load-balancers).
    QuicLb = 2,
    /// Behind the byte 0x52 at the beginning of a UDP payload, as in Katran's layout 2.
    UdpStable = 3,
    /// In the TCP option 0xb7.
    TcpOption = 4,
}

/// What is special about a service; zero for most.
///
/// | bits | content |
/// | --- | --- |
/// | 0-2 | [`HashFields`] |
/// | 3-5 | [`ServerIds`] |
/// | 6-15 | flags, the constants below |
/// | 16-31 | [`Budget`] |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traits(pub u32);

impl Traits {
    /// The flow table remembers the source (as far as it counts) instead of the flow.
    pub const PERSISTENT: u32 = 1 << 6;
    /// New flows take the ring's slots in turn.
    pub const TURNS: u32 = 1 << 7;
    /// Flows are not remembered.
    pub const UNTRACKED: u32 = 1 << 8;
    /// There is a source list.
    pub const SOURCES: u32 = 1 << 9;
    /// Sources that are not in the list are denied.
    pub const DENY_OTHERS: u32 = 1 << 10;
    /// Not a service: wrapped packets to this address are unwrapped.
    pub const DECAPSULATE: u32 = 1 << 11;

    /// Packs them.
    pub fn new(hash: HashFields, server_ids: ServerIds, flags: u32, budget: Budget) -> Self {
        Self(hash as u32 | (server_ids as u32) << 3 | flags & 0xffc0 | (budget.0 as u32) << 16)
    }
    /// Whether a flag is set.
    #[inline(always)]
    pub fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
    /// Which parts of a flow choose its slot; an unknown number reads as all of it.
    #[inline(always)]
    pub fn hash(self) -> HashFields {
        match self.0 & 7 {
            1 => HashFields::Source,
            2 => HashFields::SourceAndPort,
            3 => HashFields::Port,
            4 => HashFields::Ports,
            _ => HashFields::Flow,
        }
    }
    /// Where server ids are found; an unknown number reads as nowhere.
    #[inline(always)]
    pub fn server_ids(self) -> ServerIds {
        match self.0 >> 3 & 7 {
            1 => ServerIds::Quic,
            2 => ServerIds::QuicLb,
            3 => ServerIds::UdpStable,
            4 => ServerIds::TcpOption,
            _ => ServerIds::None,
        }
    }
    /// How many flows may be remembered in a tick.
    #[inline(always)]
    pub fn budget(self) -> Budget {
        Budget((self.0 >> 16) as u16)
    }
}

/// A number of flows: 12 bits of it (bits 0-11), shifted left by four more (12-15). Zero: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Budget(pub u16);

impl Budget {
    /// No limit.
    pub const UNLIMITED: Self = Self(0);

    /// The least budget that is not below `flows` (at most 4095 << 15); zero is no limit.
    pub fn at_least(flows: u32) -> Self {
        let (mut value, mut shift) = (flows, 0);
        while value > 0xfff && shift < 15 {
            value = value.div_ceil(2);
            shift += 1;
        }
        Self((if value > 0xfff { 0xfff } else { value }) as u16 | shift << 12)
    }
    /// The number; zero is no limit.
    #[inline(always)]
    pub fn flows(self) -> u32 {
        (self.0 as u32 & 0xfff) << (self.0 >> 12)
    }
}

/// Word 5 of a service record.
///
/// | bits | content |
/// | --- | --- |
/// | 0-15 | epoch of the service's flow-table entries |
/// | 16-27 | idle timeout in ticks |
/// | 32-39 | [`NoBackend`] |
/// | 40-47 | bits of the source address that count where it is hashed by itself; 0 = all |
/// | 48-50 | QUIC-LB: config rotation |
/// | 51-53 | QUIC-LB: length of a server id, bytes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy(pub u64);

impl Policy {
    /// Epoch, idle timeout (clamped to 12 bits) and behaviour without backend.
    pub fn new(epoch: u16, idle_ticks: u32, no_backend: NoBackend) -> Self {
        let idle = if idle_ticks > 0xfff { 0xfff } else { idle_ticks };
        Self(epoch as u64 | (idle as u64) << 16 | (no_backend as u64) << 32)
    }
    /// With the number of leading bits of the source address that count; 0 = all.
    #[must_use]
    pub fn with_source_prefix(self, len: u8) -> Self {
        Self(self.0 & !(0xff << 40) | (len as u64) << 40)
    }
    /// With the parameters of QUIC-LB: config rotation 0 to 6, server ids of 1 to 4 bytes.
    #[must_use]
    pub fn with_quic_lb(self, rotation: u8, id_len: u8) -> Self {
        Self(self.0 & !(0x3f << 48) | u64::from(rotation & 7) << 48 | u64::from(id_len & 7) << 51)
    }
    /// Epoch.
    #[inline(always)]
    pub fn epoch(self) -> u16 {
        self.0 as u16
    }
    /// Idle timeout in ticks.
    #[inline(always)]
    pub fn idle_ticks(self) -> u32 {
        (self.0 >> 16) as u32 & 0xfff
    }
    /// What happens to a packet without a backend.
    #[inline(always)]
    pub fn no_backend(self) -> NoBackend {
        NoBackend::from_byte((self.0 >> 32) as u8)
    }
    /// Leading bits of the source address that count; 0 = all.
    #[inline(always)]
    pub fn source_prefix(self) -> u8 {
        (self.0 >> 40) as u8
    }
    /// QUIC-LB: config rotation, and length of a server id in bytes.
    #[inline(always)]
    pub fn quic_lb(self) -> (u8, u8) {
        ((self.0 >> 48) as u8 & 7, (self.0 >> 51) as u8 & 7)
    }
}

/// A view of a service record.
#[derive(Clone, Copy, Debug)]
pub struct Service<W>(pub W);

impl<W: Words> Service<W> {
    /// Whether the entry is empty.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.load(2) == 0
    }
    /// Whether the entry is for this key.
    #[inline(always)]
    pub fn matches(&self, key: &ServiceKey) -> bool {
        self.0.load(2) == key.word() && self.0.load(0) == key.vip.0[0] && self.0.load(1) == key.vip.0[1]
    }
    /// The ring's place.
    #[inline(always)]
    pub fn ring(&self) -> RingRange {
        RingRange(self.0.load(3))
    }
    /// Service id; a backend names the service it belongs to by it.
    #[inline(always)]
    pub fn id(&self) -> u32 {
        self.0.load(4) as u32
    }
    /// What is special about it.
    #[inline(always)]
    pub fn traits(&self) -> Traits {
        Traits((self.0.load(4) >> 32) as u32)
    }
    /// Word 5.
    #[inline(always)]
    pub fn policy(&self) -> Policy {
        Policy(self.0.load(5))
    }
    /// The source list; 0 = none.
    #[inline(always)]
    pub fn source_list(&self) -> u32 {
        self.0.load(7) as u32
    }
    /// Takes a turn: a number that is one higher each time, modulo 2^32. (CPUs that race may take the same one.)
    #[inline(always)]
    pub fn take_turn(&self) -> u32 {
        // In the high half, so that its carry is lost instead of reaching the source list.
        (self.0.add(7, 1 << 32) >> 32) as u32
    }
    /// Fingerprint of the ring.
    pub fn fingerprint(&self) -> u64 {
        self.0.load(6)
    }
    /// The key, `None` when the entry is empty or holds no known family.
    pub fn key(&self) -> Option<ServiceKey> {
        let word = self.0.load(2);
        let family = match (word >> 24) as u8 {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let vip = Address([self.0.load(0), self.0.load(1)]);
        let (protocol, prefix_len) = ((word >> 16) as u8, (word >> 32) as u8);
        Some(ServiceKey { vip, family, protocol, port: word as u16, prefix_len })
    }
    /// Points the service at another ring; one store.
    pub fn set_ring(&self, ring: RingRange) {
        self.0.store(3, ring.0);
    }
    /// Notes the ring's fingerprint (user space only).
    pub fn set_fingerprint(&self, fingerprint: u64) {
        self.0.store(6, fingerprint);
    }
    /// Writes the words after the ring's: id, traits, policy.
    pub fn set_policy(&self, id: u32, traits: Traits, policy: Policy) {
        self.0.store(4, id as u64 | (traits.0 as u64) << 32);
        self.0.store(5, policy.0);
    }
    /// Writes the source list, and begins the turns anew.
    pub fn set_source_list(&self, list: u32) {
        self.0.store(7, list as u64);
    }
    /// Writes the key words, the one that makes the entry non-empty last.
    pub fn set_key(&self, key: &ServiceKey) {
        self.0.store(0, key.vip.0[0]);
        self.0.store(1, key.vip.0[1]);
        self.0.store(2, key.word());
    }
}

/// Which part of the service map is live, and how keys are spread over it: base (bits 0-23), log2 of the number of
/// entries (24-31), seed of [`service_index`] (32-63). All in one word, because a reader must never meet a table with
/// another table's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceTable(pub u64);

impl ServiceTable {
    /// A table of `1 << log2_size` entries beginning at entry `base` (24 bits), built under `seed`.
    pub fn new(base: u32, log2_size: u32, seed: u32) -> Self {
        Self(u64::from(base & 0xff_ffff) | u64::from(log2_size & 0x1f) << 24 | (seed as u64) << 32)
    }
    /// First entry.
    #[inline(always)]
    pub fn base(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }
    /// Entries less one.
    #[inline(always)]
    pub fn mask(self) -> u32 {
        (1u32 << ((self.0 >> 24) as u32 & 0x1f)) - 1
    }
    /// Seed of the table's index function.
    #[inline(always)]
    pub fn seed(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Where the probe sequence of `key` begins, before masking.
///
/// A multilinear mix, not a secret hash: who is balanced is the operator's choice and user space picks a `seed` under
/// which no probe sequence is longer than [`MAX_PROBES`](crate::MAX_PROBES).
#[inline(always)]
pub fn service_index(key: &ServiceKey, seed: u32) -> u32 {
    let seed = (seed as u64 + 1).wrapping_mul(0x8ebc_6af0_9c88_c6e3);
    let mut x = (key.vip.0[0] ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = x.wrapping_add((key.vip.0[1] ^ seed).wrapping_mul(0xd6e8_feb8_6659_fd93));
    x = x.wrapping_add((key.word() ^ seed).wrapping_mul(0xa076_1d64_78bd_642f));
    x ^= x >> 32;
    (x.wrapping_mul(0xe703_7ed1_a0b4_28db) >> 32) as u32
}
