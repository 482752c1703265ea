//! Bytes to layers, for any packet: VLAN tags, IPv4 options, IPv6 extension headers, fragments.
//!
//! Owns the walk to the transport header and its bounds. May not touch tables and changes no byte. Invariant: what is
//! returned lies wholly inside the frame, and offsets are below [`MAX_OFFSET`].
use crate::parse::{v4, v6};
use crate::{Frame, NoRoom};
use weir_abi::{Address, Family};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Vlan};

/// VLAN tags that are stepped over: 802.1Q, or 802.1ad with 802.1Q inside.
pub(crate) const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are stepped over.
const MAX_EXTENSIONS: usize = 6;
/// Offsets are masked to this for the verifier. Extension headers that would lead beyond it are too long to walk.
pub(crate) const MAX_OFFSET: usize = 0x1ff;

/// What a frame begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The Ethernet header; its type is that of the first tag, if there is one.
    pub(crate) ethernet: Ethernet,
    /// How many tags there are.
    tag_count: usize,
    /// The tags; those that are not there are zero. (No `Option`: what it leaves unwritten, a BPF program may not read.)
    tags: [Vlan; MAX_TAGS],
    /// What the tags lead to.
    pub(crate) ether_type: EtherType,
}

impl Link {
    /// Reads them; `None` if the frame ends within.
    #[inline(always)]
    pub(crate) fn read<F: Frame>(frame: &F) -> Option<Self> {
        let ethernet = *frame.at::<Ethernet>(0)?;
        let none = Vlan::new(0, EtherType(0));
        let mut link =
            Self { ethernet, tag_count: 0, tags: [none; MAX_TAGS], ether_type: ethernet.ether_type() };
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
    /// Bytes in front of the IP header: 14, 18 or 22.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        Ethernet::LEN + self.tag_count * Vlan::LEN
    }
}

/// Which part of a packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later one.
    Later,
}

/// An IP packet down to its transport header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    pub(crate) family: Family,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// Hops left.
    pub(crate) hops: u8,
    /// Length of the IP packet, header included.
    pub(crate) len: usize,
    /// IPv4 identification; for IPv6, that of the fragment header, if there is one. Packet bytes.
    pub(crate) id: u32,
    pub(crate) part: Part,
    /// What follows the last header that was walked. Of a later fragment: what the first one begins with.
    pub(crate) protocol: IpProtocol,
    /// Where that begins, from the start of the frame.
    pub(crate) transport: usize,
    /// Bytes of it in this packet.
    pub(crate) payload: usize,
    /// Whether anything but the IP header itself was walked over.
    pub(crate) extended: bool,
}

/// Why there are no layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// There is no whole IP header: nothing says where the packet was going.
    NoHeader,
    /// Shorter than its headers claim, or not of the version its EtherType says. To this address.
    Truncated(Family, Address),
    /// Extension headers that are too many, too long or unknown. To this address.
    Unsupported(Family, Address),
}

impl Layers {
    /// Reads the IPv4 packet at `l3`.
    #[inline(always)]
    pub(crate) fn read_v4<F: Frame>(frame: &F, l3: usize) -> Result<Self, Broken> {
        let l3 = l3 & 0x1f;
        let ip = *frame.at::<Ipv4>(l3).ok_or(Broken::NoHeader)?;
        let destination = v4(ip.destination);
        let (header_len, len) = (ip.header_len(), ip.total_len() as usize);
        if ip.version() != 4 || header_len < Ipv4::LEN || len < header_len || l3 + len > frame.len() {
            return Err(Broken::Truncated(Family::V4, destination));
        }
        let part = match (ip.fragment_offset(), ip.is_fragment()) {
            (0, false) => Part::Whole,
            (0, true) => Part::First,
            _ => Part::Later,
        };
        Ok(Self {
            family: Family::V4,
            source: v4(ip.source),
            destination,
            tos: ip.tos,
            hops: ip.ttl,
            len,
            id: u16::from_ne_bytes(ip.id) as u32,
            part,
            protocol: ip.protocol(),
            transport: l3 + (header_len & 0x3c),
            payload: len - header_len,
            extended: header_len != Ipv4::LEN,
        })
    }

    /// Reads the IPv6 packet at `l3`.
    #[inline(always)]
    pub(crate) fn read_v6<F: Frame>(frame: &F, l3: usize) -> Result<Self, Broken> {
        let l3 = l3 & 0x1f;
        let ip = *frame.at::<Ipv6>(l3).ok_or(Broken::NoHeader)?;
        let destination = v6(ip.destination);
        let payload = ip.payload_len() as usize;
        let truncated = Err(Broken::Truncated(Family::V6, destination));
        if ip.version() != 6 || l3 + Ipv6::LEN + payload > frame.len() {
            return truncated;
        }
        let mut layers = Self {
            family: Family::V6,
            source: v6(ip.source),
            destination,
            tos: ip.traffic_class(),
            hops: ip.hop_limit,
            len: Ipv6::LEN + payload,
            id: 0,
            part: Part::Whole,
            protocol: ip.next_header(),
            transport: l3 + Ipv6::LEN,
            payload,
            extended: false,
        };
        let mut steps = 0;
        while steps < MAX_EXTENSIONS && is_extension(layers.protocol) {
            let at = layers.transport & MAX_OFFSET;
            // Next header, length, and what a routing or fragment header has in these places (RFC 8200, section 4).
            let Some(&[next, len, high, low, id @ ..]) = frame.at::<[u8; 8]>(at) else { return truncated };
            let size = match layers.protocol {
                IpProtocol::FRAGMENT => {
                    layers.id = u32::from_ne_bytes(id);
                    let word = u16::from_be_bytes([high, low]);
                    layers.part = match (word >> 3, word & 1) {
                        (0, 0) => Part::Whole,
                        (0, _) => Part::First,
                        _ => Part::Later,
                    };
                    8
                }
                // A packet that is to visit others first is none of ours yet (byte 3: segments left).
                IpProtocol::ROUTING if low != 0 => return Err(Broken::Unsupported(Family::V6, destination)),
                _ => (len as usize + 1) * 8,
            };
            if size > layers.payload {
                return truncated;
            }
            layers.protocol = IpProtocol(next);
            layers.transport += size;
            layers.payload -= size;
            layers.extended = true;
            if layers.part == Part::Later {
                // What the first fragment holds further extension headers of is not known here.
                return Ok(layers);
            }
            if layers.transport > MAX_OFFSET {
                return Err(Broken::Unsupported(Family::V6, destination));
            }
            steps += 1;
        }
        if is_extension(layers.protocol) {
            return Err(Broken::Unsupported(Family::V6, destination));
        }
        Ok(layers)
    }
}

#[inline(always)]
fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::FRAGMENT | IpProtocol::DESTINATION_OPTIONS
    )
}
