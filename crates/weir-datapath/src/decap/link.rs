//! What stands in front of the outer IP header: the Ethernet header and VLAN tags.
//!
//! Owns: reading it and writing it again in front of what was inside. May not touch: what follows. Invariant: what is
//! written differs from what was read in the last EtherType only.

use crate::Frame;
use weir_abi::agent::Reason;
use weir_wire::{EtherType, Ethernet, Vlan};

/// A link header.
pub(super) enum Link {
    /// No tag, or one that is kept beside the frame.
    Untagged(Ethernet),
    /// 802.1Q.
    Tagged(Ethernet, Vlan),
    /// 802.1Q behind another tag (802.1ad).
    TaggedTwice(Ethernet, [Vlan; 2]),
}

impl Link {
    /// Reads it, with as many tags as are looked behind: `tags` is 0 or 2. The error is the reason to pass the frame on.
    #[inline(always)]
    pub(super) fn read<F: Frame>(frame: &F, tags: usize) -> Result<Self, Reason> {
        let ethernet = *frame.at::<Ethernet>(0).ok_or(Reason::NotIp)?;
        if !ethernet.ether_type().is_vlan() {
            return Ok(Self::Untagged(ethernet));
        }
        if tags == 0 {
            return Err(Reason::VlanTagged);
        }
        let first = *frame.at::<Vlan>(Ethernet::LEN).ok_or(Reason::NotIp)?;
        if !first.ether_type().is_vlan() {
            return Ok(Self::Tagged(ethernet, first));
        }
        let second = *frame.at::<Vlan>(Ethernet::LEN + Vlan::LEN).ok_or(Reason::NotIp)?;
        if second.ether_type().is_vlan() {
            return Err(Reason::VlanTagged);
        }
        Ok(Self::TaggedTwice(ethernet, [first, second]))
    }

    /// Length in bytes.
    #[inline(always)]
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Untagged(_) => Ethernet::LEN,
            Self::Tagged(..) => Ethernet::LEN + Vlan::LEN,
            Self::TaggedTwice(..) => Ethernet::LEN + 2 * Vlan::LEN,
        }
    }

    /// What follows.
    #[inline(always)]
    pub(super) const fn ether_type(&self) -> EtherType {
        match self {
            Self::Untagged(ethernet) => ethernet.ether_type(),
            Self::Tagged(_, tag) | Self::TaggedTwice(_, [_, tag]) => tag.ether_type(),
        }
    }

    /// Writes it at the front of the frame, followed by `ether_type`; `None` if the frame has no room for it.
    #[inline(always)]
    pub(super) fn write<F: Frame>(&self, frame: &mut F, ether_type: EtherType) -> Option<()> {
        match self {
            Self::Untagged(ethernet) => {
                *frame.at_mut::<Ethernet>(0)? =
                    Ethernet::new(ethernet.destination, ethernet.source, ether_type);
            }
            Self::Tagged(ethernet, tag) => {
                *frame.at_mut::<Ethernet>(0)? = *ethernet;
                *frame.at_mut::<Vlan>(Ethernet::LEN)? = tag.before(ether_type);
            }
            Self::TaggedTwice(ethernet, [first, second]) => {
                *frame.at_mut::<Ethernet>(0)? = *ethernet;
                *frame.at_mut::<[Vlan; 2]>(Ethernet::LEN)? = [*first, second.before(ether_type)];
            }
        }
        Some(())
    }
}
