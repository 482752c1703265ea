//! Map names and shapes, as both sides must agree on them.
//!
//! The tables on every packet's way are plain arrays, created with `BPF_F_MMAPABLE` (page-aligned values, writable from
//! user space without a system call) except the per-CPU counters.

/// `BPF_F_MMAPABLE`.
pub const F_MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, which tries must have.
pub const F_NO_PREALLOC: u32 = 1;

/// One [`ControlRecord`](crate::ControlRecord) (64 bytes).
pub const CONTROL: &str = "WEIR_CONTROL";
/// [`ServiceRecord`](crate::ServiceRecord)s (64 bytes each): two halves, the control record says which one is live.
pub const SERVICES: &str = "WEIR_SERVICES";
/// [`RingSlot`](crate::RingSlot)s (8 bytes each): all rings of all services, each a range.
pub const RINGS: &str = "WEIR_RINGS";
/// [`BackendRecord`](crate::BackendRecord)s (64 bytes each), indexed by backend id. Id 0 is never used.
pub const BACKENDS: &str = "WEIR_BACKENDS";
/// Buckets of [`FLOWS_PER_BUCKET`](crate::FLOWS_PER_BUCKET) [`FlowEntry`](crate::FlowEntry)s (64 bytes each).
pub const FLOWS: &str = "WEIR_FLOWS";
/// Per-CPU [`Count`](crate::Count)s indexed by [`Reason`](crate::Reason).
pub const REASONS: &str = "WEIR_REASONS";
/// Per-CPU [`Count`](crate::Count)s indexed by backend id.
pub const BACKEND_COUNTS: &str = "WEIR_BCOUNTS";

/// Buckets of [`FLOWS_PER_BUCKET`](crate::FLOWS_PER_BUCKET) [`FlowEntry`](crate::FlowEntry)s (64 bytes each): for packets
/// whose first fragment was seen, the backend it went to.
pub const FRAGMENTS: &str = "WEIR_FRAGMENTS";
/// Hash of [`ServerKey`](crate::ServerKey) to a word: the backend id.
pub const SERVERS: &str = "WEIR_SERVERS";
/// Longest-prefix-match trie of [`PrefixKey::sources`](crate::PrefixKey::sources) to a word, a
/// [`SourceRule`](crate::SourceRule).
pub const SOURCES: &str = "WEIR_SOURCES";
/// Longest-prefix-match trie of [`PrefixKey::vips`](crate::PrefixKey::vips) to a word: the prefix's length.
pub const PREFIXES: &str = "WEIR_PREFIXES";
/// One word for each service id: flows remembered in a tick (low 32), the tick (high 32).
pub const BUDGETS: &str = "WEIR_BUDGETS";
/// Per-CPU, one word: ICMP errors sent in a tick (low 32), the tick (high 32).
pub const LIMITER: &str = "WEIR_LIMITER";

/// Default sizes in records; the loader may choose others (powers of two where an index is masked).
pub mod default_size {
    /// Services in one half of the table, times two halves.
    pub const SERVICES: u32 = 2 * 4096;
    /// Ring slots.
    pub const RINGS: u32 = 1 << 20;
    /// Backends.
    pub const BACKENDS: u32 = 1 << 14;
    /// Flow buckets (times eight flows).
    pub const FLOWS: u32 = 1 << 17;
    /// Fragment buckets (times eight packets).
    pub const FRAGMENTS: u32 = 1 << 12;
    /// Server ids and targets of source lists, of all services together.
    pub const SERVERS: u32 = 1 << 14;
    /// Prefixes in all source lists together.
    pub const SOURCES: u32 = 1 << 12;
    /// VIP prefixes.
    pub const PREFIXES: u32 = 4096;
    /// Service ids.
    pub const BUDGETS: u32 = 4096;
}
