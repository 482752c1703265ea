//! From observed to desired.
//!
//! Owns: the order of the steps. First what nothing refers to yet is written (backends, rings, the other half of the
//! service table), then the references are switched, one store each; then what is no longer referred to is put down,
//! waited for and freed. Invariant: see the crate's front page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weir_abi::{Policy, RingRange, ServiceKey, ServiceRecord};

use crate::backends::{BackendPlan, Ids};
use crate::layout::lay_out;
use crate::ranges::Ranges;
use crate::rings::Rings;
use crate::{Desired, DesiredService, Observed, ObservedService, Op};

/// Why there is no plan: the tables are too small for what is desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No free backend id.
    #[error("there are more backends, with those still draining, than the {0} the backend table can hold")]
    TooManyBackends(u32),
    /// The service map is full.
    #[error("{0} services and VIPs do not fit into the service table of {1} places")]
    TooManyServices(usize, u32),
    /// The ring map is full.
    #[error(
        "no free range of {slots} slots for a new ring of service {service} in the ring table of {all} slots"
    )]
    NoRingRoom {
        /// Whose ring.
        service: String,
        /// The ring's size.
        slots: u32,
        /// The ring map's size.
        all: u32,
    },
    /// The ring cannot be built.
    #[error("cannot build the ring of service {service}: {source}")]
    Ring {
        /// Whose ring.
        service: String,
        /// Why.
        source: weir_maglev::BuildError,
    },
}

/// What a service's entry is to say.
struct NextService {
    key: ServiceKey,
    id: u32,
    range: RingRange,
    fingerprint: u64,
    policy: u64,
}

/// Makes plans. What it keeps from one to the next only saves building equal rings again.
#[derive(Debug, Default)]
pub struct Planner {
    rings: Rings,
}

/// The steps that lead from `observed` to `desired`; none if it is reached.
pub fn diff(observed: &Observed, desired: &Desired) -> Result<Vec<Op>, PlanError> {
    Planner::default().plan(observed, desired)
}

impl Planner {
    /// The steps that lead from `observed` to `desired`; none if it is reached.
    pub fn plan(&mut self, observed: &Observed, desired: &Desired) -> Result<Vec<Op>, PlanError> {
        let live: HashMap<ServiceKey, &ObservedService> =
            observed.services.iter().map(|s| (s.key, s)).collect();
        let ids = service_ids(observed, &live, desired);

        let mut free = Ids::new(observed);
        let mut backends = BackendPlan::new(observed);
        let mut ranges =
            Ranges::new(observed.limits.ring_slots, observed.services.iter().map(ObservedService::ring));
        let mut new_rings = Vec::new();
        let mut next = Vec::new();
        for (service, id) in desired.services.iter().zip(ids) {
            let members = backends.service(service, id, desired.now, &mut free)?;
            let ring = self.rings.ring(service, &members)?;
            let (range, fingerprint) = match ring {
                None => (RingRange::NONE, 0),
                Some((ring, fingerprint)) => {
                    let kept = live.get(&service.key).filter(|s| s.ring().is_present() && s.slots == ring);
                    let range = if let Some(same) = kept {
                        same.ring()
                    } else {
                        let range = take_range(&mut ranges, service, observed.limits.ring_slots)?;
                        new_rings.push(Op::PutRing { range, backends: ring });
                        range
                    };
                    (range, fingerprint)
                }
            };
            let policy = Policy::new(0, service.idle_ticks, service.no_backend).0;
            next.push(NextService { key: service.key, id, range, fingerprint, policy });
        }
        self.rings.forget_all_but(desired);
        backends.orphans();

        let switch = switch(observed, &live, &next)?;
        let mut ops = Vec::new();
        let published = matches!(switch.first(), Some(Op::PublishServices { .. }));
        if published || !new_rings.is_empty() {
            // Whatever an earlier plan (of a process since killed, perhaps) released may have readers still.
            ops.push(Op::Grace);
        }
        ops.append(&mut backends.before);
        ops.append(&mut new_rings);
        ops.extend(switch);
        ops.append(&mut backends.after);
        if !backends.gone.is_empty() {
            ops.push(Op::Grace);
            ops.push(Op::ForgetBackends { ids: backends.gone.iter().copied().collect() });
            ops.extend(backends.gone.iter().map(|&id| Op::FreeBackend { id }));
        }
        Ok(ops)
    }
}

/// The services' ids, in order: those they have, and unused ones for the new.
fn service_ids(
    observed: &Observed,
    live: &HashMap<ServiceKey, &ObservedService>,
    desired: &Desired,
) -> Vec<u32> {
    let of_services = observed.services.iter().map(ObservedService::id);
    let of_backends = observed.backends.values().map(crate::ObservedBackend::service_id);
    let mut used: BTreeSet<u32> = of_services.chain(of_backends).collect();
    let mut candidate = 1;
    let mut ids = Vec::new();
    for service in &desired.services {
        let id = match live.get(&service.key).map(|s| s.id()) {
            Some(id) if id != 0 => id,
            _ => {
                while used.contains(&candidate) {
                    candidate += 1;
                }
                used.insert(candidate);
                candidate
            }
        };
        ids.push(id);
    }
    ids
}

fn take_range(ranges: &mut Ranges, service: &DesiredService, all: u32) -> Result<RingRange, PlanError> {
    let slots = service.ring_size.slots();
    ranges.take(slots.trailing_zeros()).ok_or_else(|| PlanError::NoRingRoom {
        service: text(&service.key),
        slots,
        all,
    })
}

/// The steps that make the next services the live ones: a new table if there are others than before, else changes in
/// place.
fn switch(
    observed: &Observed,
    live: &HashMap<ServiceKey, &ObservedService>,
    next: &[NextService],
) -> Result<Vec<Op>, PlanError> {
    let mut entries: BTreeMap<[u64; 3], (ServiceKey, ServiceRecord)> = BTreeMap::new();
    for service in next {
        let vip = service.key.vip_only();
        for (key, tail) in [
            (vip, [0; 5]),
            (service.key, [service.range.0, u64::from(service.id), service.policy, service.fingerprint, 0]),
        ] {
            let head = [key.vip.0[0], key.vip.0[1], key.word()];
            let record = [head[0], head[1], head[2], tail[0], tail[1], tail[2], tail[3], tail[4]];
            entries.insert(head, (key, record));
        }
    }
    let same_services = entries.len() == observed.services.len()
        && entries
            .values()
            .all(|(key, record)| live.get(key).is_some_and(|s| u64::from(s.id()) == record[4]));
    if !same_services {
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
        if now.record[5] != service.policy {
            ops.push(Op::SetPolicy { entry: now.entry, word: service.policy });
        }
    }
    Ok(ops)
}

/// `192.0.2.10:80/tcp`: a key as people write it.
pub(crate) fn text(key: &ServiceKey) -> String {
    let protocol = match key.protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => format!("protocol {other}"),
    };
    let vip = key.vip.to_ip(key.family);
    match u16::from_be(key.port) {
        0 if vip.is_ipv6() => format!("[{vip}]:*/{protocol}"),
        0 => format!("{vip}:*/{protocol}"),
        port => format!("{}/{protocol}", std::net::SocketAddr::new(vip, port)),
    }
}
