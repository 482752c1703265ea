//! Who a member is, as far as the ring is concerned.
//!
//! Owns: the hash from a backend's name in the world to 128 bits. Invariant: the same bytes give the same identity on
//! every machine and in every version of weir; the golden tests below hold it to that.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// Sixteen fixed bytes. Not a secret: two directors must agree, and whoever may choose the backends' addresses may
/// choose where they lie in the ring anyway. (The *flow* hash is keyed with a secret; that is the datapath's.)
const KEY: &[u8; 16] = b"weir maglev ring";

/// A member's stable identity: SipHash-2-4-128 of what it is known by everywhere, under a fixed key.
///
/// It decides which slots the member prefers. Two members of one ring must not share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Orders the members, and gives the first preferred slot.
    pub(crate) offset: u64,
    /// Gives the way from there through the others.
    pub(crate) walk: u64,
}

impl Identity {
    /// The identity of whatever these bytes name.
    pub fn of(name: &[u8]) -> Self {
        let mut hasher = SipHasher24::new_with_key(KEY);
        hasher.write(name);
        let hash = hasher.finish128();
        Self { offset: hash.h1, walk: hash.h2 }
    }

    /// The identity of the backend at this address: of its 4 or 16 bytes in network order.
    pub fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of(&address.octets()),
            IpAddr::V6(address) => Self::of(&address.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vectors of the reference implementation's `vectors_sip128` (key 00..0f, input 00, 01, …).
    #[test]
    fn the_hash_is_siphash_2_4_128() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let digest = |len: u8| {
            let mut hasher = SipHasher24::new_with_key(&key);
            hasher.write(&(0..len).collect::<Vec<u8>>());
            hasher.finish128().as_bytes()
        };
        let hex = |bytes: [u8; 16]| bytes.map(|b| format!("{b:02x}")).concat();
        assert_eq!(hex(digest(0)), "a3817f04ba25a8e66df67214c7550293");
        assert_eq!(hex(digest(1)), "da87c1d86b99af44347659119b22fc45");
        assert_eq!(hex(digest(2)), "8177228da4a45dc7fca38bdef60affe4");
    }
}
