//! The maps of the loaded program.
//!
//! Owns: what is read from and written to them, as the records of `weir_abi::iptunnel`. Decides nothing.

use weir_abi::iptunnel::{DROPS, DropReason, MTU, RXCNT, RXCNT_ENTRIES, Tunnel, VIP2TNL, Vip};
use weir_kernel::bpf::{Error, Loaded, RawMap};

use super::stats::Totals;

/// `BPF_ANY` and `BPF_NOEXIST`.
const ANY: u64 = 0;
const NOEXIST: u64 = 1;

/// The program's maps.
pub(super) struct Tables {
    vip2tnl: RawMap,
    rxcnt: RawMap,
    drops: RawMap,
    mtu: RawMap,
}

impl Tables {
    /// The maps of a loaded object.
    pub(super) fn of(loaded: &Loaded) -> Result<Self, Error> {
        Ok(Self {
            vip2tnl: loaded.map(VIP2TNL)?,
            rxcnt: loaded.map(RXCNT)?,
            drops: loaded.map(DROPS)?,
            mtu: loaded.map(MTU)?,
        })
    }

    /// Fills `vip2tnl`, which must not have these keys.
    pub(super) fn insert(&self, mut keys: impl Iterator<Item = Vip>, tunnel: &Tunnel) -> Result<(), Error> {
        keys.try_for_each(|vip| self.vip2tnl.set(&vip.to_bytes(), &tunnel.to_bytes(), NOEXIST))
    }

    /// Replaces the values of these keys, each from one packet to the next.
    pub(super) fn replace(&self, mut keys: impl Iterator<Item = Vip>, tunnel: &Tunnel) -> Result<(), Error> {
        keys.try_for_each(|vip| self.vip2tnl.set(&vip.to_bytes(), &tunnel.to_bytes(), ANY))
    }

    /// Tells the program the interface's MTU in bytes.
    pub(super) fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        self.mtu.set(&0u32.to_ne_bytes(), &mtu.to_ne_bytes(), ANY)
    }

    /// Packets wrapped so far, by protocol.
    pub(super) fn wrapped(&self) -> Result<Totals, Error> {
        let mut totals = [0; RXCNT_ENTRIES as usize];
        for (total, value) in totals.iter_mut().zip(self.rxcnt.values(RXCNT_ENTRIES)?) {
            *total = sum(&value);
        }
        Ok(totals)
    }

    /// Packets dropped so far for this reason.
    pub(super) fn dropped(&self, reason: DropReason) -> Result<u64, Error> {
        Ok(self.drops.get(&(reason as u32).to_ne_bytes())?.map_or(0, |value| sum(&value)))
    }
}

/// The sum of all CPUs' counters.
fn sum(value: &[u8]) -> u64 {
    let (words, _) = value.as_chunks();
    words.iter().map(|word| u64::from_ne_bytes(*word)).fold(0, u64::wrapping_add)
}
