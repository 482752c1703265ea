//! Backends: who keeps which id, who drains, who goes.
//!
//! Owns: a backend's life. *Absent → up → (taken out of the configuration) draining → down → absent.* A backend that
//! comes back before it is absent is up again under the id it had. One that is configured to be down keeps its id and
//! gets nothing. A service that goes takes its backends with it at once.
//!
//! Invariant: an id stands for one (service, address, encapsulation, outer source, be it one address or a network). A
//! backend of which one of these changes becomes another one: the old id keeps its flows and drains, because the words
//! that say so cannot be replaced in one store.

use std::array::from_fn;
use std::collections::{BTreeMap, BTreeSet};

use weir_abi::{Address, BackendFields, BackendRecord, BackendState, Encapsulation, RingSlot};

use crate::rings::RingMember;
use crate::{DesiredBackend, DesiredService, NextHop, Observed, ObservedBackend, Op, Path, PlanError};

/// Hands out unused ids, lowest first.
pub(crate) struct Ids<'o> {
    observed: &'o Observed,
    named: BTreeSet<u32>,
    next: u32,
}

impl<'o> Ids<'o> {
    pub(crate) fn new(observed: &'o Observed) -> Self {
        let in_rings = observed.services.iter().flat_map(|service| service.slots.iter().copied());
        let named = in_rings.chain(observed.servers.values().copied()).collect();
        Self { observed, named, next: 1 }
    }

    fn take(&mut self) -> Result<u32, PlanError> {
        let limit = self.observed.limits.backends.min(1 << RingSlot::BACKEND_BITS);
        while self.next < limit {
            let id = self.next;
            self.next += 1;
            if !self.observed.backends.contains_key(&id) && !self.named.contains(&id) {
                return Ok(id);
            }
        }
        Err(PlanError::TooManyBackends(limit.saturating_sub(1)))
    }
}

/// A service's backends.
pub(crate) struct Placed {
    /// The configured ones' ids, in their order; `None`: it has none yet.
    pub(crate) ids: Vec<Option<u32>>,
    /// Those the ring is made of.
    pub(crate) members: Vec<RingMember>,
}

/// What becomes of the backends.
pub(crate) struct BackendPlan<'o> {
    /// The records by service id; what is left in here when all services are done belongs to none.
    of_service: BTreeMap<u32, Vec<(u32, &'o ObservedBackend)>>,
    /// Steps before the rings change.
    pub(crate) before: Vec<Op>,
    /// Steps after it.
    pub(crate) after: Vec<Op>,
    /// Ids to be freed at the end.
    pub(crate) gone: BTreeSet<u32>,
}

impl<'o> BackendPlan<'o> {
    pub(crate) fn new(observed: &'o Observed) -> Self {
        let mut of_service: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (&id, backend) in &observed.backends {
            of_service.entry(backend.service_id()).or_default().push((id, backend));
        }
        Self { of_service, before: Vec::new(), after: Vec::new(), gone: BTreeSet::new() }
    }

    /// Plans one service's backends.
    pub(crate) fn service(
        &mut self,
        service: &DesiredService,
        service_id: u32,
        now: u32,
        free: &mut Ids<'_>,
    ) -> Result<Placed, PlanError> {
        let mut existing = self.of_service.remove(&service_id).unwrap_or_default();
        let mut placed = Placed { ids: Vec::with_capacity(service.backends.len()), members: Vec::new() };
        for backend in &service.backends {
            let id = if backend.down {
                self.held_down(backend, &mut existing)
            } else {
                self.wanted(backend, service_id, &mut existing, free)?
            };
            placed.ids.push(id);
            if let Some(id) = id
                && !backend.down
                && backend.weight > 0
                && backend.path != Path::None
            {
                placed.members.push(RingMember { address: backend.address, weight: backend.weight, id });
            }
        }
        for (id, backend) in existing {
            self.unwanted(id, backend, service.drain, now);
        }
        Ok(placed)
    }

    /// Sends away the backends of services that are no more.
    pub(crate) fn orphans(&mut self) {
        for (id, backend) in std::mem::take(&mut self.of_service).into_values().flatten() {
            self.put_down(id, backend);
        }
    }

    /// The id of a configured backend; `None` if it has to wait for a way to it.
    fn wanted(
        &mut self,
        backend: &DesiredBackend,
        service_id: u32,
        existing: &mut Vec<(u32, &'o ObservedBackend)>,
        free: &mut Ids<'_>,
    ) -> Result<Option<u32>, PlanError> {
        let same_server = |b: &ObservedBackend| {
            b.address() == Address::from(backend.address) && b.encapsulation() == Some(backend.encapsulation)
        };
        let found = match backend.path {
            Path::Known(hop) => {
                let source = outer_source(backend, &hop);
                let same_source = |b: &ObservedBackend| (b.source(), b.spreads_source()) == source;
                existing.iter().position(|(_, b)| same_server(b) && same_source(b))
            }
            Path::Silent | Path::None => (0..existing.len())
                .filter(|&at| same_server(existing[at].1))
                .max_by_key(|&at| newest(&existing[at])),
        };
        let Some((id, old)) = found.map(|at| existing.remove(at)) else {
            let Path::Known(hop) = backend.path else { return Ok(None) };
            let id = free.take()?;
            self.before.push(Op::PutBackend { id, record: record(backend, &hop, service_id) });
            return Ok(Some(id));
        };
        let next = match backend.path {
            Path::Known(hop) => record(backend, &hop, service_id),
            Path::Silent | Path::None => with_state(old, BackendState::Up, 0),
        };
        if next != old.record {
            self.before.push(Op::SetBackend { id, record: next });
        }
        Ok(Some(id))
    }

    /// The id of a backend that is configured to be down; `None` if it has none. What it had under other ids goes too.
    fn held_down(
        &mut self,
        backend: &DesiredBackend,
        existing: &mut Vec<(u32, &'o ObservedBackend)>,
    ) -> Option<u32> {
        let address = Address::from(backend.address);
        let (mut its_own, others): (Vec<_>, Vec<_>) =
            existing.drain(..).partition(|(_, b)| b.address() == address);
        *existing = others;
        let kept = (0..its_own.len()).max_by_key(|&at| newest(&its_own[at]))?;
        let (id, record) = its_own.remove(kept);
        for (id, old) in its_own {
            self.put_down(id, old);
        }
        self.set_down(id, record);
        Some(id)
    }

    /// A backend that is not configured any more.
    fn unwanted(&mut self, id: u32, backend: &ObservedBackend, drain: u32, now: u32) {
        let begins = match backend.state() {
            BackendState::Down => false,
            BackendState::Up => true,
            BackendState::Draining => backend.drain_until() == 0,
        };
        if begins && drain > 0 {
            let record = with_state(backend, BackendState::Draining, now.saturating_add(drain));
            self.after.push(Op::SetBackend { id, record });
        } else if begins || backend.state() == BackendState::Down || now >= backend.drain_until() {
            self.put_down(id, backend);
        }
    }

    fn put_down(&mut self, id: u32, backend: &ObservedBackend) {
        self.set_down(id, backend);
        self.gone.insert(id);
    }

    fn set_down(&mut self, id: u32, backend: &ObservedBackend) {
        if backend.state() != BackendState::Down {
            self.after.push(Op::SetBackend { id, record: with_state(backend, BackendState::Down, 0) });
        }
    }
}

/// Of several records for one backend, which is the one in use.
fn newest((id, backend): &(u32, &ObservedBackend)) -> (bool, u32, u32) {
    (backend.state() == BackendState::Up, backend.drain_until(), *id)
}

/// The outer source, and whether it is a network. Where there is no outer header, there is none.
fn outer_source(backend: &DesiredBackend, hop: &NextHop) -> (Address, bool) {
    match backend.encapsulation {
        Encapsulation::Layer2 | Encapsulation::Local => (Address::default(), false),
        _ => (hop.source.into(), hop.spread),
    }
}

fn record(backend: &DesiredBackend, hop: &NextHop, service_id: u32) -> BackendRecord {
    let (source, spread_source) = outer_source(backend, hop);
    let fields = BackendFields {
        destination: backend.address.into(),
        source,
        next_hop_mac: hop.mac,
        mtu: hop.mtu,
        source_mac: hop.source_mac,
        state: BackendState::Up,
        encapsulation: backend.encapsulation,
        spread_source,
        ifindex: hop.ifindex,
        vlan: hop.vlan,
        service_id,
        drain_until: 0,
    };
    fields.record()
}

/// The record in another state. (The state is byte 6 of word 5, the deadline the high half of word 7.)
fn with_state(backend: &ObservedBackend, state: BackendState, drain_until: u32) -> BackendRecord {
    from_fn(|word| match (word, backend.record[word]) {
        (5, old) => old & !(0xff << 48) | (state as u64) << 48,
        (7, old) => old & 0xffff_ffff | u64::from(drain_until) << 32,
        (_, old) => old,
    })
}
