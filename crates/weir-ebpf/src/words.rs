//! Words behind a map value.
use weir_abi::Words;

/// A map value of `N` words, which user space and other CPUs write at any time.
#[derive(Clone, Copy)]
pub struct MapWords<const N: usize>(*mut [u64; N]);

impl<const N: usize> MapWords<N> {
    /// Wraps what a map lookup returned.
    ///
    /// # Safety
    /// `value` must point to a map value of `N` words, 8-byte aligned, for as long as this program invocation runs.
    #[inline(always)]
    pub unsafe fn new(value: *mut [u64; N]) -> Self {
        Self(value)
    }
}

impl<const N: usize> Words for MapWords<N> {
    #[inline(always)]
    fn load(&self, index: usize) -> u64 {
        if index >= N {
            return 0;
        }
        // SAFETY: inside the map value (`new`'s contract and the check).
        let cell = unsafe { self.0.cast::<u64>().add(index) };
        // SAFETY: as above; a volatile load of an aligned word is one instruction: neither torn nor repeated.
        unsafe { cell.read_volatile() }
    }
    #[inline(always)]
    fn store(&self, index: usize, word: u64) {
        if index >= N {
            return;
        }
        // SAFETY: inside the map value, as for `load`.
        let cell = unsafe { self.0.cast::<u64>().add(index) };
        // SAFETY: as above; one instruction.
        unsafe { cell.write_volatile(word) }
    }
}
