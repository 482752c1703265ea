//! The director's tables in plain memory.
use crate::Image;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use weir_abi::{
    Address, Backend, Control, Count, Family, PrefixKey, Reason, RingSlot, ServerKey, Service, SourceRule,
};
use weir_datapath::{BudgetWord, Tables};

/// Tables as [`weir_datapath::process`] wants them, filled from an [`Image`].
#[derive(Debug)]
pub struct MemoryTables {
    control: [Cell<u64>; 8],
    services: Vec<[Cell<u64>; 8]>,
    rings: Vec<Cell<u64>>,
    backends: Vec<[Cell<u64>; 8]>,
    flows: Vec<[Cell<u64>; 8]>,
    fragments: Vec<[Cell<u64>; 8]>,
    servers: BTreeMap<ServerKey, u32>,
    sources: Vec<(PrefixKey, SourceRule)>,
    prefixes: Vec<(PrefixKey, u8)>,
    budgets: Vec<[Cell<u64>; 8]>,
    limiter: [Cell<u64>; 8],
    jiffies: Cell<u64>,
    reasons: RefCell<BTreeMap<Reason, Count>>,
    backend_counts: RefCell<BTreeMap<u32, Count>>,
}

fn cells(records: &[[u64; 8]]) -> Vec<[Cell<u64>; 8]> {
    records.iter().map(|record| record.map(Cell::new)).collect()
}

fn empty(records: u32) -> Vec<[Cell<u64>; 8]> {
    (0..records).map(|_| [0; 8].map(Cell::new)).collect()
}

/// The value of the longest prefix that covers what is searched for.
fn longest<T: Copy>(of: &[(PrefixKey, T)], wanted: PrefixKey) -> Option<T> {
    let bits = |key: &PrefixKey| {
        let address = key.network().octets();
        u128::from_be_bytes(address)
    };
    of.iter()
        .filter(|(key, _)| key.scope() == wanted.scope())
        .filter_map(|(key, value)| Some((key.prefix_len()?, key, value)))
        .filter(|(len, key, _)| {
            let mask = if *len == 0 { 0 } else { u128::MAX << (128 - u32::from(*len)) };
            (bits(key) ^ bits(&wanted)) & mask == 0
        })
        .max_by_key(|(len, ..)| *len)
        .map(|(_, _, value)| *value)
}

impl MemoryTables {
    /// Tables with the content of an image and an empty flow table.
    pub fn new(image: &Image) -> Self {
        Self {
            control: image.control.map(Cell::new),
            services: cells(&image.services),
            rings: image.rings.iter().copied().map(Cell::new).collect(),
            backends: cells(&image.backends),
            flows: empty(image.flow_buckets),
            fragments: empty(image.fragment_buckets),
            servers: image.servers.clone(),
            sources: image.sources.clone(),
            prefixes: image.prefixes.clone(),
            budgets: empty(image.specs.len() as u32),
            limiter: [0; 8].map(Cell::new),
            jiffies: Cell::new(0),
            reasons: RefCell::default(),
            backend_counts: RefCell::default(),
        }
    }
    /// Rings and backends as in this image, which has the same services; everything else stays.
    pub fn update(&self, image: &Image) {
        self.rings.iter().zip(&image.rings).for_each(|(cell, slot)| cell.set(*slot));
        for (cells, record) in self.backends.iter().zip(&image.backends) {
            cells.iter().zip(record).for_each(|(cell, word)| cell.set(*word));
        }
    }
    /// Sets the clock.
    pub fn set_jiffies(&self, jiffies: u64) {
        self.jiffies.set(jiffies);
    }
    /// The flow table's words, bucket by bucket.
    pub fn flow_words(&self) -> Vec<u64> {
        self.flows.iter().flatten().map(Cell::get).collect()
    }
    /// The fragment table's words, bucket by bucket.
    pub fn fragment_words(&self) -> Vec<u64> {
        self.fragments.iter().flatten().map(Cell::get).collect()
    }
    /// The service table's words, whose turn it is among them.
    pub fn service_words(&self) -> Vec<u64> {
        self.services.iter().flatten().map(Cell::get).collect()
    }
    /// How many flows of each service were remembered, and how many errors sent, in the last tick.
    pub fn spent(&self) -> (Vec<u64>, u64) {
        (self.budgets.iter().map(|budget| budget[0].get()).collect(), self.limiter[0].get())
    }
    /// Counts by reason; reasons without a packet are absent.
    pub fn reasons(&self) -> BTreeMap<Reason, Count> {
        self.reasons.borrow().clone()
    }
    /// Counts by backend; backends without a packet are absent.
    pub fn backend_counts(&self) -> BTreeMap<u32, Count> {
        self.backend_counts.borrow().clone()
    }
    /// A backend's record, to change it in the middle of a test.
    pub fn backend_words(&self, id: u32) -> &[Cell<u64>; 8] {
        &self.backends[id as usize]
    }
}

/// `Tables` hands records out by value; a reference to the cells is one.
impl<'a> Tables for &'a MemoryTables {
    type Words = &'a [Cell<u64>; 8];

    fn control(&self) -> Option<Control<Self::Words>> {
        Some(Control(&self.control))
    }
    fn service(&self, index: u32) -> Option<Service<Self::Words>> {
        self.services.get(index as usize).map(Service)
    }
    fn ring_slot(&self, index: u32) -> Option<RingSlot> {
        self.rings.get(index as usize).map(|slot| RingSlot(slot.get()))
    }
    fn backend(&self, id: u32) -> Option<Backend<Self::Words>> {
        self.backends.get(id as usize).map(Backend)
    }
    fn flow_bucket(&self, index: u32) -> Option<Self::Words> {
        self.flows.get(index as usize)
    }
    fn jiffies(&self) -> u64 {
        self.jiffies.get()
    }
    fn count(&self, reason: Reason, bytes: u64) {
        let mut counts = self.reasons.borrow_mut();
        let count = counts.entry(reason).or_default();
        count.packets += 1;
        count.bytes += bytes;
    }
    fn count_backend(&self, id: u32, bytes: u64) {
        let mut counts = self.backend_counts.borrow_mut();
        let count = counts.entry(id).or_default();
        count.packets += 1;
        count.bytes += bytes;
    }
    fn fragment_bucket(&self, index: u32) -> Option<Self::Words> {
        self.fragments.get(index as usize)
    }
    fn vip_prefix(&self, family: Family, address: Address) -> Option<u8> {
        longest(&self.prefixes, PrefixKey::vip(family, address))
    }
    fn source_rule(&self, list: u32, address: Address) -> Option<SourceRule> {
        longest(&self.sources, PrefixKey::source(list, address))
    }
    fn server(&self, key: ServerKey) -> Option<u32> {
        self.servers.get(&key).copied()
    }
    fn budget(&self, service_id: u32) -> Option<BudgetWord<Self::Words>> {
        self.budgets.get(service_id as usize).map(BudgetWord)
    }
    fn limiter(&self) -> Option<BudgetWord<Self::Words>> {
        Some(BudgetWord(&self.limiter))
    }
}
