//! The kernel's tables, as a plan changes them.
//!
//! Owns: the mapping from a plan's words to the mapped memory and the maps beside it. May not touch: what the words mean.
//! Invariant: a store that a plan makes is there when the next one is made. (No packet is under way meanwhile, and no flow is
//! remembered yet: the daemon's own stores, which both matter to, are the `weir` crate's.)

use std::{collections::BTreeSet, sync::atomic::Ordering};

use weir_abi::{Control, PrefixKey, ServerKey, ServiceTable, SourceRule};
use weir_kernel::bpf::{Director, Error, Mapped};
use weir_plan::{Limits, TableStore};

/// The tables of a director that nothing has been sent through.
pub(crate) struct Tables<'a>(pub(crate) &'a Director);

fn load<const N: usize>(table: &Mapped<N>, index: u32, word: usize) -> u64 {
    let record = table.record(index);
    record.and_then(|record| record.get(word)).map_or(0, |cell| cell.load(Ordering::Acquire))
}

fn store<const N: usize>(table: &Mapped<N>, index: u32, word: usize, value: u64) {
    if let Some(cell) = table.record(index).and_then(|record| record.get(word)) {
        cell.store(value, Ordering::Release);
    }
}

impl TableStore for Tables<'_> {
    type Error = Error;

    fn limits(&self) -> Limits {
        Limits {
            service_entries: self.0.services().len(),
            ring_slots: self.0.rings().len(),
            backends: self.0.backends().len(),
            servers: self.0.servers().capacity(),
            sources: self.0.sources().capacity(),
            prefixes: self.0.prefixes().capacity(),
        }
    }
    fn service_table(&self) -> ServiceTable {
        let record = self.0.control().record(0);
        record.map_or_else(ServiceTable::default, |record| Control(record).service_table())
    }
    fn set_service_table(&mut self, table: ServiceTable) {
        if let Some(record) = self.0.control().record(0) {
            Control(record).set_service_table(table);
        }
    }
    fn control_word(&self, word: usize) -> u64 {
        load(self.0.control(), 0, word)
    }
    fn set_control_word(&mut self, word: usize, value: u64) {
        store(self.0.control(), 0, word, value);
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
    fn forget_backends(&mut self, _ids: &[u32]) {
        // There is no flow yet.
    }
    fn servers(&self) -> Result<Vec<(ServerKey, u32)>, Error> {
        let entries = self.0.servers().entries()?;
        Ok(entries.into_iter().map(|([key], id)| (ServerKey(key), id as u32)).collect())
    }
    fn set_server(&mut self, key: ServerKey, backend: Option<u32>) -> Result<(), Error> {
        match backend {
            Some(id) => self.0.servers().set(&[key.0], u64::from(id)),
            None => self.0.servers().remove(&[key.0]).map(|_was_there| ()),
        }
    }
    fn vip_prefixes(&self) -> Result<Vec<PrefixKey>, Error> {
        Ok(self.0.prefixes().entries()?.into_iter().map(|(key, _)| PrefixKey(key)).collect())
    }
    fn set_vip_prefix(&mut self, key: PrefixKey, is_there: bool) -> Result<(), Error> {
        match key.prefix_len() {
            Some(len) if is_there => self.0.prefixes().set(&key.0, u64::from(len)),
            _ => self.0.prefixes().remove(&key.0).map(|_was_there| ()),
        }
    }
    fn put_sources(
        &mut self,
        entries: &mut dyn Iterator<Item = (PrefixKey, SourceRule)>,
    ) -> Result<(), Error> {
        self.0.sources().set_all(entries.map(|(key, rule)| (key.0, rule.0)))
    }
    fn may_have_sources_besides(&self, lists: &BTreeSet<u32>) -> bool {
        let is_other = |key: &[u64; 3]| !lists.contains(&PrefixKey(*key).scope());
        // Where it cannot be told, there may.
        self.0.sources().entries().map_or(true, |entries| entries.iter().any(|(key, _)| is_other(key)))
    }
    fn keep_sources(&mut self, lists: &BTreeSet<u32>) -> Result<(), Error> {
        self.0.sources().retain(|key| lists.contains(&PrefixKey(*key).scope())).map(|_removed| ())
    }
    fn grace(&mut self) -> Result<(), Error> {
        self.0.grace_period()
    }
}
