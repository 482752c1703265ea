//! A frame's headers by plain byte positions, for frames that are known to have them.

use std::net::IpAddr;

/// Length of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// Length of a frame's Ethernet header and VLAN tags, as far as they are there.
pub(super) fn link_len(frame: &[u8]) -> usize {
    let mut len = ETHERNET;
    while let Some([0x81, 0x00] | [0x88, 0xa8]) = frame.get(len - 2..len) {
        len += 4;
    }
    len
}

/// IP version by the EtherType behind all tags.
pub(super) fn version(frame: &[u8]) -> u8 {
    let link = link_len(frame);
    match frame[link - 2..link] {
        [0x08, 0x00] => 4,
        [0x86, 0xdd] => 6,
        _ => panic!("neither IPv4 nor IPv6"),
    }
}

/// What an IP header says, and where the next one begins.
#[derive(Debug)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// DSCP and ECN.
    pub(super) class: u8,
    /// Length of the header; IPv6 extension headers do not count.
    pub(super) header_len: usize,
}

/// Reads an IP header of this version.
pub(super) fn ip(version: u8, header: &[u8]) -> Ip {
    assert_eq!(header[0] >> 4, version, "the header is of another version");
    if version == 4 {
        let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let header_len = usize::from(header[0] & 15) * 4;
        Ip {
            source: address(12),
            destination: address(16),
            protocol: header[9],
            class: header[1],
            header_len,
        }
    } else {
        let address =
            |at: usize| IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("sixteen bytes"));
        let class = header[0] << 4 | header[1] >> 4;
        Ip { source: address(8), destination: address(24), protocol: header[6], class, header_len: 40 }
    }
}

/// Length of an IP packet, by its own account.
pub(super) fn ip_len(packet: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { number(2) } else { 40 + number(4) }
}

/// The destination port of a packet whose IP header is at `ip`.
pub(super) fn port(packet: &[u8], ip: &Ip) -> u16 {
    u16::from_be_bytes([packet[ip.header_len + 2], packet[ip.header_len + 3]])
}

/// Sum of the 16-bit words modulo 65535, in which a right update of a checksum changes nothing.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    bytes.chunks(2).map(word).sum::<u64>() % 0xffff
}
