//! ICMP (RFC 792) and ICMPv6 (RFC 4443): the eight bytes all their messages begin with.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The head of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// Type, see [`icmpv4`] and [`icmpv6`].
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum, packet order; of ICMPv6, over a pseudo-header as well (RFC 4443, section 2.3).
    pub checksum: [u8; 2],
    /// What these mean depends on the type: of an error, unused but for an MTU.
    pub rest: [u8; 4],
}

/// Types and codes of ICMP.
pub mod icmpv4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Code of [`UNREACHABLE`]: the host is.
    pub const HOST: u8 = 1;
    /// Code of [`UNREACHABLE`]: fragmentation needed and DF set; the last two bytes are the MTU (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Types and codes of ICMPv6. Types below 128 are errors.
pub mod icmpv6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Code of [`UNREACHABLE`]: the address is.
    pub const ADDRESS: u8 = 3;
    /// Packet too big; the last four bytes are the MTU.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
}

impl Icmp {
    /// Length in bytes.
    pub const LEN: usize = 8;

    /// A head whose checksum is still zero.
    #[inline(always)]
    pub const fn new(kind: u8, code: u8, rest: [u8; 4]) -> Self {
        Self { kind, code, checksum: [0; 2], rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_the_golden_bytes() {
        let head = Icmp::new(icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, 1480u32.to_be_bytes());
        assert_eq!(head.as_bytes(), [3, 4, 0, 0, 0, 0, 0x05, 0xc8]);
        assert_eq!(Icmp::ref_from_bytes(&[128, 0, 1, 2, 3, 4, 5, 6]).unwrap().rest, [3, 4, 5, 6]);
    }
}
