//! Ethernet II and 802.1Q tags.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An EtherType (IEEE 802.3 clause 3.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// 802.1ad service tag.
    pub const QINQ: Self = Self(0x88a8);

    /// Whether a VLAN tag follows.
    #[inline(always)]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

/// An Ethernet II header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    ether_type: [u8; 2],
}

impl Ethernet {
    /// Length in bytes.
    pub const LEN: usize = 14;

    /// A header.
    #[inline(always)]
    pub const fn new(destination: [u8; 6], source: [u8; 6], ether_type: EtherType) -> Self {
        Self { destination, source, ether_type: ether_type.0.to_be_bytes() }
    }
    /// The header with another type.
    #[must_use]
    #[inline(always)]
    pub const fn before(self, ether_type: EtherType) -> Self {
        Self::new(self.destination, self.source, ether_type)
    }
    /// The header of an answer to the frame: the addresses changed places.
    #[must_use]
    #[inline(always)]
    pub const fn turned(&self) -> Self {
        Self { destination: self.source, source: self.destination, ether_type: self.ether_type }
    }
    /// What the frame carries.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
    /// Whether the frame was sent to a group (broadcast or multicast) address.
    #[inline(always)]
    pub const fn to_group(&self) -> bool {
        self.destination[0] & 1 == 1
    }
}

/// An 802.1Q tag: what follows the EtherType [`EtherType::VLAN`] or [`EtherType::QINQ`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Vlan {
    tci: [u8; 2],
    ether_type: [u8; 2],
}

impl Vlan {
    /// Length in bytes.
    pub const LEN: usize = 4;

    /// A tag; `tci` is priority (3 bits), drop eligibility (1) and VLAN id (12).
    pub const fn new(tci: u16, ether_type: EtherType) -> Self {
        Self { tci: tci.to_be_bytes(), ether_type: ether_type.0.to_be_bytes() }
    }
    /// The tag in front of something else.
    #[must_use]
    #[inline(always)]
    pub const fn before(self, ether_type: EtherType) -> Self {
        Self { tci: self.tci, ether_type: ether_type.0.to_be_bytes() }
    }
    /// VLAN id, 0..=4095.
    #[inline(always)]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes(self.tci) & 0xfff
    }
    /// What follows the tag.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes(self.ether_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_bytes_of_a_tagged_frame() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0x00, 0x60, 0x2a, 0x86, 0xdd];
        let (header, rest) = Ethernet::ref_from_prefix(&bytes).unwrap();
        assert_eq!(header.ether_type(), EtherType::VLAN);
        assert!(header.to_group());
        let tag = Vlan::ref_from_bytes(rest).unwrap();
        assert_eq!((tag.id(), tag.ether_type()), (42, EtherType::IPV6));
        let written = Ethernet::new([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], EtherType::VLAN);
        assert_eq!(written.as_bytes(), &bytes[..14]);
        assert_eq!(Vlan::new(0x602a, EtherType::IPV6).as_bytes(), &bytes[14..]);
        assert_eq!(Vlan::new(0x602a, EtherType::ARP).before(EtherType::IPV6).as_bytes(), &bytes[14..]);
    }
}
