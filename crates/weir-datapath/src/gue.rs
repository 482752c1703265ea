//! GUE variant 1: UDP, then the packet itself (draft-ietf-intarea-gue, section 4).
//!
//! Owns the UDP header and its checksum. May not touch: the packet inside. Invariant: a checksum that is written is right
//! if the checksums inside are; where it cannot be had without reading the whole packet it is zero (RFC 6935).
use crate::layers::{Layers, MAX_OFFSET, Part};
use crate::link::Link;
use crate::{Frame, parse::Inner};
use weir_abi::{Address, Control, Family, Words};
use weir_wire::{IpProtocol, Ipv6, Ports, Udp, checksum};
use zerocopy::IntoBytes;

/// Source ports are of the dynamic range, 49152 to 65535; what is left of the 16 bits tells flows apart.
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// The UDP header in front of a packet.
#[inline(always)]
pub(crate) fn header<W: Words>(control: &Control<W>, inner: &Inner, hash: u64, check: [u8; 2]) -> Udp {
    let ports = Ports {
        source: ((hash >> 20) as u16 | FIRST_SOURCE_PORT).to_be_bytes(),
        destination: control.features().gue_port().to_ne_bytes(),
    };
    Udp::between(ports, (inner.len + Udp::LEN as u32) as u16, check)
}

/// The checksum of the UDP header over IPv6, where the inner packet's sum is `sum`.
#[inline(always)]
pub(crate) fn checksum<W: Words>(
    control: &Control<W>,
    inner: &Inner,
    hash: u64,
    ip: &Ipv6,
    sum: u16,
) -> [u8; 2] {
    let udp = header(control, inner, hash, [0; 2]);
    let total = checksum::sum(&ip.source)
        + checksum::sum(&ip.destination)
        + checksum::sum(udp.as_bytes())
        // Of the pseudo-header (RFC 8200, section 8.1): length and protocol.
        + udp.length().to_be() as u32
        + u16::from_ne_bytes([0, IpProtocol::UDP.0]) as u32
        + sum as u32;
    match checksum::finish(total) {
        // Zero would say that there is none.
        [0, 0] => [0xff, 0xff],
        check => check,
    }
}

/// The sum of a packet's 16-bit words, folded, worked out from its headers: a transport segment with a right checksum sums
/// to the complement of its pseudo-header, and an IPv4 header to nothing (RFC 1071). `None`: not without reading all of it.
#[inline(always)]
pub(crate) fn inner_sum<F: Frame>(frame: &F, link: &Link, layers: &Layers) -> Option<u16> {
    if layers.part != Part::Whole {
        return None;
    }
    let pseudo = |protocol: IpProtocol| {
        let length = (layers.payload as u16).to_be() as u32;
        words(layers.source) + words(layers.destination) + length + u16::from_ne_bytes([0, protocol.0]) as u32
    };
    let segment = match (layers.family(), layers.protocol) {
        (_, IpProtocol::UDP) => {
            // What it does not sum itself is not known: nothing of it, or not what is behind its end (RFC 9868).
            let udp = frame.at::<Udp>(layers.transport & MAX_OFFSET)?;
            if udp.checksum == [0; 2] || udp.length() as usize != layers.payload {
                return None;
            }
            !checksum::fold(pseudo(IpProtocol::UDP))
        }
        (_, IpProtocol::TCP) => !checksum::fold(pseudo(IpProtocol::TCP)),
        (Family::V6, IpProtocol::ICMPV6) => !checksum::fold(pseudo(IpProtocol::ICMPV6)),
        // Without a pseudo-header.
        (Family::V4, IpProtocol::ICMP) => 0,
        _ => return None,
    };
    let header = match layers.family() {
        Family::V4 => 0,
        Family::V6 if layers.extended => return None,
        Family::V6 => checksum::sum(frame.at::<Ipv6>(link.len() & 0x1f)?.as_bytes()),
    };
    Some(checksum::fold(header + segment as u32))
}

/// The sum of an address's 16-bit words.
#[inline(always)]
fn words(address: Address) -> u32 {
    let mut sum = 0;
    for word in address.0 {
        sum += (word as u16 as u32)
            + ((word >> 16) as u16 as u32)
            + ((word >> 32) as u16 as u32)
            + ((word >> 48) as u16 as u32);
    }
    sum
}
