//! Services: the open-addressed table that says what is balanced, and how.
//!
//! The map holds two halves. User space builds the whole next table in the half that is not live and then changes the
//! control record's table word, so a lookup never meets a half-built table. Within a live half only word 3 (the ring)
//! and word 5 change in place, each in one store.
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
}

impl ServiceKey {
    /// Word 2 of the record: port, protocol, family. Never zero.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        self.port as u64 | (self.protocol as u64) << 16 | (self.family as u64) << 24
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
/// | 2 | port (bits 0-15), protocol (16-23), family (24-31; 0 = entry empty) |
/// | 3 | ring ([`RingRange`]; 0 = no backend can take a flow) |
/// | 4 | service id (low 32), flags (high 32; none defined yet, zero) |
/// | 5 | epoch (bits 0-15), idle timeout in ticks (16-31), [`NoBackend`] (32-39) |
/// | 6 | fingerprint of the ring; for user space, 0 = no ring |
/// | 7 | reserved, zero |
pub type ServiceRecord = [u64; 8];

/// What happens to a packet of a service that has no backend for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoBackend {
    /// Dropped, with a reason.
    Drop = 0,
    /// Passed to the kernel.
    Pass = 1,
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
    /// Epoch of the service's flow-table entries.
    #[inline(always)]
    pub fn epoch(&self) -> u16 {
        self.0.load(5) as u16
    }
    /// Idle timeout in ticks.
    #[inline(always)]
    pub fn idle_ticks(&self) -> u32 {
        (self.0.load(5) >> 16) as u16 as u32
    }
    /// Whether packets without a backend are passed to the kernel (else dropped).
    #[inline(always)]
    pub fn passes_without_backend(&self) -> bool {
        (self.0.load(5) >> 32) as u8 == NoBackend::Pass as u8
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
        Some(ServiceKey { vip, family, protocol: (word >> 16) as u8, port: word as u16 })
    }
    /// Points the service at another ring; one store.
    pub fn set_ring(&self, ring: RingRange) {
        self.0.store(3, ring.0);
    }
    /// Notes the ring's fingerprint (user space only).
    pub fn set_fingerprint(&self, fingerprint: u64) {
        self.0.store(6, fingerprint);
    }
    /// Writes the words after the ring's: id, epoch, idle timeout (clamped to 12 bits), behaviour without backend.
    pub fn set_policy(&self, id: u32, epoch: u16, idle_ticks: u32, no_backend: NoBackend) {
        self.0.store(4, id as u64);
        self.0.store(5, policy_word(epoch, idle_ticks, no_backend));
    }
    /// Writes the key words, the one that makes the entry non-empty last.
    pub fn set_key(&self, key: &ServiceKey) {
        self.0.store(0, key.vip.0[0]);
        self.0.store(1, key.vip.0[1]);
        self.0.store(2, key.word());
    }
}

/// Word 5 of a service record: epoch, idle timeout (clamped to 12 bits), behaviour without backend.
pub fn policy_word(epoch: u16, idle_ticks: u32, no_backend: NoBackend) -> u64 {
    let idle = if idle_ticks > 0xfff { 0xfff } else { idle_ticks };
    epoch as u64 | (idle as u64) << 16 | (no_backend as u64) << 32
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
