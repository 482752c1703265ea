//! What the datapath reads and writes besides the packet.
use crate::flow_table;
use weir_abi::{
    Address, Backend, Control, Family, FlowEntry, Reason, RingSlot, ServerKey, Service, SourceRule, Words,
};

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
/// Lookups by index return `None` only for an index outside the table, which user space never writes into a record; the
/// datapath answers it with [`Reason::TableCorrupt`] instead of guessing.
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

    /// Bucket `index` of the fragment table: eight [`FlowEntry`] words.
    fn fragment_bucket(&self, index: u32) -> Option<Self::Words>;
    /// The length of the longest VIP prefix around an address.
    fn vip_prefix(&self, family: Family, address: Address) -> Option<u8>;
    /// What a source list says about an address; `None`: nothing.
    fn source_rule(&self, list: u32, address: Address) -> Option<SourceRule>;
    /// The id of a server's backend.
    fn server(&self, key: ServerKey) -> Option<u32>;
    /// How many flows of a service were remembered lately: count (low half) and tick (high half) in one word, which
    /// other CPUs use too.
    fn budget(&self, service_id: u32) -> Option<BudgetWord<Self::Words>>;
    /// How many ICMP errors this CPU has sent lately, likewise.
    fn limiter(&self) -> Option<BudgetWord<Self::Words>>;

    /// Looks a flow up; other flow tables (a reference to compare with) replace this and [`remember`](Self::remember).
    #[inline(always)]
    fn recall(&self, _flow: &crate::Flow, memory: &Memory) -> Option<Recall> {
        flow_table::recall(&self.flow_bucket(memory.bucket)?, memory)
    }
    /// Notes another packet of a remembered flow.
    #[inline(always)]
    fn touch(&self, memory: &Memory, recall: &Recall, confirm: bool) {
        let next = recall.entry.touched(memory.now, confirm);
        // The bucket is only looked up again when there is something to write.
        if next != recall.entry
            && let Some(bucket) = self.flow_bucket(memory.bucket)
        {
            flow_table::replace(&bucket, recall.way, next);
        }
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
        if let Some(bucket) = self.flow_bucket(memory.bucket) {
            flow_table::remember(&bucket, memory, stale, backend, confirmed);
        }
    }
}

/// A record whose first word counts what happened in a tick.
pub struct BudgetWord<W>(pub W);

impl<W: Words> BudgetWord<W> {
    /// Takes one of `limit` in the tick `now`; false if there is none left. CPUs that race for the last ones, or for the
    /// beginning of a tick, may take a few too many.
    #[inline(always)]
    pub(crate) fn take(&self, now: u32, limit: u32) -> bool {
        let word = self.0.load(0);
        if (word >> 32) as u32 != now {
            self.0.store(0, (now as u64) << 32 | 1);
            return limit > 0;
        }
        if word as u32 >= limit {
            return false;
        }
        self.0.add(0, 1);
        true
    }
}
