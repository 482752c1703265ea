//! How many slots each member gets.
//!
//! Owns: the apportionment. Invariant: shares add up to the number of slots, nobody with a weight gets none, and
//! (that aside) each is its exact share rounded up or down.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Whole-slot shares for positive `weights`, by largest remainder (Hamilton's method): the exact share rounded down,
/// and what is left over goes, one slot each, to those that lost most. Of equal losses, the member listed first wins:
/// list them in a stable order.
///
/// A member whose exact share is below one slot gets one all the same, at the expense of the one with most: a backend
/// with a weight is never without new flows.
///
/// `weights` must be positive and not more than `slots` of them.
pub(crate) fn shares(slots: u32, weights: &[u32]) -> Vec<u32> {
    assert!(weights.len() <= slots as usize && weights.iter().all(|&weight| weight > 0));
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    // slots <= 2^20 and weight < 2^32: the product fits.
    let exact = |weight: u32| u64::from(slots) * u64::from(weight);
    let mut shares: Vec<u32> = weights.iter().map(|&weight| (exact(weight) / total) as u32).collect();

    let left_over = slots - shares.iter().sum::<u32>();
    let mut by_loss: Vec<usize> = (0..weights.len()).collect();
    by_loss.sort_by_key(|&i| (Reverse(exact(weights[i]) % total), i));
    for &i in by_loss.iter().take(left_over as usize) {
        shares[i] += 1;
    }

    let starving = shares.iter().filter(|&&share| share == 0).count();
    if starving > 0 {
        for share in shares.iter_mut().filter(|share| **share == 0) {
            *share = 1;
        }
        // With no more members than slots, whoever is richest while something is owed has at least two.
        let mut richest: BinaryHeap<_> =
            shares.iter_mut().enumerate().map(|(i, share)| (share, Reverse(i))).collect();
        for _ in 0..starving {
            if let Some(mut richest) = richest.peek_mut() {
                *richest.0 -= 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_weights_differ_by_one_slot_at_most() {
        assert_eq!(shares(256, &[5, 5, 5]), [86, 85, 85]);
    }

    #[test]
    fn a_thousand_to_one() {
        assert_eq!(shares(256, &[60_000, 1]), [255, 1]);
        assert_eq!(shares(256, &[1, 60_000, 1, 60_000, 1]), [1, 126, 1, 127, 1]);
    }

    proptest! {
        #[test]
        fn shares_are_the_exact_ones_to_the_slot(
            weights in prop::collection::vec(1_u32..=65535, 1..200), log in 8_u32..=20,
        ) {
            let slots = 1 << log;
            let shares = shares(slots, &weights);
            prop_assert_eq!(shares.iter().sum::<u32>(), slots);
            prop_assert!(shares.iter().all(|&share| share > 0));
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let exact = |w: u32| f64::from(slots) * f64::from(w) / total;
            if weights.iter().all(|&w| exact(w) >= 1.0) {
                for (&weight, &share) in weights.iter().zip(&shares) {
                    prop_assert!((f64::from(share) - exact(weight)).abs() < 1.0);
                }
            }
        }

        #[test]
        fn as_many_members_as_slots(weights in prop::collection::vec(1_u32..=65535, 256)) {
            prop_assert_eq!(shares(256, &weights), vec![1; 256]);
        }
    }
}
