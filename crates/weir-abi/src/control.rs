//! The control record: what the datapath needs to know before it looks at a packet.
use crate::{ServiceTable, Words};

/// First half of word 0: tells a weir control map from anything else ("weir").
pub const MAGIC: u32 = 0x7765_6972;

/// The control record as stored: 64 bytes.
///
/// | word | content |
/// | --- | --- |
/// | 0 | [`MAGIC`] (low 32), ABI version (high 32) |
/// | 1 | live service table and its seed ([`ServiceTable`]) |
/// | 2 | [`Features`] |
/// | 3, 4 | secret key of the flow hash |
/// | 5 | flow bucket mask (low 32; number of buckets - 1), tick shift (bits 32-39): tick = jiffies >> shift; log2 of the number of fragment buckets (40-47) |
/// | 6 | bits of an outer IPv4 source that are filled in by flow (low 32, packet order) |
/// | 7 | the same of an outer IPv6 source: of its last eight bytes, packet order |
pub type ControlRecord = [u64; 8];

/// A view of the control record.
#[derive(Clone, Copy, Debug)]
pub struct Control<W>(pub W);

impl<W: Words> Control<W> {
    /// Word 0 of a control record of this build.
    pub const IDENTITY: u64 = MAGIC as u64 | (crate::ABI_VERSION as u64) << 32;

    /// Magic and ABI version.
    #[inline(always)]
    pub fn identity(&self) -> u64 {
        self.0.load(0)
    }
    /// The live half of the service table.
    #[inline(always)]
    pub fn service_table(&self) -> ServiceTable {
        ServiceTable(self.0.load(1))
    }
    /// Makes another table the live one; one store.
    pub fn set_service_table(&self, table: ServiceTable) {
        self.0.store(1, table.0);
    }
    /// Secret key of the flow hash.
    #[inline(always)]
    pub fn hash_key(&self) -> [u64; 2] {
        [self.0.load(3), self.0.load(4)]
    }
    /// Number of flow buckets less one (a power of two less one).
    #[inline(always)]
    pub fn flow_mask(&self) -> u32 {
        self.0.load(5) as u32
    }
    /// Jiffies are shifted right by this to get flow-table ticks.
    #[inline(always)]
    pub fn tick_shift(&self) -> u32 {
        (self.0.load(5) >> 32) as u32 & 0x3f
    }
    /// Number of buckets of the fragment table less one.
    #[inline(always)]
    pub fn fragment_mask(&self) -> u32 {
        (1u32 << ((self.0.load(5) >> 40) as u32 & 0x1f)) - 1
    }
    /// Writes word 5: buckets of the flow table less one, the clock's rate, log2 of the buckets of the fragment table.
    pub fn set_geometry(&self, flow_mask: u32, tick_shift: u32, fragment_log2: u32) {
        let clock = u64::from(tick_shift & 0x3f) << 32;
        self.0.store(5, flow_mask as u64 | clock | u64::from(fragment_log2 & 0x1f) << 40);
    }
    /// What the director does besides balancing.
    #[inline(always)]
    pub fn features(&self) -> Features {
        Features(self.0.load(2))
    }
    /// Replaces it; one store.
    pub fn set_features(&self, features: Features) {
        self.0.store(2, features.0);
    }
    /// Bits of an outer IPv4 source that are filled in by flow, as they stand in the packet.
    #[inline(always)]
    pub fn source_mask_v4(&self) -> u32 {
        self.0.load(6) as u32
    }
    /// Bits of the last eight bytes of an outer IPv6 source that are filled in by flow, as they stand in the packet.
    #[inline(always)]
    pub fn source_mask_v6(&self) -> u64 {
        self.0.load(7)
    }
    /// Writes both.
    pub fn set_source_masks(&self, v4: u32, v6: u64) {
        self.0.store(6, v4 as u64);
        self.0.store(7, v6);
    }
    /// Writes the hash key. Only before the programs are attached: a new key moves every flow.
    pub fn set_hash_key(&self, key: [u64; 2]) {
        self.0.store(3, key[0]);
        self.0.store(4, key[1]);
    }
    /// Writes magic and version.
    pub fn set_identity(&self) {
        self.0.store(0, Self::IDENTITY);
    }
}

/// What the director does besides balancing, in one word.
///
/// | bits | content |
/// | --- | --- |
/// | 0-7 | flags, the constants below |
/// | 16-31 | UDP destination port of GUE, packet order |
/// | 32-63 | ICMP errors a CPU may send in a tick |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Echo requests to VIPs are answered.
    pub const ANSWER_ECHO: u8 = 1;
    /// Who sends what does not fit once wrapped is told.
    pub const SEND_TOO_BIG: u8 = 1 << 1;
    /// There are services for whole prefixes: an address that is no VIP must be looked up among them.
    pub const PREFIXES: u8 = 1 << 2;
    /// There are addresses to which wrapped packets may come.
    pub const DECAPSULATE: u8 = 1 << 3;
    /// The UDP checksum of GUE over IPv6 is computed; without it, it is zero (RFC 6935).
    pub const GUE_CHECKSUM: u8 = 1 << 4;

    /// Packs the three; `gue_port` in host order.
    pub fn new(flags: u8, gue_port: u16, error_budget: u32) -> Self {
        Self(flags as u64 | u64::from(gue_port.to_be()) << 16 | (error_budget as u64) << 32)
    }
    /// Whether a flag is set.
    #[inline(always)]
    pub fn has(self, flag: u8) -> bool {
        self.0 as u8 & flag != 0
    }
    /// UDP destination port of GUE as it stands in the packet.
    #[inline(always)]
    pub fn gue_port(self) -> u16 {
        (self.0 >> 16) as u16
    }
    /// ICMP errors a CPU may send in a tick.
    #[inline(always)]
    pub fn error_budget(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
