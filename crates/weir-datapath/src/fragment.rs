//! Fragments: the first one decides, later ones follow it.
//!
//! Owns: what a packet's fragments are recognized by, and for how long. Invariant: a later fragment goes where the first
//! one went or nowhere; it is never read as if it had ports. One that overtakes its first fragment goes nowhere: the
//! packet's sender sends the packet again, as for any other loss.
use crate::hash::fragment_hash;
use crate::layers::Layers;
use crate::{Memory, Tables, flow_table};
use weir_abi::{Control, Family, FlowEntry};

/// How long the fragments of a packet may be apart, in ticks of about eight seconds: the 30 s that Linux keeps an
/// unfinished packet (RFC 8200, section 4.5, says 60 s; RFC 791 15 s). Longer would be worse: identifications come round
/// again, and what is remembered under one is then another packet's.
const IDLE_TICKS: u32 = 4;

/// What the packet of these layers is known by, and the hash that is cut from.
#[inline(always)]
pub(crate) fn memory<T: Tables>(tables: &T, control: &Control<T::Words>, layers: &Layers) -> (Memory, u64) {
    let protocol = match layers.family() {
        Family::V4 => layers.protocol.0,
        Family::V6 => 0,
    };
    let (source, destination) = (layers.source, layers.destination);
    let key = control.hash_key();
    let hash = fragment_hash(layers.family(), source, destination, protocol, layers.id, key);
    let memory = Memory {
        bucket: hash as u32 & control.fragment_mask(),
        tag: FlowEntry::tag_of(hash, 0),
        now: (tables.jiffies() >> control.tick_shift()) as u32,
        idle_ticks: IDLE_TICKS,
    };
    (memory, hash)
}

/// The backend the packet's first fragment went to.
#[inline(always)]
pub(crate) fn recall<T: Tables>(tables: &T, memory: &Memory) -> Option<u32> {
    let recall = flow_table::recall(&tables.fragment_bucket(memory.bucket)?, memory)?;
    if recall.entry.age(memory.now) > IDLE_TICKS { None } else { Some(recall.entry.backend()) }
}

/// Notes where the packet's first fragment goes.
#[inline(always)]
pub(crate) fn remember<T: Tables>(tables: &T, memory: &Memory, backend: u32) {
    if let Some(bucket) = tables.fragment_bucket(memory.bucket) {
        let stale = flow_table::recall(&bucket, memory);
        flow_table::remember(&bucket, memory, stale.as_ref(), backend, true);
    }
}
