//! The flow table: set-associative, eight one-word entries to a cache line.
//!
//! Owns which entry of a bucket is read, refreshed and replaced. Knows nothing of rings. Every access is to one word, so
//! two CPUs that race on an entry leave one of the two whole; an entry can be lost, never mixed.
use crate::{Memory, Recall, Tables};
use weir_abi::{FLOWS_PER_BUCKET, FlowEntry, Words};

/// The flow's entry, if it has one.
#[inline(always)]
pub fn recall<T: Tables + ?Sized>(tables: &T, memory: &Memory) -> Option<Recall> {
    let bucket = tables.flow_bucket(memory.bucket)?;
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

/// Refreshes an entry. Writes only when the tick changed or the flow becomes confirmed, so that a busy flow does not
/// make its cache line bounce.
#[inline(always)]
pub fn touch<T: Tables + ?Sized>(tables: &T, memory: &Memory, recall: &Recall, confirm: bool) {
    let next = recall.entry.touched(memory.now, confirm);
    if next != recall.entry
        && let Some(bucket) = tables.flow_bucket(memory.bucket)
    {
        bucket.store(recall.way & (FLOWS_PER_BUCKET - 1), next.0);
    }
}

/// Writes an entry: over `stale` if given, else over the least valuable of the bucket ([`FlowEntry::worth`]).
#[inline(always)]
pub fn remember<T: Tables + ?Sized>(
    tables: &T,
    memory: &Memory,
    stale: Option<&Recall>,
    backend: u32,
    confirmed: bool,
) {
    let Some(bucket) = tables.flow_bucket(memory.bucket) else { return };
    let way = if let Some(recall) = stale { recall.way } else { least_worthy(&bucket, memory) };
    let entry = FlowEntry::new(memory.tag, backend, memory.now, confirmed);
    bucket.store(way & (FLOWS_PER_BUCKET - 1), entry.0);
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
