//! Dealing the slots out.
//!
//! Owns: the order of turns and the walk through each player's preferences. Invariant: every slot is dealt, each
//! player gets exactly its share, and the same players in the same order get the same slots.

use crate::RingSize;

/// Someone slots are dealt to.
pub(crate) struct Player {
    /// The first slot it prefers. (Only the low bits count.)
    pub(crate) offset: u32,
    /// From the first preferred slot to the second; odd.
    pub(crate) stride: u32,
    /// By how much each stride is longer than the one before; a multiple of 4.
    pub(crate) curve: u32,
    /// How many slots it gets.
    pub(crate) share: u32,
}

/// Which player each slot goes to, as an index into `players`, whose shares must add up to `size`.
///
/// On its turn a player takes the first slot in its order of preference that nobody has.
pub(crate) fn deal(size: RingSize, players: &[Player]) -> Vec<u32> {
    let mask = size.mask();
    let mut owners = vec![0_u32; size.slots() as usize];
    // One bit a slot: for the usual sizes this stays in the nearest cache, which the many probes of the last turns
    // (about ln(slots) a slot, all in all) are glad of.
    let mut taken = vec![0_u64; owners.len() / 64];
    let mut walks: Vec<Walk> = players.iter().map(Walk::new).collect();

    for player in turns(players) {
        let walk = &mut walks[player as usize];
        // Ends: a walk visits every slot, and there are as many turns as slots.
        let mut slot = walk.next(mask);
        while taken[(slot / 64) as usize] >> (slot % 64) & 1 != 0 {
            slot = walk.next(mask);
        }
        taken[(slot / 64) as usize] |= 1 << (slot % 64);
        owners[slot as usize] = player;
    }
    owners
}

/// A player's way through the slots, in its order of preference.
///
/// Step `c` leads to `offset + c·stride + c·(c-1)/2·curve`. With an odd stride and a multiple of 4 that is a polynomial
/// `offset + odd·c + even·c²`, and such permute the residues of a power of two (Rivest, *Permutation polynomials modulo
/// 2^w*, 2001): every slot is visited once before the first is visited again.
///
/// Maglev's own walks are straight (curve 0). Two straight walks whose strides happen to be in a small ratio meet again
/// and again, whatever the size, prime or not; in small rings that is not rare. Removing one of 3 members of 512 slots
/// moved up to 32 % of all slots between the other two (prime size: 27 %), one of 10 of 1024 up to 15 %. With curved
/// walks the worst in as many tries was 5 % and 4 %; the means are the same.
struct Walk {
    slot: u32,
    stride: u32,
    curve: u32,
}

impl Walk {
    fn new(player: &Player) -> Self {
        debug_assert!(player.stride % 2 == 1 && player.curve.is_multiple_of(4));
        Self { slot: player.offset, stride: player.stride, curve: player.curve }
    }

    fn next(&mut self, mask: u32) -> u32 {
        let slot = self.slot & mask;
        self.slot = slot.wrapping_add(self.stride);
        self.stride = self.stride.wrapping_add(self.curve);
        slot
    }
}

/// Whose turn it is, from the first slot to the last.
///
/// There are as many rounds as the largest share; turn `k` of a player with share `s` is in round `⌊k · rounds / s⌋`,
/// so everyone's turns are spread evenly from the first round on, and within a round the players' order counts. With
/// equal shares this is Maglev's own order. It depends on the *ratio* of the shares only, so that a change which
/// scales everyone's share alike leaves the order of those who stay as it was.
fn turns(players: &[Player]) -> Vec<u32> {
    let rounds = players.iter().map(|player| player.share).max().unwrap_or(0);
    // A counting sort by round, stable in the players' order: `ends[r]` is first the number of turns in round r, then
    // where the next of them goes.
    let mut next_place = vec![0_u32; rounds as usize];
    for player in players {
        rounds_of(player.share, rounds, |round| next_place[round as usize] += 1);
    }
    let mut begin = 0;
    for place in &mut next_place {
        begin += std::mem::replace(place, begin);
    }
    let mut turns = vec![0_u32; begin as usize];
    for (index, player) in (0..).zip(players) {
        rounds_of(player.share, rounds, |round| {
            let place = &mut next_place[round as usize];
            turns[*place as usize] = index;
            *place += 1;
        });
    }
    turns
}

/// Calls `visit` with `⌊k · rounds / share⌋` for each `k` below `share`, without a division for each.
fn rounds_of(share: u32, rounds: u32, mut visit: impl FnMut(u32)) {
    if share == 0 {
        return;
    }
    let (step, step_rest) = (rounds / share, rounds % share);
    let (mut round, mut rest) = (0, 0);
    for _ in 0..share {
        visit(round);
        round += step;
        rest += step_rest;
        if rest >= share {
            rest -= share;
            round += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(offset: u32, stride: u32, share: u32) -> Player {
        Player { offset, stride, curve: 0, share }
    }

    #[test]
    fn a_walk_visits_every_slot_once_and_begins_again() {
        for (offset, stride, curve) in
            [(0, 1, 0), (9, 7, 4), (1000, 0xffff_ffff, 8), (77, 0x1234_5677, 0xffff_fffc)]
        {
            for size in [RingSize::MIN, RingSize::MAX] {
                let mut walk = Walk::new(&Player { offset, stride, curve, share: 0 });
                let first: Vec<u32> = (0..size.slots()).map(|_| walk.next(size.mask())).collect();
                let mut visited = vec![false; first.len()];
                for &slot in &first {
                    visited[slot as usize] = true;
                }
                assert!(visited.iter().all(|&visited| visited));
                assert!(
                    first.iter().all(|&slot| slot == walk.next(size.mask())),
                    "the second round is the first"
                );
            }
        }
    }

    #[test]
    fn equal_shares_take_turns() {
        let players = [player(0, 1, 3), player(0, 1, 3), player(0, 1, 2)];
        assert_eq!(turns(&players), [0, 1, 2, 0, 1, 2, 0, 1], "the third has two turns in three rounds");
    }

    #[test]
    fn turns_are_spread_by_share() {
        let players = [player(0, 1, 1), player(0, 1, 4), player(0, 1, 2)];
        assert_eq!(turns(&players), [0, 1, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn rounds_are_the_rounded_down_quotients() {
        for rounds in 1..60_u32 {
            for share in 1..=rounds {
                let mut got = Vec::new();
                rounds_of(share, rounds, |round| got.push(round));
                assert_eq!(
                    got,
                    (0..share).map(|k| k * rounds / share).collect::<Vec<_>>(),
                    "{share} of {rounds}"
                );
            }
        }
    }

    #[test]
    fn the_first_to_ask_gets_the_slot_and_the_second_its_next() {
        let owners = deal(RingSize::MIN, &[player(7, 3, 128), player(7, 5, 128)]);
        assert_eq!((owners[7], owners[12]), (0, 1));
        assert_eq!((owners[10], owners[17]), (0, 1));
        assert_eq!(owners.iter().filter(|&&owner| owner == 0).count(), 128);
    }
}
