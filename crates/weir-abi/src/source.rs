//! Looked up by prefix or by number: VIP prefixes, source lists, server ids.
//!
//! None of it is on the way of a packet whose service does not ask for it.
use crate::{Address, Family};

/// A key of a longest-prefix-match trie, 24 bytes.
///
/// | word | content |
/// | --- | --- |
/// | 0 | bits that must match: 32 and the prefix length (bits 0-31); what the prefix belongs to (32-63): an IP version, or a source list |
/// | 1, 2 | the address, packet order; an IPv4 address is the first four bytes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct PrefixKey(pub [u64; 3]);

impl PrefixKey {
    /// Bits of the key in front of the address.
    const HEAD_BITS: u64 = 32;
    /// Length of the key, bytes.
    pub const LEN: usize = size_of::<Self>();

    #[inline(always)]
    const fn new(scope: u32, address: Address, prefix_len: u8) -> Self {
        Self([(Self::HEAD_BITS + prefix_len as u64) | (scope as u64) << 32, address.0[0], address.0[1]])
    }
    /// A prefix of VIPs.
    #[inline(always)]
    pub const fn vips(family: Family, network: Address, prefix_len: u8) -> Self {
        Self::new(family as u32, network, prefix_len)
    }
    /// What the prefixes of VIPs are searched for.
    #[inline(always)]
    pub const fn vip(family: Family, address: Address) -> Self {
        Self::new(family as u32, address, 128)
    }
    /// A prefix of a source list.
    #[inline(always)]
    pub const fn sources(list: u32, network: Address, prefix_len: u8) -> Self {
        Self::new(list, network, prefix_len)
    }
    /// What a source list is searched for.
    #[inline(always)]
    pub const fn source(list: u32, address: Address) -> Self {
        Self::new(list, address, 128)
    }
    /// What the prefix belongs to: an IP version or a source list.
    pub const fn scope(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }
    /// The network.
    pub const fn network(&self) -> Address {
        Address([self.0[1], self.0[2]])
    }
    /// Length of the prefix; `None` if the key is none of weir's.
    pub const fn prefix_len(&self) -> Option<u8> {
        match (self.0[0] as u32 as u64).checked_sub(Self::HEAD_BITS) {
            Some(len) if len <= 128 => Some(len as u8),
            _ => None,
        }
    }
}

/// What a source list says about a prefix, one word: 0 denied, 1 allowed, else the server [`SourceRule::server`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct SourceRule(pub u64);

impl SourceRule {
    /// Packets are dropped.
    pub const DENY: Self = Self(0);
    /// Packets are balanced like any other.
    pub const ALLOW: Self = Self(1);

    /// Packets go to the backend which [`ServerKey::of_source`] of this number names.
    pub const fn server(number: u32) -> Self {
        Self(number as u64 + 2)
    }
    /// The server, if packets go to one.
    #[inline(always)]
    pub const fn to_server(self) -> Option<u32> {
        if self.0 > 1 { Some((self.0 - 2) as u32) } else { None }
    }
}

/// A server by number, as a key: number (bits 0-31), what kind of number (32-39), service id (40-63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ServerKey(pub u64);

impl ServerKey {
    /// The server a packet names.
    #[inline(always)]
    pub const fn of_packet(service_id: u32, id: u32) -> Self {
        Self(id as u64 | (service_id as u64) << 40)
    }
    /// The server a source list names.
    #[inline(always)]
    pub const fn of_source(service_id: u32, number: u32) -> Self {
        Self(number as u64 | 1 << 32 | (service_id as u64) << 40)
    }
    /// Whether it is packets that name the server, rather than a source list.
    pub const fn is_of_packet(self) -> bool {
        (self.0 >> 32) as u8 == 0
    }
    /// The service.
    pub const fn service_id(self) -> u32 {
        (self.0 >> 40) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_key_is_its_length_its_scope_and_the_address() {
        let key = PrefixKey::sources(7, core::net::Ipv4Addr::new(10, 1, 0, 0).into(), 16);
        let mut bytes = [0u8; 24];
        for (at, word) in key.0.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(bytes[..12], [48, 0, 0, 0, 7, 0, 0, 0, 10, 1, 0, 0]);
        assert_eq!((key.scope(), key.prefix_len()), (7, Some(16)));
    }

    #[test]
    fn rules_keep_every_server_apart_from_allow_and_deny() {
        for number in [0, 1, u32::MAX] {
            assert_eq!(SourceRule::server(number).to_server(), Some(number));
        }
        let keys = [ServerKey::of_packet(5, u32::MAX), ServerKey::of_source(5, u32::MAX)];
        assert_eq!(keys.map(|key| (key.is_of_packet(), key.service_id())), [(true, 5), (false, 5)]);
        assert_eq!((SourceRule::DENY.to_server(), SourceRule::ALLOW.to_server()), (None, None));
    }
}
