//! Where in the ring map there is room.
//!
//! Owns: the choice of a free range. Invariant: ranges handed out are aligned to their size, lie within the map and
//! overlap neither each other nor what was in use to begin with.

use std::collections::BTreeMap;

use weir_abi::RingRange;

/// The ranges in use: from first slot to the slot after the last.
#[derive(Debug)]
pub(crate) struct Ranges {
    slots: u32,
    used: BTreeMap<u32, u32>,
}

impl Ranges {
    /// A map of `slots` slots of which these ranges are in use.
    pub(crate) fn new(slots: u32, used: impl IntoIterator<Item = RingRange>) -> Self {
        let used = used
            .into_iter()
            .filter(|range| range.is_present())
            .map(|range| (range.base(), range.base().saturating_add(range.slots())));
        Self { slots, used: used.collect() }
    }

    /// A free range of `1 << log2_size` slots, as low as possible.
    pub(crate) fn take(&mut self, log2_size: u32) -> Option<RingRange> {
        let size = 1_u64 << log2_size;
        let mut candidate = 0_u64;
        for (&from, &to) in &self.used {
            if candidate + size <= u64::from(from) {
                break;
            }
            candidate = candidate.max(u64::from(to).next_multiple_of(size));
        }
        if candidate + size > u64::from(self.slots) {
            return None;
        }
        let base = candidate as u32;
        self.used.insert(base, base + size as u32);
        Some(RingRange::new(base, log2_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_and_ranges_are_aligned() {
        let used = [RingRange::new(0, 8), RingRange::new(512, 9), RingRange::NONE];
        let mut ranges = Ranges::new(4096, used);
        assert_eq!(ranges.take(8), Some(RingRange::new(256, 8)));
        assert_eq!(ranges.take(8), Some(RingRange::new(1024, 8)));
        assert_eq!(ranges.take(11), Some(RingRange::new(2048, 11)));
        assert_eq!(ranges.take(10), None);
        assert_eq!(ranges.take(9), Some(RingRange::new(1536, 9)));
    }

    #[test]
    fn an_empty_map_has_room_for_one_ring_of_its_size() {
        let mut ranges = Ranges::new(256, []);
        assert_eq!(ranges.take(8), Some(RingRange::new(0, 8)));
        assert_eq!(ranges.take(8), None);
    }
}
