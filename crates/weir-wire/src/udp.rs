//! UDP (RFC 768), and the four bytes of ports it has in common with TCP.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Source and destination port: how TCP and UDP headers both begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ports {
    /// Source port, packet order.
    pub source: [u8; 2],
    /// Destination port, packet order.
    pub destination: [u8; 2],
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source and destination.
    pub ports: Ports,
    length: [u8; 2],
    /// Checksum, packet order; zero = none (over IPv4, RFC 768; over IPv6 in tunnels only, RFC 6935).
    pub checksum: [u8; 2],
}

impl Udp {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// A header with checksum zero; `length` is header and payload in bytes.
    pub const fn new(source: u16, destination: u16, length: u16) -> Self {
        let ports = Ports { source: source.to_be_bytes(), destination: destination.to_be_bytes() };
        Self { ports, length: length.to_be_bytes(), checksum: [0; 2] }
    }
    /// A header between ports in packet order, with this checksum (packet order; zero = none).
    #[inline(always)]
    pub const fn between(ports: Ports, length: u16, checksum: [u8; 2]) -> Self {
        Self { ports, length: length.to_be_bytes(), checksum }
    }
    /// Header and payload, bytes.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        u16::from_be_bytes(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_golden_bytes() {
        let header = Udp::new(53, 0x1234, 9);
        assert_eq!(header.as_bytes(), [0, 53, 0x12, 0x34, 0, 9, 0, 0]);
        assert_eq!(header.length(), 9);
    }
}
