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
/// | 2 | reserved, zero |
/// | 3, 4 | secret key of the flow hash |
/// | 5 | flow bucket mask (low 32; number of buckets - 1), tick shift (bits 32-39): tick = jiffies >> shift |
/// | 6, 7 | reserved, zero |
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
    /// Writes word 5.
    pub fn set_flow_geometry(&self, mask: u32, tick_shift: u32) {
        self.0.store(5, mask as u64 | u64::from(tick_shift & 0x3f) << 32);
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
