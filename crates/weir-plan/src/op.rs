//! One step of a plan, and what it means for the tables.
//!
//! Owns: the order of the stores within a step. Invariant: a step stopped after any of its stores leaves the tables
//! usable; what makes a new state visible to the datapath is always a single store.

use std::cell::Cell;
use std::collections::BTreeSet;

use weir_abi::{
    BackendRecord, Features, MAX_PROBES, PrefixKey, RingRange, RingSlot, ServerKey, Service, ServiceRecord,
    ServiceTable, service_index,
};

use crate::{SourceList, SourceMasks, TableStore};

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Wait until no packet in flight can be reading what was released before.
    Grace,
    /// Write the record of a new backend.
    PutBackend {
        /// A free id.
        id: u32,
        /// All of the record.
        record: BackendRecord,
    },
    /// Change the way to a backend, its state, or both: words 4 to 7 of its record.
    SetBackend {
        /// A used id.
        id: u32,
        /// The record; its words 0 to 3 are as they are.
        record: BackendRecord,
    },
    /// Write a ring into a free range.
    PutRing {
        /// Where.
        range: RingRange,
        /// The backend of each slot.
        backends: Vec<u32>,
    },
    /// Point a live service at another ring, or at none.
    SetRing {
        /// The service's entry.
        entry: u32,
        /// The ring.
        range: RingRange,
        /// Its fingerprint; 0 for none.
        fingerprint: u64,
    },
    /// Change what a live service does besides choosing backends: word 5 of its record.
    SetPolicy {
        /// The service's entry.
        entry: u32,
        /// The word.
        word: u64,
    },
    /// Write the next service table into the half that is not live, then make it the live one.
    PublishServices {
        /// The next table.
        table: ServiceTable,
        /// Its entries, by place within the table. All others are empty.
        entries: Vec<(u32, ServiceRecord)>,
    },
    /// Change what the director does besides balancing.
    SetFeatures(Features),
    /// Change which bits of outer sources vary by flow.
    SetSourceMasks(SourceMasks),
    /// Say which backend a server is, or that it is none any more.
    SetServer {
        /// The server.
        key: ServerKey,
        /// The backend's id.
        backend: Option<u32>,
    },
    /// Add a prefix whose services are live, or take one out.
    SetVipPrefix {
        /// The prefix.
        key: PrefixKey,
        /// Whether it is added.
        is_there: bool,
    },
    /// Write a source list that no service names yet.
    PutSources {
        /// Its id.
        id: u32,
        /// What it says.
        list: SourceList,
    },
    /// Take out the entries of all other source lists.
    KeepSources {
        /// The lists that stay.
        lists: BTreeSet<u32>,
    },
    /// Drop flows and counts of backends whose ids are to become free.
    ForgetBackends {
        /// Ids of backends that are down, ascending.
        ids: Vec<u32>,
    },
    /// Make an id free.
    FreeBackend {
        /// An id nothing names any more.
        id: u32,
    },
}

impl Op {
    /// Does it.
    pub fn apply<S: TableStore>(&self, store: &mut S) -> Result<(), S::Error> {
        match self {
            Self::Grace => store.grace()?,
            Self::PutBackend { id, record } => {
                // The word with the state last: a record that is not whole is down.
                for word in [0, 1, 2, 3, 4, 6, 7, 5] {
                    store.set_backend_word(*id, word, record[word]);
                }
            }
            Self::SetBackend { id, record } => {
                for word in [4, 6, 7, 5] {
                    if store.backend_word(*id, word) != record[word] {
                        store.set_backend_word(*id, word, record[word]);
                    }
                }
            }
            Self::PutRing { range, backends } => {
                for (slot, backend) in (range.base()..).zip(backends) {
                    store.set_ring_slot(slot, RingSlot::settled(*backend).0);
                }
            }
            Self::SetRing { entry, range, fingerprint } => {
                store.set_service_word(*entry, 3, range.0);
                store.set_service_word(*entry, 6, *fingerprint);
            }
            Self::SetPolicy { entry, word } => store.set_service_word(*entry, 5, *word),
            Self::PublishServices { table, entries } => publish(store, *table, entries),
            Self::SetFeatures(features) => store.set_control_word(2, features.0),
            Self::SetSourceMasks(masks) => {
                store.set_control_word(6, u64::from(masks.v4));
                store.set_control_word(7, masks.v6);
            }
            Self::SetServer { key, backend } => store.set_server(*key, *backend)?,
            Self::SetVipPrefix { key, is_there } => store.set_vip_prefix(*key, *is_there)?,
            Self::PutSources { id, list } => store.put_sources(&mut list.entries(*id))?,
            Self::KeepSources { lists } => store.keep_sources(lists)?,
            Self::ForgetBackends { ids } => store.forget_backends(ids),
            Self::FreeBackend { id } => {
                // The word with the state first, as it was last to be written.
                for word in [5, 7, 6, 4, 3, 2, 1, 0] {
                    store.set_backend_word(*id, word, 0);
                }
            }
        }
        Ok(())
    }
}

fn publish<S: TableStore>(store: &mut S, table: ServiceTable, entries: &[(u32, ServiceRecord)]) {
    for place in 0..=table.mask() {
        for word in 0..8 {
            store.set_service_word(table.base() + place, word, 0);
        }
    }
    for (place, record) in entries {
        for (word, value) in record.iter().enumerate() {
            // Those who take turns go on where they are, but for the flows that come meanwhile.
            let value = if word == 7 { value | turn(store, record) } else { *value };
            store.set_service_word(table.base() + place, word, value);
        }
    }
    store.set_service_table(table);
}

/// Whose turn it is at the live entry for the same key, where it stands in word 7.
fn turn<S: TableStore>(store: &S, record: &ServiceRecord) -> u64 {
    let Some(key) = Service(&record.map(Cell::new)).key() else { return 0 };
    let live = store.service_table();
    let home = service_index(&key, live.seed());
    let entries = (0..MAX_PROBES).map(|probe| live.base() + (home.wrapping_add(probe) & live.mask()));
    let mut same =
        entries.filter(|&entry| (0..3).all(|word| store.service_word(entry, word) == record[word]));
    same.next().map_or(0, |entry| store.service_word(entry, 7) & !u64::from(u32::MAX))
}
