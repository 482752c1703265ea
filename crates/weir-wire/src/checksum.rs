//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are of native-endian 16-bit words: the checksum does not depend on byte order as long as the result is stored
//! the way the words were read (RFC 1071, section 2B).

/// Sum of a buffer's 16-bit words, unfolded; an odd last byte counts as if followed by zero. At most 64 KiB.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u32;
    let mut pairs = bytes.chunks_exact(2);
    for pair in &mut pairs {
        total += u16::from_ne_bytes([pair[0], pair[1]]) as u32;
    }
    if let [last] = pairs.remainder() {
        total += u16::from_ne_bytes([*last, 0]) as u32;
    }
    total
}

/// Folds *all* carries of a sum into 16 bits: folding once can leave one (0xffff + 0x0001_0001).
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field's bytes for a sum.
#[inline(always)]
pub const fn finish(sum: u32) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The checksum after one aligned 16-bit word changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn replace(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let rest = !u16::from_ne_bytes(checksum) as u32 + !u16::from_ne_bytes(old) as u32;
    finish(rest + u16::from_ne_bytes(new) as u32)
}

/// Whether a header that carries its own checksum sums to "minus zero".
#[inline(always)]
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&data)), (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn a_carry_out_of_the_first_fold_is_folded_too() {
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
    }

    proptest! {
        #[test]
        fn incremental_update_equals_a_full_sum(
            mut words in proptest::collection::vec(any::<[u8; 2]>(), 2..40),
            at in any::<prop::sample::Index>(),
            new: [u8; 2],
        ) {
            let at = at.index(words.len());
            let before = finish(sum(words.as_flattened()));
            let old = words[at];
            words[at] = new;
            let after = replace(before, old, new);
            // Appended, either makes the whole sum to minus zero (0x0000 and 0xffff are the same number).
            words.push(after);
            prop_assert!(is_valid(words.as_flattened()) || sum(words.as_flattened()) == 0);
        }

        #[test]
        fn folding_is_the_sum_modulo_65535(sum: u32) {
            prop_assert_eq!(u64::from(fold(sum)) % 0xffff, u64::from(sum) % 0xffff);
        }
    }
}
