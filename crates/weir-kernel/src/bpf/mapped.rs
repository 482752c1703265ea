//! Array maps as memory: records read and written without a system call.
//!
//! Owns: the mapping of one `BPF_F_MMAPABLE` array. May not touch: what the words mean (weir-abi).
//! Invariant: user space only ever sees the memory as atomic 64-bit words inside the map's bounds.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{Error, RawMap, sys};

/// A mapped array of records, each of `N` 64-bit words.
///
/// A store is seen by the programs as soon as the CPU's caches agree; there is no order between words but what
/// `Ordering` gives. Dropping unmaps; the map itself lives as long as a pin, a program or a descriptor holds it.
#[derive(Debug)]
pub struct Mapped<const N: usize> {
    base: NonNull<[AtomicU64; N]>,
    len: u32,
    bytes: NonZeroUsize,
}

// SAFETY: the memory is a kernel object's, not tied to a thread, and only reached through atomics.
unsafe impl<const N: usize> Send for Mapped<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Mapped<N> {}

impl<const N: usize> Mapped<N> {
    /// Maps the whole of `map`, which must be an array with values of `8 * N` bytes made with `BPF_F_MMAPABLE`.
    pub fn new(map: &RawMap) -> Result<Self, Error> {
        let info = map.info();
        let fits = info.map_type == sys::MAP_TYPE_ARRAY
            && info.value_size as usize == 8 * N
            && info.flags & weir_abi::map::F_MMAPABLE != 0;
        if !fits {
            return Err(Error::Shape {
                map: map.name().to_owned(),
                why: format!("it is no mappable array of {}-byte values", 8 * N),
            });
        }
        Self::map(map.as_fd(), info.max_entries)
            .map_err(Error::doing(format!("map the table {} into memory", map.name())))
    }

    fn map(fd: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(8 * N * len as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses a length past the map's end.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { base: base.cast(), len, bytes })
    }

    /// Number of records.
    #[expect(clippy::len_without_is_empty, reason = "the kernel makes no empty array")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The record at `index`, `None` past the end. [`weir_abi::Words`] is implemented for it.
    pub fn record(&self, index: u32) -> Option<&[AtomicU64; N]> {
        if index >= self.len {
            return None;
        }
        // SAFETY: index < len, and len records were mapped.
        let record = unsafe { self.base.add(index as usize) };
        // SAFETY: mapped memory, page-aligned at its base, as long-lived as self; atomics may be shared with the kernel.
        Some(unsafe { record.as_ref() })
    }

    /// All records in order.
    pub fn records(&self) -> impl Iterator<Item = &[AtomicU64; N]> {
        (0..self.len).filter_map(|index| self.record(index))
    }
}

impl Mapped<1> {
    /// The word at `index`, `None` past the end.
    pub fn slot(&self, index: u32) -> Option<&AtomicU64> {
        self.record(index).map(|[word]| word)
    }
}

impl<const N: usize> Drop for Mapped<N> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, whole; references into it borrow self and are gone.
        if let Err(error) = unsafe { munmap(self.base.cast(), self.bytes.get()) } {
            tracing::warn!(%error, "cannot unmap a table");
        }
    }
}
