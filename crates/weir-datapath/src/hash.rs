//! One keyed 64-bit hash of a flow; bucket, tag and ring slot are cut from it.
//!
//! SipHash with one compression round a word and three finalization rounds (Aumasson and Bernstein, "SipHash: a fast
//! short-input PRF", 2012; the 1-3 variant as in Rust's and Linux's hash tables). The input always has a fixed length for
//! its family, so the length block is replaced by a word that carries ports, protocol and family. The key is a secret:
//! whoever does not know it cannot choose flows that collide.
use crate::Flow;
use weir_abi::{Address, Family};

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn new(key: [u64; 2]) -> Self {
        Self([
            key[0] ^ 0x736f_6d65_7073_6575,
            key[1] ^ 0x646f_7261_6e64_6f6d,
            key[0] ^ 0x6c79_6765_6e65_7261,
            key[1] ^ 0x7465_6462_7974_6573,
        ])
    }
    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32);
        c = c.wrapping_add(b);
        a = a.wrapping_add(d);
        b = b.rotate_left(17) ^ c;
        d = d.rotate_left(21) ^ a;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }
    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

/// The hash of a flow under a key; the same on every director that has the key.
#[inline(always)]
pub fn flow_hash(flow: &Flow, key: [u64; 2]) -> u64 {
    let last = flow.key.word() | (flow.source_port as u64) << 48;
    let mut state = State::new(key);
    match flow.key.family {
        Family::V4 => {
            // An IPv4 address is the low half of its first word.
            state.word(flow.source.0[0] | flow.key.vip.0[0] << 32);
        }
        Family::V6 => {
            state.word(flow.source.0[0]);
            state.word(flow.source.0[1]);
            state.word(flow.key.vip.0[0]);
            state.word(flow.key.vip.0[1]);
        }
    }
    state.word(last);
    state.finish()
}

/// The hash of what the fragments of a packet have in common: addresses and identification, of IPv4 the protocol as well
/// (RFC 791, section 3.2; RFC 8200, section 4.5). For a table of its own, so it need not differ from a flow's.
#[inline(always)]
pub(crate) fn fragment_hash(
    family: Family,
    source: Address,
    destination: Address,
    protocol: u8,
    id: u32,
    key: [u64; 2],
) -> u64 {
    let mut state = State::new(key);
    state.word(source.0[0]);
    state.word(source.0[1]);
    state.word(destination.0[0]);
    state.word(destination.0[1]);
    state.word(id as u64 | (protocol as u64) << 32 | (family as u64) << 40);
    state.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SipHash-1-3 of whole words, as the reference computes it for the inputs whose last word is the length block.
    fn siphash13(key: [u64; 2], words: &[u64]) -> u64 {
        let mut state = State::new(key);
        for word in words {
            state.word(*word);
        }
        state.finish()
    }

    #[test]
    fn agrees_with_the_standard_library() {
        use std::hash::{BuildHasher as _, Hasher as _};
        // std's `DefaultHasher::default()` is SipHash-1-3 under the zero key.
        let mut reference =
            std::hash::BuildHasherDefault::<std::collections::hash_map::DefaultHasher>::default()
                .build_hasher();
        reference.write_u64(0x0123_4567_89ab_cdef);
        reference.write_u64(42);
        assert_eq!(siphash13([0, 0], &[0x0123_4567_89ab_cdef, 42, 16 << 56]), reference.finish());
    }

    #[test]
    fn is_pinned_so_that_directors_of_different_builds_agree() {
        let key = weir_abi::ServiceKey {
            vip: std::net::Ipv4Addr::new(192, 0, 2, 10).into(),
            family: Family::V4,
            protocol: 6,
            port: 80u16.to_be(),
            prefix_len: 0,
        };
        let flow = Flow {
            source: std::net::Ipv4Addr::new(198, 51, 100, 7).into(),
            source_port: 40000u16.to_be(),
            key,
        };
        assert_eq!(
            flow_hash(&flow, [1, 2]),
            siphash13(
                [1, 2],
                &[flow.source.0[0] | key.vip.0[0] << 32, key.word() | u64::from(40000u16.to_be()) << 48]
            )
        );
    }
}
