//! An address with a prefix length, as routes name their destinations.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 or IPv6 prefix. Bits beyond the length are always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `addr`; `None` when `len` exceeds the family's 32 or 128.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        if len > address_bits(addr) {
            return None;
        }
        let addr = match addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Some(Self { addr, len })
    }

    /// The prefix that holds only this address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: address_bits(addr) }
    }

    /// The prefix's first address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length in bits.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether this is the default route's prefix, which holds every address.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the address is of this family and within the prefix.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && Self::new(addr, self.len) == Some(*self)
    }
}

/// 32 or 128.
pub(crate) fn address_bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The text is neither an address nor an address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a prefix; write it like 10.0.0.0/24 or 2001:db8::/64")]
pub struct ParsePrefixError(String);

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePrefixError(text.to_owned());
        match text.split_once('/') {
            None => Ok(Self::host(text.parse().map_err(|_| error())?)),
            Some((addr, len)) => {
                Self::new(addr.parse().map_err(|_| error())?, len.parse().map_err(|_| error())?)
                    .ok_or_else(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        let text = |from: &str| from.parse::<Prefix>().unwrap().to_string();
        assert_eq!(text("10.1.2.3/24"), "10.1.2.0/24");
        assert_eq!(text("10.1.2.3"), "10.1.2.3/32");
        assert_eq!(text("10.1.2.3/0"), "0.0.0.0/0");
        assert_eq!(text("2001:db8::1/64"), "2001:db8::/64");
        assert_eq!(text("2001:db8::1/0"), "::/0");
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "", "/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contains_keeps_families_apart() {
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("192.0.2.1".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
    }
}
