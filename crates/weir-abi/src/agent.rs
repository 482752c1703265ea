//! What the real server agent shares with its BPF programs.
//!
//! Owns: the agent's map names, their keys and values, and the reasons for which a packet is unwrapped, left alone or
//! dropped, and a connection's segment size lowered. Holds no policy. Invariant: a layout changes only together with
//! [`ABI_VERSION`](crate::ABI_VERSION), which stands in the configuration record of every agent.
use crate::{Address, Family};

/// Map of one [`ConfigRecord`]: an array.
pub const CONFIG: &str = "AGENT_CONFIG";
/// Map of addresses that mean something to the agent: a hash of [`AddressKey`] to a word of [`role`]s.
pub const ADDRESSES: &str = "AGENT_ADDRESSES";
/// Map of the networks directors send from: a longest-prefix-match trie of [`DirectorKey`] to a word that is 1.
pub const DIRECTORS: &str = "AGENT_DIRECTORS";
/// Per-CPU [`Count`](crate::Count)s indexed by [`Reason`].
pub const REASONS: &str = "AGENT_REASONS";
/// Per-CPU [`Count`](crate::Count)s indexed by [`ClampReason`].
pub const CLAMPS: &str = "AGENT_CLAMPS";

/// The program that unwraps in XDP.
pub const UNWRAP_XDP: &str = "unwrap_xdp";
/// The same for interfaces whose packets may lie in several buffers (a large MTU); Linux 5.18.
pub const UNWRAP_FRAGS: &str = "unwrap_frags";
/// The program that unwraps in tc, at ingress.
pub const UNWRAP_TC: &str = "unwrap_tc";
/// The program that lowers the segment size that the VIPs announce, in tc at egress.
pub const CLAMP_MSS: &str = "clamp_mss";

/// Entries in [`ADDRESSES`] and [`DIRECTORS`].
pub mod capacity {
    /// VIPs and the machine's own addresses together.
    pub const ADDRESSES: u32 = 4096;
    /// Networks of directors.
    pub const DIRECTORS: u32 = 1024;
}

/// What an address in [`ADDRESSES`] is; one may be both.
pub mod role {
    /// One of the machine's own addresses: directors send wrapped packets to it.
    pub const OWN: u64 = 1;
    /// A VIP: wrapped packets are for it, and connections are answered from it.
    pub const VIP: u64 = 2;
}

/// First half of word 0 of the configuration record: tells it from anything else ("agnt").
pub const MAGIC: u32 = 0x6167_6e74;

/// The agent's configuration as stored: 24 bytes.
///
/// | word | content |
/// | --- | --- |
/// | 0 | [`MAGIC`] (low 32), ABI version (high 32) |
/// | 1 | [`SegmentLimits`] |
/// | 2 | [`GuePort`] |
pub type ConfigRecord = [u64; 3];

/// Word 0 of a configuration record of this build.
pub const IDENTITY: u64 = MAGIC as u64 | (crate::ABI_VERSION as u64) << 32;

/// The largest TCP segment sizes a VIP may announce, bytes; in one word so that both change together.
///
/// IPv4 in bits 0-15, IPv6 in bits 16-31; 0 = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SegmentLimits(pub u64);

impl SegmentLimits {
    /// Limits for both families.
    pub const fn new(v4: u16, v6: u16) -> Self {
        Self(v4 as u64 | (v6 as u64) << 16)
    }
    /// The limit for a family.
    #[inline(always)]
    pub const fn of(self, family: Family) -> u16 {
        match family {
            Family::V4 => self.0 as u16,
            Family::V6 => (self.0 >> 16) as u16,
        }
    }
}

/// The UDP destination port of GUE: bits 0-15, as the port stands in a packet; 0 = GUE is not unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GuePort(pub u64);

impl GuePort {
    /// The port with this number; 0 = none.
    pub const fn new(port: u16) -> Self {
        Self(u16::from_ne_bytes(port.to_be_bytes()) as u64)
    }
    /// Its number; 0 = none.
    pub const fn number(self) -> u16 {
        u16::from_be_bytes((self.0 as u16).to_ne_bytes())
    }
    /// Whether it is this one, as it stands in a packet. Nothing is while there is none.
    #[inline(always)]
    pub const fn is(self, port: [u8; 2]) -> bool {
        self.0 != 0 && u16::from_ne_bytes(port) as u64 == self.0
    }
}

/// An address as a key: two words of address, one of family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AddressKey(pub [u64; 3]);

impl AddressKey {
    /// The key of an address.
    #[inline(always)]
    pub const fn new(family: Family, address: Address) -> Self {
        Self([address.0[0], address.0[1], family as u64])
    }
    /// The key's address, `None` when the family is none.
    pub fn to_ip(self) -> Option<core::net::IpAddr> {
        let family = match self.0[2] {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        Some(Address([self.0[0], self.0[1]]).to_ip(family))
    }
}

/// A network as a key of a longest-prefix-match trie, 24 bytes: both families in one trie, told apart by the first byte
/// of what is matched.
///
/// | word | content |
/// | --- | --- |
/// | 0 | bits that must match, family included: 32 and the prefix length (bits 0-31), IP version (32-39), zero |
/// | 1, 2 | the address |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DirectorKey(pub [u64; 3]);

impl DirectorKey {
    /// Bits of the key in front of the address.
    const FAMILY_BITS: u64 = 32;
    /// Length of the key, bytes.
    pub const LEN: usize = size_of::<Self>();

    /// The key of a network.
    #[inline(always)]
    pub const fn network(family: Family, address: Address, prefix_len: u8) -> Self {
        Self([(Self::FAMILY_BITS + prefix_len as u64) | (family as u64) << 32, address.0[0], address.0[1]])
    }
    /// The key to look an address up with.
    #[inline(always)]
    pub const fn address(family: Family, address: Address) -> Self {
        let all = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        Self::network(family, address, all)
    }
    /// The network's first address and prefix length, `None` when the key is none.
    pub fn to_network(self) -> Option<(core::net::IpAddr, u8)> {
        let [head, first, second] = self.0;
        let family = match (head >> 32) as u8 {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let prefix_len = u8::try_from((head & 0xffff_ffff).checked_sub(Self::FAMILY_BITS)?).ok()?;
        Some((Address([first, second]).to_ip(family), prefix_len))
    }
}

/// What happens to a packet that arrives at a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Left to the kernel, byte-identical.
    Pass,
    /// Discarded.
    Drop,
    /// Left to the kernel without its outer header.
    Unwrap,
}

macro_rules! reasons {
    ($(#[doc = $title:literal])* $enum:ident -> $outcome:ident;
     $(#[doc = $doc:literal] $name:ident = $number:literal, $verdict:ident, $label:literal;)*) => {
        $(#[doc = $title])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $enum { $(#[doc = $doc] $name = $number,)* }

        impl $enum {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Number of reasons = length of the counter array.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// What goes with the reason.
            #[inline(always)]
            pub const fn verdict(self) -> $outcome {
                match self { $(Self::$name => $outcome::$verdict,)* }
            }
            /// Name in reports.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
            /// One sentence for people.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => $doc,)* }
            }
            /// The reason with this number.
            pub fn from_index(index: u32) -> Option<Self> {
                Self::ALL.get(index as usize).copied()
            }
        }
    };
}

reasons! {
    #[doc = "Why an arriving packet got its verdict. Every packet has exactly one."]
    Reason -> Verdict;
    #[doc = "Neither IPv4 nor IPv6 (ARP, for example)."]
    NotIp = 0, Pass, "not_ip";
    #[doc = "With more VLAN tags than are looked behind: two in XDP, none in tc (the kernel takes one off before)."]
    VlanTagged = 1, Pass, "vlan_tagged";
    #[doc = "Neither an IP packet inside an IP packet nor sent to the GUE port: the machine's ordinary traffic."]
    NotTunnel = 2, Pass, "not_tunnel";
    #[doc = "Shorter than its outer header claims."]
    OuterMalformed = 3, Pass, "outer_malformed";
    #[doc = "Wrapped, but not by a director."]
    NotDirector = 4, Pass, "not_director";
    #[doc = "Wrapped by a director, but sent to none of the machine's own addresses."]
    NotOwnAddress = 5, Pass, "not_own_address";
    #[doc = "A fragment of a wrapped packet; the kernel puts it together and it stays wrapped."]
    OuterFragment = 6, Pass, "outer_fragment";
    #[doc = "Wrapped in an IPv6 header with extension headers."]
    OuterExtension = 7, Pass, "outer_extension";
    #[doc = "GUE from a director, but of a kind that is not unwrapped: a control message, flags, or no IP packet inside."]
    GueUnsupported = 8, Pass, "gue_unsupported";
    #[doc = "Wrapped by a director, but what is inside is to no VIP."]
    NotVip = 9, Pass, "not_vip";
    #[doc = "Wrapped by a director, but what is inside is no whole packet of the announced kind."]
    InnerMalformed = 10, Drop, "inner_malformed";
    #[doc = "Congestion was marked on the way, in a packet whose sender cannot understand the mark (RFC 6040)."]
    EcnViolation = 11, Drop, "ecn_violation";
    #[doc = "The kernel refused to remove the outer header."]
    CannotShrink = 12, Drop, "cannot_shrink";
    #[doc = "Unwrapped: IPv4 in IPv4."]
    Unwrapped4In4 = 13, Unwrap, "unwrapped_4in4";
    #[doc = "Unwrapped: IPv6 in IPv6."]
    Unwrapped6In6 = 14, Unwrap, "unwrapped_6in6";
    #[doc = "Unwrapped: IPv4 in IPv6."]
    Unwrapped4In6 = 15, Unwrap, "unwrapped_4in6";
    #[doc = "Unwrapped: IPv6 in IPv4."]
    Unwrapped6In4 = 16, Unwrap, "unwrapped_6in4";
    #[doc = "Unwrapped: IPv4 in GUE over IPv4."]
    UnwrappedGue4In4 = 17, Unwrap, "unwrapped_gue_4in4";
    #[doc = "Unwrapped: IPv6 in GUE over IPv6."]
    UnwrappedGue6In6 = 18, Unwrap, "unwrapped_gue_6in6";
    #[doc = "Unwrapped: IPv4 in GUE over IPv6."]
    UnwrappedGue4In6 = 19, Unwrap, "unwrapped_gue_4in6";
    #[doc = "Unwrapped: IPv6 in GUE over IPv4."]
    UnwrappedGue6In4 = 20, Unwrap, "unwrapped_gue_6in4";
}

/// What happens to a packet that leaves a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clamp {
    /// Sent byte-identical.
    Untouched,
    /// Sent with a smaller segment size announced.
    Lowered,
}

reasons! {
    #[doc = "Why a leaving packet was changed or not. Every packet has exactly one."]
    ClampReason -> Clamp;
    #[doc = "Not the first segment of a TCP connection."]
    NotSyn = 0, Untouched, "not_syn";
    #[doc = "The first segment of a TCP connection, but not from a VIP."]
    NotFromVip = 1, Untouched, "not_from_vip";
    #[doc = "Shorter than its headers claim, or with options that cannot be read."]
    Malformed = 2, Untouched, "malformed";
    #[doc = "Announces no segment size (the default, 536 or 1220 bytes, fits)."]
    NoOption = 3, Untouched, "no_option";
    #[doc = "Announces a segment size that fits once wrapped."]
    Fits = 4, Untouched, "fits";
    #[doc = "Announced a segment size too large once wrapped; lowered."]
    Lowered = 5, Lowered, "lowered";
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn reasons_are_numbered_by_their_place_and_labels_are_unique() {
        let mut labels = std::collections::BTreeSet::new();
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert_eq!(Reason::from_index(place as u32), Some(*reason));
            assert!(labels.insert(reason.label()));
        }
        assert_eq!(Reason::from_index(Reason::COUNT), None);
        for (place, reason) in ClampReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert_eq!(ClampReason::from_index(place as u32), Some(*reason));
            assert!(labels.insert(reason.label()));
        }
        assert_eq!(ClampReason::from_index(ClampReason::COUNT), None);
    }

    #[test]
    fn a_network_key_has_the_bytes_the_trie_matches_on() {
        let v4: Address = Ipv4Addr::new(10, 1, 0, 0).into();
        let key = DirectorKey::network(Family::V4, v4, 16);
        let mut expected = [0u8; 24];
        expected[..4].copy_from_slice(&48u32.to_ne_bytes());
        expected[4] = 4;
        expected[8..10].copy_from_slice(&[10, 1]);
        assert_eq!(key.0.map(u64::to_ne_bytes).concat(), expected);
        assert_eq!(key.to_network(), Some((IpAddr::V4(Ipv4Addr::new(10, 1, 0, 0)), 16)));
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let key = DirectorKey::address(Family::V6, v6.into());
        assert_eq!(key.0[0] as u32, 160);
        assert_eq!(&key.0.map(u64::to_ne_bytes).concat()[8..], &v6.octets());
        assert_eq!(key.to_network(), Some((IpAddr::V6(v6), 128)));
    }

    #[test]
    fn an_address_key_keeps_families_apart() {
        let v4: IpAddr = Ipv4Addr::new(32, 1, 0, 0).into();
        let v6: IpAddr = "2001::".parse().unwrap();
        let keys = [v4, v6].map(|ip| AddressKey::new(Family::of(ip), ip.into()));
        assert_ne!(keys[0], keys[1]);
        assert_eq!(keys.map(AddressKey::to_ip), [Some(v4), Some(v6)]);
        assert_eq!(size_of::<AddressKey>(), 24);
        assert_eq!(size_of::<ConfigRecord>(), 24);
    }

    #[test]
    fn no_port_is_the_gue_port_while_there_is_none() {
        let port = GuePort::new(6080);
        assert_eq!(port.number(), 6080);
        assert!(port.is([0x17, 0xc0]) && !port.is([0xc0, 0x17]) && !port.is([0, 0]));
        assert!(!GuePort::new(0).is([0, 0]) && !GuePort::default().is([0x17, 0xc0]));
    }

    #[test]
    fn limits_of_both_families_share_a_word() {
        let limits = SegmentLimits::new(1440, 1400);
        assert_eq!((limits.of(Family::V4), limits.of(Family::V6)), (1440, 1400));
    }
}
