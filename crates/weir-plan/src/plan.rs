//! From observed to desired.
//!
//! Owns: the order of the steps. First what nothing refers to yet is written (backends, source lists, servers, rings, the
//! other half of the service table), then the references are switched, one store each; then what is no longer referred to
//! is put down, waited for and freed. Invariant: see the crate's front page.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weir_abi::{Features, RingRange, ServiceKey};

use crate::backends::{BackendPlan, Ids};
use crate::masks;
use crate::ranges::Ranges;
use crate::rings::Rings;
use crate::servers::ServerPlan;
use crate::source_list::list_ids;
use crate::switch::{NextService, switch, vip_prefixes};
use crate::{
    Desired, DesiredDirector, DesiredService, Observed, ObservedService, Op, SourceList, SourceMasks,
};

/// Why there is no plan: the tables are too small for what is desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No free backend id.
    #[error("there are more backends, with those still draining, than the {0} the backend table can hold")]
    TooManyBackends(u32),
    /// The service map is full.
    #[error("{0} services and VIPs do not fit into the service table of {1} places")]
    TooManyServices(usize, u32),
    /// The table of servers is too small.
    #[error("{0} server ids and backends with `sources` do not fit into the table of {1} servers")]
    TooManyServers(usize, u32),
    /// The table of VIP prefixes is too small.
    #[error("{0} VIP prefixes do not fit into the table of {1}")]
    TooManyPrefixes(usize, u32),
    /// The table of source lists is too small.
    #[error("{0} prefixes of clients do not fit into the table of {1}")]
    TooManySources(usize, u32),
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
        let lists = list_ids(desired.services.iter().map(|service| service.sources.as_ref()));

        let mut free = Ids::new(observed);
        let mut backends = BackendPlan::new(observed);
        let mut servers = ServerPlan::default();
        let mut ranges =
            Ranges::new(observed.limits.ring_slots, observed.services.iter().map(ObservedService::ring));
        let mut new_rings = Vec::new();
        let mut next = Vec::new();
        for ((service, id), &list) in desired.services.iter().zip(ids).zip(&lists) {
            let placed = backends.service(service, id, desired.now, &mut free)?;
            servers.service(service, id, &placed.ids);
            let ring = self.rings.ring(service, &placed.members)?;
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
            let (key, traits, policy) = (service.key, service.traits, service.policy);
            next.push(NextService { key, id, traits, range, fingerprint, policy, list });
        }
        self.rings.forget_all_but(desired);
        backends.orphans();

        let steps = Steps {
            switch: switch(observed, &live, &next, &desired.director)?,
            servers: servers.steps(observed, &backends.gone)?,
            lists: Lists::new(observed, desired, &lists)?,
            prefixes: vip_prefixes(&next),
            new_rings,
            backends,
        };
        let (prefixes, limit) = (steps.prefixes.len(), observed.limits.prefixes);
        if prefixes > limit as usize {
            return Err(PlanError::TooManyPrefixes(prefixes, limit));
        }
        Ok(steps.in_order(observed, &desired.director))
    }
}

/// The steps of a plan by what they concern.
struct Steps<'o> {
    backends: BackendPlan<'o>,
    /// Before the switch, and after it.
    servers: (Vec<Op>, Vec<Op>),
    lists: Lists,
    /// VIP prefixes, all of them.
    prefixes: BTreeSet<weir_abi::PrefixKey>,
    new_rings: Vec<Op>,
    switch: Vec<Op>,
}

impl Steps<'_> {
    fn in_order(mut self, observed: &Observed, director: &DesiredDirector) -> Vec<Op> {
        let features = self.features(director);
        let mut ops = Vec::new();
        // What needs a table is off before the table is emptied, and on when it is full.
        let needs = u64::from(Features::PREFIXES | Features::DECAPSULATE);
        let first = Features(observed.features.0 & (features.0 | !needs));
        set_features(&mut ops, observed.features, first);
        // A prefix is looked up before its services are: as long as it is there, they must be.
        let gone = observed.prefixes.difference(&self.prefixes);
        ops.extend(gone.map(|&key| Op::SetVipPrefix { key, is_there: false }));

        let published = matches!(self.switch.first(), Some(Op::PublishServices { .. }));
        if published || !self.new_rings.is_empty() || self.lists.strays.is_some() {
            // Whatever an earlier plan (of a process since killed, perhaps) released may have readers still.
            ops.push(Op::Grace);
        }
        ops.extend(self.lists.strays.take().map(|lists| Op::KeepSources { lists }));
        ops.append(&mut self.backends.before);
        let masks = masks::allowed(director, observed.masks, observed.backends.values());
        set_masks(&mut ops, observed.masks, masks);
        ops.append(&mut self.lists.new);
        ops.append(&mut self.servers.0);
        ops.append(&mut self.new_rings);
        ops.append(&mut self.switch);
        let new = self.prefixes.difference(&observed.prefixes);
        ops.extend(new.map(|&key| Op::SetVipPrefix { key, is_there: true }));
        set_features(&mut ops, first, features);
        ops.append(&mut self.backends.after);
        ops.append(&mut self.servers.1);

        let gone = &self.backends.gone;
        if !gone.is_empty() || self.lists.left.is_some() {
            ops.push(Op::Grace);
        }
        if !gone.is_empty() {
            ops.push(Op::ForgetBackends { ids: gone.iter().copied().collect() });
            ops.extend(gone.iter().map(|&id| Op::FreeBackend { id }));
        }
        ops.extend(self.lists.left.take().map(|lists| Op::KeepSources { lists }));
        let stay = observed.backends.iter().filter(|(id, _)| !self.backends.gone.contains(id));
        set_masks(&mut ops, masks, masks::allowed(director, masks, stay.map(|(_, backend)| backend)));
        ops
    }

    fn features(&self, director: &DesiredDirector) -> Features {
        let flag = |flag: u8, is_set| if is_set { u64::from(flag) } else { 0 };
        Features(
            director.features.0
                | flag(Features::PREFIXES, !self.prefixes.is_empty())
                | flag(Features::DECAPSULATE, !director.decapsulate.is_empty()),
        )
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
    let of_servers = observed.servers.keys().map(|key| key.service_id());
    let mut used: BTreeSet<u32> = of_services.chain(of_backends).chain(of_servers).collect();
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

/// What becomes of the source lists.
struct Lists {
    /// Those that are no strays, if there are strays.
    strays: Option<BTreeSet<u32>>,
    /// Steps that write lists.
    new: Vec<Op>,
    /// Those that are left at the end, if others are not.
    left: Option<BTreeSet<u32>>,
}

impl Lists {
    /// `ids`: the services' lists.
    fn new(observed: &Observed, desired: &Desired, ids: &[u32]) -> Result<Self, PlanError> {
        let written = observed.lists();
        let next: BTreeMap<u32, &SourceList> = desired
            .services
            .iter()
            .zip(ids)
            .filter_map(|(service, id)| Some((*id, service.sources.as_ref()?)))
            .collect();
        let prefixes = next.values().map(|list| list.len()).sum();
        if prefixes > observed.limits.sources as usize {
            return Err(PlanError::TooManySources(prefixes, observed.limits.sources));
        }
        let new = next.iter().filter(|(id, _)| !written.contains(id));
        let new: Vec<Op> = new.map(|(id, list)| Op::PutSources { id: *id, list: (*list).clone() }).collect();
        let next: BTreeSet<u32> = next.into_keys().collect();
        let strays = observed.stray_sources.then(|| written.union(&next).copied().collect());
        Ok(Self { strays, new, left: (!written.is_subset(&next)).then_some(next) })
    }
}

fn set_features(ops: &mut Vec<Op>, from: Features, to: Features) {
    if from != to {
        ops.push(Op::SetFeatures(to));
    }
}

fn set_masks(ops: &mut Vec<Op>, from: SourceMasks, to: SourceMasks) {
    if from != to {
        ops.push(Op::SetSourceMasks(to));
    }
}

/// `192.0.2.10:80/tcp`: a key as people write it.
pub(crate) fn text(key: &ServiceKey) -> String {
    let protocol = match key.protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => format!("protocol {other}"),
    };
    let vip = key.vip.to_ip(key.family).to_string();
    let vip = if key.prefix_len == 0 { vip } else { format!("{vip}/{}", key.prefix_len) };
    let vip = if vip.contains(':') { format!("[{vip}]") } else { vip };
    match u16::from_be(key.port) {
        0 => format!("{vip}:*/{protocol}"),
        port => format!("{vip}:{port}/{protocol}"),
    }
}
