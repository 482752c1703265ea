//! IPv6 (RFC 8200).
use crate::IpProtocol;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv6 header without extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    version_class_label: [u8; 4],
    payload_len: [u8; 2],
    next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// What a fresh outer header says; see [`Ipv6::emit`].
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Repr {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits (RFC 6437).
    pub flow_label: u32,
    /// Bytes after this header.
    pub payload_len: u16,
    /// What follows.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

impl Ipv6 {
    /// Length in bytes.
    pub const LEN: usize = 40;

    /// Writes a whole header.
    #[inline(always)]
    pub fn emit(repr: &Ipv6Repr) -> Self {
        let word = 6 << 28 | (repr.traffic_class as u32) << 20 | (repr.flow_label & 0xf_ffff);
        Self {
            version_class_label: word.to_be_bytes(),
            payload_len: repr.payload_len.to_be_bytes(),
            next_header: repr.next_header.0,
            hop_limit: repr.hop_limit,
            source: repr.source,
            destination: repr.destination,
        }
    }
    #[inline(always)]
    const fn word(&self) -> u32 {
        u32::from_be_bytes(self.version_class_label)
    }
    /// IP version; 6 in a valid header.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_class_label[0] >> 4
    }
    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.word() >> 20) as u8
    }
    /// Replaces DSCP and ECN.
    #[inline(always)]
    pub fn set_traffic_class(&mut self, class: u8) {
        self.version_class_label = (self.word() & 0xf00f_ffff | (class as u32) << 20).to_be_bytes();
    }
    /// Turns the header of a packet into that of an answer of the same length, with these hops to go.
    #[inline(always)]
    pub fn turn(&mut self, hop_limit: u8) {
        core::mem::swap(&mut self.source, &mut self.destination);
        self.hop_limit = hop_limit;
    }
    /// Flow label, 20 bits.
    #[inline(always)]
    pub const fn flow_label(&self) -> u32 {
        self.word() & 0xf_ffff
    }
    /// Bytes after this header.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes(self.payload_len)
    }
    /// What follows.
    #[inline(always)]
    pub const fn next_header(&self) -> IpProtocol {
        IpProtocol(self.next_header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emits_and_reads_the_golden_bytes() {
        let mut golden = [0u8; 40];
        golden[..8].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45, 0x01, 0x02, 41, 64]);
        golden[8..24].copy_from_slice(&[0x11; 16]);
        golden[24..].copy_from_slice(&[0x22; 16]);
        let repr = Ipv6Repr {
            traffic_class: 0xb8,
            flow_label: 0xfff1_2345,
            payload_len: 0x102,
            next_header: IpProtocol::IPV6,
            hop_limit: 64,
            source: [0x11; 16],
            destination: [0x22; 16],
        };
        let mut buffer = [0xa5; 40];
        Ipv6::emit(&repr).write_to(&mut buffer).unwrap();
        assert_eq!(buffer, golden);
        let header = Ipv6::ref_from_bytes(&golden).unwrap();
        assert_eq!((header.version(), header.traffic_class(), header.flow_label()), (6, 0xb8, 0x12345));
        assert_eq!((header.payload_len(), header.next_header()), (0x102, IpProtocol::IPV6));
    }

    #[test]
    fn a_changed_traffic_class_leaves_the_rest() {
        let mut header = *Ipv6::ref_from_bytes(&[0xffu8; 40]).unwrap();
        header.set_traffic_class(0);
        assert_eq!((header.version(), header.traffic_class(), header.flow_label()), (15, 0, 0xf_ffff));
    }
}
