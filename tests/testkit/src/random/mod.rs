//! Random packets and tables, reproducible from a seed.
//!
//! Owns: how likely what is. Invariant: both draw from the same few addresses, ports, identifications and server ids, so
//! that what they say of each other comes up often: a fragment after its first, an error about a flow, a server that is down.

mod packet;
mod tables;

pub use packet::random_packet;
pub use tables::random_image;

use std::net::IpAddr;

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
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Ports of services.
const PORTS: [u16; 3] = [53, 80, 443];
/// Server ids that services know are below this.
const SERVER_IDS: usize = 8;
/// The UDP port of GUE.
const GUE_PORT: u16 = 6080;
/// Where wrapped packets may come to, by family.
const DIRECTORS: [&str; 2] = ["10.0.0.2", "2001:db8::2"];
/// QUIC-LB's config rotation.
const ROTATION: u8 = 2;

/// One of a few addresses that may be VIPs.
fn vip(random: &mut Random) -> IpAddr {
    let last = random.pick(&[0, 0, 0, 1, 1, 1, 2, 3]);
    if random.one_in(2) {
        IpAddr::from([192, 0, 2, last])
    } else {
        IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(last)])
    }
}

/// A client of the VIP's family.
fn client(random: &mut Random, vip: IpAddr) -> IpAddr {
    let last = random.below(6) as u8;
    match vip {
        IpAddr::V4(_) => IpAddr::from([198, 51, 100, last]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 7, 0, 0, 0, 0, u16::from(last)]),
    }
}
