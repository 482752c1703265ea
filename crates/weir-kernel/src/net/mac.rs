//! A 48-bit hardware address, as text and bytes.

use std::{fmt, str::FromStr};

/// An Ethernet address; the bytes are in transmission order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// From a kernel attribute; `None` unless it is six bytes long.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Whether every byte is zero, which no station has.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; write it like 02:00:00:00:00:01")]
pub struct ParseMacError(String);

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mac: MacAddress = "02:00:Ab:cd:0e:f1".parse().unwrap();
        assert_eq!(mac.0, [2, 0, 0xab, 0xcd, 0x0e, 0xf1]);
        assert_eq!(mac.to_string(), "02:00:ab:cd:0e:f1");
        for bad in ["", "02:00:ab:cd:0e", "02:00:ab:cd:0e:f1:00", "2:0:ab:cd:e:f1", "02:00:ab:cd:0e:+1"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
