//! The director's tables in plain memory.
use crate::Image;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use weir_abi::{Backend, Control, Count, Reason, RingSlot, Service};
use weir_datapath::Tables;

/// Tables as [`weir_datapath::process`] wants them, filled from an [`Image`].
#[derive(Debug)]
pub struct MemoryTables {
    control: [Cell<u64>; 8],
    services: Vec<[Cell<u64>; 8]>,
    rings: Vec<u64>,
    backends: Vec<[Cell<u64>; 8]>,
    flows: Vec<[Cell<u64>; 8]>,
    jiffies: Cell<u64>,
    reasons: RefCell<BTreeMap<Reason, Count>>,
    backend_counts: RefCell<BTreeMap<u32, Count>>,
}

fn cells(records: &[[u64; 8]]) -> Vec<[Cell<u64>; 8]> {
    records.iter().map(|record| record.map(Cell::new)).collect()
}

impl MemoryTables {
    /// Tables with the content of an image and an empty flow table.
    pub fn new(image: &Image) -> Self {
        Self {
            control: image.control.map(Cell::new),
            services: cells(&image.services),
            rings: image.rings.clone(),
            backends: cells(&image.backends),
            flows: (0..image.flow_buckets).map(|_| [0; 8].map(Cell::new)).collect(),
            jiffies: Cell::new(0),
            reasons: RefCell::default(),
            backend_counts: RefCell::default(),
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
        self.rings.get(index as usize).copied().map(RingSlot)
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
}
