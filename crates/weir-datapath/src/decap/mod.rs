//! What a real server does with a packet from a director: takes the outer header off.
//!
//! Owns: which wrapped packets are unwrapped, the check of what is inside, the move of the Ethernet header. May not
//! touch: connections, ports, anything behind the inner IP header. Invariant: a packet whose reason says
//! [`Verdict::Pass`](weir_abi::agent::Verdict::Pass) leaves byte-identical, and every packet is counted under exactly
//! one reason.
//!
//! Only a packet that a director sent to one of this machine's own addresses, with a VIP as its inner destination, is
//! unwrapped; so a machine that also forwards or bridges other machines' wrapped packets leaves them whole, and nobody
//! else can smuggle packets past the filters by wrapping them. The outer header's checksum is not verified: the addresses
//! are compared against known ones, and the inner packet's own checks follow in the kernel. The inner TTL is not
//! touched: the director is no router (RFC 2003, section 3.1).

mod ecn;
mod outer;

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

pub use ecn::ecn_on_exit;

use crate::Frame;
use outer::{Outer, Whole};
use weir_abi::agent::Reason;
use weir_abi::{Address, Family};
use weir_wire::{EtherType, Ethernet, Ipv4, Ipv6};

/// Bytes at the front of a frame that must be readable for [`unwrap`]: the longest outer header and an inner one.
pub const HEAD_LEN: usize = Ethernet::LEN + Ipv4::MAX_LEN + Ipv6::LEN;

/// What the agent knows.
pub trait AgentTables {
    /// Whether a director may send from this address.
    fn is_director(&self, family: Family, address: Address) -> bool;
    /// Whether this is one of the machine's own addresses.
    fn is_own(&self, family: Family, address: Address) -> bool;
    /// Whether this is a VIP.
    fn is_vip(&self, family: Family, address: Address) -> bool;
    /// Counts a packet; `bytes` is the length of the frame as it came in.
    fn count(&self, reason: Reason, bytes: u64);
}

/// Unwraps the packet, if it is a director's, and counts it.
#[inline(always)]
pub fn unwrap<F: Frame, T: AgentTables>(frame: &mut F, tables: &T) -> Reason {
    let bytes = frame.len() as u64;
    let reason = decide(frame, tables);
    tables.count(reason, bytes);
    reason
}

#[inline(always)]
fn decide<F: Frame, T: AgentTables>(frame: &mut F, tables: &T) -> Reason {
    let Some(&ethernet) = frame.at::<Ethernet>(0) else { return Reason::NotIp };
    let parsed = match ethernet.ether_type() {
        EtherType::IPV4 => outer::parse_v4(frame),
        EtherType::IPV6 => outer::parse_v6(frame),
        other if other.is_vlan() => return Reason::VlanTagged,
        _ => return Reason::NotIp,
    };
    let outer = match parsed {
        Ok(outer) => outer,
        Err(reason) => return reason,
    };
    if !tables.is_director(outer.family, outer.source) {
        return Reason::NotDirector;
    }
    if !tables.is_own(outer.family, outer.destination) {
        return Reason::NotOwnAddress;
    }
    match outer.whole {
        Whole::Packet => {}
        Whole::Fragment => return Reason::OuterFragment,
        Whole::BehindExtension => return Reason::OuterExtension,
    }
    let checked = match outer.inner {
        Family::V4 => enter_v4(frame, tables, &outer),
        Family::V6 => enter_v6(frame, tables, &outer),
    };
    match checked {
        Ok(()) => strip(frame, ethernet, &outer),
        Err(reason) => reason,
    }
}

/// Whether removing `by` bytes of outer header leaves a packet of another family, and which; for frames whose owner keeps
/// the family beside the bytes.
#[inline(always)]
pub fn family_change<F: Frame>(frame: &F, by: usize) -> Option<Family> {
    let version = |offset| frame.at::<[u8; 2]>(offset).map_or(0, |first| first[0] >> 4);
    let inner = version(Ethernet::LEN + by);
    if inner == version(Ethernet::LEN) {
        return None;
    }
    match inner {
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        _ => None,
    }
}

/// Checks the inner IPv4 header and gives it the outer one's congestion mark.
#[inline(always)]
fn enter_v4<F: Frame, T: AgentTables>(frame: &mut F, tables: &T, outer: &Outer) -> Result<(), Reason> {
    let header = frame.at_mut::<Ipv4>(Ethernet::LEN + outer.header_len).ok_or(Reason::InnerMalformed)?;
    if header.version() != 4 || outer.payload_len < Ipv4::LEN {
        return Err(Reason::InnerMalformed);
    }
    if !tables.is_vip(Family::V4, outer::v4_address(header.destination)) {
        return Err(Reason::NotVip);
    }
    let total = header.total_len() as usize;
    if header.header_len() < Ipv4::LEN || total < header.header_len() || total > outer.payload_len {
        return Err(Reason::InnerMalformed);
    }
    let tos = ecn_on_exit(header.tos, outer.ecn).ok_or(Reason::EcnViolation)?;
    if tos != header.tos {
        header.set_tos(tos);
    }
    Ok(())
}

/// Checks the inner IPv6 header and gives it the outer one's congestion mark.
#[inline(always)]
fn enter_v6<F: Frame, T: AgentTables>(frame: &mut F, tables: &T, outer: &Outer) -> Result<(), Reason> {
    let header = frame.at_mut::<Ipv6>(Ethernet::LEN + outer.header_len).ok_or(Reason::InnerMalformed)?;
    if header.version() != 6 || outer.payload_len < Ipv6::LEN {
        return Err(Reason::InnerMalformed);
    }
    if !tables.is_vip(Family::V6, outer::v6_address(header.destination)) {
        return Err(Reason::NotVip);
    }
    if Ipv6::LEN + header.payload_len() as usize > outer.payload_len {
        return Err(Reason::InnerMalformed);
    }
    let class = ecn_on_exit(header.traffic_class(), outer.ecn).ok_or(Reason::EcnViolation)?;
    if class != header.traffic_class() {
        header.set_traffic_class(class);
    }
    Ok(())
}

/// Removes the outer header; the Ethernet header moves up to the inner one and names its kind.
#[inline(always)]
fn strip<F: Frame>(frame: &mut F, ethernet: Ethernet, outer: &Outer) -> Reason {
    let (ether_type, done) = match (outer.inner, outer.family) {
        (Family::V4, Family::V4) => (EtherType::IPV4, Reason::Unwrapped4In4),
        (Family::V4, Family::V6) => (EtherType::IPV4, Reason::Unwrapped4In6),
        (Family::V6, Family::V6) => (EtherType::IPV6, Reason::Unwrapped6In6),
        (Family::V6, Family::V4) => (EtherType::IPV6, Reason::Unwrapped6In4),
    };
    if frame.shrink_head(outer.header_len).is_err() {
        return Reason::CannotShrink;
    }
    match frame.at_mut::<Ethernet>(0) {
        Some(header) => *header = Ethernet::new(ethernet.destination, ethernet.source, ether_type),
        None => return Reason::CannotShrink,
    }
    done
}
