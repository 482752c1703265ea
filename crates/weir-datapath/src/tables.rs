//! What the datapath reads and writes besides the packet.
use crate::flow_table;
use weir_abi::{Backend, Control, FlowEntry, Reason, RingSlot, Service, Words};

/// A flow as the flow table knows it.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Index of the flow's bucket.
    pub bucket: u32,
    /// The flow's tag under its service's epoch.
    pub tag: u32,
    /// The clock, in ticks.
    pub now: u32,
    /// Idle timeout of the flow's service, in ticks.
    pub idle_ticks: u32,
}

/// A remembered flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Where in the bucket the entry is.
    pub way: usize,
    /// The entry.
    pub entry: FlowEntry,
}

/// The director's tables. Implemented over BPF maps, and over plain memory for tests.
///
/// Lookups return `None` only for an index outside the table, which user space never writes into a record; the datapath
/// answers it with [`Reason::TableCorrupt`] instead of guessing.
pub trait Tables {
    /// A shared record.
    type Words: Words;

    /// The control record.
    fn control(&self) -> Option<Control<Self::Words>>;
    /// Entry `index` of the service map.
    fn service(&self, index: u32) -> Option<Service<Self::Words>>;
    /// Slot `index` of the ring map.
    fn ring_slot(&self, index: u32) -> Option<RingSlot>;
    /// The backend with this id.
    fn backend(&self, id: u32) -> Option<Backend<Self::Words>>;
    /// Bucket `index` of the flow table: eight [`FlowEntry`] words.
    fn flow_bucket(&self, index: u32) -> Option<Self::Words>;
    /// The clock in jiffies; its rate is [`Control::tick_shift`]'s business.
    fn jiffies(&self) -> u64;
    /// Counts a packet of `bytes` bytes under a reason.
    fn count(&self, reason: Reason, bytes: u64);
    /// Counts a packet of `bytes` bytes under a backend.
    fn count_backend(&self, id: u32, bytes: u64);

    /// Looks a flow up; other flow tables (a reference to compare with) replace this and [`remember`](Self::remember).
    #[inline(always)]
    fn recall(&self, _flow: &crate::Flow, memory: &Memory) -> Option<Recall> {
        flow_table::recall(self, memory)
    }
    /// Notes another packet of a remembered flow.
    #[inline(always)]
    fn touch(&self, memory: &Memory, recall: &Recall, confirm: bool) {
        flow_table::touch(self, memory, recall, confirm);
    }
    /// Remembers a flow's backend, in place of what was remembered of it.
    #[inline(always)]
    fn remember(
        &self,
        _flow: &crate::Flow,
        memory: &Memory,
        stale: Option<&Recall>,
        backend: u32,
        confirmed: bool,
    ) {
        flow_table::remember(self, memory, stale, backend, confirmed);
    }
}
