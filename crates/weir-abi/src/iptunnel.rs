//! What `weir iptunnel` shares with its BPF program: the maps of Linux's `xdp_tx_iptunnel` sample, byte for byte.
//!
//! Owns: the names, sizes and record layouts of `vip2tnl`, `rxcnt` and the two maps the sample does not have. Holds no
//! logic. Invariant: `vip2tnl` and `rxcnt` look to `bpftool map dump`, and to scripts that write them, as the sample's do.
//!
//! Unlike the director's tables these are C structs and not words, because their layout is not ours to choose. They are
//! aligned to eight bytes (the C ones to four) so that they can stand on the BPF stack; no offset or size changes.

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

/// Key of [`VIP2TNL`]: what a packet must be addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Vip {
    /// Destination address in network byte order; IPv4 in the first four bytes, the rest zero.
    pub daddr: [u8; 16],
    /// Destination port in network byte order; zero for protocols without ports.
    pub dport: [u8; 2],
    /// [`AF_INET`] or [`AF_INET6`], native byte order.
    pub family: u16,
    /// IP protocol number (IPv6: the first header's `next header`) and three bytes of padding, which are zero because
    /// the kernel compares keys with their padding. One field, so that it is one store: the compiler makes a call of
    /// setting three bytes.
    tail: [u8; 4],
}

/// Value of [`VIP2TNL`]: how to wrap and where to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Tunnel {
    /// Outer source address in network byte order; IPv4 in the first four bytes, the rest zero.
    pub saddr: [u8; 16],
    /// Outer destination address, likewise.
    pub daddr: [u8; 16],
    /// Family of both addresses: [`AF_INET`] or [`AF_INET6`], native byte order.
    pub family: u16,
    /// Where the frame is sent: the next hop's MAC address. All zero: not known yet.
    pub dmac: [u8; 6],
}

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

/// An address as both records hold it, with its family.
pub fn address(ip: core::net::IpAddr) -> ([u8; 16], u16) {
    match ip {
        core::net::IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, AF_INET)
        }
        core::net::IpAddr::V6(v6) => (v6.octets(), AF_INET6),
    }
}

impl Vip {
    /// Length of the key in bytes.
    pub const SIZE: usize = 24;

    /// The key for packets to `ip`; `port` in host byte order, zero for protocols without ports.
    pub fn new(ip: core::net::IpAddr, port: u16, protocol: u8) -> Self {
        let (daddr, family) = address(ip);
        Self::of_bytes(daddr, port.to_be_bytes(), family, protocol)
    }

    /// The key of bytes as they stand in a packet.
    #[inline(always)]
    pub const fn of_bytes(daddr: [u8; 16], dport: [u8; 2], family: u16, protocol: u8) -> Self {
        Self { daddr, dport, family, tail: (protocol as u32).to_le_bytes() }
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.tail[0]
    }

    /// The bytes as they stand in the map.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.daddr);
        bytes[16..18].copy_from_slice(&self.dport);
        bytes[18..20].copy_from_slice(&self.family.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.tail);
        bytes
    }
}

impl Tunnel {
    /// Length of the value in bytes.
    pub const SIZE: usize = 40;

    /// The bytes as they stand in the map.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.saddr);
        bytes[16..32].copy_from_slice(&self.daddr);
        bytes[32..34].copy_from_slice(&self.family.to_ne_bytes());
        bytes[34..].copy_from_slice(&self.dmac);
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
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Vip>() == Vip::SIZE);
    assert!(offset_of!(Vip, daddr) == 0);
    assert!(offset_of!(Vip, dport) == 16);
    assert!(offset_of!(Vip, family) == 18);
    assert!(offset_of!(Vip, tail) == 20);
    assert!(size_of::<Tunnel>() == Tunnel::SIZE);
    assert!(offset_of!(Tunnel, saddr) == 0);
    assert!(offset_of!(Tunnel, daddr) == 16);
    assert!(offset_of!(Tunnel, family) == 32);
    assert!(offset_of!(Tunnel, dmac) == 34);
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
        let (saddr, family) = address([10, 1, 1, 1].into());
        let (daddr, _) = address([10, 1, 1, 2].into());
        let tunnel = Tunnel { saddr, daddr, family, dmac: [2, 0, 0, 0, 0, 9] };
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
