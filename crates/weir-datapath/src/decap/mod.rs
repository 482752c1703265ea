//! What a real server does with a packet from a director: takes the outer header off.
//!
//! Owns: which wrapped packets are unwrapped, the check of what is inside, the move of the Ethernet header and VLAN
//! tags. May not touch: connections, ports but that of GUE, anything behind the inner IP header. Invariant: a packet
//! whose reason says [`Verdict::Pass`](weir_abi::agent::Verdict::Pass) leaves byte-identical, and every packet is counted
//! under exactly one reason.
//!
//! Only a packet that a director sent to one of this machine's own addresses, with a VIP as its inner destination, is
//! unwrapped; so a machine that also forwards or bridges other machines' wrapped packets leaves them whole, and nobody
//! else can smuggle packets past the filters by wrapping them. The outer header's checksums, of IPv4 and of UDP, are not
//! verified: the addresses are compared against known ones, and the inner packet's own checks follow in the kernel. The
//! inner TTL is not touched: the director is no router (RFC 2003, section 3.1).

mod ecn;
mod outer;

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

pub use ecn::ecn_on_exit;

use crate::Frame;
use crate::link::Link;
use outer::{Carries, Outer, Whole};
use weir_abi::agent::{GuePort, Reason};
use weir_abi::{Address, Family};
use weir_wire::{EtherType, Ethernet, Gue, Ipv4, Ipv6, Udp};

/// Bytes at the front of a frame that must be readable for [`unwrap`]: the longest outer header and an inner one.
pub const HEAD_LEN: usize = Ethernet::LEN + Ipv4::MAX_LEN + Udp::LEN + Gue::LEN + Ipv6::LEN;

/// What the agent knows.
pub trait AgentTables {
    /// Whether a director may send from this address.
    fn is_director(&self, family: Family, address: Address) -> bool;
    /// Whether this is one of the machine's own addresses.
    fn is_own(&self, family: Family, address: Address) -> bool;
    /// Whether this is a VIP.
    fn is_vip(&self, family: Family, address: Address) -> bool;
    /// The UDP port that GUE comes to.
    fn gue_port(&self) -> GuePort;
    /// Counts a packet; `bytes` is the length of the frame as it came in.
    fn count(&self, reason: Reason, bytes: u64);
}

/// Unwraps the packet, if it is a director's, and counts it. For frames whose VLAN tag has been taken off (tc): one that
/// has a tag still is passed.
#[inline(always)]
pub fn unwrap<F: Frame, T: AgentTables>(frame: &mut F, tables: &T) -> Reason {
    count(frame, tables, false)
}

/// The same for frames as they were on the wire (XDP): up to two VLAN tags are looked behind, and stay in front.
#[inline(always)]
pub fn unwrap_tagged<F: Frame, T: AgentTables>(frame: &mut F, tables: &T) -> Reason {
    count(frame, tables, true)
}

#[inline(always)]
fn count<F: Frame, T: AgentTables>(frame: &mut F, tables: &T, tagged: bool) -> Reason {
    let bytes = frame.len() as u64;
    let reason = match decide(frame, tables, tagged) {
        Ok(reason) | Err(reason) => reason,
    };
    tables.count(reason, bytes);
    reason
}

#[inline(always)]
fn decide<F: Frame, T: AgentTables>(frame: &mut F, tables: &T, tagged: bool) -> Result<Reason, Reason> {
    if !tagged && frame.at::<Ethernet>(0).is_some_and(|ethernet| ethernet.ether_type().is_vlan()) {
        return Err(Reason::VlanTagged);
    }
    let link = Link::read(frame).ok_or(Reason::NotIp)?;
    let outer = match link.ether_type {
        EtherType::IPV4 => outer::parse_v4(frame, link.len(), || tables.gue_port())?,
        EtherType::IPV6 => outer::parse_v6(frame, link.len(), || tables.gue_port())?,
        other if other.is_vlan() => return Err(Reason::VlanTagged),
        _ => return Err(Reason::NotIp),
    };
    if !tables.is_director(outer.family, outer.source) {
        return Err(Reason::NotDirector);
    }
    if !tables.is_own(outer.family, outer.destination) {
        return Err(Reason::NotOwnAddress);
    }
    match outer.whole {
        Whole::Packet => {}
        Whole::Fragment => return Err(Reason::OuterFragment),
        Whole::BehindExtension => return Err(Reason::OuterExtension),
    }
    let inner = Inner::of(frame, link.len(), &outer)?;
    match inner.family {
        Family::V4 => enter_v4(frame, tables, link.len(), &inner)?,
        Family::V6 => enter_v6(frame, tables, link.len(), &inner)?,
    }
    let (ether_type, done) = unwrapped(&outer, inner.family);
    if frame.shrink_head(inner.behind).is_err() {
        return Err(Reason::CannotShrink);
    }
    link.write(frame, ether_type).map_err(|_| Reason::CannotShrink)?;
    Ok(done)
}

/// Where the inner packet is, and what is known of it from outside.
struct Inner {
    /// Length of all headers that come off, bytes.
    behind: usize,
    /// Bytes there are for it.
    len: usize,
    /// Whether it has to fill them: a datagram holds one packet, and where there is more, the kernel has merged datagrams.
    fills: bool,
    family: Family,
    /// The outer DSCP and ECN.
    ecn: u8,
}

impl Inner {
    /// Whether a packet of `len` bytes may be inside.
    #[inline(always)]
    const fn holds(&self, len: usize) -> bool {
        len == self.len || len < self.len && !self.fills
    }

    #[inline(always)]
    fn of<F: Frame>(frame: &F, at: usize, outer: &Outer) -> Result<Self, Reason> {
        let (gue, family) = match outer.carries {
            Carries::Ip(family) => (0, family),
            Carries::Gue => outer::inside_gue(frame, at + outer.header_len, outer.payload_len)
                .ok_or(Reason::GueUnsupported)?,
        };
        Ok(Self {
            behind: outer.header_len + gue,
            len: outer.payload_len - gue,
            fills: outer.carries == Carries::Gue,
            family,
            ecn: outer.ecn,
        })
    }
}

/// The kind of frame that is left, and the reason.
#[inline(always)]
fn unwrapped(outer: &Outer, inner: Family) -> (EtherType, Reason) {
    let gue = outer.carries == Carries::Gue;
    match (inner, outer.family) {
        (Family::V4, Family::V4) if gue => (EtherType::IPV4, Reason::UnwrappedGue4In4),
        (Family::V4, Family::V6) if gue => (EtherType::IPV4, Reason::UnwrappedGue4In6),
        (Family::V6, Family::V6) if gue => (EtherType::IPV6, Reason::UnwrappedGue6In6),
        (Family::V6, Family::V4) if gue => (EtherType::IPV6, Reason::UnwrappedGue6In4),
        (Family::V4, Family::V4) => (EtherType::IPV4, Reason::Unwrapped4In4),
        (Family::V4, Family::V6) => (EtherType::IPV4, Reason::Unwrapped4In6),
        (Family::V6, Family::V6) => (EtherType::IPV6, Reason::Unwrapped6In6),
        (Family::V6, Family::V4) => (EtherType::IPV6, Reason::Unwrapped6In4),
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
fn enter_v4<F: Frame, T: AgentTables>(
    frame: &mut F,
    tables: &T,
    at: usize,
    inner: &Inner,
) -> Result<(), Reason> {
    let header = frame.at_mut::<Ipv4>(at + inner.behind).ok_or(Reason::InnerMalformed)?;
    if header.version() != 4 || inner.len < Ipv4::LEN {
        return Err(Reason::InnerMalformed);
    }
    if !tables.is_vip(Family::V4, outer::v4_address(header.destination)) {
        return Err(Reason::NotVip);
    }
    let total = header.total_len() as usize;
    if header.header_len() < Ipv4::LEN || total < header.header_len() || !inner.holds(total) {
        return Err(Reason::InnerMalformed);
    }
    let tos = ecn_on_exit(header.tos, inner.ecn).ok_or(Reason::EcnViolation)?;
    if tos != header.tos {
        header.set_tos(tos);
    }
    Ok(())
}

/// Checks the inner IPv6 header and gives it the outer one's congestion mark.
#[inline(always)]
fn enter_v6<F: Frame, T: AgentTables>(
    frame: &mut F,
    tables: &T,
    at: usize,
    inner: &Inner,
) -> Result<(), Reason> {
    let header = frame.at_mut::<Ipv6>(at + inner.behind).ok_or(Reason::InnerMalformed)?;
    if header.version() != 6 || inner.len < Ipv6::LEN {
        return Err(Reason::InnerMalformed);
    }
    if !tables.is_vip(Family::V6, outer::v6_address(header.destination)) {
        return Err(Reason::NotVip);
    }
    if !inner.holds(Ipv6::LEN + header.payload_len() as usize) {
        return Err(Reason::InnerMalformed);
    }
    let class = ecn_on_exit(header.traffic_class(), inner.ecn).ok_or(Reason::EcnViolation)?;
    if class != header.traffic_class() {
        header.set_traffic_class(class);
    }
    Ok(())
}
