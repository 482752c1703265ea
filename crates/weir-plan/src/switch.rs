//! From the services' next entries to the steps that make them the live ones.
//!
//! Owns: what an entry says, and whether it can change in place. Invariant: a step here is the one store by which a
//! packet's way changes; everything an entry refers to was there before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use weir_abi::{
    Budget, Family, HashFields, Policy, PrefixKey, RingRange, ServerIds, ServiceKey, ServiceRecord, Traits,
};

use crate::layout::lay_out;
use crate::{DesiredDirector, Observed, ObservedService, Op, PlanError};

/// What a service's entry is to say.
pub(crate) struct NextService {
    pub(crate) key: ServiceKey,
    pub(crate) id: u32,
    pub(crate) traits: Traits,
    pub(crate) range: RingRange,
    pub(crate) fingerprint: u64,
    pub(crate) policy: Policy,
    /// The source list; 0 = none.
    pub(crate) list: u32,
}

/// The steps that make the next services the live ones: a new table if there are others than before or one of them is of
/// another kind, else changes in place.
pub(crate) fn switch(
    observed: &Observed,
    live: &HashMap<ServiceKey, &ObservedService>,
    next: &[NextService],
    director: &DesiredDirector,
) -> Result<Vec<Op>, PlanError> {
    let entries = entries(next, director);
    // Words 3, 5 and 6 can change in place.
    let fits = |record: &ServiceRecord, now: &ObservedService| {
        record[4] == now.record[4] && record[7] == now.record[7]
    };
    let in_place = entries.len() == observed.services.len()
        && entries.values().all(|(key, record)| live.get(key).is_some_and(|now| fits(record, now)));
    if !in_place {
        let half = observed.limits.service_entries / 2;
        let base = if observed.table.base() >= half { 0 } else { half };
        let entries: Vec<_> = entries.into_values().collect();
        let (table, entries) = half
            .checked_ilog2()
            .and_then(|max_log2| lay_out(&entries, base, max_log2))
            .ok_or(PlanError::TooManyServices(entries.len(), half))?;
        return Ok(vec![Op::PublishServices { table, entries }]);
    }
    let mut ops = Vec::new();
    for service in next {
        let Some(now) = live.get(&service.key) else { continue };
        if now.ring() != service.range || now.fingerprint() != service.fingerprint {
            let (range, fingerprint) = (service.range, service.fingerprint);
            ops.push(Op::SetRing { entry: now.entry, range, fingerprint });
        }
        if now.record[5] != service.policy.0 {
            ops.push(Op::SetPolicy { entry: now.entry, word: service.policy.0 });
        }
    }
    Ok(ops)
}

/// The prefixes under which services for more than one address are found.
pub(crate) fn vip_prefixes(next: &[NextService]) -> BTreeSet<PrefixKey> {
    let keys = next.iter().map(|service| service.key).filter(|key| key.prefix_len != 0);
    keys.map(|key| PrefixKey::vips(key.family, key.vip, key.prefix_len)).collect()
}

/// All entries of the next table, in an order of their own: the services, what marks their VIPs, and the addresses to which
/// wrapped packets come.
fn entries(
    next: &[NextService],
    director: &DesiredDirector,
) -> BTreeMap<[u64; 3], (ServiceKey, ServiceRecord)> {
    let mut entries = BTreeMap::new();
    let mut add = |key: ServiceKey, [ring, kind, policy, fingerprint, list]: [u64; 5]| {
        let head = [key.vip.0[0], key.vip.0[1], key.word()];
        let record = [head[0], head[1], head[2], ring, kind, policy, fingerprint, list];
        entries.insert(head, (key, record));
    };
    let kind = |id: u32, traits: Traits| u64::from(id) | u64::from(traits.0) << 32;
    for service in next {
        add(service.key.vip_only(), [0; 5]);
        add(
            service.key,
            [
                service.range.0,
                kind(service.id, service.traits),
                service.policy.0,
                service.fingerprint,
                u64::from(service.list),
            ],
        );
    }
    let unwraps = Traits::new(HashFields::Flow, ServerIds::None, Traits::DECAPSULATE, Budget::UNLIMITED);
    for address in &director.decapsulate {
        for key in wrapped(*address, director.features.gue_port()) {
            add(key, [0, kind(0, unwraps), 0, 0, 0]);
        }
    }
    entries
}

/// What packets that come wrapped to an address are found by: IPv4 in IP, IPv6 in IP, GUE.
fn wrapped(address: IpAddr, gue_port: u16) -> [ServiceKey; 3] {
    let family = Family::of(address);
    [(4, 0), (41, 0), (17, gue_port)].map(|(protocol, port)| ServiceKey {
        vip: address.into(),
        family,
        protocol,
        port,
        prefix_len: 0,
    })
}
