//! Packets as clients send them, byte by byte.
use std::net::IpAddr;
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv4Repr, Ipv6, Ipv6Repr, Tcp, Udp};
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
        let header = Tcp::new(source_port, destination_port, 1, 2, flags, 0xffff);
        self.ip(IpProtocol::TCP, header.as_bytes())
    }
    /// A UDP datagram.
    pub fn udp(&self, source_port: u16, destination_port: u16) -> Vec<u8> {
        let header = Udp::new(source_port, destination_port, (Udp::LEN + self.payload.len()) as u16);
        self.ip(IpProtocol::UDP, header.as_bytes())
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
