//! Answers: what the director itself says to a packet's sender.
//!
//! Owns: echo replies, "fragmentation needed", "packet too big", "unreachable": every byte of them. May not touch:
//! tables; whether an answer is due is the caller's business. Invariant: the answer goes out as the packet came in, behind
//! the same VLAN tags.
//!
//! An error quotes 84 bytes of an IPv4 packet that is too big and 248 of an IPv6 packet: enough for every header, in
//! frames of a fixed size, whose checksum costs the same for all. "Unreachable", which answers packets of any size,
//! quotes what RFC 792 asks for: the IP header and eight bytes.
//!
//! Each answer is a function of its own in BPF, for the sake of its stack.
use crate::encap::OUTER_TTL;
use crate::layers::{Layers, MAX_OFFSET, Parsed};
use crate::link::Link;
use crate::{Frame, NoRoom};
use weir_abi::Family;
use weir_wire::{EtherType, Icmp, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, checksum, icmpv4, icmpv6};
use zerocopy::IntoBytes;

/// Bytes of a packet that is too big which its sender is shown.
const TOO_BIG_QUOTE_V4: usize = 84;
const TOO_BIG_QUOTE_V6: usize = 248;
/// An IP header and eight bytes.
const QUOTE_V4: usize = Ipv4::LEN + 8;
const QUOTE_V6: usize = Ipv6::LEN + 8;
/// No IPv6 sender makes its packets smaller than this (RFC 8200, section 5).
const MIN_MTU_V6: usize = 1280;

/// Makes an echo request its reply, if it is long enough. The packet is whole and has no IPv4 options.
#[inline(never)]
pub(crate) fn echo<F: Frame>(frame: &mut F, parsed: &Parsed) -> bool {
    echo_in_place(frame, &parsed.link, &parsed.layers).is_ok()
}

#[inline(always)]
fn echo_in_place<F: Frame>(frame: &mut F, link: &Link, layers: &Layers) -> Result<(), NoRoom> {
    let l3 = link.len() & 0x1f;
    let reply = match layers.family() {
        Family::V4 => {
            frame.at_mut::<Ipv4>(l3).ok_or(NoRoom)?.turn(OUTER_TTL);
            icmpv4::ECHO_REPLY
        }
        Family::V6 => {
            frame.at_mut::<Ipv6>(l3).ok_or(NoRoom)?.turn(OUTER_TTL);
            icmpv6::ECHO_REPLY
        }
    };
    let head = frame.at_mut::<Icmp>(layers.transport & MAX_OFFSET).ok_or(NoRoom)?;
    head.checksum = match checksum::replace(head.checksum, [head.kind, head.code], [reply, head.code]) {
        // Of a message of nothing but zeros, whose sum is zero, the update makes "minus zero" (RFC 1624, section 3). The
        // other zero is right there, and wherever the sum is not zero both are.
        [0, 0] => [0xff, 0xff],
        check => check,
    };
    head.kind = reply;
    link.turned().write(frame, link.ether_type)
}

/// Tells the sender that its packet is too big for a path whose MTU is `mtu` less what wrapping adds, if there is
/// enough of it to be quoted.
#[inline(never)]
pub(crate) fn too_big<F: Frame>(frame: &mut F, parsed: &Parsed, mtu: usize) -> bool {
    let (link, layers) = (&parsed.link, &parsed.layers);
    let told = match layers.family() {
        Family::V4 => {
            let rest = (mtu as u32 & 0xffff).to_be_bytes();
            let head = Icmp::new(icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, rest);
            error_v4::<F, TOO_BIG_QUOTE_V4>(frame, link, layers, head)
        }
        Family::V6 => {
            let mtu = if mtu < MIN_MTU_V6 { MIN_MTU_V6 } else { mtu };
            let head = Icmp::new(icmpv6::TOO_BIG, 0, (mtu as u32).to_be_bytes());
            error_v6::<F, TOO_BIG_QUOTE_V6>(frame, link, layers, head)
        }
    };
    told.is_ok()
}

/// Tells the sender that nobody is there, likewise.
#[inline(never)]
pub(crate) fn unreachable<F: Frame>(frame: &mut F, parsed: &Parsed) -> bool {
    let (link, layers) = (&parsed.link, &parsed.layers);
    let told = match layers.family() {
        Family::V4 => {
            let head = Icmp::new(icmpv4::UNREACHABLE, icmpv4::HOST, [0; 4]);
            error_v4::<F, QUOTE_V4>(frame, link, layers, head)
        }
        Family::V6 => {
            let head = Icmp::new(icmpv6::UNREACHABLE, icmpv6::ADDRESS, [0; 4]);
            error_v6::<F, QUOTE_V6>(frame, link, layers, head)
        }
    };
    told.is_ok()
}

/// An IPv4 header and the head of an ICMP message.
const HEAD_V4: usize = Ipv4::LEN + Icmp::LEN;
const HEAD_V6: usize = Ipv6::LEN + Icmp::LEN;

/// Makes a packet the error about itself, of which `QUOTE` bytes stay.
#[inline(always)]
fn error_v4<F: Frame, const QUOTE: usize>(
    frame: &mut F,
    link: &Link,
    layers: &Layers,
    mut head: Icmp,
) -> Result<(), NoRoom> {
    let ip = Ipv4::emit(&Ipv4Repr {
        tos: 0,
        total_len: (HEAD_V4 + QUOTE) as u16,
        id: [0; 2],
        ttl: OUTER_TTL,
        protocol: IpProtocol::ICMP,
        source: (layers.destination.0[0] as u32).to_ne_bytes(),
        destination: (layers.source.0[0] as u32).to_ne_bytes(),
    })
    .fragmentable();
    let l3 = frame_for(frame, link, layers, HEAD_V4, QUOTE)?;
    let quote = frame.sum::<QUOTE>(l3 + HEAD_V4).ok_or(NoRoom)?;
    head.checksum = checksum::finish(checksum::sum(head.as_bytes()) + quote);
    *frame.at_mut(l3).ok_or(NoRoom)? = ip;
    *frame.at_mut(l3 + Ipv4::LEN).ok_or(NoRoom)? = head;
    link.turned().write(frame, EtherType::IPV4)
}

/// The same for IPv6.
#[inline(always)]
fn error_v6<F: Frame, const QUOTE: usize>(
    frame: &mut F,
    link: &Link,
    layers: &Layers,
    mut head: Icmp,
) -> Result<(), NoRoom> {
    let len = (Icmp::LEN + QUOTE) as u16;
    let ip = Ipv6::emit(&Ipv6Repr {
        traffic_class: 0,
        flow_label: 0,
        payload_len: len,
        next_header: IpProtocol::ICMPV6,
        hop_limit: OUTER_TTL,
        source: layers.destination.octets(),
        destination: layers.source.octets(),
    });
    let l3 = frame_for(frame, link, layers, HEAD_V6, QUOTE)?;
    let pseudo = checksum::sum(&ip.source)
        + checksum::sum(&ip.destination)
        + len.to_be() as u32
        + u16::from_ne_bytes([0, IpProtocol::ICMPV6.0]) as u32;
    let quote = frame.sum::<QUOTE>(l3 + HEAD_V6).ok_or(NoRoom)?;
    head.checksum = checksum::finish(checksum::sum(head.as_bytes()) + pseudo + quote);
    *frame.at_mut(l3).ok_or(NoRoom)? = ip;
    *frame.at_mut(l3 + Ipv6::LEN).ok_or(NoRoom)? = head;
    link.turned().write(frame, EtherType::IPV6)
}

/// Cuts a packet off behind what is quoted of it and makes room for `head` bytes before it; where the answer's IP header
/// goes.
#[inline(always)]
fn frame_for<F: Frame>(
    frame: &mut F,
    link: &Link,
    layers: &Layers,
    head: usize,
    quote: usize,
) -> Result<usize, NoRoom> {
    let l3 = link.len() & 0x1f;
    if layers.len < quote {
        return Err(NoRoom);
    }
    frame.cut_tail(l3 + quote)?;
    frame.grow_head(head)?;
    Ok(l3)
}
