//! ICMP to a VIP: what it is about.
//!
//! Owns: telling echo requests and errors from the rest, and the flow an error is about. May not touch: tables, mutation.
//! Invariant: a flow is only returned if the quoted packet was sent by the very address the error was sent to.
use crate::layers::{Layers, MAX_OFFSET, Part};
use crate::parse::{v4, v6};
use crate::{Flow, Frame};
use weir_abi::{Family, ServiceKey};
use weir_wire::{Icmp, IpProtocol, Ipv4, Ipv6, Ports, icmpv4, icmpv6};

/// An ICMP message, as far as the director is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A request for an echo.
    Echo,
    /// An error; it quotes the packet it is about.
    Error,
    /// Something else.
    Other,
}

/// Whether the layers lead to ICMP of their family.
#[inline(always)]
pub(crate) fn is_icmp(layers: &Layers) -> bool {
    match layers.family() {
        Family::V4 => layers.protocol == IpProtocol::ICMP,
        Family::V6 => layers.protocol == IpProtocol::ICMPV6,
    }
}

/// Reads the head of a whole ICMP packet; `None` if it is shorter than that.
#[inline(always)]
pub(crate) fn message<F: Frame>(frame: &F, layers: &Layers) -> Option<Message> {
    if layers.payload < Icmp::LEN {
        return None;
    }
    let head = frame.at::<Icmp>(layers.transport & MAX_OFFSET)?;
    Some(match (layers.family(), head.kind) {
        (Family::V4, icmpv4::ECHO) | (Family::V6, icmpv6::ECHO) => Message::Echo,
        (Family::V4, icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM)
        | (
            Family::V6,
            icmpv6::UNREACHABLE | icmpv6::TOO_BIG | icmpv6::TIME_EXCEEDED | icmpv6::PARAMETER_PROBLEM,
        ) => Message::Error,
        _ => Message::Other,
    })
}

/// The flow an error is about, in the direction its packets come here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    pub(crate) flow: Flow,
    /// Where the quoted transport header is, from the start of the frame.
    pub(crate) transport: usize,
    /// Bytes of it that are there.
    pub(crate) payload: usize,
}

/// The quoted packet went from a real server to the client, so source and destination change places. `None`: it has no
/// ports, is not whole enough to say, or was not sent by the error's receiver.
#[inline(always)]
pub(crate) fn quoted<F: Frame>(frame: &F, layers: &Layers) -> Option<Quoted> {
    let ip_at = (layers.transport + Icmp::LEN) & MAX_OFFSET;
    let room = layers.payload - Icmp::LEN;
    let (source, destination, protocol, header_len) = match layers.family() {
        Family::V4 => {
            let ip = frame.at::<Ipv4>(ip_at)?;
            if ip.version() != 4 || ip.header_len() < Ipv4::LEN || ip.fragment_offset() != 0 {
                return None;
            }
            (v4(ip.source), v4(ip.destination), ip.protocol(), ip.header_len() & 0x3c)
        }
        Family::V6 => {
            let ip = frame.at::<Ipv6>(ip_at)?;
            if ip.version() != 6 {
                return None;
            }
            let (protocol, header_len) = behind_extensions(frame, ip_at, ip.next_header())?;
            (
                v6(frame.at::<Ipv6>(ip_at)?.source),
                v6(frame.at::<Ipv6>(ip_at)?.destination),
                protocol,
                header_len,
            )
        }
    };
    if !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP) || header_len + size_of::<Ports>() > room {
        return None;
    }
    if source != layers.destination {
        return None;
    }
    let transport = (ip_at + header_len) & MAX_OFFSET;
    let ports = frame.at::<Ports>(transport)?;
    let key = ServiceKey {
        vip: source,
        family: layers.family(),
        protocol: protocol.0,
        port: u16::from_ne_bytes(ports.source),
        prefix_len: 0,
    };
    let flow = Flow { source: destination, source_port: u16::from_ne_bytes(ports.destination), key };
    Some(Quoted { flow, transport, payload: room - header_len })
}

/// Extension headers of a quoted IPv6 packet that are stepped over. (What real servers send has none, or a fragment
/// header.)
const MAX_QUOTED_EXTENSIONS: usize = 3;
/// Bytes of headers of a quoted packet that are stepped over.
const MAX_QUOTED_LEN: usize = 0xff;

/// What follows the IPv6 header at `ip_at` and up to three extension headers, and their length together.
#[inline(always)]
fn behind_extensions<F: Frame>(frame: &F, ip_at: usize, first: IpProtocol) -> Option<(IpProtocol, usize)> {
    let (mut protocol, mut len) = (first, Ipv6::LEN);
    let mut steps = 0;
    while steps < MAX_QUOTED_EXTENSIONS {
        let size = match protocol {
            IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => None,
            IpProtocol::FRAGMENT => Some(8),
            _ => break,
        };
        let &[next, words, high, low] = frame.at::<[u8; 4]>((ip_at + len) & MAX_OFFSET)?;
        if size.is_some() && u16::from_be_bytes([high, low]) >> 3 != 0 {
            return None;
        }
        protocol = IpProtocol(next);
        len += size.unwrap_or((words as usize + 1) * 8);
        if len > MAX_QUOTED_LEN {
            return None;
        }
        steps += 1;
    }
    Some((protocol, len))
}

/// Whether an answer may be sent to the packet: never to a later fragment, and never to ICMP, for errors must not be
/// answered by errors (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
#[inline(always)]
pub(crate) fn may_answer(layers: &Layers) -> bool {
    layers.part != Part::Later && !matches!(layers.protocol, IpProtocol::ICMP | IpProtocol::ICMPV6)
}
