//! Lowering the segment size that a VIP announces, so that what clients send still fits when a director has wrapped it.
//!
//! Owns: finding the MSS option (RFC 9293, section 3.7.1) of SYN and SYN-ACK segments from a VIP. May not touch: any
//! other packet or option. Invariant: the announced size is never raised, and a packet whose reason says
//! [`Clamp::Untouched`](weir_abi::agent::Clamp::Untouched) leaves byte-identical.

use crate::Frame;
use weir_abi::agent::{ClampReason, SegmentLimits};
use weir_abi::{Address, Family};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Tcp, checksum, tcp_flags};

/// Bytes at the front of a frame that must be readable for [`clamp`]: the longest headers.
pub const HEAD_LEN: usize = Ethernet::LEN + Ipv4::MAX_LEN + Tcp::LEN + MAX_OPTIONS;

/// What the clamp knows.
pub trait SegmentTables {
    /// Whether this is a VIP.
    fn is_vip(&self, family: Family, address: Address) -> bool;
    /// The largest segment sizes to announce.
    fn limits(&self) -> SegmentLimits;
    /// Counts a packet; `bytes` is the length of the frame.
    fn count(&self, reason: ClampReason, bytes: u64);
}

/// A leaving frame. Its TCP checksum may not be there yet (left to the hardware), so only its owner can mend it.
pub trait LeavingFrame: Frame {
    /// Makes the TCP checksum at `offset` right after one 16-bit word under it changed from `old` to `new`.
    ///
    /// Where the checksum is still to be computed, this changes nothing.
    fn mend_checksum(&mut self, offset: usize, old: [u8; 2], new: [u8; 2]);
}

/// The checksum update of a frame whose checksum is complete, for implementations in memory.
pub fn mend_complete<F: Frame>(frame: &mut F, offset: usize, old: [u8; 2], new: [u8; 2]) {
    if let Some(field) = frame.at_mut::<[u8; 2]>(offset) {
        *field = checksum::replace(*field, old, new);
    }
}

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;
/// Most bytes of options in a TCP header.
const MAX_OPTIONS: usize = 40;
/// Where the checksum stands in the TCP header.
const CHECKSUM_AT: usize = 16;

/// Lowers the announced segment size where it is too large, and counts the packet.
#[inline(always)]
pub fn clamp<F: LeavingFrame, T: SegmentTables>(frame: &mut F, tables: &T) -> ClampReason {
    let bytes = frame.len() as u64;
    let reason = match decide(frame, tables) {
        Ok(found) => {
            lower(frame, &found);
            ClampReason::Lowered
        }
        Err(reason) => reason,
    };
    tables.count(reason, bytes);
    reason
}

/// An option that has to change.
struct Found {
    tcp_at: usize,
    /// Where the option is, from the beginning of the TCP header.
    option_at: usize,
    old: [u8; 2],
    new: [u8; 2],
}

#[inline(always)]
fn decide<F: Frame, T: SegmentTables>(frame: &F, tables: &T) -> Result<Found, ClampReason> {
    let ethernet = frame.at::<Ethernet>(0).ok_or(ClampReason::NotSyn)?;
    let (family, source, tcp_at) = match ethernet.ether_type() {
        EtherType::IPV4 => {
            let header = frame.at::<Ipv4>(Ethernet::LEN).ok_or(ClampReason::Malformed)?;
            if header.protocol() != IpProtocol::TCP || header.is_fragment() {
                return Err(ClampReason::NotSyn);
            }
            if header.header_len() < Ipv4::LEN {
                return Err(ClampReason::Malformed);
            }
            (
                Family::V4,
                Address::from(core::net::Ipv4Addr::from(header.source)),
                Ethernet::LEN + header.header_len(),
            )
        }
        EtherType::IPV6 => {
            let header = frame.at::<Ipv6>(Ethernet::LEN).ok_or(ClampReason::Malformed)?;
            if header.next_header() != IpProtocol::TCP {
                return Err(ClampReason::NotSyn);
            }
            (Family::V6, Address::from(core::net::Ipv6Addr::from(header.source)), Ethernet::LEN + Ipv6::LEN)
        }
        _ => return Err(ClampReason::NotSyn),
    };
    let tcp = frame.at::<Tcp>(tcp_at).ok_or(ClampReason::Malformed)?;
    if tcp.flags & tcp_flags::SYN == 0 {
        return Err(ClampReason::NotSyn);
    }
    let header_len = tcp.header_len();
    if !tables.is_vip(family, source) {
        return Err(ClampReason::NotFromVip);
    }
    let (option_at, old) = find_mss(frame, tcp_at, header_len)?;
    let limit = tables.limits().of(family);
    if limit == 0 || u16::from_be_bytes(old) <= limit {
        return Err(ClampReason::Fits);
    }
    Ok(Found { tcp_at, option_at, old, new: limit.to_be_bytes() })
}

/// An MSS option: kind, length, value.
type MssOption = [u8; MSS_LEN as usize];

/// Where the MSS option is, from the beginning of the TCP header, and its value.
#[inline(always)]
fn find_mss<F: Frame>(frame: &F, tcp_at: usize, header_len: usize) -> Result<(usize, [u8; 2]), ClampReason> {
    let mut at = Tcp::LEN;
    for _ in 0..MAX_OPTIONS {
        // The mask changes nothing (a header has at most 60 bytes); it tells the verifier so, and that in each round
        // alike, which keeps the number of states it must look at small.
        at &= 0x3f;
        // What is shorter than the option looked for, up to the end of the header, needs no look.
        if at + MSS_LEN as usize > header_len {
            return Err(ClampReason::NoOption);
        }
        let &[kind, len, high, low] = frame.at::<MssOption>(tcp_at + at).ok_or(ClampReason::Malformed)?;
        match kind {
            END_OF_OPTIONS => return Err(ClampReason::NoOption),
            NO_OPERATION => at += 1,
            _ if len < 2 || at + len as usize > header_len => return Err(ClampReason::Malformed),
            MSS if len == MSS_LEN => return Ok((at, [high, low])),
            MSS => return Err(ClampReason::Malformed),
            _ => at += len as usize,
        }
    }
    Err(ClampReason::NoOption)
}

#[inline(always)]
fn lower<F: LeavingFrame>(frame: &mut F, found: &Found) {
    let Some(option) = frame.at_mut::<MssOption>(found.tcp_at + found.option_at) else { return };
    option[2..].copy_from_slice(&found.new);
    // An option may begin at an odd byte; its value then lies across two of the checksum's words, and counts as if its
    // bytes were swapped (RFC 1071, section 2B).
    let as_summed = |value: [u8; 2]| if found.option_at & 1 == 1 { [value[1], value[0]] } else { value };
    frame.mend_checksum(found.tcp_at + CHECKSUM_AT, as_summed(found.old), as_summed(found.new));
}

#[cfg(test)]
mod tests;
