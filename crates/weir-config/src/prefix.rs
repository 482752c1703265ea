//! Networks: an address and how many of its leading bits count.
//!
//! Owns: how they are written and what is in them. May not touch: which of them a key takes.
//! Invariant: no bit beyond a prefix's length is set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every address that begins with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Prefix {
    /// The first address in it.
    pub network: IpAddr,
    /// How many leading bits are the same in all: 0 to 32 or 0 to 128, as the family says.
    pub len: u8,
}

/// Why a text is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixError {
    /// What should be an address is none.
    Address,
    /// What should be a length is none, or more than this.
    Length(u8),
    /// Bits are set that the length does not cover; the prefix that was probably meant.
    HostBits(Prefix),
}

impl Prefix {
    /// The prefix of that length in which `address` is; a length beyond the family's bits is all of them.
    pub(crate) fn of(address: IpAddr, len: u8) -> Self {
        let len = len.min(bits(address));
        let network = match address {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits() & !u32::MAX.checked_shr(len.into()).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits() & !u128::MAX.checked_shr(len.into()).unwrap_or(0)).into()
            }
        };
        Self { network, len }
    }

    /// One address alone.
    pub(crate) fn single(address: IpAddr) -> Self {
        Self { network: address, len: bits(address) }
    }

    /// `ADDRESS/LENGTH`, or an address alone, which is a prefix of full length.
    pub(crate) fn parse(written: &str) -> Result<Self, PrefixError> {
        let Some((address, length)) = written.split_once('/') else {
            return written.parse().map(Self::single).map_err(|_| PrefixError::Address);
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address)?;
        let bits = bits(address);
        // (`parse` alone would take a sign.)
        let digits_only = length.bytes().all(|digit| digit.is_ascii_digit());
        let len = length.parse().ok().filter(|&len| digits_only && len <= bits);
        let prefix = Self::of(address, len.ok_or(PrefixError::Length(bits))?);
        if prefix.network == address { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }

    /// Whether it is one address alone.
    pub fn is_single(&self) -> bool {
        self.len == bits(self.network)
    }

    /// Whether `address` is in it. No address of the other family is.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && Self::of(address, self.len) == *self
    }

    /// The last address in it.
    pub(crate) fn last(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits() | u32::MAX.checked_shr(self.len.into()).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits() | u128::MAX.checked_shr(self.len.into()).unwrap_or(0)).into()
            }
        }
    }
}

/// How many bits an address of that family has.
pub(crate) fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `198.51.100.0/24`; one address alone as `198.51.100.7`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { self.network.fmt(f) } else { write!(f, "{}/{}", self.network, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_shown() {
        for text in
            ["0.0.0.0/0", "198.51.100.0/24", "198.51.100.6/31", "198.51.100.7", "::/0", "2001:db8::/32"]
        {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("198.51.100.7/32").to_string(), "198.51.100.7");
        assert_eq!(prefix("::1/128").to_string(), "::1");
    }

    #[test]
    fn what_is_none() {
        for text in ["", "/", "/8", "a/8", "10.0.0.0.0/8", "[::]/0", " ::/0", "10.0.0.0/8/8x/"] {
            let expected =
                if text.starts_with("10.0.0.0/8") { PrefixError::Length(32) } else { PrefixError::Address };
            assert_eq!(Prefix::parse(text), Err(expected), "{text}");
        }
        for text in ["10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/-1", "10.0.0.0/255.0.0.0"] {
            assert_eq!(Prefix::parse(text), Err(PrefixError::Length(32)), "{text}");
        }
        assert_eq!(Prefix::parse("::/129"), Err(PrefixError::Length(128)));
        assert_eq!(Prefix::parse("10.1.2.3/8"), Err(PrefixError::HostBits(prefix("10.0.0.0/8"))));
        assert_eq!(Prefix::parse("::1/0"), Err(PrefixError::HostBits(prefix("::/0"))));
    }

    #[test]
    fn what_is_in_it() {
        let net = prefix("198.51.100.0/23");
        let inside = |text: &str| net.contains(text.parse().unwrap());
        assert!(inside("198.51.100.0") && inside("198.51.101.255"));
        assert!(!inside("198.51.99.255") && !inside("198.51.102.0") && !inside("::c633:6400"));
        assert_eq!(net.last(), IpAddr::from([198, 51, 101, 255]));
        assert!(prefix("::/0").contains(IpAddr::from([0xff; 16])));
        assert!(!prefix("::/0").contains(IpAddr::from([1, 1, 1, 1])));
        assert_eq!(prefix("::/0").last(), IpAddr::from([0xff; 16]));
        assert_eq!(prefix("2001:db8::/64").last().to_string(), "2001:db8::ffff:ffff:ffff:ffff");
    }
}
