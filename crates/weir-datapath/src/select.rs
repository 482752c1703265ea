//! Service and flow to backend.
//!
//! Owns the order "source list, server id, flow table, ring" and when a flow is remembered. May not touch packet bytes or
//! encapsulation. Invariant: a chosen backend belongs to the service and is not down.
use crate::process::Exit;
use crate::server_id::Found;
use crate::{Flow, Memory, Tables, classify, flow_hash};
use weir_abi::{
    Address, Backend, Control, FlowEntry, HashFields, NO_BACKEND_ID, NoBackend, Reason, ServerKey, Service,
    ServiceKey, SourceRule, Traits,
};

/// A backend and how it was found.
#[derive(Clone, Copy, Debug)]
pub struct Choice<W> {
    /// Backend id.
    pub id: u32,
    /// Its record.
    pub backend: Backend<W>,
    /// Why this one.
    pub reason: Reason,
    /// The flow's hash.
    pub hash: u64,
}

/// Chooses the backend of a flow of a service without traits, and remembers it. `opens`: the packet is a TCP SYN; `tcp`:
/// the flow is TCP. A new flow to a backend that is not `ready` is left to [`general`], with nothing remembered: what is
/// remembered would be no new flow there.
#[inline(always)]
pub(crate) fn plain<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    service: &Service<T::Words>,
    flow: &Flow,
    opens: bool,
    tcp: bool,
    ready: impl Fn(&Backend<T::Words>) -> bool,
) -> Result<Choice<T::Words>, Exit> {
    let hash = flow_hash(flow, control.hash_key());
    let memory = memory(tables, control, service, hash);

    let recalled = tables.recall(flow, &memory);
    if let Some(recall) = &recalled {
        let id = recall.entry.backend();
        let Some(backend) = tables.backend(id) else { return Err(Exit::For(Reason::TableCorrupt)) };
        // The owner check makes a tag that collides with another service's flow a miss instead of a misrouted packet.
        if backend.is_alive() && backend.service_id() == service.id() {
            tables.touch(&memory, recall, !opens);
            return Ok(Choice { id, backend, reason: Reason::FlowHit, hash });
        }
    }

    let (id, backend) = by_ring(tables, service, slot_of(hash))?;
    if !ready(&backend) {
        return Err(Exit::General);
    }
    let reason = ring_reason(recalled.is_some(), opens, tcp);
    tables.remember(flow, &memory, recalled.as_ref(), id, matches!(reason, Reason::RingMiss));
    Ok(Choice { id, backend, reason, hash })
}

/// What of a packet bears on the choice besides its flow.
pub(crate) struct Hints {
    /// It opens a TCP connection.
    pub(crate) opens: bool,
    /// It is of the flow itself, rather than about it (an ICMP error): only then is anything remembered or a turn taken.
    pub(crate) own: bool,
    /// The server it names.
    pub(crate) server_id: Found,
}

/// Chooses the backend of a flow of any service.
#[inline(always)]
pub(crate) fn general<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    service: &Service<T::Words>,
    flow: &Flow,
    hints: &Hints,
) -> Result<Choice<T::Words>, Reason> {
    let traits = service.traits();
    let hash = flow_hash(flow, control.hash_key());

    if traits.has(Traits::SOURCES) {
        let rule = tables.source_rule(service.source_list(), flow.source);
        let others = if traits.has(Traits::DENY_OTHERS) { SourceRule::DENY } else { SourceRule::ALLOW };
        let rule = rule.unwrap_or(others);
        if rule == SourceRule::DENY {
            return Err(Reason::SourceDenied);
        }
        if let Some(number) = rule.to_server()
            && let Some((id, backend)) =
                by_server(tables, service, ServerKey::of_source(service.id(), number))
        {
            return Ok(Choice { id, backend, reason: Reason::SourceRoute, hash });
        }
    }

    // What chooses the slot, and what the flow table knows the flow by.
    let slot_hash = match traits.hash() {
        HashFields::Flow => hash,
        fields => flow_hash(&reduced(flow, fields, service.policy().source_prefix()), control.hash_key()),
    };
    let table_hash = if traits.has(Traits::PERSISTENT) { slot_hash } else { hash };
    let memory = memory(tables, control, service, table_hash);
    let tracked = !traits.has(Traits::UNTRACKED);
    let recalled = if tracked { tables.recall(flow, &memory) } else { None };

    if let Some(server_id) = hints.server_id.id()
        && let Some((id, backend)) = by_server(tables, service, ServerKey::of_packet(service.id(), server_id))
    {
        // For packets of the flow that do not name their server.
        let known = matches!(&recalled, Some(recall) if recall.entry.backend() == id);
        if hints.own && tracked && !known && affords(tables, service, traits, &memory) {
            tables.remember(flow, &memory, recalled.as_ref(), id, true);
        }
        return Ok(Choice { id, backend, reason: Reason::ServerId, hash });
    }

    if let Some(recall) = &recalled {
        let id = recall.entry.backend();
        let Some(backend) = tables.backend(id) else { return Err(Reason::TableCorrupt) };
        if backend.is_alive() && backend.service_id() == service.id() {
            if hints.own {
                tables.touch(&memory, recall, !hints.opens);
            }
            return Ok(Choice { id, backend, reason: Reason::FlowHit, hash });
        }
    }

    let slot = if hints.own && traits.has(Traits::TURNS) { service.take_turn() } else { slot_of(slot_hash) };
    let (id, backend) = by_ring(tables, service, slot)?;
    let tcp = flow.key.protocol == weir_wire::IpProtocol::TCP.0;
    let reason = ring_reason(recalled.is_some(), hints.opens, tcp);
    if !hints.own {
        return Ok(Choice { id, backend, reason, hash });
    }
    if !tracked || !affords(tables, service, traits, &memory) {
        return Ok(Choice { id, backend, reason: Reason::RingUntracked, hash });
    }
    tables.remember(flow, &memory, recalled.as_ref(), id, matches!(reason, Reason::RingMiss));
    Ok(Choice { id, backend, reason, hash })
}

#[inline(always)]
fn memory<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    service: &Service<T::Words>,
    hash: u64,
) -> Memory {
    let policy = service.policy();
    Memory {
        bucket: hash as u32 & control.flow_mask(),
        tag: FlowEntry::tag_of(hash, policy.epoch()),
        now: (tables.jiffies() >> control.tick_shift()) as u32,
        idle_ticks: policy.idle_ticks(),
    }
}

/// The ring takes the hash's top bits, the bucket its low ones.
#[inline(always)]
fn slot_of(hash: u64) -> u32 {
    (hash >> 44) as u32
}

/// The backend of a slot (modulo the ring's size).
#[inline(always)]
fn by_ring<T: Tables>(
    tables: &T,
    service: &Service<T::Words>,
    slot: u32,
) -> Result<(u32, Backend<T::Words>), Reason> {
    let ring = service.ring();
    if !ring.is_present() {
        let passes = service.policy().no_backend() == NoBackend::Pass;
        return Err(if passes { Reason::NoBackendPass } else { Reason::NoBackendDrop });
    }
    let Some(slot) = tables.ring_slot(ring.base().wrapping_add(slot & ring.mask())) else {
        return Err(Reason::TableCorrupt);
    };
    let id = slot.current();
    let Some(backend) = tables.backend(id) else { return Err(Reason::TableCorrupt) };
    if id == NO_BACKEND_ID || !backend.is_alive() {
        return Err(Reason::TableCorrupt);
    }
    Ok((id, backend))
}

/// The backend of a server, if it has one that is alive.
#[inline(always)]
fn by_server<T: Tables>(
    tables: &T,
    service: &Service<T::Words>,
    key: ServerKey,
) -> Option<(u32, Backend<T::Words>)> {
    let id = tables.server(key)?;
    let backend = tables.backend(id)?;
    if backend.is_alive() && backend.service_id() == service.id() { Some((id, backend)) } else { None }
}

#[inline(always)]
fn ring_reason(remembered: bool, opens: bool, tcp: bool) -> Reason {
    match (remembered, opens, tcp) {
        (true, ..) => Reason::RingRehome,
        (false, false, true) => Reason::RingMiss,
        (false, ..) => Reason::RingNew,
    }
}

/// Whether the service may have one more flow remembered in this tick.
#[inline(always)]
fn affords<T: Tables>(tables: &T, service: &Service<T::Words>, traits: Traits, memory: &Memory) -> bool {
    let limit = traits.budget().flows();
    if limit == 0 {
        return true;
    }
    match tables.budget(service.id()) {
        Some(word) => word.take(memory.now, limit),
        None => false,
    }
}

/// A flow of which only these fields are left. The VIP, protocol and family always count, so that services do not share
/// what they choose.
#[inline(always)]
fn reduced(flow: &Flow, fields: HashFields, source_prefix: u8) -> Flow {
    let with_source = matches!(fields, HashFields::Source | HashFields::SourceAndPort);
    let source = match (with_source, source_prefix) {
        (false, _) => Address([0, 0]),
        (true, 0) => flow.source,
        (true, len) => classify::leading(flow.source, len),
    };
    let source_port = if matches!(fields, HashFields::Ports) { flow.source_port } else { 0 };
    let port = if matches!(fields, HashFields::Source) { 0 } else { flow.key.port };
    Flow { source, source_port, key: ServiceKey { port, ..flow.key } }
}
