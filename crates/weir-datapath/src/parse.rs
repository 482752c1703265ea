//! Bytes to flow, or a reason why there is none.
//!
//! Owns the order in which headers are read and every length check. May not touch tables and changes no byte.
//! Invariant: when it returns [`Kind::Flow`], the Ethernet, IP and transport headers are wholly inside the frame *and*
//! inside the IP packet, and the IP packet is wholly inside the frame.
use crate::Frame;
use weir_abi::{Address, Family, Reason, ServiceKey};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Ports, Tcp, Udp};

/// A packet's 5-tuple, bytes as they stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: Address,
    /// Source port (native-endian load of the packet's bytes).
    pub source_port: u16,
    /// Destination address, port, protocol and family: what a service is looked up by.
    pub key: ServiceKey,
}

/// What encapsulation needs to know of the packet it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Family of the inner packet.
    pub family: Family,
    /// Its DSCP and ECN bits.
    pub tos: u8,
    /// Its length, header included, in bytes: 20..=65575.
    pub len: u32,
    /// Its IPv4 identification (packet bytes); zero for IPv6.
    pub id: [u8; 2],
}

/// A packet that may be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The 5-tuple.
    pub flow: Flow,
    /// For the outer header.
    pub inner: Inner,
    /// Whether the packet opens a TCP connection (SYN without ACK).
    pub opens: bool,
}

/// What kind of packet parsing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP or UDP packet with both ports in hand.
    Flow,
    /// An IP packet that cannot be balanced; only its destination address is known.
    Other,
    /// Nothing that could be to a VIP.
    Stranger,
}

/// What parsing found.
///
/// A plain record and not an enum with payloads, because every field then has a value on every path: the compiler may
/// otherwise spill a payload that was never written, which the verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Which of the other fields mean something.
    pub kind: Kind,
    /// The packet; for [`Kind::Other`] only the VIP and family of its key.
    pub packet: Packet,
    /// The packet's reason when it is not balanced and was sent to a VIP.
    pub at_vip: Reason,
    /// Its reason when it is not balanced and was not.
    pub elsewhere: Reason,
}

impl Parsed {
    #[inline(always)]
    fn unknown(kind: Kind, address: Address, family: Family, at_vip: Reason, elsewhere: Reason) -> Self {
        let key = ServiceKey { vip: address, family, protocol: 0, port: 0 };
        let flow = Flow { source: Address([0; 2]), source_port: 0, key };
        let inner = Inner { family, tos: 0, len: 0, id: [0; 2] };
        Self { kind, packet: Packet { flow, inner, opens: false }, at_vip, elsewhere }
    }

    /// A packet that is no IP packet, or too short to tell.
    #[inline(always)]
    fn stranger(reason: Reason) -> Self {
        Self::unknown(Kind::Stranger, Address([0; 2]), Family::V4, reason, reason)
    }
}

/// Reads the headers of a frame.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Parsed {
    let Some(ethernet) = frame.at::<Ethernet>(0) else { return Parsed::stranger(Reason::Malformed) };
    match ethernet.ether_type() {
        EtherType::IPV4 => parse_ipv4(frame),
        EtherType::IPV6 => parse_ipv6(frame),
        _ => Parsed::stranger(Reason::NotIp),
    }
}

#[inline(always)]
fn other(address: Address, family: Family, at_vip: Reason, elsewhere: Reason) -> Parsed {
    Parsed::unknown(Kind::Other, address, family, at_vip, elsewhere)
}

#[inline(always)]
fn v4(address: [u8; 4]) -> Address {
    Address([u32::from_ne_bytes(address) as u64, 0])
}

#[inline(always)]
fn v6(a: [u8; 16]) -> Address {
    Address([
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ])
}

#[inline(always)]
fn parse_ipv4<F: Frame>(frame: &F) -> Parsed {
    let Some(ip) = frame.at::<Ipv4>(Ethernet::LEN) else { return Parsed::stranger(Reason::Malformed) };
    let destination = v4(ip.destination);
    let truncated = other(destination, Family::V4, Reason::VipTruncated, Reason::Malformed);
    let (header_len, total_len) = (ip.header_len(), ip.total_len() as usize);
    if ip.version() != 4 || header_len < Ipv4::LEN || total_len < header_len {
        return truncated;
    }
    if Ethernet::LEN + total_len > frame.len() {
        return truncated;
    }
    if ip.is_fragment() {
        return other(destination, Family::V4, Reason::VipFragment, Reason::NotService);
    }
    let inner = Inner { family: Family::V4, tos: ip.tos, len: total_len as u32, id: ip.id };
    // 15 words at most: the mask is for the verifier, the value is at most 60 anyway.
    let transport = Ethernet::LEN + (header_len & 0x3c);
    let payload = total_len - header_len;
    parse_transport(frame, v4(ip.source), destination, ip.protocol(), transport, payload, inner)
}

#[inline(always)]
fn parse_ipv6<F: Frame>(frame: &F) -> Parsed {
    let Some(ip) = frame.at::<Ipv6>(Ethernet::LEN) else { return Parsed::stranger(Reason::Malformed) };
    let destination = v6(ip.destination);
    let truncated = other(destination, Family::V6, Reason::VipTruncated, Reason::Malformed);
    let payload = ip.payload_len() as usize;
    if ip.version() != 6 || Ethernet::LEN + Ipv6::LEN + payload > frame.len() {
        return truncated;
    }
    let len = (Ipv6::LEN + payload) as u32;
    let inner = Inner { family: Family::V6, tos: ip.traffic_class(), len, id: [0; 2] };
    let transport = Ethernet::LEN + Ipv6::LEN;
    parse_transport(frame, v6(ip.source), destination, ip.next_header(), transport, payload, inner)
}

#[inline(always)]
fn parse_transport<F: Frame>(
    frame: &F,
    source: Address,
    destination: Address,
    protocol: IpProtocol,
    offset: usize,
    payload: usize,
    inner: Inner,
) -> Parsed {
    let family = inner.family;
    let (ports, opens) = match protocol {
        IpProtocol::TCP => {
            let Some(tcp) = frame.at::<Tcp>(offset) else {
                return other(destination, family, Reason::VipTruncated, Reason::Malformed);
            };
            if payload < Tcp::LEN || tcp.header_len() < Tcp::LEN || tcp.header_len() > payload {
                return other(destination, family, Reason::VipTruncated, Reason::Malformed);
            }
            let Some(ports) = frame.at::<Ports>(offset) else {
                return other(destination, family, Reason::VipTruncated, Reason::Malformed);
            };
            (*ports, tcp.opens())
        }
        IpProtocol::UDP => {
            let Some(udp) = frame.at::<Udp>(offset) else {
                return other(destination, family, Reason::VipTruncated, Reason::Malformed);
            };
            if payload < Udp::LEN || (udp.length() as usize) < Udp::LEN || udp.length() as usize > payload {
                return other(destination, family, Reason::VipTruncated, Reason::Malformed);
            }
            (udp.ports, false)
        }
        IpProtocol::FRAGMENT => return other(destination, family, Reason::VipFragment, Reason::NotService),
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => {
            return other(destination, family, Reason::VipUnsupported, Reason::NotService);
        }
        _ => return other(destination, family, Reason::VipOther, Reason::NotService),
    };
    let port = u16::from_ne_bytes(ports.destination);
    let key = ServiceKey { vip: destination, family, protocol: protocol.0, port };
    let flow = Flow { source, source_port: u16::from_ne_bytes(ports.source), key };
    let packet = Packet { flow, inner, opens };
    Parsed { kind: Kind::Flow, packet, at_vip: Reason::VipOther, elsewhere: Reason::NotService }
}
