//! Outer headers: grows the head and writes Ethernet and IP in front of the packet.
//!
//! Owns every byte of the outer header (RFC 2003, RFC 2473, RFC 4213, draft-ietf-intarea-gue; DSCP and ECN by RFC 6040,
//! normal mode). Looks nothing up. Invariant: on success the frame is a complete frame for the backend; on failure it is
//! unchanged.
use crate::layers::Layers;
use crate::link::Link;
use crate::process::Exit;
use crate::{Choice, Frame, Header, gue, parse::Inner};
use core::cmp::Ordering;
use weir_abi::{Address, Backend, Control, Encapsulation, Family, Features, Reason, SPREAD_SOURCE, Words};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, Udp, Vlan, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Hop limit of outer headers (RFC 1700's default TTL).
pub(crate) const OUTER_TTL: u8 = 64;

/// An outer IP header and the UDP header of GUE behind it.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Pair<H> {
    ip: H,
    udp: Udp,
}

/// What a backend's packets travel in, and the bytes that adds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    const IP4_IN_IP4: u8 = Encapsulation::Ip4InIp4 as u8;
    const IP6_IN_IP6: u8 = Encapsulation::Ip6InIp6 as u8;
    const IP4_IN_IP6: u8 = Encapsulation::Ip4InIp6 as u8;
    const IP6_IN_IP4: u8 = Encapsulation::Ip6InIp4 as u8;
    const GUE_IN_IP4: u8 = Encapsulation::GueInIp4 as u8;
    const GUE_IN_IP6: u8 = Encapsulation::GueInIp6 as u8;
    const LAYER_2: u8 = Encapsulation::Layer2 as u8;
    const LOCAL: u8 = Encapsulation::Local as u8;

    /// From the byte in the backend's record.
    #[inline(always)]
    fn of(byte: u8) -> Self {
        Self(byte & !SPREAD_SOURCE)
    }
    /// Of a choice.
    #[inline(always)]
    pub(crate) fn of_choice<W: Words>(choice: &Choice<W>) -> Self {
        Self::of(choice.backend.encapsulation_byte())
    }
    /// Whether packets stay on this machine.
    #[inline(always)]
    pub(crate) fn is_local(self) -> bool {
        self.0 == Self::LOCAL
    }
    /// Bytes the outer header adds; `None` for a number that is none, or not for packets of this family.
    #[inline(always)]
    pub(crate) fn overhead(self, inner: Family) -> Option<usize> {
        match (self.0, inner) {
            (Self::IP4_IN_IP4, Family::V4) | (Self::IP6_IN_IP4, Family::V6) => Some(Ipv4::LEN),
            (Self::IP4_IN_IP6, Family::V4) | (Self::IP6_IN_IP6, Family::V6) => Some(Ipv6::LEN),
            (Self::GUE_IN_IP4, _) => Some(Ipv4::LEN + Udp::LEN),
            (Self::GUE_IN_IP6, _) => Some(Ipv6::LEN + Udp::LEN),
            (Self::LAYER_2, _) => Some(0),
            _ => None,
        }
    }
}

/// Whether [`encapsulate`] does what has to be done to packets for this backend, if they fit.
#[inline(always)]
pub(crate) fn is_plain<W: Words>(control: &Control<W>, inner: Family, backend: &Backend<W>) -> bool {
    let kind = Kind::of(backend.encapsulation_byte());
    let summed = kind.0 == Kind::GUE_IN_IP6 && control.features().has(Features::GUE_CHECKSUM);
    backend.egress().vlan() == 0 && kind.0 != Kind::LAYER_2 && !summed && kind.overhead(inner).is_some()
}

/// Wraps a plain packet for the chosen backend. What is too big, and what is rare, is for the long way.
#[inline(always)]
pub(crate) fn encapsulate<F: Frame, W: Words>(
    frame: &mut F,
    control: &Control<W>,
    inner: &Inner,
    choice: &Choice<W>,
) -> Result<(), Exit> {
    let backend = &choice.backend;
    let (next_hop, origin) = (backend.next_hop(), backend.origin());
    let byte = (origin.rest() >> 8) as u8;
    let kind = Kind::of(byte);
    if backend.egress().vlan() != 0 {
        return Err(Exit::General);
    }
    let Some(overhead) = kind.overhead(inner.family) else { return Err(Exit::General) };
    if inner.len + overhead as u32 > next_hop.rest() as u32 {
        return Err(Exit::General);
    }
    let over = |ether_type| Ethernet::new(next_hop.mac(), origin.mac(), ether_type);
    let written = match kind.0 {
        Kind::IP4_IN_IP4 | Kind::IP6_IN_IP4 => {
            let outer = outer_v4(control, inner, choice, overhead, byte, protocol_of(inner.family));
            write(frame, over(EtherType::IPV4), outer)
        }
        Kind::IP6_IN_IP6 | Kind::IP4_IN_IP6 => {
            let outer = outer_v6(control, inner, choice, 0, byte, protocol_of(inner.family));
            write(frame, over(EtherType::IPV6), outer)
        }
        Kind::GUE_IN_IP4 => {
            let ip = outer_v4(control, inner, choice, overhead, byte, IpProtocol::UDP);
            let udp = gue::header(control, inner, choice.hash, [0; 2]);
            write(frame, over(EtherType::IPV4), Pair { ip, udp })
        }
        Kind::GUE_IN_IP6 if !control.features().has(Features::GUE_CHECKSUM) => {
            let ip = outer_v6(control, inner, choice, Udp::LEN, byte, IpProtocol::UDP);
            let udp = gue::header(control, inner, choice.hash, [0; 2]);
            write(frame, over(EtherType::IPV6), Pair { ip, udp })
        }
        _ => return Err(Exit::General),
    };
    written.map_err(Exit::For)
}

/// Sends any packet on its way to the chosen backend: wraps it, takes its tags off, puts the backend's on. The packet is
/// known to fit.
#[inline(always)]
pub(crate) fn general<F: Frame, W: Words>(
    frame: &mut F,
    link: &Link,
    layers: &Layers,
    control: &Control<W>,
    choice: &Choice<W>,
) -> Result<(), Reason> {
    let backend = &choice.backend;
    let byte = backend.encapsulation_byte();
    let kind = Kind::of(byte);
    let overhead = kind.overhead(layers.family()).ok_or(Reason::TableCorrupt)?;
    let id = match layers.family() {
        Family::V4 => (layers.id as u16).to_ne_bytes(),
        Family::V6 => [0; 2],
    };
    let inner = Inner { family: layers.family(), tos: layers.tos, len: layers.len as u32, id };
    // Of the packet, before the head moves.
    let sum = match kind.0 {
        Kind::GUE_IN_IP6 if control.features().has(Features::GUE_CHECKSUM) => {
            gue::inner_sum(frame, link, layers)
        }
        _ => None,
    };

    let vlan = backend.egress().vlan();
    let l2_len = if vlan == 0 { Ethernet::LEN } else { Ethernet::LEN + Vlan::LEN };
    let (before, after) = (link.len(), l2_len + overhead);
    let moved = match after.cmp(&before) {
        Ordering::Greater => frame.grow_head(after - before),
        Ordering::Less => frame.shrink_head(before - after),
        Ordering::Equal => Ok(()),
    };
    if moved.is_err() {
        return Err(Reason::NoHeadroom);
    }
    let outer_type = match kind.0 {
        Kind::IP4_IN_IP4 | Kind::IP6_IN_IP4 | Kind::GUE_IN_IP4 => EtherType::IPV4,
        Kind::IP6_IN_IP6 | Kind::IP4_IN_IP6 | Kind::GUE_IN_IP6 => EtherType::IPV6,
        _ => match layers.family() {
            Family::V4 => EtherType::IPV4,
            Family::V6 => EtherType::IPV6,
        },
    };
    let first = if vlan == 0 { outer_type } else { EtherType::VLAN };
    put(frame, 0, Ethernet::new(backend.next_hop().mac(), backend.origin().mac(), first))?;
    if vlan != 0 {
        put(frame, Ethernet::LEN, Vlan::new(vlan & 0xfff, outer_type))?;
    }
    match kind.0 {
        Kind::IP4_IN_IP4 | Kind::IP6_IN_IP4 => {
            put(frame, l2_len, outer_v4(control, &inner, choice, overhead, byte, protocol_of(inner.family)))
        }
        Kind::IP6_IN_IP6 | Kind::IP4_IN_IP6 => {
            put(frame, l2_len, outer_v6(control, &inner, choice, 0, byte, protocol_of(inner.family)))
        }
        Kind::GUE_IN_IP4 => {
            let ip = outer_v4(control, &inner, choice, overhead, byte, IpProtocol::UDP);
            let udp = gue::header(control, &inner, choice.hash, [0; 2]);
            put(frame, l2_len, Pair { ip, udp })
        }
        Kind::GUE_IN_IP6 => {
            let ip = outer_v6(control, &inner, choice, Udp::LEN, byte, IpProtocol::UDP);
            let check = sum.map_or([0; 2], |sum| gue::checksum(control, &inner, choice.hash, &ip, sum));
            let udp = gue::header(control, &inner, choice.hash, check);
            put(frame, l2_len, Pair { ip, udp })
        }
        _ => Ok(()),
    }
}

/// The number of the protocol that carries a family.
#[inline(always)]
fn protocol_of(inner: Family) -> IpProtocol {
    match inner {
        Family::V4 => IpProtocol::IPV4,
        Family::V6 => IpProtocol::IPV6,
    }
}

#[inline(always)]
fn outer_v4<W: Words>(
    control: &Control<W>,
    inner: &Inner,
    choice: &Choice<W>,
    overhead: usize,
    byte: u8,
    protocol: IpProtocol,
) -> Ipv4 {
    let backend = &choice.backend;
    let (source, destination) = (backend.source().0[0] as u32, backend.destination().0[0] as u32);
    let spread =
        if byte & SPREAD_SOURCE == 0 { 0 } else { (choice.hash >> 12) as u32 & control.source_mask_v4() };
    let len = (inner.len + overhead as u32) as u16;
    let repr = Ipv4Repr {
        tos: inner.tos,
        total_len: len,
        id: fresh_id(inner, choice.hash),
        ttl: OUTER_TTL,
        protocol,
        source: (source | spread).to_ne_bytes(),
        destination: destination.to_ne_bytes(),
    };
    // The bits that are filled in are zero in the record, so that adding is the same as or-ing.
    let varying = u16::from_ne_bytes([0, repr.tos]) as u32
        + len.to_be() as u32
        + u16::from_ne_bytes(repr.id) as u32
        + (spread & 0xffff)
        + (spread >> 16);
    Ipv4::with_checksum(&repr, checksum::finish(backend.egress().outer_sum() as u32 + varying))
}

/// `between`: bytes between this header and the packet.
#[inline(always)]
fn outer_v6<W: Words>(
    control: &Control<W>,
    inner: &Inner,
    choice: &Choice<W>,
    between: usize,
    byte: u8,
    next_header: IpProtocol,
) -> Ipv6 {
    let Address([high, low]) = choice.backend.source();
    let spreads = byte & SPREAD_SOURCE != 0;
    let spread = if spreads { choice.hash & control.source_mask_v6() } else { 0 };
    // Routers tell flows apart by it (RFC 6438), unless the source or GUE's port does that already: one place is enough.
    let told_apart = spreads || between != 0;
    Ipv6::emit(&Ipv6Repr {
        traffic_class: inner.tos,
        flow_label: if told_apart { 0 } else { (choice.hash >> 12) as u32 },
        payload_len: (inner.len + between as u32) as u16,
        next_header,
        hop_limit: OUTER_TTL,
        source: Address([high, low | spread]).octets(),
        destination: choice.backend.destination().octets(),
    })
}

/// A fresh identification. With DF set any value is allowed (RFC 6864, section 4.1); this one differs between flows and,
/// where the client varies its own, between packets.
#[inline(always)]
fn fresh_id(inner: &Inner, hash: u64) -> [u8; 2] {
    u16::from_ne_bytes(inner.id).wrapping_add((hash >> 16) as u16).to_ne_bytes()
}

/// Moves the head and writes both headers over what is then undefined.
#[inline(always)]
fn write<F: Frame, H: Header>(frame: &mut F, ethernet: Ethernet, outer: H) -> Result<(), Reason> {
    if frame.grow_head(size_of::<H>()).is_err() {
        return Err(Reason::NoHeadroom);
    }
    // Cannot fail: the frame held an Ethernet header before it grew by the outer header's length.
    put(frame, 0, ethernet)?;
    put(frame, Ethernet::LEN, outer)
}

/// Writes a header to where there is room for one.
#[inline(always)]
fn put<F: Frame, H: Header>(frame: &mut F, at: usize, header: H) -> Result<(), Reason> {
    match frame.at_mut::<H>(at) {
        Some(place) => *place = header,
        None => return Err(Reason::NoHeadroom),
    }
    Ok(())
}
