//! The tables in memory: a stateful stand-in for the kernel's maps.
//!
//! Owns: the same words as the maps, and no rules about them. It can stop taking stores, as a killed process does.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use weir_abi::{BackendRecord, ControlRecord, PrefixKey, ServerKey, ServiceRecord, ServiceTable, SourceRule};

use crate::{Limits, TableStore};

/// The director's tables in memory.
#[derive(Clone, Debug)]
pub struct Model {
    /// The control record's live service table.
    pub table: ServiceTable,
    /// The rest of the control record.
    pub control: ControlRecord,
    /// The service map, both halves.
    pub services: Vec<ServiceRecord>,
    /// The ring map.
    pub rings: Vec<u64>,
    /// The backend records, by id.
    pub backends: Vec<BackendRecord>,
    /// Servers, and their backends.
    pub servers: BTreeMap<ServerKey, u32>,
    /// VIP prefixes.
    pub prefixes: BTreeSet<PrefixKey>,
    /// The entries of all source lists.
    pub sources: BTreeMap<PrefixKey, SourceRule>,
    /// How many entries they may have.
    limits: Limits,
    /// The flow table: for each flow, the backend it is on.
    pub flows: BTreeMap<u64, u32>,
    /// How many more stores are taken before all others are ignored; `None` = all.
    pub stores_left: Option<u64>,
    /// Grace periods waited for.
    pub graces: u64,
}

impl Model {
    /// Empty tables of these sizes.
    pub fn new(limits: Limits) -> Self {
        Self {
            table: ServiceTable::default(),
            control: [0; 8],
            servers: BTreeMap::new(),
            prefixes: BTreeSet::new(),
            sources: BTreeMap::new(),
            limits,
            services: vec![[0; 8]; limits.service_entries as usize],
            rings: vec![0; limits.ring_slots as usize],
            backends: vec![[0; 8]; limits.backends as usize],
            flows: BTreeMap::new(),
            stores_left: None,
            graces: 0,
        }
    }

    fn may_store(&mut self) -> bool {
        match &mut self.stores_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl TableStore for Model {
    type Error = Infallible;

    fn limits(&self) -> Limits {
        self.limits
    }
    fn service_table(&self) -> ServiceTable {
        self.table
    }
    fn control_word(&self, word: usize) -> u64 {
        self.control[word]
    }
    fn set_control_word(&mut self, word: usize, value: u64) {
        if self.may_store() {
            self.control[word] = value;
        }
    }
    fn set_service_table(&mut self, table: ServiceTable) {
        if self.may_store() {
            self.table = table;
        }
    }
    fn service_word(&self, entry: u32, word: usize) -> u64 {
        self.services.get(entry as usize).map_or(0, |record| record[word])
    }
    fn set_service_word(&mut self, entry: u32, word: usize, value: u64) {
        if self.may_store() {
            self.services[entry as usize][word] = value;
        }
    }
    fn ring_slot(&self, slot: u32) -> u64 {
        self.rings.get(slot as usize).copied().unwrap_or(0)
    }
    fn set_ring_slot(&mut self, slot: u32, value: u64) {
        if self.may_store() {
            self.rings[slot as usize] = value;
        }
    }
    fn backend_word(&self, id: u32, word: usize) -> u64 {
        self.backends.get(id as usize).map_or(0, |record| record[word])
    }
    fn set_backend_word(&mut self, id: u32, word: usize, value: u64) {
        if self.may_store() {
            self.backends[id as usize][word] = value;
        }
    }
    fn forget_backends(&mut self, ids: &[u32]) {
        if self.may_store() {
            self.flows.retain(|_, backend| ids.binary_search(backend).is_err());
        }
    }
    fn servers(&self) -> Result<Vec<(ServerKey, u32)>, Infallible> {
        Ok(self.servers.iter().map(|(key, id)| (*key, *id)).collect())
    }
    fn set_server(&mut self, key: ServerKey, backend: Option<u32>) -> Result<(), Infallible> {
        if self.may_store() {
            match backend {
                Some(id) => self.servers.insert(key, id),
                None => self.servers.remove(&key),
            };
        }
        Ok(())
    }
    fn vip_prefixes(&self) -> Result<Vec<PrefixKey>, Infallible> {
        Ok(self.prefixes.iter().copied().collect())
    }
    fn set_vip_prefix(&mut self, key: PrefixKey, is_there: bool) -> Result<(), Infallible> {
        if self.may_store() {
            if is_there {
                self.prefixes.insert(key)
            } else {
                self.prefixes.remove(&key)
            };
        }
        Ok(())
    }
    fn put_sources(
        &mut self,
        entries: &mut dyn Iterator<Item = (PrefixKey, SourceRule)>,
    ) -> Result<(), Infallible> {
        for (key, rule) in entries {
            if self.may_store() {
                self.sources.insert(key, rule);
            }
        }
        Ok(())
    }
    fn may_have_sources_besides(&self, lists: &BTreeSet<u32>) -> bool {
        self.sources.keys().any(|key| !lists.contains(&key.scope()))
    }
    fn keep_sources(&mut self, lists: &BTreeSet<u32>) -> Result<(), Infallible> {
        let others: Vec<_> =
            self.sources.keys().filter(|key| !lists.contains(&key.scope())).copied().collect();
        for key in others {
            if self.may_store() {
                self.sources.remove(&key);
            }
        }
        Ok(())
    }
    fn grace(&mut self) -> Result<(), Infallible> {
        self.graces += 1;
        Ok(())
    }
}
