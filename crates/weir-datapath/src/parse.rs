//! Bytes to flow, for packets as nearly all are.
//!
//! Owns the order in which headers are read and every length check of the short way. May not touch tables and changes no
//! byte. Gives up (`None`) on whatever is not plain: the module `layers` reads that. Invariant: when a packet is returned,
//! the Ethernet, IP and transport headers are wholly inside the frame *and* inside the IP packet, and the IP packet is
//! wholly inside the frame.
use crate::Frame;
use weir_abi::{Address, Family, ServiceKey};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Tcp, Udp};

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

/// The EtherType of a frame, if it has an Ethernet header.
#[inline(always)]
pub fn ether_type<F: Frame>(frame: &F) -> Option<EtherType> {
    frame.at::<Ethernet>(0).map(Ethernet::ether_type)
}

#[inline(always)]
pub(crate) fn v4(address: [u8; 4]) -> Address {
    Address([u32::from_ne_bytes(address) as u64, 0])
}

#[inline(always)]
pub(crate) fn v6(a: [u8; 16]) -> Address {
    Address([
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ])
}

/// Whether an IPv4 address may be a sender's: not "this network" (0/8), loopback, multicast, reserved or broadcast
/// (RFC 1122, section 3.2.1.3).
#[inline(always)]
pub(crate) fn is_sender_v4(source: [u8; 4]) -> bool {
    // 1..=126 and 128..=223.
    source[0] != 0 && source[0] != 127 && source[0] < 224
}

/// Reads the IPv4 packet of a frame whose EtherType says there is one.
#[inline(always)]
pub fn parse_ipv4<F: Frame>(frame: &F) -> Option<Packet> {
    let ip = frame.at::<Ipv4>(Ethernet::LEN)?;
    let (header_len, total_len) = (ip.header_len(), ip.total_len() as usize);
    if ip.version() != 4 || header_len < Ipv4::LEN || total_len < header_len {
        return None;
    }
    if Ethernet::LEN + total_len > frame.len() || ip.is_fragment() {
        return None;
    }
    if !is_sender_v4(ip.source) || ip.ttl == 0 {
        return None;
    }
    let inner = Inner { family: Family::V4, tos: ip.tos, len: total_len as u32, id: ip.id };
    let (source, destination, protocol) = (v4(ip.source), v4(ip.destination), ip.protocol());
    // 15 words at most: the mask is for the verifier, the value is at most 60 anyway.
    let transport = Ethernet::LEN + (header_len & 0x3c);
    parse_transport(frame, source, destination, protocol, transport, total_len - header_len, inner)
}

/// Reads the IPv6 packet of a frame whose EtherType says there is one.
#[inline(always)]
pub fn parse_ipv6<F: Frame>(frame: &F) -> Option<Packet> {
    let ip = frame.at::<Ipv6>(Ethernet::LEN)?;
    let payload = ip.payload_len() as usize;
    if ip.version() != 6 || Ethernet::LEN + Ipv6::LEN + payload > frame.len() {
        return None;
    }
    let source = v6(ip.source);
    // Multicast (ff00::/8), and what begins with eight zero bytes: unspecified, loopback, IPv4-mapped and the like.
    if ip.source[0] == 0xff || source.0[0] == 0 || ip.hop_limit == 0 {
        return None;
    }
    let len = (Ipv6::LEN + payload) as u32;
    let inner = Inner { family: Family::V6, tos: ip.traffic_class(), len, id: [0; 2] };
    let (destination, protocol) = (v6(ip.destination), ip.next_header());
    parse_transport(frame, source, destination, protocol, Ethernet::LEN + Ipv6::LEN, payload, inner)
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
) -> Option<Packet> {
    let (ports, opens) = match protocol {
        IpProtocol::TCP => {
            let tcp = frame.at::<Tcp>(offset)?;
            if payload < Tcp::LEN || tcp.header_len() < Tcp::LEN || tcp.header_len() > payload {
                return None;
            }
            (tcp.ports, tcp.opens())
        }
        IpProtocol::UDP => {
            let udp = frame.at::<Udp>(offset)?;
            if payload < Udp::LEN || (udp.length() as usize) < Udp::LEN || udp.length() as usize > payload {
                return None;
            }
            (udp.ports, false)
        }
        _ => return None,
    };
    let port = u16::from_ne_bytes(ports.destination);
    let key =
        ServiceKey { vip: destination, family: inner.family, protocol: protocol.0, port, prefix_len: 0 };
    let flow = Flow { source, source_port: u16::from_ne_bytes(ports.source), key };
    Some(Packet { flow, inner, opens })
}
