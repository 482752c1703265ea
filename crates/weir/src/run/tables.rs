//! The kernel's tables, as a plan changes them.
//!
//! Owns: the mapping from a plan's words to the mapped memory, and from its lookups to the kernel's. May not touch: what
//! the words mean, but for a flow entry's backend. Invariant: stores are single words and become visible in order
//! (release, on the memory the programs read; a system call orders everything before it).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_abi::{Control, FlowEntry, PrefixKey, ServerKey, ServiceTable, SourceRule};
use weir_kernel::bpf::{Director, Error, Mapped};
use weir_plan::{Limits, TableStore};

/// The director's tables.
pub(super) struct Tables<'a> {
    director: &'a Director,
    strays: &'a Strays,
}

/// Whether there may be entries of source lists that no service names. There are none but where a process was killed, or
/// failed, while it wrote or removed a list: looking for them each second would mean to read millions of entries.
#[derive(Debug)]
pub(super) struct Strays(Cell<bool>);

impl Strays {
    /// `tables_are_new`: nobody has been there before.
    pub(super) fn new(tables_are_new: bool) -> Self {
        Self(Cell::new(!tables_are_new))
    }
    /// A plan was not carried out to its end.
    pub(super) fn look_again(&self) {
        self.0.set(true);
    }
}

impl<'a> Tables<'a> {
    pub(super) fn new(director: &'a Director, strays: &'a Strays) -> Self {
        Self { director, strays }
    }

    /// Word `word` of the control record.
    fn control(&self, word: usize) -> Option<&AtomicU64> {
        cell(self.director.control(), 0, word)
    }
}

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
            service_entries: self.director.services().len(),
            ring_slots: self.director.rings().len(),
            backends: self.director.backends().len(),
            servers: self.director.servers().capacity(),
            sources: self.director.sources().capacity(),
            prefixes: self.director.prefixes().capacity(),
        }
    }
    fn service_table(&self) -> ServiceTable {
        self.director
            .control()
            .record(0)
            .map_or_else(ServiceTable::default, |record| Control(record).service_table())
    }
    fn control_word(&self, word: usize) -> u64 {
        self.control(word).map_or(0, |cell| cell.load(Ordering::Acquire))
    }
    fn set_control_word(&mut self, word: usize, value: u64) {
        if let Some(cell) = self.control(word) {
            cell.store(value, Ordering::Release);
        }
    }
    fn set_service_table(&mut self, table: ServiceTable) {
        // What the table is made of must be seen by whoever sees the table.
        std::sync::atomic::fence(Ordering::Release);
        if let Some(record) = self.director.control().record(0) {
            Control(record).set_service_table(table);
        }
    }
    fn service_word(&self, entry: u32, word: usize) -> u64 {
        load(self.director.services(), entry, word)
    }
    fn set_service_word(&mut self, entry: u32, word: usize, value: u64) {
        store(self.director.services(), entry, word, value);
    }
    fn ring_slot(&self, slot: u32) -> u64 {
        load(self.director.rings(), slot, 0)
    }
    fn set_ring_slot(&mut self, slot: u32, value: u64) {
        store(self.director.rings(), slot, 0, value);
    }
    fn backend_word(&self, id: u32, word: usize) -> u64 {
        load(self.director.backends(), id, word)
    }
    fn set_backend_word(&mut self, id: u32, word: usize, value: u64) {
        store(self.director.backends(), id, word, value);
    }

    fn forget_backends(&mut self, ids: &[u32]) {
        for cell in self.director.flows().records().flatten() {
            let word = cell.load(Ordering::Relaxed);
            let entry = FlowEntry(word);
            if entry.is_valid() && ids.binary_search(&entry.backend()).is_ok() {
                // If the datapath has just put another flow there, that one stays.
                let _ = cell.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for id in ids {
            if let Err(error) = self.director.zero_backend_count(*id) {
                tracing::warn!(
                    id,
                    error = error.cause(),
                    "cannot reset a backend's counters; they will go on from the old numbers"
                );
            }
        }
    }

    fn servers(&self) -> Result<Vec<(ServerKey, u32)>, Error> {
        let entries = self.director.servers().entries()?;
        Ok(entries.into_iter().map(|([key], id)| (ServerKey(key), id as u32)).collect())
    }
    fn set_server(&mut self, key: ServerKey, backend: Option<u32>) -> Result<(), Error> {
        match backend {
            Some(id) => self.director.servers().set(&[key.0], u64::from(id)),
            None => self.director.servers().remove(&[key.0]).map(drop),
        }
    }
    fn vip_prefixes(&self) -> Result<Vec<PrefixKey>, Error> {
        let entries = self.director.prefixes().entries()?;
        Ok(entries.into_iter().map(|(key, _)| PrefixKey(key)).collect())
    }
    fn set_vip_prefix(&mut self, key: PrefixKey, is_there: bool) -> Result<(), Error> {
        if is_there {
            self.director.prefixes().set(&key.0, u64::from(key.prefix_len().unwrap_or(0)))
        } else {
            self.director.prefixes().remove(&key.0).map(drop)
        }
    }
    fn put_sources(
        &mut self,
        entries: &mut dyn Iterator<Item = (PrefixKey, SourceRule)>,
    ) -> Result<(), Error> {
        self.director.sources().set_all(entries.map(|(key, rule)| (key.0, rule.0)))
    }
    fn may_have_sources_besides(&self, _lists: &BTreeSet<u32>) -> bool {
        self.strays.0.get()
    }
    fn keep_sources(&mut self, lists: &BTreeSet<u32>) -> Result<(), Error> {
        let removed = self.director.sources().retain(|key| lists.contains(&PrefixKey(*key).scope()))?;
        self.strays.0.set(false);
        tracing::debug!(removed, "prefixes of source lists that are not used any more");
        Ok(())
    }

    fn grace(&mut self) -> Result<(), Error> {
        self.director.grace_period()
    }
}
