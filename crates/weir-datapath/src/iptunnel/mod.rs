//! The packet logic of `weir iptunnel`: what Linux's `xdp_tx_iptunnel` sample does to a packet, done right.
//!
//! Owns: which packets match an entry of `vip2tnl`, and the bytes of the wrapped frame. May not touch: the director's
//! tables, maps, policy. Invariant: a packet that is not sent is left as it came, byte for byte.
//!
//! There is one entry a packet can match: its destination address, its protocol, and its destination port where the
//! protocol has ports, else port 0. A packet whose port cannot be read (a fragment, a truncated header) matches nothing.

#[cfg(test)]
mod tests;

use crate::{Frame, NoRoom, parse};
use weir_abi::MacAnd16;
use weir_abi::iptunnel::{AF_INET, AF_INET6, DropReason, Tunnel, Vip, ported};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, Ports};

/// Hops an outer header may take.
const TTL: u8 = 64;

/// The maps of the program, as the packet logic needs them.
pub trait Tables {
    /// The entry of `vip2tnl` for a key.
    fn tunnel(&self, vip: &Vip) -> Option<Tunnel>;
    /// The interface's MTU in bytes; 0 for no limit.
    fn mtu(&self) -> u32;
    /// An identification for an outer IPv4 header, packet order.
    fn fresh_id(&self) -> [u8; 2];
    /// Counts a wrapped packet under the protocol it carries.
    fn count(&self, protocol: u8);
    /// Counts a dropped packet.
    fn count_drop(&self, reason: DropReason);
}

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left to the kernel, byte-identical.
    Pass(Pass),
    /// Discarded, and counted under the reason.
    Drop(DropReason),
    /// Wrapped, counted, and sent out of the interface it came in by.
    Transmit,
}

/// Why a packet is left to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Neither IPv4 nor IPv6 (ARP or a VLAN tag, for example).
    NotIp,
    /// Sent to a group MAC address: it could not be sent on with that as its source.
    Group,
    /// Shorter than its headers claim.
    Malformed,
    /// A fragment of a protocol with ports: only the first has them.
    Fragment,
    /// No entry in `vip2tnl`.
    NotVip,
    /// The entry asks for IPv6 in IPv4, or for a family that does not exist.
    Unsupported,
}

/// What is known of a packet that an entry may exist for.
struct Packet {
    /// Its key.
    vip: Vip,
    /// IP header and payload, bytes.
    len: u32,
    /// DSCP and ECN.
    class: u8,
    /// What the outer header says follows: IPv4 or IPv6.
    inner: IpProtocol,
    /// The MAC address it was sent to. In a word, because bytes are put on the program's stack in misaligned pieces.
    director: MacAnd16,
}

/// Looks the packet up and wraps it.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let packet = match parse(frame) {
        Ok(packet) => packet,
        Err(reason) => return Verdict::Pass(reason),
    };
    let Some(tunnel) = tables.tunnel(&packet.vip) else { return Verdict::Pass(Pass::NotVip) };
    match wrap(frame, tables, &packet, &tunnel) {
        Ok(()) => {
            tables.count(packet.vip.protocol());
            Verdict::Transmit
        }
        Err(Refusal::Unsupported) => Verdict::Pass(Pass::Unsupported),
        Err(Refusal::Drop(reason)) => {
            tables.count_drop(reason);
            Verdict::Drop(reason)
        }
    }
}

#[inline(always)]
fn parse<F: Frame>(frame: &F) -> Result<Packet, Pass> {
    let ethernet = frame.at::<Ethernet>(0).ok_or(Pass::Malformed)?;
    if ethernet.to_group() && matches!(ethernet.ether_type(), EtherType::IPV4 | EtherType::IPV6) {
        return Err(Pass::Group);
    }
    let director = MacAnd16::new(ethernet.destination, 0);
    match ethernet.ether_type() {
        EtherType::IPV4 => parse_v4(frame, director),
        EtherType::IPV6 => parse_v6(frame, director),
        _ => Err(Pass::NotIp),
    }
}

#[inline(always)]
fn parse_v4<F: Frame>(frame: &F, director: MacAnd16) -> Result<Packet, Pass> {
    let ip = frame.at::<Ipv4>(Ethernet::LEN).ok_or(Pass::Malformed)?;
    let (header, len) = (ip.header_len(), ip.total_len() as usize);
    if ip.version() != 4 || header < Ipv4::LEN || len < header || Ethernet::LEN + len > frame.len() {
        return Err(Pass::Malformed);
    }
    let protocol = ip.protocol().0;
    let dport = match ported(protocol) {
        Some(_) if ip.is_fragment() => return Err(Pass::Fragment),
        Some(least) => port(frame, header, len - header, least)?,
        None => [0; 2],
    };
    let vip = Vip::of_packet(parse::v4(ip.destination), dport, AF_INET, protocol);
    Ok(Packet { vip, len: len as u32, class: ip.tos, inner: IpProtocol::IPV4, director })
}

/// Extension headers are not walked: such a packet has the first one's number as its protocol, and no port.
#[inline(always)]
fn parse_v6<F: Frame>(frame: &F, director: MacAnd16) -> Result<Packet, Pass> {
    let ip = frame.at::<Ipv6>(Ethernet::LEN).ok_or(Pass::Malformed)?;
    let payload = ip.payload_len() as usize;
    if ip.version() != 6 || Ethernet::LEN + Ipv6::LEN + payload > frame.len() {
        return Err(Pass::Malformed);
    }
    let protocol = ip.next_header().0;
    let dport = match ported(protocol) {
        Some(least) => port(frame, Ipv6::LEN, payload, least)?,
        None => [0; 2],
    };
    let vip = Vip::of_packet(parse::v6(ip.destination), dport, AF_INET6, protocol);
    let len = (Ipv6::LEN + payload) as u32;
    Ok(Packet { vip, len, class: ip.traffic_class(), inner: IpProtocol::IPV6, director })
}

/// The destination port of a transport header of at least `least` bytes, `header` bytes into the IP packet.
#[inline(always)]
fn port<F: Frame>(frame: &F, header: usize, payload: usize, least: usize) -> Result<[u8; 2], Pass> {
    if payload < least {
        return Err(Pass::Malformed);
    }
    frame.at::<Ports>(Ethernet::LEN + header).map(|ports| ports.destination).ok_or(Pass::Malformed)
}

enum Refusal {
    Unsupported,
    Drop(DropReason),
}

impl From<NoRoom> for Refusal {
    #[inline(always)]
    fn from(NoRoom: NoRoom) -> Self {
        Self::Drop(DropReason::NoHeadroom)
    }
}

#[inline(always)]
fn wrap<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    tunnel: &Tunnel,
) -> Result<(), Refusal> {
    let (outer, ether_type) = match (tunnel.family(), packet.vip.family()) {
        (AF_INET, AF_INET) => (Ipv4::LEN, EtherType::IPV4),
        (AF_INET6, _) => (Ipv6::LEN, EtherType::IPV6),
        _ => return Err(Refusal::Unsupported),
    };
    if !tunnel.has_next_hop() {
        return Err(Refusal::Drop(DropReason::NoNextHop));
    }
    let (len, mtu) = (packet.len + outer as u32, tables.mtu());
    // What an outer header can say: IPv4 counts itself, IPv6 does not.
    let counted = if ether_type == EtherType::IPV4 { len } else { packet.len };
    let Ok(counted) = u16::try_from(counted) else { return Err(Refusal::Drop(DropReason::TooBig)) };
    if mtu != 0 && len > mtu {
        return Err(Refusal::Drop(DropReason::TooBig));
    }

    frame.grow_head(outer)?;
    // The source is the address the frame was sent to: this interface's own.
    *frame.at_mut::<Ethernet>(0).ok_or(NoRoom)? =
        Ethernet::new(tunnel.dmac(), packet.director.mac(), ether_type);
    if outer == Ipv4::LEN {
        *frame.at_mut::<Ipv4>(Ethernet::LEN).ok_or(NoRoom)? = Ipv4::emit(&Ipv4Repr {
            tos: packet.class,
            total_len: counted,
            id: tables.fresh_id(),
            ttl: TTL,
            protocol: packet.inner,
            source: (tunnel.saddr().0[0] as u32).to_ne_bytes(),
            destination: (tunnel.daddr().0[0] as u32).to_ne_bytes(),
        });
    } else {
        *frame.at_mut::<Ipv6>(Ethernet::LEN).ok_or(NoRoom)? = Ipv6::emit(&Ipv6Repr {
            traffic_class: packet.class,
            flow_label: 0,
            payload_len: counted,
            next_header: packet.inner,
            hop_limit: TTL,
            source: tunnel.saddr().octets(),
            destination: tunnel.daddr().octets(),
        });
    }
    Ok(())
}
