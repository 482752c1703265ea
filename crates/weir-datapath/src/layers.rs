//! Bytes to layers, for any packet: IPv4 options, IPv6 extension headers, fragments.
//!
//! Owns the walk to the transport header and its bounds. May not touch tables and changes no byte. Invariant: what is
//! returned lies wholly inside the frame, and offsets are below [`MAX_OFFSET`].
use crate::Frame;
use crate::link::Link;
use crate::parse::{v4, v6};
use weir_abi::{Address, Family};
use weir_wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6};

/// IPv6 extension headers that are stepped over.
const MAX_EXTENSIONS: usize = 6;
/// The furthest that a transport header may begin. Extension headers that would lead beyond it are too long to walk.
const MAX_TRANSPORT: usize = 0x1ff;
/// Offsets are masked to this for the verifier. Whatever is looked for behind a transport header (a packet that an ICMP
/// error quotes, its headers, a server id) lies before it, so that the mask changes nothing: an offset it did change would
/// lead back into headers that were read already.
pub(crate) const MAX_OFFSET: usize = 0x3ff;

/// Which part of a packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole = 0,
    /// The first fragment, with the transport header.
    First,
    /// A later one.
    Later,
}

/// An IP packet down to its transport header. All zeros are a valid value (that of nothing read).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layers {
    is_v6: bool,
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
    /// Where that begins, from the start of the frame; at most [`MAX_TRANSPORT`].
    pub(crate) transport: usize,
    /// Bytes of it in this packet.
    pub(crate) payload: usize,
    /// Whether anything but the IP header itself was walked over.
    pub(crate) extended: bool,
}

/// How far the layers could be read. As a number, the answer of a BPF function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Reading {
    /// All of them.
    Whole = 0,
    /// Shorter than its headers claim, or not of the version its EtherType says: only family and destination are right.
    Truncated = 1,
    /// Extension headers that are too many, too long or unknown: only family and destination are right.
    Unsupported = 2,
    /// There is no whole IP header: nothing says where the packet was going.
    NoHeader = 3,
    /// It is neither IPv4 nor IPv6.
    NotIp = 4,
}

impl Reading {
    /// From the number.
    #[inline(always)]
    pub(crate) fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Whole,
            1 => Self::Truncated,
            2 => Self::Unsupported,
            3 => Self::NoHeader,
            _ => Self::NotIp,
        }
    }
}

/// A frame down to its transport header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed {
    pub(crate) link: Link,
    pub(crate) layers: Layers,
}

impl Parsed {
    /// Nothing read yet. (Everything is written: what is not, a BPF program may not even copy.)
    #[inline(always)]
    pub(crate) fn nothing() -> Self {
        let link = Link::untagged(Ethernet::new([0; 6], [0; 6], EtherType(0)));
        Self { link, layers: Layers::NOTHING }
    }

    /// Reads a frame into it; what is returned says how much of it is right then.
    #[inline(always)]
    pub(crate) fn read<F: Frame>(&mut self, frame: &F) -> Reading {
        let Some(link) = Link::read(frame) else { return Reading::NoHeader };
        self.link = link;
        match link.ether_type {
            EtherType::IPV4 => self.layers.read_v4(frame, link.len()),
            EtherType::IPV6 => self.layers.read_v6(frame, link.len()),
            _ => Reading::NotIp,
        }
    }
}

impl Layers {
    const NOTHING: Self = Self {
        is_v6: false,
        source: Address([0, 0]),
        destination: Address([0, 0]),
        tos: 0,
        hops: 0,
        len: 0,
        id: 0,
        part: Part::Whole,
        protocol: IpProtocol(0),
        transport: 0,
        payload: 0,
        extended: false,
    };

    #[inline(always)]
    pub(crate) fn family(&self) -> Family {
        if self.is_v6 { Family::V6 } else { Family::V4 }
    }

    /// Reads the IPv4 packet at `l3`.
    #[inline(always)]
    fn read_v4<F: Frame>(&mut self, frame: &F, l3: usize) -> Reading {
        let l3 = l3 & 0x1f;
        let Some(&ip) = frame.at::<Ipv4>(l3) else { return Reading::NoHeader };
        self.is_v6 = false;
        self.destination = v4(ip.destination);
        let (header_len, len) = (ip.header_len(), ip.total_len() as usize);
        if ip.version() != 4 || header_len < Ipv4::LEN || len < header_len || l3 + len > frame.len() {
            return Reading::Truncated;
        }
        self.part = match (ip.fragment_offset(), ip.is_fragment()) {
            (0, false) => Part::Whole,
            (0, true) => Part::First,
            _ => Part::Later,
        };
        self.source = v4(ip.source);
        self.tos = ip.tos;
        self.hops = ip.ttl;
        self.len = len;
        self.id = u16::from_ne_bytes(ip.id) as u32;
        self.protocol = ip.protocol();
        self.transport = l3 + (header_len & 0x3c);
        self.payload = len - header_len;
        self.extended = header_len != Ipv4::LEN;
        Reading::Whole
    }

    /// Reads the IPv6 packet at `l3`.
    #[inline(always)]
    fn read_v6<F: Frame>(&mut self, frame: &F, l3: usize) -> Reading {
        let l3 = l3 & 0x1f;
        let Some(&ip) = frame.at::<Ipv6>(l3) else { return Reading::NoHeader };
        self.is_v6 = true;
        // Unless there are extension headers that say otherwise.
        (self.part, self.id, self.extended) = (Part::Whole, 0, false);
        self.destination = v6(ip.destination);
        self.payload = ip.payload_len() as usize;
        self.len = Ipv6::LEN + self.payload;
        if ip.version() != 6 || l3 + self.len > frame.len() {
            return Reading::Truncated;
        }
        self.source = v6(ip.source);
        self.tos = ip.traffic_class();
        self.hops = ip.hop_limit;
        self.protocol = ip.next_header();
        self.transport = l3 + Ipv6::LEN;
        let mut steps = 0;
        while steps < MAX_EXTENSIONS && is_extension(self.protocol) {
            let at = self.transport & MAX_OFFSET;
            // Next header, length, and what a routing or fragment header has in these places (RFC 8200, section 4).
            let Some(&[next, len, high, low, id @ ..]) = frame.at::<[u8; 8]>(at) else {
                return Reading::Truncated;
            };
            let size = match self.protocol {
                // A fragment of a fragment: nobody sends one, and the inner header must not make a whole packet of it.
                IpProtocol::FRAGMENT if self.part != Part::Whole => return Reading::Unsupported,
                IpProtocol::FRAGMENT => {
                    self.id = u32::from_ne_bytes(id);
                    let word = u16::from_be_bytes([high, low]);
                    self.part = match (word >> 3, word & 1) {
                        (0, 0) => Part::Whole,
                        (0, _) => Part::First,
                        _ => Part::Later,
                    };
                    8
                }
                // A packet that is to visit others first is none of ours yet (byte 3: segments left).
                IpProtocol::ROUTING if low != 0 => return Reading::Unsupported,
                _ => (len as usize + 1) * 8,
            };
            if size > self.payload {
                return Reading::Truncated;
            }
            self.protocol = IpProtocol(next);
            self.transport += size;
            self.payload -= size;
            self.extended = true;
            if self.part == Part::Later {
                // What the first fragment holds further extension headers of is not known here.
                return Reading::Whole;
            }
            if self.transport > MAX_TRANSPORT {
                return Reading::Unsupported;
            }
            steps += 1;
        }
        if is_extension(self.protocol) { Reading::Unsupported } else { Reading::Whole }
    }
}

#[inline(always)]
fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP | IpProtocol::ROUTING | IpProtocol::FRAGMENT | IpProtocol::DESTINATION_OPTIONS
    )
}
