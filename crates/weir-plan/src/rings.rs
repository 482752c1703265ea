//! The services' rings, built only when their members change.
//!
//! Owns: a cache. Invariant: what it returns depends on the arguments alone; a ring of 65536 slots takes 2 ms to build
//! and a plan is made every second.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use weir_abi::{ServiceKey, Traits};
use weir_maglev::{Identity, Member, Ring, RingSize, build, rotation};

use crate::plan::text;
use crate::{Desired, DesiredService, PlanError};

/// Who takes slots of a ring: a backend with an id, a weight and a way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingMember {
    pub(crate) address: IpAddr,
    pub(crate) weight: u32,
    pub(crate) id: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Rings(HashMap<ServiceKey, Cached>);

#[derive(Debug)]
struct Cached {
    /// Whether its slots are taken in turn.
    turns: bool,
    size: RingSize,
    members: Vec<RingMember>,
    ring: Option<Ring>,
}

impl Rings {
    /// The ids in the slots of the service's ring, and the fingerprint; `None` without a member.
    pub(crate) fn ring(
        &mut self,
        service: &DesiredService,
        members: &[RingMember],
    ) -> Result<Option<(Vec<u32>, u64)>, PlanError> {
        let (turns, size) = (service.traits.has(Traits::TURNS), service.ring_size);
        let fits =
            |cached: &&Cached| (cached.turns, cached.size) == (turns, size) && cached.members == members;
        if self.0.get(&service.key).as_ref().is_none_or(|cached| !fits(cached)) {
            let listed: Vec<Member> = members
                .iter()
                .map(|m| Member { identity: Identity::of_address(m.address), weight: m.weight, value: m.id })
                .collect();
            let ring = if turns { rotation(size, &listed) } else { build(size, &listed) };
            let ring = ring.map_err(|source| PlanError::Ring { service: text(&service.key), source })?;
            self.0.insert(service.key, Cached { turns, size, members: members.to_vec(), ring });
        }
        let ring = self.0.get(&service.key).and_then(|cached| cached.ring.as_ref());
        Ok(ring.map(|ring| (ring.slots().to_vec(), ring.fingerprint())))
    }

    /// Drops the rings of services that are no more.
    pub(crate) fn forget_all_but(&mut self, desired: &Desired) {
        if self.0.len() > desired.services.len() {
            let keys: BTreeSet<_> = desired.services.iter().map(|s| (s.key.vip.0, s.key.word())).collect();
            self.0.retain(|key, _| keys.contains(&(key.vip.0, key.word())));
        }
    }
}
