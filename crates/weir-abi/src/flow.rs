//! Flow-table entries: one word a flow, eight to a bucket, a bucket to a cache line.

/// Entries in one bucket.
pub const FLOWS_PER_BUCKET: usize = 8;
/// Width of the coarse time in an entry; it wraps after `1 << TIME_BITS` ticks.
pub const TIME_BITS: u32 = 12;

const TIME_MASK: u32 = (1 << TIME_BITS) - 1;

/// One remembered flow.
///
/// | bits | content |
/// | --- | --- |
/// | 0 | valid (always 1: an empty entry is zero and matches nothing) |
/// | 1 | confirmed: a packet after the first was seen |
/// | 2-13 | tick of the last packet, modulo 4096 |
/// | 14-33 | backend id |
/// | 34-63 | tag: 30 bits of the flow's hash, mixed with the service's epoch |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowEntry(pub u64);

impl FlowEntry {
    const CONFIRMED: u64 = 1 << 1;

    /// A new entry.
    #[inline(always)]
    pub fn new(tag: u32, backend: u32, tick: u32, confirmed: bool) -> Self {
        let body = u64::from(backend & 0xf_ffff) << 14 | u64::from(tick & TIME_MASK) << 2 | 1;
        Self((tag as u64) << 34 | body | if confirmed { Self::CONFIRMED } else { 0 })
    }
    /// The tag of a flow under an epoch: the hash's high 30 bits, moved by the epoch so that entries of another epoch
    /// do not match.
    #[inline(always)]
    pub fn tag_of(hash: u64, epoch: u16) -> u32 {
        ((hash >> 34) as u32 ^ (epoch as u32).wrapping_mul(0x9e37_79b1)) & 0x3fff_ffff
    }
    /// Whether this is a valid entry with this tag.
    #[inline(always)]
    pub fn matches(self, tag: u32) -> bool {
        (self.0 >> 34) as u32 == tag && self.0 & 1 == 1
    }
    /// Whether the entry holds a flow.
    #[inline(always)]
    pub fn is_valid(self) -> bool {
        self.0 & 1 == 1
    }
    /// Whether a packet after the first was seen.
    #[inline(always)]
    pub fn is_confirmed(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }
    /// The flow's backend.
    #[inline(always)]
    pub fn backend(self) -> u32 {
        (self.0 >> 14) as u32 & 0xf_ffff
    }
    /// Tick of the last packet.
    #[inline(always)]
    pub fn tick(self) -> u32 {
        (self.0 >> 2) as u32 & TIME_MASK
    }
    /// Ticks since the last packet, modulo the clock's wrap.
    #[inline(always)]
    pub fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.tick()) & TIME_MASK
    }
    /// The entry after another packet at `now`.
    #[must_use]
    #[inline(always)]
    pub fn touched(self, now: u32, confirm: bool) -> Self {
        let cleared = self.0 & !(u64::from(TIME_MASK) << 2);
        Self(cleared | u64::from(now & TIME_MASK) << 2 | if confirm { Self::CONFIRMED } else { 0 })
    }
    /// How much an entry is worth keeping: the least valuable is replaced first. Empty, then expired, then unconfirmed
    /// (oldest first), then confirmed (oldest first).
    #[inline(always)]
    pub fn worth(self, now: u32, idle_ticks: u32) -> u32 {
        let age = self.age(now);
        if !self.is_valid() {
            0
        } else if age > idle_ticks {
            1
        } else {
            (if self.is_confirmed() { 1 << (TIME_BITS + 1) } else { 2 }) + (TIME_MASK - age)
        }
    }
}
