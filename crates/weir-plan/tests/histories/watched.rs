//! The tables with a guard beside them who objects to every store that a packet in flight could trip over.
//!
//! Owns: what packets may have read since the last grace period, and what must hold after every store.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::iter;

use weir_abi::{
    Address, BackendState, Encapsulation, Family, Features, MAX_PROBES, PrefixKey, RingRange, RingSlot,
    SPREAD_SOURCE, ServerKey, ServiceKey, ServiceTable, SourceRule, Traits, service_index,
};
use weir_plan::{Limits, Model, Observed, Op, TableStore};

pub(crate) const LIMITS: Limits = Limits {
    service_entries: 128,
    ring_slots: 256 * 24,
    backends: 64,
    servers: 256,
    sources: 256,
    prefixes: 16,
};

/// What a source list is to say.
type Meaning = BTreeMap<PrefixKey, SourceRule>;

pub(crate) struct Watched {
    pub model: Model,
    /// Ring ranges that were live at some moment since the last grace period.
    held_rings: BTreeSet<(u32, u32)>,
    /// Service tables that were.
    held_tables: BTreeSet<u32>,
    /// Source lists that were.
    held_lists: BTreeSet<u32>,
    /// Backends that were named by servers' numbers.
    held_servers: BTreeSet<u32>,
    /// What each flow was begun with: words 0 to 3, the encapsulation and the service id of its backend's record.
    begun: BTreeMap<u64, [u64; 6]>,
    next_flow: u64,
    /// What each list that was ever planned says.
    meanings: BTreeMap<u32, Meaning>,
    /// How things were when the plan under way began, and how they will be when it is done.
    old: Moment,
    next: Moment,
}

/// What is there at one moment.
#[derive(Default)]
struct Moment {
    /// Lists that services name.
    lists: BTreeSet<u32>,
    servers: BTreeSet<ServerKey>,
    prefixes: BTreeSet<PrefixKey>,
    features: Features,
}

impl Moment {
    fn of(model: &Model) -> Self {
        let Ok(observed) = Observed::read(model);
        Self {
            lists: observed.lists(),
            servers: observed.servers.keys().copied().collect(),
            prefixes: observed.prefixes,
            features: observed.features,
        }
    }
}

impl Watched {
    pub(crate) fn new() -> Self {
        let mut new = Self {
            model: Model::new(LIMITS),
            held_rings: BTreeSet::new(),
            held_tables: BTreeSet::new(),
            held_lists: BTreeSet::new(),
            held_servers: BTreeSet::new(),
            begun: BTreeMap::new(),
            next_flow: 0,
            meanings: BTreeMap::new(),
            old: Moment::default(),
            next: Moment::default(),
        };
        new.hold();
        new
    }

    /// Does all of a plan, or as many stores as are left.
    pub(crate) fn apply(&mut self, plan: &[Op]) {
        let mut after = self.model.clone();
        after.stores_left = None;
        for op in plan {
            let Ok(()) = op.apply(&mut after);
        }
        for op in plan {
            if let Op::PutSources { id, list } = op {
                let says: Meaning = list.entries(*id).collect();
                let known = self.meanings.entry(*id).or_insert_with(|| says.clone());
                assert_eq!(*known, says, "two lists share the id {id}");
            }
        }
        (self.old, self.next) = (Moment::of(&self.model), Moment::of(&after));
        for op in plan {
            let Ok(()) = op.apply(self);
        }
    }

    fn live(&self) -> Vec<[u64; 8]> {
        let table = self.model.table;
        (0..=table.mask())
            .map(|at| self.model.services[(table.base() + at) as usize])
            .filter(|r| r[2] != 0)
            .collect()
    }

    fn hold(&mut self) {
        self.held_tables.insert(self.model.table.base());
        self.held_servers.extend(self.model.servers.values());
        for record in self.live() {
            let ring = RingRange(record[3]);
            if ring.is_present() {
                self.held_rings.insert((ring.base(), ring.slots()));
            }
            if record[7] as u32 != 0 {
                self.held_lists.insert(record[7] as u32);
            }
        }
    }

    fn identity(&self, id: u32) -> [u64; 6] {
        let r = self.model.backends[id as usize];
        [r[0], r[1], r[2], r[3], r[5] >> 56, r[7] & 0xffff_ffff]
    }

    /// Ids that a packet now in flight may have read from a ring or from the servers.
    fn in_flight(&self) -> BTreeSet<u32> {
        let slots = self.held_rings.iter().flat_map(|&(base, slots)| base..base + slots);
        let of_rings = slots.map(|slot| RingSlot(self.model.rings[slot as usize]).current());
        of_rings.chain(self.held_servers.iter().copied()).collect()
    }

    fn is_down(&self, id: u32) -> bool {
        self.model.backends[id as usize][5] >> 48 & 0xff == BackendState::Down as u64
    }

    /// New flows on every backend that a packet in flight may have chosen; and turns are taken.
    pub(crate) fn begin_flows(&mut self) {
        for id in self.in_flight() {
            // Who is down is not chosen by a server's number, and nothing is remembered of it.
            if self.is_down(id) {
                continue;
            }
            self.model.flows.insert(self.next_flow, id);
            self.begun.insert(self.next_flow, self.identity(id));
            self.next_flow += 1;
        }
        let table = self.model.table;
        for at in table.base()..=table.base() + table.mask() {
            let word = &mut self.model.services[at as usize][7];
            *word = word.wrapping_add(1 << 32);
        }
    }

    /// What must hold after every store.
    fn check(&mut self) {
        self.hold();
        self.check_rings();
        self.check_sources();
        for (key, id) in &self.model.servers {
            let record = self.model.backends[*id as usize];
            assert_eq!(record[7] as u32, key.service_id(), "server {key:?} is a backend of another service");
        }
        for key in self.next.servers.intersection(&self.old.servers) {
            assert!(self.model.servers.contains_key(key), "server {key:?} was taken out and put back");
        }
        self.check_features();
        for key in &self.model.prefixes {
            let family = if key.scope() == 4 { Family::V4 } else { Family::V6 };
            let prefix_len = key.prefix_len().expect("a length");
            let marker = ServiceKey { vip: key.network(), family, protocol: 0, port: 0, prefix_len };
            assert!(find(&self.model, &marker).is_some(), "VIP prefix {key:?} has no service");
        }
        let used: BTreeSet<u32> = self.model.flows.values().copied().chain(self.in_flight()).collect();
        for id in used.into_iter().filter(|id| !self.is_down(*id)) {
            let record = self.model.backends[id as usize];
            if record[5] >> 56 & u64::from(SPREAD_SOURCE) != 0 {
                assert_eq!(record[2] & self.model.control[6], 0, "the network of backend {id} is filled in");
            }
        }
        for (flow, id) in &self.model.flows {
            if !self.is_down(*id) {
                assert_eq!(
                    self.begun[flow],
                    self.identity(*id),
                    "flow {flow} is on an id that changed hands"
                );
            }
        }
    }

    fn check_rings(&self) {
        let mut ranges = BTreeSet::new();
        for record in self.live() {
            let ring = RingRange(record[3]);
            if !ring.is_present() {
                continue;
            }
            for slot in ring.base()..ring.base() + ring.slots() {
                assert!(ranges.insert(slot), "two live rings overlap at slot {slot}");
                let id = RingSlot(self.model.rings[slot as usize]).current();
                let backend = self.model.backends[id as usize];
                assert_ne!(id, 0, "a slot names nobody");
                assert!(!self.is_down(id), "slot {slot} names {id}, which is down");
                assert_eq!(
                    backend[7] as u32, record[4] as u32,
                    "slot {slot} names a backend of another service"
                );
                let kind = Encapsulation::from_byte((backend[5] >> 56) as u8).expect("a known encapsulation");
                let has_way = backend[4] != 0 || kind == Encapsulation::Local;
                assert!(has_way && backend[0] != 0, "slot {slot} names {id}, to which there is no way");
            }
        }
    }

    fn check_sources(&self) {
        for record in self.live().iter().filter(|record| record[7] as u32 != 0) {
            let (service, list) = (record[4] as u32, record[7] as u32);
            let says: Meaning = self.list(list);
            assert_eq!(says, self.meanings[&list], "list {list} is not whole");
            for server in says.values().filter_map(|rule| rule.to_server()) {
                let key = ServerKey::of_source(service, server);
                // Of a list that comes, who will be there is there; of one that goes, who was there still is.
                let expected = match (self.old.lists.contains(&list), self.next.lists.contains(&list)) {
                    (false, _) => self.next.servers.contains(&key),
                    (true, false) => self.old.servers.contains(&key),
                    (true, true) => false,
                };
                let is_there = self.model.servers.contains_key(&key);
                assert!(is_there || !expected, "list {list} names a server that is not there");
            }
        }
    }

    /// What makes the datapath look a table up is on only while the table is whole.
    fn check_features(&self) {
        let now = Features(self.model.control[2]);
        if now.has(Features::PREFIXES) {
            let needed = |at: &Moment, other: &Moment| {
                other.features.has(Features::PREFIXES) || at.prefixes.is_subset(&self.model.prefixes)
            };
            assert!(needed(&self.next, &self.old), "VIP prefixes are looked up before they are there");
            assert!(needed(&self.old, &self.next), "VIP prefixes are looked up when they are gone");
        }
        if now.has(Features::DECAPSULATE) {
            let unwraps = u64::from(Traits::DECAPSULATE) << 32;
            let any = self.live().iter().any(|record| record[4] & unwraps != 0);
            assert!(any, "packets are unwrapped where there is no address for it");
        }
    }

    fn list(&self, list: u32) -> Meaning {
        let entries = self.model.sources.iter().filter(|(key, _)| key.scope() == list);
        entries.map(|(key, rule)| (*key, *rule)).collect()
    }
}

impl TableStore for Watched {
    type Error = Infallible;

    fn limits(&self) -> Limits {
        LIMITS
    }
    fn service_table(&self) -> ServiceTable {
        self.model.service_table()
    }
    fn control_word(&self, word: usize) -> u64 {
        self.model.control_word(word)
    }
    fn set_control_word(&mut self, word: usize, value: u64) {
        assert!(matches!(word, 2 | 6 | 7), "word {word} of the control record is not a plan's");
        self.model.set_control_word(word, value);
        self.check();
    }
    fn set_service_table(&mut self, table: ServiceTable) {
        self.model.set_service_table(table);
        self.check();
    }
    fn service_word(&self, entry: u32, word: usize) -> u64 {
        self.model.service_word(entry, word)
    }
    fn set_service_word(&mut self, entry: u32, word: usize, value: u64) {
        let half = LIMITS.service_entries / 2;
        let live = entry / half == self.model.table.base() / half;
        if live {
            assert!(matches!(word, 3 | 5 | 6), "word {word} of a live service changes in place");
        } else if self.model.stores_left != Some(0) {
            assert!(!self.held_tables.contains(&(entry / half * half)), "a table with readers is rewritten");
        }
        self.model.set_service_word(entry, word, value);
        if live {
            self.check();
        }
    }
    fn ring_slot(&self, slot: u32) -> u64 {
        self.model.ring_slot(slot)
    }
    fn set_ring_slot(&mut self, slot: u32, value: u64) {
        if self.model.stores_left != Some(0) {
            let held = self.held_rings.iter().any(|&(base, slots)| (base..base + slots).contains(&slot));
            assert!(!held, "ring slot {slot} is rewritten under its readers");
        }
        self.model.set_ring_slot(slot, value);
    }
    fn backend_word(&self, id: u32, word: usize) -> u64 {
        self.model.backend_word(id, word)
    }
    fn set_backend_word(&mut self, id: u32, word: usize, value: u64) {
        if word < 4 && self.model.stores_left != Some(0) {
            assert!(!self.in_flight().contains(&id), "backend {id} is rewritten under its readers");
            assert!(!self.model.flows.values().any(|named| *named == id), "a flow still names {id}");
        }
        self.model.set_backend_word(id, word, value);
        self.check();
    }
    fn forget_backends(&mut self, ids: &[u32]) {
        if self.model.stores_left != Some(0) {
            for id in ids {
                assert!(self.is_down(*id), "flows of backend {id} are forgotten while it is alive");
            }
        }
        self.model.forget_backends(ids);
    }
    fn servers(&self) -> Result<Vec<(ServerKey, u32)>, Infallible> {
        self.model.servers()
    }
    fn set_server(&mut self, key: ServerKey, backend: Option<u32>) -> Result<(), Infallible> {
        let Ok(()) = self.model.set_server(key, backend);
        self.check();
        Ok(())
    }
    fn vip_prefixes(&self) -> Result<Vec<PrefixKey>, Infallible> {
        self.model.vip_prefixes()
    }
    fn set_vip_prefix(&mut self, key: PrefixKey, is_there: bool) -> Result<(), Infallible> {
        let Ok(()) = self.model.set_vip_prefix(key, is_there);
        self.check();
        Ok(())
    }
    fn put_sources(
        &mut self,
        entries: &mut dyn Iterator<Item = (PrefixKey, SourceRule)>,
    ) -> Result<(), Infallible> {
        for entry in entries {
            let Ok(()) = self.model.put_sources(&mut iter::once(entry));
            self.check();
        }
        Ok(())
    }
    fn may_have_sources_besides(&self, lists: &BTreeSet<u32>) -> bool {
        self.model.may_have_sources_besides(lists)
    }
    fn keep_sources(&mut self, lists: &BTreeSet<u32>) -> Result<(), Infallible> {
        if self.model.stores_left != Some(0) {
            assert!(self.held_lists.is_subset(lists), "a list is taken away from its readers");
        }
        let Ok(()) = self.model.keep_sources(lists);
        self.check();
        Ok(())
    }
    fn grace(&mut self) -> Result<(), Infallible> {
        self.begin_flows();
        if self.model.stores_left != Some(0) {
            self.held_rings.clear();
            self.held_tables.clear();
            self.held_lists.clear();
            self.held_servers.clear();
            self.hold();
        }
        self.model.grace()
    }
}

/// As the datapath looks a service up.
pub(crate) fn find(model: &Model, key: &ServiceKey) -> Option<[u64; 8]> {
    let table = model.table;
    let home = service_index(key, table.seed());
    for probe in 0..MAX_PROBES {
        let record = model.services[(table.base() + (home.wrapping_add(probe) & table.mask())) as usize];
        if record[..3] == [key.vip.0[0], key.vip.0[1], key.word()] {
            return Some(record);
        }
        if record[2] == 0 {
            return None;
        }
    }
    None
}

/// The backend that a packet is sent to which names a server, as the datapath finds it.
pub(crate) fn by_server(model: &Model, key: ServerKey) -> Option<(u32, Address)> {
    let id = *model.servers.get(&key)?;
    let record = model.backends[id as usize];
    let alive = record[5] >> 48 & 0xff != BackendState::Down as u64;
    (alive && record[7] as u32 == key.service_id()).then_some((id, Address([record[0], record[1]])))
}
