//! The flow table: set-associative, eight one-word entries to a cache line. (The fragment table is another one.)
//!
//! Owns which entry of a bucket is read, refreshed and replaced. Knows nothing of rings. Every access is to one word, so
//! two CPUs that race on an entry leave one of the two whole; an entry can be lost, never mixed.
use crate::{Memory, Recall};
use weir_abi::{FLOWS_PER_BUCKET, FlowEntry, Words};

/// The flow's entry, if it has one.
#[inline(always)]
pub fn recall<W: Words>(bucket: &W, memory: &Memory) -> Option<Recall> {
    let mut way = 0;
    while way < FLOWS_PER_BUCKET {
        let entry = FlowEntry(bucket.load(way));
        if entry.matches(memory.tag) {
            return Some(Recall { way, entry });
        }
        way += 1;
    }
    None
}

/// Puts an entry into its place. Not for every packet: a busy flow's entry changes when the tick does or the flow becomes
/// confirmed, so that its cache line does not bounce.
#[inline(always)]
pub fn replace<W: Words>(bucket: &W, way: usize, entry: FlowEntry) {
    bucket.store(way & (FLOWS_PER_BUCKET - 1), entry.0);
}

/// Writes an entry: over `stale` if given, else over the least valuable of the bucket ([`FlowEntry::worth`]).
#[inline(always)]
pub fn remember<W: Words>(
    bucket: &W,
    memory: &Memory,
    stale: Option<&Recall>,
    backend: u32,
    confirmed: bool,
) {
    let way = if let Some(recall) = stale { recall.way } else { least_worthy(bucket, memory) };
    replace(bucket, way, FlowEntry::new(memory.tag, backend, memory.now, confirmed));
}

#[inline(always)]
fn least_worthy<W: Words>(bucket: &W, memory: &Memory) -> usize {
    let (mut victim, mut least) = (0, u32::MAX);
    let mut way = 0;
    while way < FLOWS_PER_BUCKET {
        let worth = FlowEntry(bucket.load(way)).worth(memory.now, memory.idle_ticks);
        if worth < least {
            (victim, least) = (way, worth);
        }
        way += 1;
    }
    victim
}
