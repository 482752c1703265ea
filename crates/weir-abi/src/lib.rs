//! Every byte that weir's user space shares with its BPF programs, and nothing else.
//!
//! Owns: map names, record layouts, bit packing, reasons, [`ABI_VERSION`]. Holds no policy and does no I/O.
//!
//! Every shared record is an array of 64-bit *words*, read and written one word at a time ([`Words`]). A word is never
//! torn: the kernel side loads it in one instruction, user space writes it through an `mmap` of the same page with one
//! store. So everything that must change together lives in one word (a ring's base *and* size, a next-hop MAC *and*
//! the MTU behind it), and no lock is needed. Invariant: a record keeps its size and its words their meaning as long
//! as [`ABI_VERSION`] stays.
//!
//! Addresses and ports are kept in network byte order exactly as they stand in a packet; a word made of such bytes is
//! their native-endian load, so that comparing words compares bytes. Only little-endian machines are supported (the BPF
//! objects are built for `bpfel`).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod agent;
mod backend;
mod control;
mod flow;
pub mod iptunnel;
pub mod map;
mod reason;
mod ring;
mod service;
mod source;

pub use backend::{
    Backend, BackendFields, BackendRecord, BackendState, Egress, Encapsulation, MacAnd16, NO_BACKEND_ID,
    SPREAD_SOURCE,
};
pub use control::{Control, ControlRecord, Features, MAGIC};
pub use flow::{FLOWS_PER_BUCKET, FlowEntry, TIME_BITS};
pub use reason::{Count, Reason, Verdict};
pub use ring::{RingRange, RingSlot};
pub use service::{
    Budget, HashFields, NoBackend, Policy, ServerIds, Service, ServiceKey, ServiceRecord, ServiceTable,
    Traits, service_index,
};
pub use source::{PrefixKey, ServerKey, SourceRule};

/// Version of everything in this crate. A pin made under another version is never reused.
pub const ABI_VERSION: u32 = 1;

/// Longest probe sequence in the service table, in entries. User space builds the table so that no key needs more.
pub const MAX_PROBES: u32 = 4;

/// A shared record, one 64-bit word at a time.
///
/// Implementations load and store single words without tearing: volatile accesses in BPF, atomics on the host.
/// `index` is in words; implementations return 0 for (and ignore stores to) an index outside the record.
pub trait Words {
    /// The word at `index`.
    fn load(&self, index: usize) -> u64;
    /// Replaces the word at `index`.
    fn store(&self, index: usize, word: u64);
    /// Adds to the word at `index`, wrapping, and returns it as it was. A load and a store: of CPUs that race, one may be
    /// forgotten.
    #[inline(always)]
    fn add(&self, index: usize, by: u64) -> u64 {
        let word = self.load(index);
        self.store(index, word.wrapping_add(by));
        word
    }
}

impl<const N: usize> Words for [core::sync::atomic::AtomicU64; N] {
    fn load(&self, index: usize) -> u64 {
        self.get(index).map_or(0, |word| word.load(core::sync::atomic::Ordering::Relaxed))
    }
    fn store(&self, index: usize, word: u64) {
        if let Some(cell) = self.get(index) {
            cell.store(word, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl<const N: usize> Words for [core::cell::Cell<u64>; N] {
    fn load(&self, index: usize) -> u64 {
        self.get(index).map_or(0, core::cell::Cell::get)
    }
    fn store(&self, index: usize, word: u64) {
        if let Some(cell) = self.get(index) {
            cell.set(word);
        }
    }
}

impl<W: Words + ?Sized> Words for &W {
    fn load(&self, index: usize) -> u64 {
        (**self).load(index)
    }
    fn store(&self, index: usize, word: u64) {
        (**self).store(index, word);
    }
}

/// An IPv4 or IPv6 address as two words in packet byte order; an IPv4 address is the first four bytes, the rest zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Address(pub [u64; 2]);

impl Address {
    /// The 16 bytes in packet order.
    pub fn octets(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&self.0[1].to_ne_bytes());
        bytes
    }
}

impl From<core::net::Ipv4Addr> for Address {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self([u32::from_ne_bytes(address.octets()) as u64, 0])
    }
}

impl From<core::net::Ipv6Addr> for Address {
    fn from(address: core::net::Ipv6Addr) -> Self {
        let o = address.octets();
        Self([
            u64::from_ne_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]),
            u64::from_ne_bytes([o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]]),
        ])
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => v4.into(),
            core::net::IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl Address {
    /// The address as the standard type; `family` says how to read the bytes.
    pub fn to_ip(self, family: Family) -> core::net::IpAddr {
        let o = self.octets();
        match family {
            Family::V6 => core::net::IpAddr::V6(o.into()),
            Family::V4 => core::net::IpAddr::V4([o[0], o[1], o[2], o[3]].into()),
        }
    }
}

/// Address family, as stored in records (the numbers are the IP versions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: core::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}
