//! Bytes to flow, or a reason why there is none.
//!
//! Owns the order in which headers are read and every length check. May not touch tables and changes no byte.
//! Invariant: when a packet is returned, the Ethernet, IP and transport headers are wholly inside the frame *and*
//! inside the IP packet, and the IP packet is wholly inside the frame.
use crate::Frame;
use weir_abi::{Address, Family, Reason, ServiceKey};
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

/// Why an IP packet cannot be balanced. What that means for it depends on whether it was sent to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Shorter than its headers claim, or not of the version its EtherType says.
    Truncated,
    /// A fragment: its ports may not be there.
    Fragment,
    /// IPv6 extension headers.
    Unsupported,
    /// Neither TCP nor UDP.
    NoPorts,
}

impl Refusal {
    /// The packet's reason when it was sent to a VIP.
    #[inline(always)]
    pub const fn at_vip(self) -> Reason {
        match self {
            Self::Truncated => Reason::VipTruncated,
            Self::Fragment => Reason::VipFragment,
            Self::Unsupported => Reason::VipUnsupported,
            Self::NoPorts => Reason::VipOther,
        }
    }
    /// Its reason otherwise.
    #[inline(always)]
    pub const fn elsewhere(self) -> Reason {
        match self {
            Self::Truncated => Reason::Malformed,
            _ => Reason::NotService,
        }
    }
}

/// The EtherType of a frame, if it has an Ethernet header.
#[inline(always)]
pub fn ether_type<F: Frame>(frame: &F) -> Option<EtherType> {
    frame.at::<Ethernet>(0).map(Ethernet::ether_type)
}

/// The key that marks the destination of a frame's IPv4 packet as a VIP.
#[inline(always)]
pub fn ipv4_destination<F: Frame>(frame: &F) -> Option<ServiceKey> {
    let ip = frame.at::<Ipv4>(Ethernet::LEN)?;
    Some(ServiceKey { vip: v4(ip.destination), family: Family::V4, protocol: 0, port: 0 })
}

/// The key that marks the destination of a frame's IPv6 packet as a VIP.
#[inline(always)]
pub fn ipv6_destination<F: Frame>(frame: &F) -> Option<ServiceKey> {
    let ip = frame.at::<Ipv6>(Ethernet::LEN)?;
    Some(ServiceKey { vip: v6(ip.destination), family: Family::V6, protocol: 0, port: 0 })
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

/// Reads the IPv4 packet of a frame whose EtherType says there is one.
#[inline(always)]
pub fn parse_ipv4<F: Frame>(frame: &F) -> Result<Packet, Refusal> {
    let Some(ip) = frame.at::<Ipv4>(Ethernet::LEN) else { return Err(Refusal::Truncated) };
    let (header_len, total_len) = (ip.header_len(), ip.total_len() as usize);
    if ip.version() != 4 || header_len < Ipv4::LEN || total_len < header_len {
        return Err(Refusal::Truncated);
    }
    if Ethernet::LEN + total_len > frame.len() {
        return Err(Refusal::Truncated);
    }
    if ip.is_fragment() {
        return Err(Refusal::Fragment);
    }
    let inner = Inner { family: Family::V4, tos: ip.tos, len: total_len as u32, id: ip.id };
    let (source, destination, protocol) = (v4(ip.source), v4(ip.destination), ip.protocol());
    // 15 words at most: the mask is for the verifier, the value is at most 60 anyway.
    let transport = Ethernet::LEN + (header_len & 0x3c);
    parse_transport(frame, source, destination, protocol, transport, total_len - header_len, inner)
}

/// Reads the IPv6 packet of a frame whose EtherType says there is one.
#[inline(always)]
pub fn parse_ipv6<F: Frame>(frame: &F) -> Result<Packet, Refusal> {
    let Some(ip) = frame.at::<Ipv6>(Ethernet::LEN) else { return Err(Refusal::Truncated) };
    let payload = ip.payload_len() as usize;
    if ip.version() != 6 || Ethernet::LEN + Ipv6::LEN + payload > frame.len() {
        return Err(Refusal::Truncated);
    }
    let len = (Ipv6::LEN + payload) as u32;
    let inner = Inner { family: Family::V6, tos: ip.traffic_class(), len, id: [0; 2] };
    let (source, destination, protocol) = (v6(ip.source), v6(ip.destination), ip.next_header());
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
) -> Result<Packet, Refusal> {
    let (ports, opens) = match protocol {
        IpProtocol::TCP => {
            let Some(tcp) = frame.at::<Tcp>(offset) else { return Err(Refusal::Truncated) };
            if payload < Tcp::LEN || tcp.header_len() < Tcp::LEN || tcp.header_len() > payload {
                return Err(Refusal::Truncated);
            }
            (tcp.ports, tcp.opens())
        }
        IpProtocol::UDP => {
            let Some(udp) = frame.at::<Udp>(offset) else { return Err(Refusal::Truncated) };
            if payload < Udp::LEN || (udp.length() as usize) < Udp::LEN || udp.length() as usize > payload {
                return Err(Refusal::Truncated);
            }
            (udp.ports, false)
        }
        IpProtocol::FRAGMENT => return Err(Refusal::Fragment),
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::DESTINATION_OPTIONS => {
            return Err(Refusal::Unsupported);
        }
        _ => return Err(Refusal::NoPorts),
    };
    let port = u16::from_ne_bytes(ports.destination);
    let key = ServiceKey { vip: destination, family: inner.family, protocol: protocol.0, port };
    let flow = Flow { source, source_port: u16::from_ne_bytes(ports.source), key };
    Ok(Packet { flow, inner, opens })
}
