//! The order in which members take their turns.
//!
//! Owns: the interleaving. Invariant: everyone's k-th turn (from 0) of s in n slots comes in slot floor(k n / s) or later,
//! and before slot ceil((k + 1) n / s), so that nobody is ever a whole turn ahead or behind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// For each slot, whose it is, where member i has `shares[i]` of them, at least one. There are as many slots as shares.
///
/// A turn is open from the moment it is due on, and of the open ones the most urgent is taken ("earliest deadline first",
/// which finds an order that keeps every deadline if there is one; there is, because the shares add up to the slots: Liu
/// and Layland, *Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment*, JACM 1973). Of equally
/// urgent ones, that of the member listed first.
pub(crate) fn interleave(shares: &[u32]) -> Vec<u32> {
    let slots: u64 = shares.iter().map(|&share| u64::from(share)).sum();
    // What equal weights come to. (Deadlines keep the order of rounds too, but for the last, where rounding makes ties.)
    if let ([first, ..], [.., last]) = (shares, shares)
        && shares.is_sorted_by(|one, next| one >= next)
        && first - last <= 1
    {
        return (0..slots).map(|slot| (slot % shares.len() as u64) as u32).collect();
    }
    // By slot, and then by member: when a member's next turn is open, and by when it must have come.
    let mut waiting: BinaryHeap<Reverse<(u64, u32)>> =
        (0..).zip(shares).map(|(member, _)| Reverse((0, member))).collect();
    let mut open: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
    let mut taken = vec![0_u64; shares.len()];
    let mut owners = Vec::with_capacity(slots as usize);
    for slot in 0..slots {
        while let Some(&Reverse((due, member))) = waiting.peek()
            && due <= slot
        {
            waiting.pop();
            let share = u64::from(shares[member as usize]);
            open.push(Reverse((((taken[member as usize] + 1) * slots).div_ceil(share), member)));
        }
        let Reverse((_, member)) =
            open.pop().expect("by any slot at least as many turns are open as were taken");
        owners.push(member);
        let index = member as usize;
        taken[index] += 1;
        if taken[index] < u64::from(shares[index]) {
            waiting.push(Reverse((taken[index] * slots / u64::from(shares[index]), member)));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::share::shares;

    #[test]
    fn a_heavy_member_is_interleaved_with_light_ones() {
        assert_eq!(interleave(&[4, 2, 2]), [0, 1, 0, 2, 0, 1, 0, 2]);
        assert_eq!(interleave(&[5, 1, 1, 1]), [0, 0, 1, 0, 0, 2, 0, 3]);
    }

    proptest! {
        #[test]
        fn nobody_is_a_turn_ahead_or_behind(
            weights in prop::collection::vec(1_u32..=1000, 1..60), log in 8_u32..=12,
        ) {
            let shares = shares(1 << log, &weights);
            let slots = 1_i64 << log;
            let mut taken = vec![0_i64; shares.len()];
            for (slot, owner) in (1..).zip(interleave(&shares)) {
                taken[owner as usize] += 1;
                for (&taken, &share) in taken.iter().zip(&shares) {
                    prop_assert!((taken * slots - slot * i64::from(share)).abs() < slots);
                }
            }
            prop_assert!(taken.iter().zip(&shares).all(|(&taken, &share)| taken == i64::from(share)));
        }
    }

    #[test]
    fn equal_members_come_one_after_the_other() {
        for log in [8, 10, 13] {
            let slots = 1_u32 << log;
            for members in 1..=256 {
                let owners = interleave(&shares(slots, &vec![3; members]));
                let in_turn: Vec<u32> = (0..slots).map(|slot| slot % members as u32).collect();
                assert_eq!(owners, in_turn, "{members} members in {slots} slots");
            }
        }
    }
}
