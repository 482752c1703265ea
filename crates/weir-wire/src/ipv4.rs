//! IPv4 (RFC 791).
use crate::{IpProtocol, checksum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 header without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    version_ihl: u8,
    /// DSCP (6 bits) and ECN (2 bits), RFC 2474 and RFC 3168.
    pub tos: u8,
    total_len: [u8; 2],
    /// Identification, as it stands in the packet.
    pub id: [u8; 2],
    flags_fragment: [u8; 2],
    /// Time to live, hops.
    pub ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// What a fresh outer header says; see [`Ipv4::emit`].
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Repr {
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_len: u16,
    /// Identification, packet order.
    pub id: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: IpProtocol,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Length without options, in bytes.
    pub const LEN: usize = 20;
    /// Longest header with options, in bytes.
    pub const MAX_LEN: usize = 60;
    /// The "don't fragment" bit as it stands in [`flags_fragment`](Self::emit).
    const DF: u16 = 0x4000;

    /// Writes a whole header without options: DF set, checksum computed.
    #[inline(always)]
    pub fn emit(repr: &Ipv4Repr) -> Self {
        let mut header = Self::with_checksum(repr, [0; 2]);
        header.checksum = checksum::finish(checksum::sum(header.as_bytes()));
        header
    }

    /// Writes a whole header whose checksum the caller has worked out (from a template, incrementally).
    #[inline(always)]
    pub fn with_checksum(repr: &Ipv4Repr, checksum: [u8; 2]) -> Self {
        Self {
            version_ihl: 0x45,
            tos: repr.tos,
            total_len: repr.total_len.to_be_bytes(),
            id: repr.id,
            flags_fragment: Self::DF.to_be_bytes(),
            ttl: repr.ttl,
            protocol: repr.protocol.0,
            checksum,
            source: repr.source,
            destination: repr.destination,
        }
    }
    /// A fresh header ([`emit`](Self::emit)) with DF clear.
    #[must_use]
    #[inline(always)]
    pub fn fragmentable(mut self) -> Self {
        self.checksum = checksum::replace(self.checksum, self.flags_fragment, [0; 2]);
        self.flags_fragment = [0; 2];
        self
    }
    /// IP version; 4 in a valid header.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }
    /// Length of the header with its options, bytes: 0..=60, valid from 20 on.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) << 2
    }
    /// Length of header and payload, bytes.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes(self.total_len)
    }
    /// Whether the packet is a fragment (first, middle or last).
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.flags_fragment) & 0x3fff != 0
    }
    /// Fragment offset in bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        (u16::from_be_bytes(self.flags_fragment) & 0x1fff) << 3
    }
    /// Whether "don't fragment" is set.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        u16::from_be_bytes(self.flags_fragment) & Self::DF != 0
    }
    /// What follows the header.
    #[inline(always)]
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol(self.protocol)
    }
    /// The header checksum, packet order.
    #[inline(always)]
    pub const fn checksum(&self) -> [u8; 2] {
        self.checksum
    }
    /// Turns the header of a packet into that of an answer of the same length: addresses changed places, these hops to
    /// go, and the checksum right for it.
    #[inline(always)]
    pub fn turn(&mut self, ttl: u8) {
        core::mem::swap(&mut self.source, &mut self.destination);
        self.checksum = checksum::replace(self.checksum, [self.ttl, self.protocol], [ttl, self.protocol]);
        self.ttl = ttl;
    }
    /// Replaces DSCP and ECN and mends the checksum (RFC 1624).
    #[inline(always)]
    pub fn set_tos(&mut self, tos: u8) {
        let (old, new) = ([self.version_ihl, self.tos], [self.version_ihl, tos]);
        self.checksum = checksum::replace(self.checksum, old, new);
        self.tos = tos;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of many texts: 192.168.0.1 -> 192.168.0.199, UDP, checksum 0xb861.
    const GOLDEN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0,
        199,
    ];

    fn repr() -> Ipv4Repr {
        Ipv4Repr {
            tos: 0,
            total_len: 0x73,
            id: [0, 0],
            ttl: 64,
            protocol: IpProtocol::UDP,
            source: [192, 168, 0, 1],
            destination: [192, 168, 0, 199],
        }
    }

    #[test]
    fn emits_the_golden_bytes_over_garbage() {
        let mut buffer = [0xa5; 20];
        Ipv4::emit(&repr()).write_to(&mut buffer).unwrap();
        assert_eq!(buffer, GOLDEN);
    }

    #[test]
    fn reads_the_golden_bytes() {
        let header = Ipv4::ref_from_bytes(&GOLDEN).unwrap();
        assert_eq!((header.version(), header.header_len(), header.total_len()), (4, 20, 0x73));
        assert_eq!(
            (header.protocol(), header.is_fragment(), header.dont_fragment()),
            (IpProtocol::UDP, false, true)
        );
        assert!(checksum::is_valid(&GOLDEN));
    }

    #[test]
    fn fragments_are_seen_by_offset_and_by_more_bit() {
        for (word, fragment, offset) in
            [(0x2000u16, true, 0), (0x0001, true, 8), (0x4000, false, 0), (0x8000, false, 0)]
        {
            let mut bytes = GOLDEN;
            bytes[6..8].copy_from_slice(&word.to_be_bytes());
            let header = Ipv4::ref_from_bytes(&bytes).unwrap();
            assert_eq!((header.is_fragment(), header.fragment_offset()), (fragment, offset), "{word:#x}");
        }
    }

    #[test]
    fn a_header_without_df_has_a_right_checksum() {
        let header = Ipv4::emit(&repr()).fragmentable();
        assert!(!header.dont_fragment() && !header.is_fragment());
        assert!(checksum::is_valid(header.as_bytes()));
    }

    #[test]
    fn an_answer_goes_back_with_a_right_checksum() {
        let mut header = *Ipv4::ref_from_bytes(&GOLDEN).unwrap();
        header.turn(17);
        assert_eq!(
            (header.source, header.destination, header.ttl),
            ([192, 168, 0, 199], [192, 168, 0, 1], 17)
        );
        assert!(checksum::is_valid(header.as_bytes()));
    }

    #[test]
    fn a_changed_tos_keeps_the_checksum_right() {
        for tos in 0..=255 {
            let mut header = Ipv4::emit(&repr());
            header.set_tos(tos);
            assert!(checksum::is_valid(header.as_bytes()), "tos {tos}");
        }
    }
}
