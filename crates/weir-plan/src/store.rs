//! The tables as a plan sees them: words that can be loaded and stored, and a way to wait for readers.
//!
//! Owns: the trait. Invariant an implementation keeps: every store is one untorn word, and stores become visible to
//! the datapath in the order they are made.

use std::collections::BTreeSet;

use weir_abi::{PrefixKey, ServerKey, ServiceTable, SourceRule};

/// How large the tables are, in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the service map, both halves together.
    pub service_entries: u32,
    /// Slots of the ring map.
    pub ring_slots: u32,
    /// Backend records; ids run from 1 to one less.
    pub backends: u32,
    /// Server ids and targets of source lists.
    pub servers: u32,
    /// Prefixes in all source lists.
    pub sources: u32,
    /// VIP prefixes.
    pub prefixes: u32,
}

/// The director's tables. Indices outside [`TableStore::limits`] read as zero and are not written.
pub trait TableStore {
    /// Why waiting for readers failed, or reaching a table that is not in memory.
    type Error;

    /// The tables' sizes.
    fn limits(&self) -> Limits;
    /// The control record's live service table.
    fn service_table(&self) -> ServiceTable;
    /// Word `word` of the control record.
    fn control_word(&self, word: usize) -> u64;
    /// Replaces a word of the control record; never that of the service table.
    fn set_control_word(&mut self, word: usize, value: u64);
    /// Makes another service table the live one.
    fn set_service_table(&mut self, table: ServiceTable);
    /// Word `word` of service entry `entry`, counted over both halves.
    fn service_word(&self, entry: u32, word: usize) -> u64;
    /// Replaces a word of a service entry.
    fn set_service_word(&mut self, entry: u32, word: usize, value: u64);
    /// A ring slot.
    fn ring_slot(&self, slot: u32) -> u64;
    /// Replaces a ring slot.
    fn set_ring_slot(&mut self, slot: u32, value: u64);
    /// Word `word` of a backend's record.
    fn backend_word(&self, id: u32, word: usize) -> u64;
    /// Replaces a word of a backend's record.
    fn set_backend_word(&mut self, id: u32, word: usize, value: u64);
    /// Removes every flow-table entry that names one of these backends (ascending), and what was counted for them.
    fn forget_backends(&mut self, ids: &[u32]);
    /// All servers and their backends' ids.
    fn servers(&self) -> Result<Vec<(ServerKey, u32)>, Self::Error>;
    /// Gives a server a backend, or takes it out.
    fn set_server(&mut self, key: ServerKey, backend: Option<u32>) -> Result<(), Self::Error>;
    /// All VIP prefixes.
    fn vip_prefixes(&self) -> Result<Vec<PrefixKey>, Self::Error>;
    /// Adds a VIP prefix, or takes it out.
    fn set_vip_prefix(&mut self, key: PrefixKey, is_there: bool) -> Result<(), Self::Error>;
    /// Adds to source lists, or replaces what they say; one store each.
    fn put_sources(
        &mut self,
        entries: &mut dyn Iterator<Item = (PrefixKey, SourceRule)>,
    ) -> Result<(), Self::Error>;
    /// Whether there may be entries of source lists other than these. Looking through all of them takes seconds where
    /// there are millions, so an answer from memory will do, if it errs on the side of yes.
    fn may_have_sources_besides(&self, lists: &BTreeSet<u32>) -> bool;
    /// Takes out the entries of all source lists but these.
    fn keep_sources(&mut self, lists: &BTreeSet<u32>) -> Result<(), Self::Error>;
    /// Returns when every packet that was being processed at the time of the call is done with.
    fn grace(&mut self) -> Result<(), Self::Error>;
}
