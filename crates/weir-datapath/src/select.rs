//! Service and flow to backend.
//!
//! Owns the order "flow table, then ring" and when a flow is remembered. May not touch packet bytes or encapsulation.
//! Invariant: a chosen backend belongs to the service and is not down.
use crate::{Flow, Memory, Tables, flow_hash};
use weir_abi::{Backend, Control, FlowEntry, NO_BACKEND_ID, Reason, Service};

/// A backend and how it was found.
#[derive(Clone, Copy, Debug)]
pub struct Choice<W> {
    /// Backend id.
    pub id: u32,
    /// Its record.
    pub backend: Backend<W>,
    /// [`Reason::FlowHit`], [`Reason::RingNew`], [`Reason::RingMiss`] or [`Reason::RingRehome`].
    pub reason: Reason,
    /// The flow's hash.
    pub hash: u64,
}

/// Chooses the backend of a flow and remembers it. `opens`: the packet is a TCP SYN; `tcp`: the flow is TCP.
#[inline(always)]
pub(crate) fn select<T: Tables>(
    tables: &T,
    control: &Control<T::Words>,
    service: &Service<T::Words>,
    flow: &Flow,
    opens: bool,
    tcp: bool,
) -> Result<Choice<T::Words>, Reason> {
    let hash = flow_hash(flow, control.hash_key());
    let memory = Memory {
        bucket: hash as u32 & control.flow_mask(),
        tag: FlowEntry::tag_of(hash, service.epoch()),
        now: (tables.jiffies() >> control.tick_shift()) as u32,
        idle_ticks: service.idle_ticks(),
    };

    let recalled = tables.recall(flow, &memory);
    if let Some(recall) = &recalled {
        let id = recall.entry.backend();
        let Some(backend) = tables.backend(id) else { return Err(Reason::TableCorrupt) };
        // The owner check makes a tag that collides with another service's flow a miss instead of a misrouted packet.
        if backend.is_alive() && backend.service_id() == service.id() {
            tables.touch(&memory, recall, !opens);
            return Ok(Choice { id, backend, reason: Reason::FlowHit, hash });
        }
    }

    let ring = service.ring();
    if !ring.is_present() {
        let pass = service.passes_without_backend();
        return Err(if pass { Reason::NoBackendPass } else { Reason::NoBackendDrop });
    }
    // The ring takes the hash's top bits, the bucket its low ones.
    let slot = ring.base().wrapping_add((hash >> 44) as u32 & ring.mask());
    let Some(slot) = tables.ring_slot(slot) else { return Err(Reason::TableCorrupt) };
    let id = slot.current();
    let Some(backend) = tables.backend(id) else { return Err(Reason::TableCorrupt) };
    if id == NO_BACKEND_ID || !backend.is_alive() {
        return Err(Reason::TableCorrupt);
    }
    let reason = match (&recalled, opens, tcp) {
        (Some(_), ..) => Reason::RingRehome,
        (None, false, true) => Reason::RingMiss,
        (None, ..) => Reason::RingNew,
    };
    tables.remember(flow, &memory, recalled.as_ref(), id, matches!(reason, Reason::RingMiss));
    Ok(Choice { id, backend, reason, hash })
}
