//! Outer headers: grows the head and writes Ethernet and IP in front of the packet.
//!
//! Owns every byte of the outer header (RFC 2003, RFC 2473; DSCP and ECN by RFC 6040, normal mode). Looks nothing up.
//! Invariant: on success the frame is a complete frame for the backend; on failure it is unchanged.
use crate::{Choice, Frame, parse::Inner};
use weir_abi::{Encapsulation, Family, Reason, Words};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, checksum};

/// Hop limit of outer headers (RFC 1700's default TTL).
const OUTER_TTL: u8 = 64;

/// Wraps the packet for the chosen backend.
#[inline(always)]
pub(crate) fn encapsulate<F: Frame, W: Words>(
    frame: &mut F,
    inner: &Inner,
    choice: &Choice<W>,
) -> Result<(), Reason> {
    let backend = &choice.backend;
    let (next_hop, origin) = (backend.next_hop(), backend.origin());
    let kind = (origin.rest() >> 8) as u8;
    let overhead = if kind == Encapsulation::Ip4InIp4 as u8 { Ipv4::LEN } else { Ipv6::LEN };
    let len = inner.len + overhead as u32;
    if len > next_hop.rest() as u32 {
        return Err(Reason::TooBig);
    }
    let protocol = match inner.family {
        Family::V4 => IpProtocol::IPV4,
        Family::V6 => IpProtocol::IPV6,
    };

    if kind == Encapsulation::Ip4InIp4 as u8 {
        if !matches!(inner.family, Family::V4) {
            return Err(Reason::TableCorrupt);
        }
        let (source, destination) = (backend.source().0[0] as u32, backend.destination().0[0] as u32);
        let repr = Ipv4Repr {
            tos: inner.tos,
            total_len: len as u16,
            id: fresh_id(inner, choice.hash),
            ttl: OUTER_TTL,
            protocol,
            source: source.to_ne_bytes(),
            destination: destination.to_ne_bytes(),
        };
        let varying = u16::from_ne_bytes([0, repr.tos]) as u32
            + (len as u16).to_be() as u32
            + u16::from_ne_bytes(repr.id) as u32;
        let outer = Ipv4::with_checksum(&repr, checksum::finish(backend.outer_sum() as u32 + varying));
        write(frame, Ethernet::new(next_hop.mac(), origin.mac(), EtherType::IPV4), outer)
    } else if kind == Encapsulation::Ip6InIp6 as u8 || kind == Encapsulation::Ip4InIp6 as u8 {
        let repr = Ipv6Repr {
            traffic_class: inner.tos,
            flow_label: (choice.hash >> 12) as u32,
            payload_len: inner.len as u16,
            next_header: protocol,
            hop_limit: OUTER_TTL,
            source: backend.source().octets(),
            destination: backend.destination().octets(),
        };
        write(frame, Ethernet::new(next_hop.mac(), origin.mac(), EtherType::IPV6), Ipv6::emit(&repr))
    } else {
        Err(Reason::TableCorrupt)
    }
}

/// A fresh identification. With DF set any value is allowed (RFC 6864, section 4.1); this one differs between flows and,
/// where the client varies its own, between packets.
#[inline(always)]
fn fresh_id(inner: &Inner, hash: u64) -> [u8; 2] {
    u16::from_ne_bytes(inner.id).wrapping_add((hash >> 16) as u16).to_ne_bytes()
}

/// Moves the head and writes both headers over what is then undefined.
#[inline(always)]
fn write<F: Frame, H: crate::Header>(frame: &mut F, ethernet: Ethernet, outer: H) -> Result<(), Reason> {
    if frame.grow_head(size_of::<H>()).is_err() {
        return Err(Reason::NoHeadroom);
    }
    // Cannot fail: the frame held an Ethernet header before it grew by the outer header's length.
    match frame.at_mut::<Ethernet>(0) {
        Some(at) => *at = ethernet,
        None => return Err(Reason::NoHeadroom),
    }
    match frame.at_mut::<H>(Ethernet::LEN) {
        Some(at) => *at = outer,
        None => return Err(Reason::NoHeadroom),
    }
    Ok(())
}
