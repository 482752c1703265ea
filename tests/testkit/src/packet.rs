//! Packets as clients send them, byte by byte.
use std::net::IpAddr;
use weir_wire::{EtherType, Ethernet, Icmp, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, Tcp, Udp};
use zerocopy::IntoBytes;

/// The MAC address of a test's client (or its router).
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x30];

/// A packet under construction.
#[derive(Clone, Debug)]
pub struct Builder {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Bytes after the transport header.
    pub payload: Vec<u8>,
}

impl Builder {
    /// From one address to another, no options, four bytes of payload.
    pub fn new(source: &str, destination: &str) -> Self {
        let parse = |text: &str| text.parse().expect("a literal address");
        Self {
            source: parse(source),
            destination: parse(destination),
            tos: 0,
            options: Vec::new(),
            payload: b"weir".to_vec(),
        }
    }
    /// Sets DSCP and ECN.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }
    /// Sets IPv4 options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert_eq!(options.len() % 4, 0);
        self.options = options.to_vec();
        self
    }
    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, len: usize) -> Self {
        self.payload = (0..len).map(|i| i as u8).collect();
        self
    }
    /// A TCP segment.
    pub fn tcp(&self, source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
        let mut header = Tcp::new(source_port, destination_port, 1, 2, flags, 0xffff);
        header.checksum = self.checksum(IpProtocol::TCP, header.as_bytes());
        self.ip(IpProtocol::TCP, header.as_bytes())
    }
    /// A UDP datagram.
    pub fn udp(&self, source_port: u16, destination_port: u16) -> Vec<u8> {
        let mut header = Udp::new(source_port, destination_port, (Udp::LEN + self.payload.len()) as u16);
        header.checksum = self.checksum(IpProtocol::UDP, header.as_bytes());
        self.ip(IpProtocol::UDP, header.as_bytes())
    }
    /// An ICMP or ICMPv6 message, as the addresses say: type, code, the four bytes that depend on them.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
        let mut header = Icmp::new(kind, code, rest);
        let protocol = if self.source.is_ipv4() { IpProtocol::ICMP } else { IpProtocol::ICMPV6 };
        header.checksum = self.checksum(protocol, header.as_bytes());
        self.ip(protocol, header.as_bytes())
    }
    /// The checksum of a transport header and the payload.
    fn checksum(&self, protocol: IpProtocol, transport: &[u8]) -> [u8; 2] {
        let body = [transport, &self.payload].concat();
        let mut summed = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(_), _) if protocol == IpProtocol::ICMP => {}
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                summed.extend([source.octets(), destination.octets()].concat());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                summed.extend([source.octets(), destination.octets()].concat());
            }
            _ => panic!("a packet's addresses are of one family"),
        }
        if !summed.is_empty() {
            summed.extend((body.len() as u16).to_be_bytes());
            summed.extend([0, protocol.0]);
        }
        summed.extend(body);
        match crate::outer::plain_checksum(&summed) {
            0 if protocol == IpProtocol::UDP => [0xff, 0xff],
            sum => sum.to_be_bytes(),
        }
    }
    /// Any IP packet: `transport` and the payload behind the IP header.
    pub fn ip(&self, protocol: IpProtocol, transport: &[u8]) -> Vec<u8> {
        let body = [transport, &self.payload].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = Ipv4::LEN + self.options.len();
                let mut header = Ipv4::emit(&Ipv4Repr {
                    tos: self.tos,
                    total_len: (header_len + body.len()) as u16,
                    id: [0x12, 0x34],
                    ttl: 63,
                    protocol,
                    source: source.octets(),
                    destination: destination.octets(),
                })
                .as_bytes()
                .to_vec();
                header[0] = 0x40 | (header_len / 4) as u8;
                header.extend_from_slice(&self.options);
                header[10..12].fill(0);
                let sum = weir_wire::checksum::finish(weir_wire::checksum::sum(&header));
                header[10..12].copy_from_slice(&sum);
                frame(EtherType::IPV4, &[&header, &body])
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6::emit(&Ipv6Repr {
                    traffic_class: self.tos,
                    flow_label: 0x4_5678,
                    payload_len: body.len() as u16,
                    next_header: protocol,
                    hop_limit: 63,
                    source: source.octets(),
                    destination: destination.octets(),
                });
                frame(EtherType::IPV6, &[header.as_bytes(), &body])
            }
            _ => panic!("a packet's addresses are of one family"),
        }
    }
}

/// An Ethernet frame from the client to the director.
pub fn frame(ether_type: EtherType, parts: &[&[u8]]) -> Vec<u8> {
    let header = Ethernet::new(crate::image::DIRECTOR_MAC, CLIENT_MAC, ether_type);
    [header.as_bytes(), &parts.concat()].concat()
}

/// The frame with VLAN tags behind its MAC addresses, the outermost first: EtherType of the tag, and VLAN id.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for (ether_type, id) in tags {
        tagged.extend_from_slice(&ether_type.to_be_bytes());
        tagged.extend_from_slice(&id.to_be_bytes());
    }
    tagged.extend_from_slice(&frame[12..]);
    tagged
}

/// The frame's IPv6 packet with this between its header and what followed it: next-header number, bytes of the extension
/// header (whose first byte is replaced by what followed).
pub fn extended(frame: &[u8], protocol: IpProtocol, extension: &[u8]) -> Vec<u8> {
    let mut longer = frame[..54].to_vec();
    let len = u16::from_be_bytes([frame[18], frame[19]]) + extension.len() as u16;
    longer[18..20].copy_from_slice(&len.to_be_bytes());
    longer[20] = protocol.0;
    longer.push(frame[20]);
    longer.extend_from_slice(&extension[1..]);
    longer.extend_from_slice(&frame[54..]);
    longer
}

/// The frame's packet in fragments: the first with `first` bytes of what follows the IP header (a multiple of 8), the
/// second with the rest; IPv6's get a fragment header with this identification.
pub fn fragments(frame: &[u8], first: usize, id: u32) -> [Vec<u8>; 2] {
    assert_eq!(first % 8, 0);
    let (head, body) = if frame[12..14] == [0x08, 0x00] { frame.split_at(34) } else { frame.split_at(54) };
    let piece = |offset: usize, body: &[u8], more: bool| {
        let mut piece = head.to_vec();
        if frame[12..14] == [0x08, 0x00] {
            piece[16..18].copy_from_slice(&((20 + body.len()) as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
            piece[24..26].fill(0);
            let sum = crate::outer::plain_checksum(&piece[14..34]);
            piece[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
            piece[20] = IpProtocol::FRAGMENT.0;
            piece.extend_from_slice(&[head[20], 0]);
            piece.extend_from_slice(&((offset as u16 & !7) | u16::from(more)).to_be_bytes());
            piece.extend_from_slice(&id.to_be_bytes());
        }
        piece.extend_from_slice(body);
        piece
    };
    [piece(0, &body[..first], true), piece(first, &body[first..], false)]
}

/// The frame's IP packet in an outer IPv4 or IPv6 header; `gue` is the UDP destination port of GUE, `None` for IP in IP.
pub fn wrapped(frame: &[u8], source: &str, destination: &str, class: u8, gue: Option<u16>) -> Vec<u8> {
    let inner = &frame[14..];
    let carrier = Builder { payload: inner.to_vec(), ..Builder::new(source, destination).tos(class) };
    match gue {
        Some(port) => carrier.udp(50000, port),
        None => carrier.ip(if inner[0] >> 4 == 4 { IpProtocol::IPV4 } else { IpProtocol::IPV6 }, &[]),
    }
}
