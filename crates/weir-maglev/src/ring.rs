//! From members to a ring.
//!
//! Owns: the members' order, refusals, fingerprints. Invariant: what [`build`] and [`rotation`] return does not
//! depend on the order of its argument, and every slot holds the value of a member with a weight.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::deal::{Player, deal};
use crate::rotation::interleave;
use crate::share::shares;
use crate::{Identity, RingSize};

/// One who takes slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is to every director; decides *where* its slots lie.
    pub identity: Identity,
    /// Its share relative to the others'; 0 takes no slot.
    pub weight: u32,
    /// What the ring's slots call it. Decides nothing.
    pub value: u32,
}

/// A ring: for each slot, the value of the member it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    size: RingSize,
    slots: Vec<u32>,
    /// For each slot, the place of its member in `members`.
    owners: Vec<u32>,
    /// The members with a weight, ordered by identity.
    members: Vec<Identity>,
}

impl Ring {
    /// The number of slots.
    pub fn size(&self) -> RingSize {
        self.size
    }

    /// The value in each slot.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The same on every director whose ring gives the same slots to the same members, whatever values they call
    /// them by; stable from version to version as long as the rings are.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = SipHasher24::new();
        hasher.write(&(self.members.len() as u64).to_le_bytes());
        for identity in &self.members {
            hasher.write(&identity.offset.to_le_bytes());
            hasher.write(&identity.walk.to_le_bytes());
        }
        hasher.write(&fingerprint(&self.owners).to_le_bytes());
        hasher.finish()
    }
}

/// A stable fingerprint of slots as they are: SipHash-2-4 under an all-zero key of their little-endian bytes.
///
/// It tells whether two rings *in one director* are the same, read back from the kernel for instance. Directors number
/// their backends each for itself, so between them compare [`Ring::fingerprint`].
pub fn fingerprint(slots: &[u32]) -> u64 {
    let mut hasher = SipHasher24::new();
    for &slot in slots {
        hasher.write(&slot.to_le_bytes());
    }
    hasher.finish()
}

/// Why there is no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two members are the same one.
    #[error("members {0} and {1} have the same identity")]
    DuplicateIdentity(usize, usize),
    /// Not everyone with a weight could have a slot.
    #[error("{members} members with a weight do not fit into a ring of {} slots", size.slots())]
    TooManyMembers {
        /// How many have a weight.
        members: usize,
        /// The size asked for.
        size: RingSize,
    },
}

/// Builds the ring of these members; `None` if none has a weight.
///
/// - Weights are met to the slot: each member gets its exact share of the slots rounded up or down, but at least one.
///   So at 100 slots or more a member's share is within 1 % of its weight (see [`RingSize::automatic`]).
/// - When one of N equal members comes or goes its slots move, and, as Maglev has it, a few of the others' with them.
///   Measured, in per cent of all slots: 2.4 for 10 members and 1024 slots, 1.3 for 100 and 16384, 0.56 for 100 and
///   65536. When one member's weight changes, as many; in a pool of mixed weights rather less.
/// - A ring of twice the size gives about half of its slots to whom the slot they descend from (slot j of 2M from slot
///   j mod M) belongs: a flow's *slot* keeps its history through a doubling, its *owner* often does not. Do not resize
///   a ring in use lightly.
///
/// (`cargo run --release -p weir-maglev --example measure` prints these and more.) Takes less than 2 ms for 65536 slots.
pub fn build(size: RingSize, members: &[Member]) -> Result<Option<Ring>, BuildError> {
    deal_out(size, members, |members, shares| {
        let players: Vec<Player> = members
            .iter()
            .zip(shares)
            .map(|(member, &share)| Player {
                offset: member.identity.offset as u32,
                stride: member.identity.walk as u32 | 1,
                curve: (member.identity.walk >> 32) as u32 & !3,
                share,
            })
            .collect();
        deal(size, &players)
    })
}

/// Builds the ring of these members for a scheduler that takes its slots in turn (round robin); `None` if none has a
/// weight.
///
/// - Weights are met to the slot, as in [`build`].
/// - Members come as evenly as whole slots allow: among the first n slots, whatever n is, each has its share of n give or
///   take less than one. So members of equal weights come one after the other, always in the same order. (Where the ring
///   ends and begins again, some come once more than the others if their number does not divide the number of slots.)
pub fn rotation(size: RingSize, members: &[Member]) -> Result<Option<Ring>, BuildError> {
    deal_out(size, members, |_, shares| interleave(shares))
}

/// The ring in which `owners` says, for the members with a weight (by identity) and their shares, whose each slot is.
fn deal_out(
    size: RingSize,
    members: &[Member],
    owners: impl FnOnce(&[&Member], &[u32]) -> Vec<u32>,
) -> Result<Option<Ring>, BuildError> {
    let mut listed: Vec<usize> = (0..members.len()).collect();
    listed.sort_by_key(|&i| (members[i].identity, i));
    if let Some(same) = listed.windows(2).find(|pair| members[pair[0]].identity == members[pair[1]].identity)
    {
        return Err(BuildError::DuplicateIdentity(same[0], same[1]));
    }
    let members: Vec<&Member> =
        listed.iter().map(|&i| &members[i]).filter(|member| member.weight > 0).collect();
    if members.is_empty() {
        return Ok(None);
    }
    if members.len() > size.slots() as usize {
        return Err(BuildError::TooManyMembers { members: members.len(), size });
    }
    let weights: Vec<u32> = members.iter().map(|member| member.weight).collect();
    let owners = owners(&members, &shares(size.slots(), &weights));
    Ok(Some(Ring {
        size,
        slots: owners.iter().map(|&owner| members[owner as usize].value).collect(),
        owners,
        members: members.iter().map(|member| member.identity).collect(),
    }))
}
