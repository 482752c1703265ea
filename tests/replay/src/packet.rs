//! Packets as bytes, read without any of weir's code.
//!
//! Owns: where headers are and what they say. May not touch: what weir or the peer makes of a packet. Invariant: nothing is
//! read beyond the bytes there are, and a header that is not wholly there is not read at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of a UDP header.
pub(crate) const UDP: usize = 8;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_IPV4: u8 = 4;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
pub(crate) const PROTOCOL_IPV6: u8 = 41;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;
const FRAGMENT_HEADER: u8 = 44;

/// Two bytes in network order.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What a frame carries behind its VLAN tags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried<'f> {
    /// How many tags there are.
    pub(crate) tags: usize,
    pub(crate) ether_type: u16,
    /// All that follows.
    pub(crate) rest: &'f [u8],
}

impl<'f> Carried<'f> {
    /// `None`: the frame ends within its headers.
    pub(crate) fn of(frame: &'f [u8]) -> Option<Self> {
        let (mut at, mut tags) = (ETHERNET - 2, 0);
        while matches!(word(frame, at)?, 0x8100 | 0x88a8) {
            (at, tags) = (at + 4, tags + 1);
        }
        Some(Self { tags, ether_type: word(frame, at)?, rest: frame.get(at + 2..)? })
    }
}

/// An IP packet, and whatever follows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip<'p> {
    bytes: &'p [u8],
    v4: bool,
}

/// The part of a packet that a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Bytes of the packet in front of it.
    pub(crate) offset: u16,
    /// Whether another one follows.
    pub(crate) more: bool,
}

/// What follows an IP header and its extension headers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport<'p> {
    Tcp {
        source: u16,
        destination: u16,
    },
    Udp {
        source: u16,
        destination: u16,
        payload: &'p [u8],
    },
    Icmp {
        kind: u8,
        code: u8,
        quoted: &'p [u8],
    },
    Icmpv6 {
        kind: u8,
        quoted: &'p [u8],
    },
    /// Another packet.
    Ip(&'p [u8]),
    Other,
}

impl<'p> Ip<'p> {
    /// The packet in a frame.
    pub(crate) fn of_frame(frame: &'p [u8]) -> Option<Self> {
        let carried = Carried::of(frame)?;
        let ip = Self::new(carried.rest)?;
        (carried.ether_type == if ip.v4 { 0x0800 } else { 0x86dd }).then_some(ip)
    }

    /// The packet at the beginning of `bytes`.
    pub(crate) fn new(bytes: &'p [u8]) -> Option<Self> {
        let version = bytes.first()? >> 4;
        let ip = Self { bytes, v4: version == 4 };
        match version {
            4 => (bytes.len() >= 20 && ip.header_len() >= 20 && bytes.len() >= ip.header_len()).then_some(ip),
            6 => (bytes.len() >= 40).then_some(ip),
            _ => None,
        }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.v4
    }

    /// All bytes from the header on, what follows the packet included.
    pub(crate) fn bytes(&self) -> &'p [u8] {
        self.bytes
    }

    /// Without IPv6 extension headers.
    pub(crate) fn header_len(&self) -> usize {
        if self.v4 { usize::from(self.bytes[0] & 15) * 4 } else { 40 }
    }

    /// By its own account, header included.
    pub(crate) fn len(&self) -> usize {
        let said = |at| usize::from(word(self.bytes, at).unwrap_or(0));
        if self.v4 { said(2) } else { 40 + said(4) }
    }

    pub(crate) fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    fn address(&self, v4_at: usize, v6_at: usize) -> IpAddr {
        if self.v4 {
            let octets = self.bytes[v4_at..v4_at + 4].try_into().unwrap_or([0; 4]);
            Ipv4Addr::from(octets).into()
        } else {
            let octets = self.bytes[v6_at..v6_at + 16].try_into().unwrap_or([0; 16]);
            Ipv6Addr::from(octets).into()
        }
    }

    /// DSCP and ECN.
    pub(crate) fn class(&self) -> u8 {
        if self.v4 { self.bytes[1] } else { self.bytes[0] << 4 | self.bytes[1] >> 4 }
    }

    /// Hops left.
    pub(crate) fn hops(&self) -> u8 {
        if self.v4 { self.bytes[8] } else { self.bytes[7] }
    }

    /// What the header says follows it at once.
    pub(crate) fn next_header(&self) -> u8 {
        if self.v4 { self.bytes[9] } else { self.bytes[6] }
    }

    /// Whether there is anything between the IP header's fixed part and what it carries.
    pub(crate) fn is_extended(&self) -> bool {
        if self.v4 { self.header_len() > 20 } else { is_extension(self.next_header()) }
    }

    /// `None`: it is whole.
    pub(crate) fn fragment(&self) -> Option<Fragment> {
        let fragment = if self.v4 {
            let word = word(self.bytes, 6)?;
            Fragment { offset: (word & 0x1fff) * 8, more: word & 0x2000 != 0 }
        } else {
            let word = self.walk().2?;
            Fragment { offset: word & !7, more: word & 1 != 0 }
        };
        (fragment.offset != 0 || fragment.more).then_some(fragment)
    }

    /// Over the extension headers: what follows them, where, and the fragment header's offset and flags.
    fn walk(&self) -> (u8, usize, Option<u16>) {
        let (mut next, mut at, mut fragment) = (self.next_header(), self.header_len(), None);
        while !self.v4 && is_extension(next) {
            let Some(&[following, words]) = self.bytes.get(at..at + 2) else { break };
            let len = if next == FRAGMENT_HEADER {
                fragment = word(self.bytes, at + 2);
                8
            } else {
                (usize::from(words) + 1) * 8
            };
            (next, at) = (following, at + len);
        }
        (next, at, fragment)
    }

    /// [`Transport::Other`] for later fragments, too.
    pub(crate) fn transport(&self) -> Transport<'p> {
        let (protocol, at, _) = self.walk();
        let body = self.bytes.get(at..).unwrap_or_default();
        let later = self.fragment().is_some_and(|fragment| fragment.offset != 0);
        let ports = || Some((word(body, 0)?, word(body, 2)?));
        match (protocol, ports()) {
            _ if later => Transport::Other,
            (PROTOCOL_TCP, Some((source, destination))) => Transport::Tcp { source, destination },
            (PROTOCOL_UDP, Some((source, destination))) => {
                Transport::Udp { source, destination, payload: body.get(UDP..).unwrap_or_default() }
            }
            (PROTOCOL_ICMP, Some(_)) => {
                Transport::Icmp { kind: body[0], code: body[1], quoted: body.get(8..).unwrap_or_default() }
            }
            (PROTOCOL_ICMPV6, Some(_)) => {
                Transport::Icmpv6 { kind: body[0], quoted: body.get(8..).unwrap_or_default() }
            }
            (PROTOCOL_IPV4 | PROTOCOL_IPV6, _) => Transport::Ip(body),
            _ => Transport::Other,
        }
    }

    /// What a service is looked up by: address, protocol, port. Of an ICMP error: that of the flow it is about, which
    /// came from the service.
    pub(crate) fn wanted(&self) -> Option<(IpAddr, u8, u16)> {
        let of_quoted = |quoted| {
            let ip = Ip::new(quoted)?;
            match ip.transport() {
                Transport::Tcp { source, .. } => Some((ip.source(), PROTOCOL_TCP, source)),
                Transport::Udp { source, .. } => Some((ip.source(), PROTOCOL_UDP, source)),
                _ => None,
            }
        };
        match self.transport() {
            Transport::Tcp { destination, .. } => Some((self.destination(), PROTOCOL_TCP, destination)),
            Transport::Udp { destination, .. } => Some((self.destination(), PROTOCOL_UDP, destination)),
            Transport::Icmp { quoted, .. } | Transport::Icmpv6 { quoted, .. } => of_quoted(quoted),
            Transport::Ip(_) | Transport::Other => None,
        }
    }
}

/// Hop-by-hop options, routing, fragment, destination options.
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | FRAGMENT_HEADER | 60)
}

/// RFC 1071 over the parts one after the other, each of an even length but the last; an odd last byte counts as if
/// followed by zero. Zero over what holds a right checksum.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_testkit::packet::{Builder, extended, fragments, tagged};
    use weir_wire::IpProtocol;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal address")
    }

    #[test]
    fn headers_of_both_families_behind_tags() {
        let v4 = Builder::new("198.51.100.7", "192.0.2.10").tos(0xb9).options(&[1, 1, 1, 0]).udp(5000, 53);
        let v6 = Builder::new("2001:db8:7::7", "2001:db8:1::10").tos(0xb9).tcp(40000, 80, 2);
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)]] {
            let (v4, v6) = (tagged(&v4, tags), tagged(&v6, tags));
            assert_eq!(Carried::of(&v4).expect("a frame").tags, tags.len());
            let (v4, v6) = (Ip::of_frame(&v4).expect("IPv4"), Ip::of_frame(&v6).expect("IPv6"));
            assert_eq!((v4.source(), v4.wanted()), (ip("198.51.100.7"), Some((ip("192.0.2.10"), 17, 53))));
            assert_eq!(
                (v6.source(), v6.wanted()),
                (ip("2001:db8:7::7"), Some((ip("2001:db8:1::10"), 6, 80)))
            );
            assert_eq!((v4.class(), v6.class(), v4.hops(), v6.hops()), (0xb9, 0xb9, 63, 63));
            assert_eq!((v4.len(), v6.len()), (v4.bytes().len(), v6.bytes().len()));
            assert_eq!((v4.is_extended(), v6.is_extended()), (true, false));
            assert_eq!((v4.fragment(), v6.fragment()), (None, None));
        }
    }

    #[test]
    fn fragments_and_extension_headers() {
        let v4 = Builder::new("198.51.100.7", "192.0.2.10").payload(64).udp(5000, 53);
        let v6 = Builder::new("2001:db8:7::7", "2001:db8:1::10").payload(64).udp(5000, 53);
        for frame in [&v4, &v6] {
            let [first, second] = fragments(frame, 16, 7);
            let (first, second) = (Ip::of_frame(&first).expect("IP"), Ip::of_frame(&second).expect("IP"));
            assert_eq!(first.fragment(), Some(Fragment { offset: 0, more: true }));
            assert_eq!(second.fragment(), Some(Fragment { offset: 16, more: false }));
            assert!(first.wanted().is_some() && second.wanted().is_none());
        }
        let longer = extended(&v6, IpProtocol::DESTINATION_OPTIONS, &[0, 0, 1, 4, 0, 0, 0, 0]);
        let ip = Ip::of_frame(&longer).expect("IPv6");
        assert!(ip.is_extended() && ip.fragment().is_none());
        assert_eq!(ip.wanted().map(|(_, protocol, port)| (protocol, port)), Some((17, 53)));
    }

    #[test]
    fn an_icmp_error_is_about_the_flow_it_quotes() {
        let answer = Builder::new("192.0.2.10", "198.51.100.7").tcp(80, 40000, 0x10);
        let mut error = Builder::new("203.0.113.1", "192.0.2.10");
        error.payload = answer[14..].to_vec();
        let error = error.icmp(3, 4, [0; 4]);
        let ip = Ip::of_frame(&error).expect("IPv4");
        assert!(matches!(ip.transport(), Transport::Icmp { kind: 3, code: 4, .. }));
        assert_eq!(ip.wanted(), Some(("192.0.2.10".parse().expect("literal"), 6, 80)));
    }

    #[test]
    fn no_cut_of_a_packet_is_read_beyond_its_end() {
        let v4 = Builder::new("198.51.100.7", "192.0.2.10").options(&[1; 8]).udp(5000, 53);
        let v6 = Builder::new("2001:db8:7::7", "2001:db8:1::10").icmp(2, 0, [0; 4]);
        let v6 = extended(&v6, IpProtocol::DESTINATION_OPTIONS, &[0, 0, 1, 4, 0, 0, 0, 0]);
        for frame in [v4, tagged(&v6, &[(0x8100, 1)])] {
            for len in 0..frame.len() {
                if let Some(ip) = Ip::of_frame(&frame[..len]) {
                    let _ = (ip.transport(), ip.fragment(), ip.wanted(), ip.source(), ip.len());
                }
            }
        }
    }

    #[test]
    fn sums_of_words_with_all_carries() {
        assert_eq!(checksum(&[&[0xff, 0xff, 0, 1]]), !1);
        assert_eq!(checksum(&[&[0x12, 0x34], &[0x56]]), !(0x1234 + 0x5600));
        let frame = Builder::new("198.51.100.7", "192.0.2.10").tcp(1, 2, 0);
        assert_eq!(checksum(&[&frame[14..34]]), 0);
    }
}
