//! Rings: which backend a slot of a service's Maglev table means.

/// One slot of a ring, one word.
///
/// | bits | content |
/// | --- | --- |
/// | 0-19 | current backend |
/// | 20-39 | origin: the backend before the first change since the slot last settled; equal to current when settled |
/// | 40 | converging |
/// | 41-63 | zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RingSlot(pub u64);

impl RingSlot {
    /// Number of bits of a backend id.
    pub const BACKEND_BITS: u32 = 20;
    const MASK: u64 = (1 << Self::BACKEND_BITS) - 1;

    /// A slot at rest.
    pub fn settled(backend: u32) -> Self {
        let id = backend as u64 & Self::MASK;
        Self(id | id << 20)
    }
    /// The backend new flows go to.
    #[inline(always)]
    pub fn current(self) -> u32 {
        (self.0 & Self::MASK) as u32
    }
    /// The backend flows older than the change went to.
    #[inline(always)]
    pub fn origin(self) -> u32 {
        (self.0 >> 20 & Self::MASK) as u32
    }
    /// Whether flows of this slot may be on more than one backend.
    #[inline(always)]
    pub fn converging(self) -> bool {
        self.0 >> 40 & 1 == 1
    }
}

/// Where a ring lies in the ring map: base slot (bits 0-31), log2 of its size (32-39), present bit (40). One word, so
/// that a ring of another size or place becomes current in one store. Zero = no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RingRange(pub u64);

impl RingRange {
    /// The absent ring.
    pub const NONE: Self = Self(0);

    /// A ring of `1 << log2_size` slots at `base`.
    pub fn new(base: u32, log2_size: u32) -> Self {
        Self(base as u64 | u64::from(log2_size & 0x1f) << 32 | 1 << 40)
    }
    /// Whether there is a ring.
    #[inline(always)]
    pub fn is_present(self) -> bool {
        self.0 >> 40 & 1 == 1
    }
    /// First slot.
    #[inline(always)]
    pub fn base(self) -> u32 {
        self.0 as u32
    }
    /// Number of slots less one.
    #[inline(always)]
    pub fn mask(self) -> u32 {
        (1u32 << ((self.0 >> 32) as u32 & 0x1f)) - 1
    }
    /// Number of slots (0 when absent).
    pub fn slots(self) -> u32 {
        if self.is_present() { self.mask() + 1 } else { 0 }
    }
}
