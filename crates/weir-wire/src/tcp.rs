//! TCP (RFC 9293).
use crate::Ports;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of [`Tcp::flags`].
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers: a connection begins.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// A TCP header without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source and destination.
    pub ports: Ports,
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    offset: u8,
    /// Control bits, see [`flags`].
    pub flags: u8,
    window: [u8; 2],
    /// Checksum, packet order.
    pub checksum: [u8; 2],
    urgent: [u8; 2],
}

impl Tcp {
    /// Length without options, in bytes.
    pub const LEN: usize = 20;

    /// A header without options and with checksum zero.
    pub const fn new(
        source: u16,
        destination: u16,
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        window: u16,
    ) -> Self {
        Self {
            ports: Ports { source: source.to_be_bytes(), destination: destination.to_be_bytes() },
            sequence: sequence.to_be_bytes(),
            acknowledgement: acknowledgement.to_be_bytes(),
            offset: 5 << 4,
            flags,
            window: window.to_be_bytes(),
            checksum: [0; 2],
            urgent: [0; 2],
        }
    }
    /// Source port.
    #[inline(always)]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.ports.source)
    }
    /// Destination port.
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.ports.destination)
    }
    /// Length of the header with its options, bytes: 0..=60, valid from 20 on.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((self.offset >> 4) as usize) << 2
    }
    /// Sequence number.
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.sequence)
    }
    /// Whether this opens a connection: SYN without ACK.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_golden_bytes() {
        let golden = [0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
        let header = Tcp::new(12345, 80, 0x0102_0304, 0x0506_0708, flags::SYN, 0xffff);
        assert_eq!(header.as_bytes(), golden);
        assert_eq!((header.source_port(), header.destination_port(), header.header_len()), (12345, 80, 20));
        assert!(header.opens());
    }

    #[test]
    fn only_a_bare_syn_opens() {
        for (bits, opens) in [
            (flags::SYN, true),
            (flags::SYN | flags::PSH, true),
            (flags::SYN | flags::ACK, false),
            (flags::SYN | flags::RST, false),
            (flags::ACK, false),
            (0, false),
        ] {
            assert_eq!(Tcp::new(1, 2, 0, 0, bits, 0).opens(), opens, "{bits:#x}");
        }
    }
}
