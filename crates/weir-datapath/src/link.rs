//! What stands in front of an IP header: the Ethernet header and VLAN tags.
//!
//! Owns: reading it and writing it again in front of something else. May not touch: what follows. Invariant: what is
//! written differs from what was read in the last EtherType only, and, where it is that of an answer, in the order of the
//! MAC addresses.
use crate::{Frame, NoRoom};
use weir_wire::{EtherType, Ethernet, Vlan};

/// VLAN tags that are stepped over: 802.1Q, or 802.1ad with 802.1Q inside.
const MAX_TAGS: usize = 2;

/// What a frame begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The Ethernet header; its type is that of the first tag, if there is one.
    pub(crate) ethernet: Ethernet,
    /// How many tags there are.
    tag_count: usize,
    /// The tags; those that are not there are zero. (No `Option`: what it leaves unwritten, a BPF program may not read.)
    tags: [Vlan; MAX_TAGS],
    /// What the tags lead to; another tag where there are more than two.
    pub(crate) ether_type: EtherType,
}

impl Link {
    /// Without tags.
    #[inline(always)]
    pub(crate) fn untagged(ethernet: Ethernet) -> Self {
        let none = Vlan::new(0, EtherType(0));
        Self { ethernet, tag_count: 0, tags: [none; MAX_TAGS], ether_type: ethernet.ether_type() }
    }
    /// Reads them; `None` if the frame ends within.
    #[inline(always)]
    pub(crate) fn read<F: Frame>(frame: &F) -> Option<Self> {
        let mut link = Self::untagged(*frame.at::<Ethernet>(0)?);
        if link.ether_type.is_vlan() {
            let tag = *frame.at::<Vlan>(Ethernet::LEN)?;
            link.tags[0] = tag;
            link.tag_count = 1;
            link.ether_type = tag.ether_type();
            if link.ether_type.is_vlan() {
                let tag = *frame.at::<Vlan>(Ethernet::LEN + Vlan::LEN)?;
                link.tags[1] = tag;
                link.tag_count = 2;
                link.ether_type = tag.ether_type();
            }
        }
        Some(link)
    }
    /// Writes it to the front of a frame that has room for it there, before something of this type. `Err`: it has not.
    #[inline(always)]
    pub(crate) fn write<F: Frame>(&self, frame: &mut F, ether_type: EtherType) -> Result<(), NoRoom> {
        let [outer, inner] = self.tags;
        if self.tag_count == 0 {
            *frame.at_mut(0).ok_or(NoRoom)? = self.ethernet.before(ether_type);
            return Ok(());
        }
        *frame.at_mut(0).ok_or(NoRoom)? = self.ethernet;
        if self.tag_count == 1 {
            *frame.at_mut(Ethernet::LEN).ok_or(NoRoom)? = outer.before(ether_type);
            return Ok(());
        }
        *frame.at_mut(Ethernet::LEN).ok_or(NoRoom)? = outer;
        *frame.at_mut(Ethernet::LEN + Vlan::LEN).ok_or(NoRoom)? = inner.before(ether_type);
        Ok(())
    }
    /// The link header of an answer.
    #[must_use]
    #[inline(always)]
    pub(crate) fn turned(&self) -> Self {
        Self { ethernet: self.ethernet.turned(), ..*self }
    }
    /// Bytes in front of what the tags lead to: 14, 18 or 22.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        Ethernet::LEN + self.tag_count * Vlan::LEN
    }
}
