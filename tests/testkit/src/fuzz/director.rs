//! The director's parsers of what lies deep in a packet, each with the packet built around its input.
//!
//! What must hold of any packet ([`once`]) is checked here too, and that the outcome is what an own reading of the bytes
//! says.

use std::net::IpAddr;

use weir_abi::{Reason, ServerIds};

use super::{IFINDEX, once};
use crate::packet::{Builder, extended};
use crate::{DirectorSpec, Image, MemoryTables, ServiceSpec};
use weir_wire::IpProtocol;

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];
const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
const ROUTERS: [&str; 2] = ["203.0.113.1", "2001:db8:9::1"];
const DIRECTORS: [&str; 2] = ["10.0.0.2", "2001:db8::2"];
const SERVERS: [[&str; 2]; 2] = [["10.0.0.11", "10.0.0.12"], ["2001:db8::11", "2001:db8::12"]];
/// QUIC-LB's config rotation.
const ROTATION: u8 = 2;
/// Longest input that a packet is made of.
const LONGEST: usize = 2000;

/// Bit 0 of a choice: the address family.
fn side(choice: u8) -> usize {
    usize::from(choice & 1)
}

/// Bits 1 and 2 of a choice: an IPv6 extension header between the headers; none, short, long, as long as may be.
fn maybe_extended(frame: Vec<u8>, choice: u8) -> Vec<u8> {
    let words = [0, 1, 50, 57][usize::from(choice >> 1 & 3)];
    if frame[12] != 0x86 || words == 0 {
        return frame;
    }
    let mut header = vec![0; 8 * words];
    header[1] = (words - 1) as u8;
    extended(&frame, IpProtocol(60), &header)
}

/// A payload that may name a server: a choice (bit 0 family, 1-2 extension header, 3-5 scheme, 6-7 length of QUIC-LB's ids),
/// the number of the only server that has one (four bytes, little-endian), the payload; of TCP the options.
pub fn server_id(data: &[u8]) {
    let Some((&[choice, a, b, c, d], payload)) = data.split_first_chunk() else { return };
    let payload = &payload[..payload.len().min(LONGEST)];
    let known = u32::from_le_bytes([a, b, c, d]);
    let schemes = [ServerIds::Quic, ServerIds::QuicLb, ServerIds::UdpStable, ServerIds::TcpOption];
    let scheme = schemes[usize::from(choice >> 3 & 7) % schemes.len()];
    let (len, side) = ((choice >> 6) + 1, side(choice));
    let tcp = scheme == ServerIds::TcpOption;
    let payload = if tcp { &payload[..payload.len().min(40) & !3] } else { payload };
    let spec = ServiceSpec {
        protocol: if tcp { 6 } else { 17 },
        server_ids: (scheme, ROTATION, len),
        servers: vec![(known, 1)],
        // What is big is not of interest here.
        mtu: 9000,
        ..ServiceSpec::tcp(VIPS[side], &SERVERS[side])
    };
    let image = Image::new(vec![spec], IFINDEX);
    let builder = Builder { payload: payload.to_vec(), ..Builder::new(CLIENTS[side], VIPS[side]) };
    let frame = if tcp {
        let mut frame = builder.tcp(1, 80, 0x10);
        frame[if side == 0 { 46 } else { 66 }] = ((20 + payload.len()) * 4) as u8;
        frame
    } else {
        builder.udp(1, 80)
    };
    let outcome = once(&image, &MemoryTables::new(&image), &maybe_extended(frame, choice));
    let named = match scheme {
        ServerIds::Quic => quic(payload).and_then(katran),
        ServerIds::QuicLb => quic(payload).and_then(|id| plaintext(id, len)),
        ServerIds::UdpStable => {
            let id = payload.strip_prefix(&[0x52]).filter(|id| id.len() >= 8 && id[0] >> 6 == 2);
            id.and_then(katran)
        }
        ServerIds::TcpOption => option(payload),
        ServerIds::None => None,
    };
    let is_known = named == Some(known);
    assert_eq!(
        outcome.reason == Reason::ServerId,
        is_known,
        "{outcome:?}: it names {named:x?}, known is {known:x}"
    );
}

/// The connection id that a server made, of a packet to it; at least eight bytes.
fn quic(payload: &[u8]) -> Option<&[u8]> {
    let (first, rest) = payload.split_first()?;
    if first & 0x80 == 0 {
        return rest.get(..8);
    }
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first()?;
    // Handshake and Retry: RFC 9000, section 17.2; RFC 9369, section 3.2.
    let names = match version {
        [0x6b, 0x33, 0x43, 0xcf] => [3, 0],
        _ => [2, 3],
    };
    if !names.contains(&(first >> 4 & 3)) || *len < 8 { None } else { rest.get(..8) }
}

fn katran(id: &[u8]) -> Option<u32> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    match id[0] >> 6 {
        1 => Some(number(&id[..3]) >> 6 & 0xffff),
        2 => Some(number(&id[1..4])),
        3 => Some(number(&id[1..5])),
        _ => None,
    }
}

fn plaintext(id: &[u8], len: u8) -> Option<u32> {
    let number = id[1..=usize::from(len)].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    (id[0] >> 5 == ROTATION).then_some(number)
}

/// Among the first fifteen options.
fn option(mut options: &[u8]) -> Option<u32> {
    for _ in 0..15 {
        // What is shorter than the option looked for needs no look.
        let &[kind, len, a, b, c, d] = options.first_chunk::<6>()?;
        let skip = match (kind, len) {
            (1, _) => 1,
            (0xb7, 6) => return Some(u32::from_le_bytes([a, b, c, d])),
            (0, _) | (_, 0 | 1) => return None,
            (_, len) => usize::from(len),
        };
        options = options.get(skip..)?;
    }
    None
}

/// An ICMP message to a VIP: a choice (bit 0 family, 1-2 extension header), the message.
pub fn icmp(data: &[u8]) {
    let Some((&choice, message)) = data.split_first() else { return };
    let message = &message[..message.len().min(1200)];
    let side = side(choice);
    let spec = ServiceSpec { protocol: 17, ..ServiceSpec::tcp(VIPS[side], &SERVERS[side]) };
    let image = Image::new(vec![spec], IFINDEX);
    let carrier = Builder { payload: message.to_vec(), ..Builder::new(ROUTERS[side], VIPS[side]) };
    let frame = carrier.ip(IpProtocol([1, 58][side]), &[]);
    let outcome = once(&image, &MemoryTables::new(&image), &maybe_extended(frame, choice));
    let error = |kind: u8| if side == 0 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    let expected = match message {
        short if short.len() < 8 => Reason::VipTruncated,
        [kind, ..] if *kind == [8, 128][side] => Reason::EchoReply,
        [kind, ..] if error(*kind) && is_about_service(&message[8..], side) => Reason::IcmpForwarded,
        _ => Reason::VipOther,
    };
    assert_eq!(outcome.reason, expected, "{message:02x?}");
}

/// Whether a quoted packet is UDP from port 80 of the VIP, as far as it is there.
fn is_about_service(quoted: &[u8], side: usize) -> bool {
    let read = || {
        let (header, protocol, source) = if side == 0 {
            let ip = quoted.first_chunk::<20>()?;
            let header = usize::from(ip[0] & 15) * 4;
            let fits = ip[0] >> 4 == 4 && header >= 20 && (ip[6] & 0x1f | ip[7]) == 0;
            (if fits { header } else { return None }, ip[9], IpAddr::from([ip[12], ip[13], ip[14], ip[15]]))
        } else {
            let ip = quoted.first_chunk::<40>()?;
            let (mut at, mut protocol) = (40, ip[6]);
            for _ in 0..3 {
                let size = |words: u8| (usize::from(words) + 1) * 8;
                let &[next, words, high, low] = match protocol {
                    0 | 43 | 44 | 60 => quoted.get(at..)?.first_chunk::<4>()?,
                    _ => break,
                };
                if protocol == 44 && (high, low & 0xf8) != (0, 0) {
                    return None;
                }
                at += if protocol == 44 { 8 } else { size(words) };
                protocol = next;
                if at > 255 {
                    return None;
                }
            }
            if ip[0] >> 4 != 6 {
                return None;
            }
            (at, protocol, IpAddr::from(*ip[8..].first_chunk::<16>()?))
        };
        let ports = quoted.get(header..)?.first_chunk::<4>()?;
        let vip: IpAddr = VIPS[side].parse().ok()?;
        Some(protocol == 17 && source == vip && ports[..2] == [0, 80])
    };
    read() == Some(true)
}

/// A packet wrapped to an address that takes such packets: a choice (bit 0 outer family, 1-2 extension header, 3 GUE, 4 the
/// family the outer header says), DSCP and ECN of the outer header, what is inside.
pub fn wrapped(data: &[u8]) {
    let Some((&[choice, class], inside)) = data.split_first_chunk() else { return };
    let inside = &inside[..inside.len().min(LONGEST)];
    let side = side(choice);
    let decapsulate = DIRECTORS.map(|address| address.parse().expect("a literal address"));
    let specs = (0..2).flat_map(|side| {
        let tcp = ServiceSpec::tcp(VIPS[side], &SERVERS[side]);
        [ServiceSpec { protocol: 17, ..tcp.clone() }, tcp]
    });
    let image = Image::with(specs.collect(), DirectorSpec::default(), &decapsulate, IFINDEX);
    let carrier =
        Builder { payload: inside.to_vec(), ..Builder::new(ROUTERS[side], DIRECTORS[side]).tos(class) };
    let frame = if choice >> 3 & 1 == 1 {
        carrier.udp(50000, image.director.gue_port)
    } else {
        carrier.ip(IpProtocol([4, 41][usize::from(choice >> 4 & 1)]), &[])
    };
    once(&image, &MemoryTables::new(&image), &maybe_extended(frame, choice));
}
