//! Random histories of configurations, ways lost and found, time passing and processes killed in the middle of a
//! change, with every single store watched.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use weir_abi::{
    Address, BackendState, Encapsulation, Family, MAX_PROBES, NoBackend, RingRange, RingSlot, ServiceKey,
    ServiceTable, service_index,
};
use weir_maglev::RingSize;
use weir_plan::{
    Desired, DesiredBackend, DesiredService, Limits, Model, NextHop, Observed, Op, Path, Planner, TableStore,
    diff,
};

const LIMITS: Limits = Limits { service_entries: 64, ring_slots: 256 * 24, backends: 64 };

/// The tables with a guard beside them who objects to every store that a packet in flight could trip over.
struct Watched {
    model: Model,
    /// Ring ranges that were live at some moment since the last grace period.
    held_rings: BTreeSet<(u32, u32)>,
    /// Service tables that were.
    held_tables: BTreeSet<u32>,
    /// What each flow was begun with: words 0 to 3 and the service id of its backend's record.
    begun: BTreeMap<u64, [u64; 5]>,
    next_flow: u64,
}

impl Watched {
    fn new() -> Self {
        let mut new = Self {
            model: Model::new(LIMITS),
            held_rings: BTreeSet::new(),
            held_tables: BTreeSet::new(),
            begun: BTreeMap::new(),
            next_flow: 0,
        };
        new.hold();
        new
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
        for record in self.live() {
            let ring = RingRange(record[3]);
            if ring.is_present() {
                self.held_rings.insert((ring.base(), ring.slots()));
            }
        }
    }

    fn identity(&self, id: u32) -> [u64; 5] {
        let r = self.model.backends[id as usize];
        [r[0], r[1], r[2], r[3], r[7] & 0xffff_ffff]
    }

    /// Ids that a packet now in flight may have read from a ring.
    fn in_flight(&self) -> BTreeSet<u32> {
        let slots = self.held_rings.iter().flat_map(|&(base, slots)| base..base + slots);
        slots.map(|slot| RingSlot(self.model.rings[slot as usize]).current()).collect()
    }

    /// New flows on every backend that a packet in flight may have chosen.
    fn begin_flows(&mut self) {
        for id in self.in_flight() {
            self.model.flows.insert(self.next_flow, id);
            self.begun.insert(self.next_flow, self.identity(id));
            self.next_flow += 1;
        }
    }

    /// What must hold after every store.
    fn check(&mut self) {
        self.hold();
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
                assert_ne!(
                    backend[5] >> 48 & 0xff,
                    BackendState::Down as u64,
                    "slot {slot} names {id}, which is down"
                );
                assert_eq!(
                    backend[7] & 0xffff_ffff,
                    record[4],
                    "slot {slot} names a backend of another service"
                );
                assert!(matches!(backend[5] >> 56, 1..=3) && backend[0] != 0 && backend[4] != 0);
            }
        }
        for (flow, id) in &self.model.flows {
            if self.model.backends[*id as usize][5] >> 48 & 0xff != BackendState::Down as u64 {
                assert_eq!(
                    self.begun[flow],
                    self.identity(*id),
                    "flow {flow} is on an id that changed hands"
                );
            }
        }
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
                let state = self.model.backends[*id as usize][5] >> 48 & 0xff;
                assert_eq!(
                    state,
                    BackendState::Down as u64,
                    "flows of backend {id} are forgotten while it is alive"
                );
            }
        }
        self.model.forget_backends(ids);
    }
    fn grace(&mut self) -> Result<(), Infallible> {
        self.begin_flows();
        if self.model.stores_left != Some(0) {
            self.held_rings.clear();
            self.held_tables.clear();
            self.hold();
        }
        self.model.grace()
    }
}

/// As the datapath looks a service up.
fn find(model: &Model, key: &ServiceKey) -> Option<[u64; 8]> {
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

fn check_reached(model: &Model, before: &Observed, desired: &Desired) {
    let observed = Observed::read(model);
    assert_eq!(diff(&observed, desired), Ok(vec![]), "a second plan has something to do");
    let vips: BTreeSet<_> = desired.services.iter().map(|s| s.key.vip.0).collect();
    assert_eq!(observed.services.len(), desired.services.len() + vips.len());
    for service in &desired.services {
        assert!(find(model, &service.key.vip_only()).is_some());
        let record = find(model, &service.key).expect("the service is found");
        assert_eq!(record[5], weir_abi::Policy::new(0, service.idle_ticks, service.no_backend).0);
        let was_known = |backend: &DesiredBackend| {
            let id = before.service(&service.key).map(weir_plan::ObservedService::id);
            before.backends.values().any(|b| {
                Some(b.service_id()) == id
                    && b.address() == Address::from(backend.address)
                    && b.encapsulation() == Some(backend.encapsulation)
            })
        };
        let expected: HashSet<Address> = service
            .backends
            .iter()
            .filter(|b| b.weight > 0)
            .filter(|b| match b.path {
                Path::Known(_) => true,
                Path::Silent => was_known(b),
                Path::None => false,
            })
            .map(|b| b.address.into())
            .collect();
        let ring = RingRange(record[3]);
        let named: HashSet<Address> = (0..ring.slots())
            .map(|i| RingSlot(model.rings[(ring.base() + i) as usize]).current())
            .map(|id| observed.backends[&id].address())
            .collect();
        assert_eq!(named, expected);
        for backend in &service.backends {
            if let Path::Known(hop) = backend.path {
                let stored = observed.backends.values().find(|b| {
                    u64::from(b.service_id()) == record[4]
                        && b.address() == Address::from(backend.address)
                        && b.source() == Address::from(hop.source)
                });
                let stored = stored.expect("a backend with a way to it has a record");
                assert_eq!(
                    (stored.next_hop_mac(), stored.mtu(), stored.ifindex()),
                    (hop.mac, hop.mtu, hop.ifindex)
                );
                assert_eq!((stored.state(), stored.drain_until()), (BackendState::Up, 0));
            }
        }
    }
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn path() -> impl Strategy<Value = Path> {
    let known = (1..3_u8, 1..3_u8).prop_map(|(mac, source)| {
        let macs = ([2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 1, mac]);
        Path::Known(NextHop {
            mac: macs.0,
            source_mac: macs.1,
            ifindex: u32::from(mac),
            mtu: 1500,
            source: v4(source),
        })
    });
    prop_oneof![6 => known, 1 => Just(Path::Silent), 1 => Just(Path::None)]
}

fn backends() -> impl Strategy<Value = Vec<DesiredBackend>> {
    let backend = (10..15_u8, 0..3_u32, path()).prop_map(|(last, weight, path)| DesiredBackend {
        address: v4(last),
        encapsulation: Encapsulation::Ip4InIp4,
        weight,
        path,
    });
    prop::collection::vec(backend, 0..5).prop_map(|mut list| {
        let mut seen = BTreeSet::new();
        list.retain(|b| seen.insert(b.address));
        list
    })
}

fn desired() -> impl Strategy<Value = Desired> {
    let service = (0..2_u8, 80..83_u16, 1..3_u32, any::<bool>(), 0..4_u32, backends()).prop_map(
        |(vip, port, idle_ticks, pass, drain, backends)| DesiredService {
            key: ServiceKey {
                vip: v4(100 + vip).into(),
                family: Family::V4,
                protocol: 6,
                prefix_len: 0,
                port: port.to_be(),
            },
            idle_ticks,
            no_backend: if pass { NoBackend::Pass } else { NoBackend::Drop },
            drain,
            ring_size: RingSize::MIN,
            backends,
        },
    );
    prop::collection::vec(service, 0..6).prop_map(|mut services| {
        let mut seen = BTreeSet::new();
        services.retain(|s| seen.insert((s.key.vip.0, s.key.port)));
        Desired { services, now: 0 }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    /// Each step: a configuration, seconds that pass, and how many stores the process makes before it is killed.
    #[test]
    fn whatever_happens_the_tables_hold_together(
        history in prop::collection::vec((desired(), 0..4_u32, prop::option::weighted(0.4, 0..900_u64)), 1..12),
    ) {
        let mut tables = Watched::new();
        let mut planner = Planner::default();
        let mut now = 1000;
        for (mut desired, seconds, killed_after) in history {
            now += seconds;
            desired.now = now;
            let before = Observed::read(&tables);
            let plan = planner.plan(&before, &desired).expect("there is room for everything");
            prop_assert_eq!(&diff(&before, &desired).expect("room"), &plan, "the cache of rings changes the plan");
            tables.model.stores_left = killed_after;
            for op in &plan {
                let Ok(()) = op.apply(&mut tables);
            }
            let completed = tables.model.stores_left != Some(0);
            tables.model.stores_left = None;
            tables.begin_flows();
            if completed {
                check_reached(&tables.model, &before, &desired);
            }
        }
        // At last everything is taken out and time passes: nothing is left.
        let empty = Desired { services: vec![], now: now + 100 };
        for op in planner.plan(&Observed::read(&tables), &empty).expect("an empty table fits") {
            let Ok(()) = op.apply(&mut tables);
        }
        prop_assert!(Observed::read(&tables).services.is_empty());
        prop_assert!(Observed::read(&tables).backends.is_empty());
    }
}

fn one_service(drain: u32, addresses: &[u8], now: u32) -> Desired {
    let hop = NextHop { mac: [2; 6], source_mac: [4; 6], ifindex: 2, mtu: 1500, source: v4(1) };
    let backends = addresses.iter().map(|last| DesiredBackend {
        address: v4(*last),
        encapsulation: Encapsulation::Ip4InIp4,
        weight: 1,
        path: Path::Known(hop),
    });
    let service = DesiredService {
        key: ServiceKey {
            vip: v4(100).into(),
            family: Family::V4,
            protocol: 6,
            port: 80_u16.to_be(),
            prefix_len: 0,
        },
        idle_ticks: 10,
        no_backend: NoBackend::Drop,
        drain,
        ring_size: RingSize::MIN,
        backends: backends.collect(),
    };
    Desired { services: vec![service], now }
}

fn apply(model: &mut Model, desired: &Desired) -> Vec<Op> {
    let ops = diff(&Observed::read(model), desired).expect("a plan");
    for op in &ops {
        let Ok(()) = op.apply(model);
    }
    ops
}

#[test]
fn a_removed_backend_drains_and_comes_back_under_its_id() {
    let mut model = Model::new(LIMITS);
    apply(&mut model, &one_service(60, &[10, 11], 100));
    apply(&mut model, &one_service(60, &[10], 100));
    let drained = Observed::read(&model).backends[&2];
    assert_eq!((drained.state(), drained.drain_until()), (BackendState::Draining, 160));
    assert_eq!(apply(&mut model, &one_service(60, &[10], 159)), []);

    apply(&mut model, &one_service(60, &[10, 11], 159));
    let back = Observed::read(&model).backends[&2];
    assert_eq!((back.state(), back.drain_until()), (BackendState::Up, 0));

    apply(&mut model, &one_service(60, &[10], 200));
    apply(&mut model, &one_service(60, &[10], 260));
    assert_eq!(Observed::read(&model).backends.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_change_of_ring_does_not_rebuild_the_service_table() {
    let mut model = Model::new(LIMITS);
    apply(&mut model, &one_service(0, &[10], 1));
    let table = model.table;
    let ops = apply(&mut model, &one_service(0, &[10, 11], 1));
    assert_eq!(model.table, table);
    let names: Vec<String> =
        ops.iter().map(|op| format!("{op:?}").split([' ', '{']).next().unwrap().to_owned()).collect();
    assert_eq!(names, ["Grace", "PutBackend", "PutRing", "SetRing"]);
}

#[test]
fn a_new_mac_address_changes_the_record_and_nothing_else() {
    let mut model = Model::new(LIMITS);
    apply(&mut model, &one_service(0, &[10], 1));
    let mut moved = one_service(0, &[10], 1);
    if let Path::Known(hop) = &mut moved.services[0].backends[0].path {
        hop.mac = [6; 6];
    }
    let ops = apply(&mut model, &moved);
    assert!(matches!(ops[..], [Op::SetBackend { id: 1, .. }]), "{ops:?}");
}

#[test]
fn too_small_tables_are_refused_before_anything_is_done() {
    let limits = Limits { backends: 2, ..LIMITS };
    let error = diff(&Observed::read(&Model::new(limits)), &one_service(0, &[10, 11], 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are more backends, with those still draining, than the 1 the backend table can hold"
    );
    let limits = Limits { ring_slots: 128, ..LIMITS };
    let error = diff(&Observed::read(&Model::new(limits)), &one_service(0, &[10], 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free range of 256 slots for a new ring of service 192.0.2.100:80/tcp in the ring table of 128 slots"
    );
    let limits = Limits { service_entries: 2, ..LIMITS };
    let error = diff(&Observed::read(&Model::new(limits)), &one_service(0, &[10], 1)).unwrap_err();
    assert_eq!(error.to_string(), "2 services and VIPs do not fit into the service table of 1 places");
}
