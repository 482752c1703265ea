//! The kernel's tables, as a plan changes them.
//!
//! Owns: the mapping from a plan's words to the mapped memory. May not touch: what the words mean, but for a flow
//! entry's backend. Invariant: stores are single words and become visible in order (release, on the memory the programs
//! read).

use std::sync::atomic::{AtomicU64, Ordering};

use weir_abi::{Control, FlowEntry, ServiceTable};
use weir_kernel::bpf::{Director, Error, Mapped};
use weir_plan::{Limits, TableStore};

/// The director's tables.
pub(super) struct Tables<'a>(pub(super) &'a Director);

fn load<const N: usize>(table: &Mapped<N>, index: u32, word: usize) -> u64 {
    cell(table, index, word).map_or(0, |cell| cell.load(Ordering::Acquire))
}

fn store<const N: usize>(table: &Mapped<N>, index: u32, word: usize, value: u64) {
    if let Some(cell) = cell(table, index, word) {
        cell.store(value, Ordering::Release);
    }
}

fn cell<const N: usize>(table: &Mapped<N>, index: u32, word: usize) -> Option<&AtomicU64> {
    table.record(index)?.get(word)
}

impl TableStore for Tables<'_> {
    type Error = Error;

    fn limits(&self) -> Limits {
        Limits {
            service_entries: self.0.services().len(),
            ring_slots: self.0.rings().len(),
            backends: self.0.backends().len(),
        }
    }
    fn service_table(&self) -> ServiceTable {
        self.0
            .control()
            .record(0)
            .map_or_else(ServiceTable::default, |record| Control(record).service_table())
    }
    fn set_service_table(&mut self, table: ServiceTable) {
        // What the table is made of must be seen by whoever sees the table.
        std::sync::atomic::fence(Ordering::Release);
        if let Some(record) = self.0.control().record(0) {
            Control(record).set_service_table(table);
        }
    }
    fn service_word(&self, entry: u32, word: usize) -> u64 {
        load(self.0.services(), entry, word)
    }
    fn set_service_word(&mut self, entry: u32, word: usize, value: u64) {
        store(self.0.services(), entry, word, value);
    }
    fn ring_slot(&self, slot: u32) -> u64 {
        load(self.0.rings(), slot, 0)
    }
    fn set_ring_slot(&mut self, slot: u32, value: u64) {
        store(self.0.rings(), slot, 0, value);
    }
    fn backend_word(&self, id: u32, word: usize) -> u64 {
        load(self.0.backends(), id, word)
    }
    fn set_backend_word(&mut self, id: u32, word: usize, value: u64) {
        store(self.0.backends(), id, word, value);
    }

    fn forget_backends(&mut self, ids: &[u32]) {
        for cell in self.0.flows().records().flatten() {
            let word = cell.load(Ordering::Relaxed);
            let entry = FlowEntry(word);
            if entry.is_valid() && ids.binary_search(&entry.backend()).is_ok() {
                // If the datapath has just put another flow there, that one stays.
                let _ = cell.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for id in ids {
            if let Err(error) = self.0.zero_backend_count(*id) {
                tracing::warn!(
                    id,
                    error = error.cause(),
                    "cannot reset a backend's counters; they will go on from the old numbers"
                );
            }
        }
    }

    fn grace(&mut self) -> Result<(), Error> {
        self.0.grace_period()
    }
}
