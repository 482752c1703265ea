//! How many slots a ring has.
//!
//! Owns: the permitted sizes and the automatic choice. Invariant: a [`RingSize`] is a power of two from 256 to 2^20.

/// The number of slots of a ring: a power of two, [`RingSize::MIN`] to [`RingSize::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingSize(u32);

/// Slots for a backend: enough that one slot more or less is one per cent.
const SLOTS_PER_BACKEND: u64 = 100;

/// How much larger than for equal weights a ring may be made for the sake of its lightest member.
const MAX_GROWTH_FOR_WEIGHTS: u64 = 16;

impl RingSize {
    /// The smallest ring: 256 slots.
    pub const MIN: Self = Self(1 << 8);
    /// The largest ring: 1048576 slots.
    pub const MAX: Self = Self(1 << 20);

    /// `None` unless `slots` is a power of two from 256 to 1048576.
    pub const fn new(slots: u32) -> Option<Self> {
        if slots.is_power_of_two() && slots >= Self::MIN.0 && slots <= Self::MAX.0 {
            Some(Self(slots))
        } else {
            None
        }
    }

    /// The size for so many backends of equal weight: at least 100 slots for each, as far as [`RingSize::MAX`] goes.
    pub const fn for_members(members: usize) -> Self {
        Self::at_least((members as u64).saturating_mul(SLOTS_PER_BACKEND))
    }

    /// The size for backends of these weights (zeroes do not count): at least 100 slots for the *lightest*, so that
    /// every weight is met within 1 %. For the sake of one light backend the ring grows to at most 16 times what as
    /// many equal backends would get; beyond that, and beyond [`RingSize::MAX`], the lightest are met less exactly.
    ///
    /// The order of the weights makes no difference.
    pub fn automatic(weights: impl IntoIterator<Item = u32>) -> Self {
        let (mut members, mut total, mut lightest) = (0_u64, 0_u64, u64::MAX);
        for weight in weights.into_iter().map(u64::from).filter(|&weight| weight > 0) {
            members += 1;
            total += weight;
            lightest = lightest.min(weight);
        }
        if members == 0 {
            return Self::MIN;
        }
        let equal = members.saturating_mul(SLOTS_PER_BACKEND);
        let wanted = total.saturating_mul(SLOTS_PER_BACKEND).div_ceil(lightest);
        Self::at_least(wanted.min(equal.saturating_mul(MAX_GROWTH_FOR_WEIGHTS)))
    }

    /// The number of slots.
    pub const fn slots(self) -> u32 {
        self.0
    }

    /// What a flow's hash is masked with to find its slot: one less than the number of slots.
    pub const fn mask(self) -> u32 {
        self.0 - 1
    }

    const fn at_least(slots: u64) -> Self {
        if slots >= Self::MAX.0 as u64 {
            Self::MAX
        } else if slots <= Self::MIN.0 as u64 {
            Self::MIN
        } else {
            Self((slots as u32).next_power_of_two())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_range_are_sizes() {
        assert_eq!(RingSize::new(256), Some(RingSize::MIN));
        assert_eq!(RingSize::new(1 << 20), Some(RingSize::MAX));
        for refused in [0, 1, 128, 255, 257, 65537, (1 << 20) + 1, 1 << 21, u32::MAX] {
            assert_eq!(RingSize::new(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_hundred_slots_for_each_backend() {
        let sizes =
            [0, 1, 2, 3, 10, 100, 1000, 10_000, 10_486, usize::MAX].map(|n| RingSize::for_members(n).slots());
        assert_eq!(sizes, [256, 256, 256, 512, 1024, 16384, 131_072, 1 << 20, 1 << 20, 1 << 20]);
    }

    #[test]
    fn equal_weights_are_as_good_as_none() {
        for n in [1, 3, 100, 2000] {
            assert_eq!(RingSize::automatic(vec![7; n]), RingSize::for_members(n));
        }
    }

    #[test]
    fn the_lightest_member_gets_its_hundred_slots_within_reason() {
        assert_eq!(RingSize::automatic([1, 10]).slots(), 2048, "1100 wanted");
        assert_eq!(RingSize::automatic([1, 0, 10, 0]).slots(), 2048, "zeroes do not count");
        assert_eq!(RingSize::automatic([1, 65535]).slots(), 4096, "16 times 200, rounded up");
        assert_eq!(RingSize::automatic([u32::MAX; 3]).slots(), 512);
        assert_eq!(RingSize::automatic([0, 0]).slots(), 256);
    }
}
