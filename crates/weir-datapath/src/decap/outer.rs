//! The outer header: what kind it is, from whom, to whom, and how long.
//!
//! Owns: reading an IPv4 header with options, or an IPv6 header and the first extension header behind it; the UDP and
//! GUE headers behind either. May not touch: tables, mutation. Invariant: an [`Outer`] never claims more bytes than the
//! frame has.
//!
//! The UDP checksum is not looked at: zero is right over IPv4 and, for tunnels, over IPv6 (RFC 6935), and summing up a
//! whole packet to verify another is dear. What it protects beyond the inner packet's own checksums is the addresses,
//! which are compared with known ones.

use crate::Frame;
use weir_abi::agent::{GuePort, Reason};
use weir_abi::{Address, Family};
use weir_wire::{Gue, IpProtocol, Ipv4, Ipv6, Udp};

/// A header that wraps another IP packet.
pub(super) struct Outer {
    /// Length of the IP header with options and of the UDP header behind it, bytes.
    pub(super) header_len: usize,
    /// Bytes behind it, by its own account.
    pub(super) payload_len: usize,
    /// Family of the IP header.
    pub(super) family: Family,
    /// What it says is inside.
    pub(super) carries: Carries,
    /// Sender.
    pub(super) source: Address,
    /// Receiver.
    pub(super) destination: Address,
    /// DSCP and ECN.
    pub(super) ecn: u8,
    /// Whether what is inside follows at once.
    pub(super) whole: Whole,
}

/// What an outer header says is inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// An IP packet.
    Ip(Family),
    /// GUE, by the UDP port.
    Gue,
}

/// Whether what is inside follows the header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// It does.
    Packet,
    /// Only a part of it does.
    Fragment,
    /// An extension header comes first.
    BehindExtension,
}

/// How an IPv6 extension header begins (RFC 8200, section 4). Two bytes, because the verifier does not
/// understand the bounds check of a single one at a variable offset.
type NextHeader = [u8; 2];

/// The address of an IPv4 header.
#[inline(always)]
pub(super) fn v4_address(octets: [u8; 4]) -> Address {
    Address([u32::from_ne_bytes(octets) as u64, 0])
}

/// The address of an IPv6 header.
#[inline(always)]
pub(super) fn v6_address(octets: [u8; 16]) -> Address {
    Address::from(core::net::Ipv6Addr::from(octets))
}

#[inline(always)]
fn inner_family(protocol: IpProtocol) -> Option<Family> {
    match protocol {
        IpProtocol::IPV4 => Some(Family::V4),
        IpProtocol::IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// Whether the UDP header at `at` is to the GUE port.
#[inline(always)]
fn is_gue<F: Frame>(frame: &F, at: usize, port: impl FnOnce() -> GuePort) -> bool {
    match frame.at::<Udp>(at) {
        Some(udp) => port().is(udp.ports.destination),
        None => false,
    }
}

/// Reads the outer IPv4 header at `at`; the error is the reason to pass the packet on.
#[inline(always)]
pub(super) fn parse_v4<F: Frame>(
    frame: &F,
    at: usize,
    port: impl FnOnce() -> GuePort,
) -> Result<Outer, Reason> {
    let header = frame.at::<Ipv4>(at).ok_or(Reason::OuterMalformed)?;
    let (header_len, total_len) = (header.header_len(), header.total_len() as usize);
    let carries = match inner_family(header.protocol()) {
        Some(family) => Carries::Ip(family),
        // Ports stand in the first fragment only.
        None if header.protocol() == IpProtocol::UDP
            && header.fragment_offset() == 0
            && is_gue(frame, at + header_len, port) =>
        {
            Carries::Gue
        }
        None => return Err(Reason::NotTunnel),
    };
    if header.version() != 4 || header_len < Ipv4::LEN || total_len < header_len {
        return Err(Reason::OuterMalformed);
    }
    if at + total_len > frame.len() {
        return Err(Reason::OuterMalformed);
    }
    let ip = Outer {
        header_len,
        payload_len: total_len - header_len,
        family: Family::V4,
        carries,
        source: v4_address(header.source),
        destination: v4_address(header.destination),
        ecn: header.tos,
        whole: if header.is_fragment() { Whole::Fragment } else { Whole::Packet },
    };
    with_udp(frame, at, ip)
}

/// Reads the outer IPv6 header at `at`; the error is the reason to pass the packet on. GUE behind an extension header is
/// none: its port is not looked for.
#[inline(always)]
pub(super) fn parse_v6<F: Frame>(
    frame: &F,
    at: usize,
    port: impl FnOnce() -> GuePort,
) -> Result<Outer, Reason> {
    let header = frame.at::<Ipv6>(at).ok_or(Reason::OuterMalformed)?;
    let (carries, whole) = match header.next_header() {
        extension @ (IpProtocol::HOP_BY_HOP
        | IpProtocol::ROUTING
        | IpProtocol::FRAGMENT
        | IpProtocol::DESTINATION_OPTIONS) => {
            let next = frame.at::<NextHeader>(at + Ipv6::LEN).ok_or(Reason::OuterMalformed)?;
            let family = inner_family(IpProtocol(next[0])).ok_or(Reason::NotTunnel)?;
            let fragment = extension == IpProtocol::FRAGMENT;
            (Carries::Ip(family), if fragment { Whole::Fragment } else { Whole::BehindExtension })
        }
        IpProtocol::UDP if is_gue(frame, at + Ipv6::LEN, port) => (Carries::Gue, Whole::Packet),
        other => (Carries::Ip(inner_family(other).ok_or(Reason::NotTunnel)?), Whole::Packet),
    };
    let payload_len = header.payload_len() as usize;
    if header.version() != 6 || at + Ipv6::LEN + payload_len > frame.len() {
        return Err(Reason::OuterMalformed);
    }
    let ip = Outer {
        header_len: Ipv6::LEN,
        payload_len,
        family: Family::V6,
        carries,
        source: v6_address(header.source),
        destination: v6_address(header.destination),
        ecn: header.traffic_class(),
        whole,
    };
    with_udp(frame, at, ip)
}

/// Takes the UDP header of GUE into the account. The length of a fragment's is that of the whole datagram, and not asked.
#[inline(always)]
fn with_udp<F: Frame>(frame: &F, at: usize, ip: Outer) -> Result<Outer, Reason> {
    if ip.carries != Carries::Gue || ip.whole != Whole::Packet {
        return Ok(ip);
    }
    let udp = frame.at::<Udp>(at + ip.header_len).ok_or(Reason::OuterMalformed)?;
    let length = udp.length() as usize;
    if length < Udp::LEN || length > ip.payload_len {
        return Err(Reason::OuterMalformed);
    }
    Ok(Outer { header_len: ip.header_len + Udp::LEN, payload_len: length - Udp::LEN, ..ip })
}

/// What is inside GUE of `len` bytes at `at`: the length of its header and the family of the packet behind it.
///
/// Variant 1 has no header and begins with the inner packet's version, 4 or 6. Of variant 0 only data messages without
/// flags and extension fields are taken, which is what Linux sends unless told otherwise. `None` for everything else.
#[inline(always)]
pub(super) fn inside_gue<F: Frame>(frame: &F, at: usize, len: usize) -> Option<(usize, Family)> {
    let header = frame.at::<Gue>(at).filter(|_| len >= Gue::LEN)?;
    match header.version() {
        4 => Some((0, Family::V4)),
        6 => Some((0, Family::V6)),
        _ => Some((Gue::LEN, inner_family(header.plain()?)?)),
    }
}
