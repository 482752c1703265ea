//! What the tables say now.
//!
//! Owns: reading them back. Invariant: nothing here is remembered; what is not in the tables is not known.

use std::array::from_fn;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use weir_abi::{
    Address, Backend, BackendRecord, BackendState, Egress, Encapsulation, Features, PrefixKey, RingRange,
    RingSlot, ServerKey, Service, ServiceKey, ServiceRecord, ServiceTable, Traits,
};

use crate::{Limits, TableStore};

/// The tables, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The tables' sizes.
    pub limits: Limits,
    /// The live service table's place.
    pub table: ServiceTable,
    /// The live services, the entries that only mark a VIP included.
    pub services: Vec<ObservedService>,
    /// The records in use, by backend id.
    pub backends: BTreeMap<u32, ObservedBackend>,
    /// What the director does besides balancing.
    pub features: Features,
    /// Bits of outer sources that vary by flow, of IPv4 and of IPv6, as they stand in packets.
    pub masks: SourceMasks,
    /// Servers, and their backends' ids.
    pub servers: BTreeMap<ServerKey, u32>,
    /// VIP prefixes.
    pub prefixes: BTreeSet<PrefixKey>,
    /// There may be entries of source lists that no service names.
    pub stray_sources: bool,
}

/// Bits of outer sources that are filled in by flow, as they stand in packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SourceMasks {
    /// Of IPv4.
    pub v4: u32,
    /// Of the last eight bytes of IPv6.
    pub v6: u64,
}

/// A live service entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedService {
    /// Which entry it is, counted over both halves.
    pub entry: u32,
    /// What packets it gets.
    pub key: ServiceKey,
    /// The record, but for whose turn it is: that is the datapath's.
    pub record: ServiceRecord,
    /// The current backend of each of its ring's slots.
    pub slots: Vec<u32>,
}

/// A backend's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedBackend {
    /// The record.
    pub record: BackendRecord,
}

impl Observed {
    /// Reads the tables.
    pub fn read<S: TableStore>(store: &S) -> Result<Self, S::Error> {
        let (limits, table) = (store.limits(), store.service_table());
        let services: Vec<ObservedService> = (0..=table.mask())
            .filter_map(|offset| ObservedService::read(store, table.base() + offset))
            .collect();
        let backends = (1..limits.backends).filter_map(|id| {
            let record: BackendRecord = from_fn(|word| store.backend_word(id, word));
            (record != [0; 8]).then_some((id, ObservedBackend { record }))
        });
        let mut observed = Self {
            limits,
            table,
            services,
            backends: backends.collect(),
            features: Features(store.control_word(2)),
            masks: SourceMasks { v4: store.control_word(6) as u32, v6: store.control_word(7) },
            servers: store.servers()?.into_iter().collect(),
            prefixes: store.vip_prefixes()?.into_iter().collect(),
            stray_sources: false,
        };
        observed.stray_sources = store.may_have_sources_besides(&observed.lists());
        Ok(observed)
    }

    /// The source lists that services name. Each is whole: it was before the first of them named it.
    pub fn lists(&self) -> BTreeSet<u32> {
        self.services.iter().map(ObservedService::source_list).filter(|list| *list != 0).collect()
    }

    /// The service with this key.
    pub fn service(&self, key: &ServiceKey) -> Option<&ObservedService> {
        self.services.iter().find(|service| service.key == *key)
    }
}

impl ObservedService {
    fn read<S: TableStore>(store: &S, entry: u32) -> Option<Self> {
        let mut record: ServiceRecord = from_fn(|word| store.service_word(entry, word));
        record[7] &= u64::from(u32::MAX);
        let key = Service(&record.map(Cell::new)).key()?;
        let ring = RingRange(record[3]);
        let slots = (0..ring.slots())
            .map(|slot| RingSlot(store.ring_slot(ring.base().saturating_add(slot))).current())
            .collect();
        Some(Self { entry, key, record, slots })
    }

    /// The service's id; 0 for an entry that is none: that marks a VIP, or an address where packets are unwrapped.
    pub fn id(&self) -> u32 {
        self.record[4] as u32
    }
    /// What is special about it.
    pub fn traits(&self) -> Traits {
        Service(&self.record.map(Cell::new)).traits()
    }
    /// Its source list; 0 = none.
    pub fn source_list(&self) -> u32 {
        self.record[7] as u32
    }
    /// Where its ring lies.
    pub fn ring(&self) -> RingRange {
        RingRange(self.record[3])
    }
    /// The ring's fingerprint, the same on every director with the same ring.
    pub fn fingerprint(&self) -> u64 {
        self.record[6]
    }
}

impl ObservedBackend {
    fn view(&self) -> Backend<[Cell<u64>; 8]> {
        Backend(self.record.map(Cell::new))
    }
    /// The service it belongs to.
    pub fn service_id(&self) -> u32 {
        self.view().service_id()
    }
    /// The real server.
    pub fn address(&self) -> Address {
        self.view().destination()
    }
    /// Source of the outer header.
    pub fn source(&self) -> Address {
        self.view().source()
    }
    /// Whether that source is a network in which each flow has an address.
    pub fn spreads_source(&self) -> bool {
        self.view().spreads_source()
    }
    /// How packets travel to it, if the number is a known one.
    pub fn encapsulation(&self) -> Option<Encapsulation> {
        self.view().encapsulation()
    }
    /// Whether it gets packets.
    pub fn state(&self) -> BackendState {
        self.view().state()
    }
    /// When draining ends, in seconds of CLOCK_BOOTTIME; 0 = not draining.
    pub fn drain_until(&self) -> u32 {
        self.view().drain_until()
    }
    /// The next hop's MAC address.
    pub fn next_hop_mac(&self) -> [u8; 6] {
        self.view().next_hop().mac()
    }
    /// MTU towards it, bytes of IP packet.
    pub fn mtu(&self) -> u16 {
        self.view().next_hop().rest()
    }
    /// Where packets leave.
    pub fn egress(&self) -> Egress {
        self.view().egress()
    }
}
