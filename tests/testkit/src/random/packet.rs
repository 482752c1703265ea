//! Random packets.
use super::{DIRECTORS, GUE_PORT, PORTS, ROTATION, Random, SERVER_IDS, client, vip};
use crate::packet::{Builder, extended, fragments, tagged, wrapped};
use std::net::IpAddr;
use weir_wire::IpProtocol;

/// The longest packet: what the kernel takes for a test is one page, less what it needs itself.
const LONGEST: usize = 3400;

/// A packet of at least an Ethernet header: mostly well-formed, often mutated, sometimes noise.
pub fn random_packet(random: &mut Random) -> Vec<u8> {
    if random.one_in(40) {
        return (0..14 + random.below(100)).map(|_| random.bits() as u8).collect();
    }
    let vip = vip(random);
    let builder = Builder {
        source: if random.one_in(40) { no_sender(random, vip) } else { client(random, vip) },
        destination: vip,
        tos: random.bits() as u8,
        options: vec![1; if random.one_in(10) { 4 * random.below(11) } else { 0 }],
        payload: Vec::new(),
    };
    let mut packet = match random.below(20) {
        0..=8 => tcp(random, builder),
        9..=15 => udp(random, builder),
        16 => echo(random, builder),
        17..=18 => error(random, &builder),
        _ => builder.ip(IpProtocol(random.bits() as u8), &[random.bits() as u8; 24]),
    };
    if random.one_in(40) {
        // Hops left.
        packet[if vip.is_ipv4() { 22 } else { 21 }] = 0;
    }
    around(random, packet)
}

fn tcp(random: &mut Random, builder: Builder) -> Vec<u8> {
    let options = if random.one_in(3) { tcp_options(random) } else { Vec::new() };
    let payload = [options.clone(), filling(random)].concat();
    let flags = random.pick(&[0x02, 0x10, 0x10, 0x12, 0x11, 0x04]);
    let options_at = if builder.destination.is_ipv4() { 34 + builder.options.len() } else { 54 };
    let mut packet = Builder { payload, ..builder }.tcp(source_port(random), service_port(random), flags);
    packet[options_at + 12] = ((20 + options.len()) * 4) as u8;
    packet
}

fn udp(random: &mut Random, builder: Builder) -> Vec<u8> {
    let payload = match random.below(4) {
        0 => quic(random),
        1 => [&[0x52], &katran_id(random)[..], &filling(random)].concat(),
        _ => filling(random),
    };
    let length_at = if builder.destination.is_ipv4() { 34 + builder.options.len() + 4 } else { 58 };
    let mut packet = Builder { payload, ..builder }.udp(source_port(random), service_port(random));
    match random.below(8) {
        // Without a checksum, or ending before the packet does.
        0 => packet[length_at + 2..length_at + 4].fill(0),
        1 => packet[length_at + 1] = packet[length_at + 1].saturating_sub(1),
        _ => {}
    }
    packet
}

fn echo(random: &mut Random, builder: Builder) -> Vec<u8> {
    let kind = if builder.destination.is_ipv4() { 8 } else { 128 };
    let payload = filling(random);
    Builder { payload, ..builder }.icmp(kind, 0, [random.bits() as u8; 4])
}

/// An ICMP error about what a VIP sent to a client: most often the VIP that it goes to.
fn error(random: &mut Random, builder: &Builder) -> Vec<u8> {
    let from = if random.one_in(8) { vip(random) } else { builder.destination };
    let reply = Builder {
        source: from,
        destination: client(random, from),
        payload: if random.one_in(3) { quic(random) } else { filling(random) },
        tos: 0,
        options: vec![1; if random.one_in(8) { 4 * random.below(11) } else { 0 }],
    };
    let (port, to) = (service_port(random), source_port(random));
    let mut quoted = if random.one_in(2) { reply.udp(port, to) } else { reply.tcp(port, to, 0x10) };
    if from.is_ipv6() && random.one_in(4) {
        quoted = extensions(random, quoted);
    }
    quoted.truncate(14 + random.pick(&[28, 48, 68, 100, 548]));
    let (kind, code) = match builder.destination {
        IpAddr::V4(_) => random.pick(&[(3, 4), (3, 1), (11, 0), (12, 0), (5, 1)]),
        IpAddr::V6(_) => random.pick(&[(1, 0), (2, 0), (3, 0), (4, 1), (135, 0)]),
    };
    Builder { payload: quoted[14..].to_vec(), ..builder.clone() }.icmp(kind, code, [0, 0, 5, 0x14])
}

/// What may be around a packet, or wrong with it.
fn around(random: &mut Random, mut packet: Vec<u8>) -> Vec<u8> {
    let is_v6 = packet[12] == 0x86;
    let has_options = !is_v6 && packet[14] != 0x45;
    if is_v6 && random.one_in(5) {
        packet = extensions(random, packet);
    }
    if !has_options && random.one_in(6) {
        let body = packet.len() - if is_v6 { 54 } else { 34 };
        let first = 8 * (1 + random.below(4));
        if body > first {
            let id = random.pick(&[0, 0, 0, 1]);
            let [first, later] = fragments(&packet, first, id);
            packet = if random.one_in(2) { first } else { later };
        }
    }
    if is_v6 && random.one_in(12) {
        packet = extensions(random, packet);
    }
    if random.one_in(8) {
        let destination = random.pick(&[DIRECTORS[0], DIRECTORS[1], "192.0.2.1"]);
        let source = if destination == DIRECTORS[1] { "2001:db8:99::1" } else { "203.0.113.9" };
        let class = random.bits() as u8;
        packet = wrapped(&packet, source, destination, class, random.pick(&[None, Some(GUE_PORT)]));
        if destination == DIRECTORS[1] && random.one_in(4) {
            packet = extensions(random, packet);
        }
    }
    if random.one_in(6) {
        let tags = [0x8100, 0x88a8, 0x8100].map(|ether_type| (ether_type, random.bits() as u16));
        packet = tagged(&packet, &tags[..random.pick(&[1, 1, 2, 3])]);
    }
    if random.one_in(10) {
        packet.extend(vec![random.bits() as u8; random.below(20)]);
    }
    if random.one_in(6) {
        for _ in 0..=random.below(3) {
            let at = 12 + random.below(packet.len().min(120) - 12);
            packet[at] = random.bits() as u8;
        }
    }
    if random.one_in(12) {
        packet.truncate(14 + random.below(packet.len() - 13));
    }
    packet.truncate(LONGEST);
    packet
}

/// With up to seven extension headers, mostly short, behind the IPv6 header.
fn extensions(random: &mut Random, mut packet: Vec<u8>) -> Vec<u8> {
    for _ in 0..=if random.one_in(8) { 6 } else { random.below(3) } {
        let kind = random.pick(&[0, 43, 44, 60, 60]);
        let words = if kind == 44 { 1 } else { random.pick(&[1, 1, 1, 2, 3, 20, 50, 56, 60]) };
        let mut header = vec![0; 8 * words];
        if kind != 44 {
            header[1] = (words - 1) as u8;
        }
        if kind == 43 && random.one_in(4) {
            header[3] = 1;
        }
        if kind == 44 && random.one_in(3) {
            // A fragment, of which there is also this in front of what may be another.
            header[3] = random.pick(&[1, 8]);
            header[7] = random.below(4) as u8;
        }
        packet = extended(&packet, IpProtocol(kind), &header);
    }
    packet
}

fn no_sender(random: &mut Random, vip: IpAddr) -> IpAddr {
    match vip {
        IpAddr::V4(_) => IpAddr::from(random.pick(&[[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4]])),
        IpAddr::V6(_) => {
            IpAddr::from(random.pick(&[[0; 8], [0, 0, 0, 0, 0, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 1]]))
        }
    }
}

fn source_port(random: &mut Random) -> u16 {
    1024 + random.below(6) as u16
}

/// A service's port; now and then one that is none's.
fn service_port(random: &mut Random) -> u16 {
    if random.one_in(20) { 22 } else { random.pick(&PORTS) }
}

fn filling(random: &mut Random) -> Vec<u8> {
    let len = if random.one_in(6) { random.below(1500) } else { random.below(60) };
    vec![0x5a; len]
}

/// A connection id that names a server, in one of Katran's layouts, or in QUIC-LB's.
fn katran_id(random: &mut Random) -> [u8; 8] {
    let id = random.below(SERVER_IDS + 2) as u8;
    match random.below(4) {
        0 => [0x40, id >> 2, id << 6, 1, 2, 3, 4, 5],
        1 => [0x80, 0, 0, id, 5, 6, 7, 8],
        2 => [0xc0, 0, 0, 0, id, 6, 7, 8],
        // The first byte is the only one of ids of one byte, the second the last of those of two, and so on.
        _ => {
            let len = 1 + random.below(4);
            let mut bytes = [ROTATION << 5, 0, 0, 0, 0, 9, 9, 9];
            bytes[len] = id;
            bytes
        }
    }
}

/// A QUIC packet with either header, from either side.
fn quic(random: &mut Random) -> Vec<u8> {
    let id = katran_id(random);
    let kind = random.below(4) as u8;
    match random.below(3) {
        0 => [&[0x40], &id[..], &filling(random)].concat(),
        1 => {
            let version = random.pick(&[[0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf]]);
            [&[0xc0 | kind << 4], &version[..], &[random.pick(&[8, 8, 20, 4])], &id, &filling(random)]
                .concat()
        }
        _ => {
            let client = vec![0xaa; random.pick(&[0, 8, 20, 21])];
            let length = random.pick(&[8, 8, 20, 4]);
            [&[0xe0, 0, 0, 0, 1, client.len() as u8], &client[..], &[length], &id, &filling(random)].concat()
        }
    }
}

/// Options of a TCP header, a multiple of four bytes and at most forty, often with a server id among them.
fn tcp_options(random: &mut Random) -> Vec<u8> {
    let mut options = vec![1; random.below(17)];
    options.extend([0xb7, 6, random.below(SERVER_IDS + 2) as u8, 0, 0, 0]);
    options.resize(options.len().next_multiple_of(4), random.pick(&[0, 1]));
    options
}
