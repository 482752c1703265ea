//! Waiting until no program run sees old words.
//!
//! Every run of an XDP or tc program is inside an RCU read-side section (the driver's NAPI poll for XDP). A grace period
//! ends only when every section that was open at its start has closed: a run that loaded a word before the grace period
//! began has ended when it is over, and a run that starts later loads what was stored before.
//!
//! Updating an array of maps waits for exactly that before it returns ("so that user space knows that all programs that
//! could be running use the new map value", `maybe_wait_bpf_programs()` in kernel/bpf/syscall.c, since Linux 5.0). So a
//! scratch array of maps with one element serves as the call. membarrier(2) would do it too on most machines, but
//! returns at once on one CPU (where a preempted run may be waiting) and is refused with `nohz_full`.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{Error, sys};

/// A way to wait for grace periods.
#[derive(Debug)]
pub struct Grace {
    inner: OwnedFd,
    outer: OwnedFd,
}

impl Grace {
    /// Makes the scratch maps.
    pub fn new() -> Result<Self, Error> {
        let make = || -> io::Result<Self> {
            let inner = sys::map_create(sys::MAP_TYPE_ARRAY, 4, 4, 1, None)?;
            let outer = sys::map_create(sys::MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, Some(inner.as_fd()))?;
            Ok(Self { inner, outer })
        };
        make().map_err(Error::doing("make the map that grace periods are waited with"))
    }

    /// Returns when every program run that was going on at the call has ended. Takes some tens of milliseconds.
    pub fn wait(&self) -> Result<(), Error> {
        use std::os::fd::AsRawFd as _;
        let value = self.inner.as_raw_fd().to_ne_bytes();
        // SAFETY: an array of maps has 4-byte keys, and takes a 4-byte descriptor as the value.
        unsafe { sys::map_update(self.outer.as_fd(), &0u32.to_ne_bytes(), &value, 0) }
            .map_err(Error::doing("wait for running programs to end"))
    }
}
