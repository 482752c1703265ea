//! Generic UDP encapsulation (draft-ietf-intarea-gue-09): what stands between a UDP header and the packet inside.
use crate::IpProtocol;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header of variant 0 without the extension fields that may follow it (section 3.1).
///
/// Variant 1 (section 4) has no header: the inner IP packet follows the UDP header at once, and its version, 4 or 6,
/// has the variant in its upper two bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Gue {
    /// Variant (2 bits), control message (1), length of the extension fields in 32-bit words (5).
    variant_control_hlen: u8,
    protocol: u8,
    flags: [u8; 2],
}

impl Gue {
    /// Length in bytes, without extension fields.
    pub const LEN: usize = 4;
    /// Its UDP port (IANA).
    pub const PORT: u16 = 6080;

    /// A header of variant 0: a data message, no flag, no extension field.
    pub const fn new(protocol: IpProtocol) -> Self {
        Self { variant_control_hlen: 0, protocol: protocol.0, flags: [0; 2] }
    }
    /// The upper four bits: in variant 1, where an IP header stands in this place, its version; below 4 in variant 0.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.variant_control_hlen >> 4
    }
    /// What follows a header as [`new`](Self::new) makes it; `None` for every other one.
    #[inline(always)]
    pub const fn plain(&self) -> Option<IpProtocol> {
        if self.variant_control_hlen == 0 && u16::from_be_bytes(self.flags) == 0 {
            Some(IpProtocol(self.protocol))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_golden_bytes() {
        let header = Gue::new(IpProtocol::IPV6);
        assert_eq!(header.as_bytes(), [0, 41, 0, 0]);
        assert_eq!((header.version(), header.plain()), (0, Some(IpProtocol::IPV6)));
        assert_eq!(Gue::ref_from_bytes(&[0x45, 0, 0, 84]).unwrap().version(), 4);
    }

    #[test]
    fn variants_control_messages_extensions_and_flags_are_not_plain() {
        for bytes in [[0x45, 0, 0, 84], [0x20, 4, 0, 0], [0x01, 4, 0, 0], [0, 4, 0x80, 0], [0, 4, 0, 1]] {
            assert_eq!(Gue::ref_from_bytes(&bytes).unwrap().plain(), None, "{bytes:?}");
        }
    }
}
