//! Random packets and tables, reproducible from a seed.
use crate::packet::Builder;
use crate::{Image, ServiceSpec};
use std::net::IpAddr;
use weir_abi::NoBackend;
use weir_wire::IpProtocol;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to choose test packets.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }
    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn vip(random: &mut Random) -> IpAddr {
    let last = random.below(4) as u8;
    if random.one_in(2) {
        IpAddr::from([192, 0, 2, last])
    } else {
        IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(last)])
    }
}

/// Tables with up to a dozen services around the addresses [`random_packet`] uses.
pub fn random_image(random: &mut Random, ifindex: u32) -> Image {
    let mut specs: Vec<ServiceSpec> = Vec::new();
    for _ in 0..=random.below(12) {
        let vip = vip(random);
        let spec = ServiceSpec {
            vip,
            port: *random.pick(&[0, 53, 80, 443]),
            protocol: *random.pick(&[6, 17]),
            backends: (0..random.below(5))
                .map(|n| match (vip, random.one_in(2)) {
                    (IpAddr::V4(_), true) => IpAddr::from([10, 0, 0, n as u8]),
                    _ => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + n as u16]),
                })
                .collect(),
            no_backend: *random.pick(&[NoBackend::Drop, NoBackend::Pass]),
            mtu: *random.pick(&[1280, 1500]),
            ..ServiceSpec::tcp("192.0.2.0", &[])
        };
        if specs.iter().all(|other| other.key() != spec.key()) {
            specs.push(spec);
        }
    }
    Image::new(specs, ifindex)
}

/// A packet of at least an Ethernet header: mostly well-formed, often mutated, sometimes noise.
pub fn random_packet(random: &mut Random) -> Vec<u8> {
    if random.one_in(20) {
        return (0..14 + random.below(100)).map(|_| random.bits() as u8).collect();
    }
    let destination = vip(random);
    let source: IpAddr = match destination {
        IpAddr::V4(_) => IpAddr::from([198, 51, 100, random.below(8) as u8]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, random.below(8) as u16]),
    };
    let builder = Builder {
        source,
        destination,
        tos: random.bits() as u8,
        options: vec![1; if random.one_in(8) { 4 * random.below(11) } else { 0 }],
        payload: vec![0x5a; if random.one_in(6) { random.below(1500) } else { random.below(40) }],
    };
    let (from, to) = (1024 + random.below(64) as u16, *random.pick(&[53, 80, 443, 22]));
    let mut packet = match random.below(10) {
        0..=5 => builder.tcp(from, to, *random.pick(&[0x02, 0x10, 0x12, 0x11, 0x04])),
        6..=8 => builder.udp(from, to),
        _ => builder.ip(IpProtocol(random.bits() as u8), &[random.bits() as u8; 24]),
    };
    if random.one_in(3) {
        for _ in 0..=random.below(3) {
            let at = 12 + random.below(packet.len().min(80) - 12);
            packet[at] = random.bits() as u8;
        }
    }
    if random.one_in(6) {
        packet.truncate(14 + random.below(packet.len() - 13));
    }
    packet
}
