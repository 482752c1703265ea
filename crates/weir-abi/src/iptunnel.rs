//! What `weir iptunnel` shares with its BPF program: the maps of Linux's `xdp_tx_iptunnel` sample, byte for byte.
//!
//! Owns: the names, sizes and record layouts of `vip2tnl`, `rxcnt` and the two maps the sample does not have. Holds no
//! logic. Invariant: `vip2tnl` and `rxcnt` look to `bpftool map dump`, and to scripts that write them, as the sample's do.
//!
//! The sample's records are C structs; here they are words, aligned to eight bytes (the C ones to four) so that they can
//! stand on the BPF stack. No offset or size differs.

use crate::Address;

/// Hash map: [`Vip`] to [`Tunnel`].
pub const VIP2TNL: &str = "vip2tnl";
/// Per-CPU array of `u64`: packets wrapped, indexed by the IP protocol of the packet that was wrapped.
pub const RXCNT: &str = "rxcnt";
/// Per-CPU array of `u64`: packets dropped, indexed by [`DropReason`]. Not in the sample.
pub const DROPS: &str = "iptnl_drops";
/// Array with one `u32`: the interface's MTU in bytes, 0 for no limit. Not in the sample.
pub const MTU: &str = "iptnl_mtu";

/// Entries in [`VIP2TNL`], and so the most ports one VIP can have here.
pub const VIP2TNL_ENTRIES: u32 = 256;
/// Entries in [`RXCNT`]: one for each IP protocol number.
pub const RXCNT_ENTRIES: u32 = 256;

/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;

/// Key of [`VIP2TNL`]: what a packet must be addressed to. `struct vip` of the sample, 24 bytes:
///
/// | bytes | content |
/// | --- | --- |
/// | 0-15 | destination address in network byte order; IPv4 in the first four bytes, the rest zero |
/// | 16-17 | destination port in network byte order; zero for protocols without ports |
/// | 18-19 | [`AF_INET`] or [`AF_INET6`], native byte order |
/// | 20 | IP protocol number (IPv6: the first header's `next header`) |
/// | 21-23 | padding, zero: the kernel compares keys with it |
///
/// Held as words, like every record shared with a program: fields of bytes are put on the program's stack in pieces the
/// verifier calls misaligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Vip([u64; 3]);

/// Value of [`VIP2TNL`]: how to wrap and where to send. `struct iptnl_info` of the sample, 40 bytes:
///
/// | bytes | content |
/// | --- | --- |
/// | 0-15 | outer source address in network byte order; IPv4 in the first four bytes, the rest zero |
/// | 16-31 | outer destination address, likewise |
/// | 32-33 | family of both: [`AF_INET`] or [`AF_INET6`], native byte order |
/// | 34-39 | where the frame is sent: the next hop's MAC address; all zero: not known yet |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Tunnel([u64; 5]);

/// Why a packet to a VIP was dropped: the index into [`DROPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DropReason {
    /// Larger than the interface's MTU once wrapped.
    TooBig = 0,
    /// The next hop's MAC address is not known.
    NoNextHop = 1,
    /// No room in front of the packet for the outer header.
    NoHeadroom = 2,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::TooBig, Self::NoNextHop, Self::NoHeadroom];
}

fn address_family(ip: core::net::IpAddr) -> u16 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

impl Vip {
    /// Length of the key in bytes.
    pub const SIZE: usize = 24;

    /// The key for packets to `ip`; `port` in host byte order, zero for protocols without ports.
    pub fn new(ip: core::net::IpAddr, port: u16, protocol: u8) -> Self {
        Self::of_packet(ip.into(), port.to_be_bytes(), address_family(ip), protocol)
    }
    /// The key of what stands in a packet.
    #[inline(always)]
    pub const fn of_packet(daddr: Address, dport: [u8; 2], family: u16, protocol: u8) -> Self {
        let tail = u16::from_ne_bytes(dport) as u64 | (family as u64) << 16 | (protocol as u64) << 32;
        Self([daddr.0[0], daddr.0[1], tail])
    }
    /// Destination address.
    #[inline(always)]
    pub fn daddr(&self) -> Address {
        Address([self.0[0], self.0[1]])
    }
    /// Destination port, packet order.
    #[inline(always)]
    pub const fn dport(&self) -> [u8; 2] {
        (self.0[2] as u16).to_ne_bytes()
    }
    /// [`AF_INET`] or [`AF_INET6`].
    #[inline(always)]
    pub const fn family(&self) -> u16 {
        (self.0[2] >> 16) as u16
    }
    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.0[2] >> 32) as u8
    }
    /// The bytes as they stand in the map.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl Tunnel {
    /// Length of the value in bytes.
    pub const SIZE: usize = 40;

    /// A tunnel between two addresses of one family (that of `source` is recorded) to the next hop `dmac`.
    pub fn new(source: core::net::IpAddr, destination: core::net::IpAddr, dmac: [u8; 6]) -> Self {
        let (s, d) = (Address::from(source), Address::from(destination));
        let family = address_family(source).to_le_bytes();
        let tail = [family[0], family[1], dmac[0], dmac[1], dmac[2], dmac[3], dmac[4], dmac[5]];
        Self([s.0[0], s.0[1], d.0[0], d.0[1], u64::from_le_bytes(tail)])
    }
    /// The value with these bytes, whatever they say: anyone may write the map.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self([words[0], words[1], words[2], words[3], words[4]].map(u64::from_ne_bytes))
    }
    /// Outer source address.
    #[inline(always)]
    pub fn saddr(&self) -> Address {
        Address([self.0[0], self.0[1]])
    }
    /// Outer destination address.
    #[inline(always)]
    pub fn daddr(&self) -> Address {
        Address([self.0[2], self.0[3]])
    }
    /// Family of both.
    #[inline(always)]
    pub const fn family(&self) -> u16 {
        self.0[4] as u16
    }
    /// The next hop's MAC address; all zero: not known yet.
    #[inline(always)]
    pub const fn dmac(&self) -> [u8; 6] {
        let b = self.0[4].to_le_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7]]
    }
    /// Whether the next hop's MAC address is known.
    #[inline(always)]
    pub const fn has_next_hop(&self) -> bool {
        self.0[4] >> 16 != 0
    }
    /// The bytes as they stand in the map.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// IP protocols whose header begins with source and destination port, and the least length of that header in bytes.
///
/// TCP, UDP, DCCP, SCTP, UDP-Lite.
pub const fn ported(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(20),
        17 | 136 => Some(8),
        33 | 132 => Some(12),
        _ => None,
    }
}

const _: () = {
    assert!(size_of::<Vip>() == Vip::SIZE);
    assert!(size_of::<Tunnel>() == Tunnel::SIZE);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// What a C compiler lays out for the sample's structs, by hand.
    #[test]
    fn records_are_the_samples_bytes() {
        let vip = Vip::new([10, 99, 0, 1].into(), 80, 6);
        assert_eq!(
            vip.to_bytes(),
            [10, 99, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80, 2, 0, 6, 0, 0, 0]
        );
        let v6: core::net::Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let vip = Vip::new(v6.into(), 0x1234, 17);
        assert_eq!(
            vip.to_bytes(),
            [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x12, 0x34, 10, 0, 17, 0, 0, 0]
        );
        let tunnel = Tunnel::new([10, 1, 1, 1].into(), [10, 1, 1, 2].into(), [2, 0, 0, 0, 0, 9]);
        let mut expected = [0; 40];
        expected[..4].copy_from_slice(&[10, 1, 1, 1]);
        expected[16..20].copy_from_slice(&[10, 1, 1, 2]);
        expected[32] = 2;
        expected[34] = 2;
        expected[39] = 9;
        assert_eq!(tunnel.to_bytes(), expected);
    }

    #[test]
    fn drops_are_indices() {
        for (index, drop) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*drop as usize, index);
        }
    }
}
