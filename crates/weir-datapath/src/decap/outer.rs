//! The outer header: what kind it is, from whom, to whom, and how long.
//!
//! Owns: reading an IPv4 header with options, or an IPv6 header and the first extension header behind it. May not
//! touch: tables, mutation. Invariant: an [`Outer`] never claims more bytes than the frame has.

use crate::Frame;
use weir_abi::agent::Reason;
use weir_abi::{Address, Family};
use weir_wire::{Ethernet, IpProtocol, Ipv4, Ipv6};

/// A header that wraps another IP packet.
pub(super) struct Outer {
    /// Length with options, bytes.
    pub(super) header_len: usize,
    /// Bytes behind it, by its own account.
    pub(super) payload_len: usize,
    /// Family of the header.
    pub(super) family: Family,
    /// Family of what it says is inside.
    pub(super) inner: Family,
    /// Sender.
    pub(super) source: Address,
    /// Receiver.
    pub(super) destination: Address,
    /// DSCP and ECN.
    pub(super) ecn: u8,
    /// Whether the inner packet follows at once.
    pub(super) whole: Whole,
}

/// Whether the inner packet follows the header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// It does.
    Packet,
    /// Only a part of it does.
    Fragment,
    /// An extension header comes first.
    BehindExtension,
}

/// How an IPv6 extension header begins (RFC 8200, section 4).
type NextHeader = [u8; 1];

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

/// Reads an outer IPv4 header; the error is the reason to pass the packet on.
#[inline(always)]
pub(super) fn parse_v4<F: Frame>(frame: &F) -> Result<Outer, Reason> {
    let header = frame.at::<Ipv4>(Ethernet::LEN).ok_or(Reason::OuterMalformed)?;
    let inner = inner_family(header.protocol()).ok_or(Reason::NotTunnel)?;
    let (header_len, total_len) = (header.header_len(), header.total_len() as usize);
    if header.version() != 4 || header_len < Ipv4::LEN || total_len < header_len {
        return Err(Reason::OuterMalformed);
    }
    if Ethernet::LEN + total_len > frame.len() {
        return Err(Reason::OuterMalformed);
    }
    Ok(Outer {
        header_len,
        payload_len: total_len - header_len,
        family: Family::V4,
        inner,
        source: v4_address(header.source),
        destination: v4_address(header.destination),
        ecn: header.tos,
        whole: if header.is_fragment() { Whole::Fragment } else { Whole::Packet },
    })
}

/// Reads an outer IPv6 header; the error is the reason to pass the packet on.
#[inline(always)]
pub(super) fn parse_v6<F: Frame>(frame: &F) -> Result<Outer, Reason> {
    let header = frame.at::<Ipv6>(Ethernet::LEN).ok_or(Reason::OuterMalformed)?;
    let (protocol, whole) = match header.next_header() {
        direct @ (IpProtocol::IPV4 | IpProtocol::IPV6) => (direct, Whole::Packet),
        extension @ (IpProtocol::HOP_BY_HOP
        | IpProtocol::ROUTING
        | IpProtocol::FRAGMENT
        | IpProtocol::DESTINATION_OPTIONS) => {
            let next = frame.at::<NextHeader>(Ethernet::LEN + Ipv6::LEN).ok_or(Reason::OuterMalformed)?;
            let fragment = extension == IpProtocol::FRAGMENT;
            (IpProtocol(next[0]), if fragment { Whole::Fragment } else { Whole::BehindExtension })
        }
        _ => return Err(Reason::NotTunnel),
    };
    let inner = inner_family(protocol).ok_or(Reason::NotTunnel)?;
    let payload_len = header.payload_len() as usize;
    if header.version() != 6 || Ethernet::LEN + Ipv6::LEN + payload_len > frame.len() {
        return Err(Reason::OuterMalformed);
    }
    Ok(Outer {
        header_len: Ipv6::LEN,
        payload_len,
        family: Family::V6,
        inner,
        source: v6_address(header.source),
        destination: v6_address(header.destination),
        ecn: header.traffic_class(),
        whole,
    })
}
