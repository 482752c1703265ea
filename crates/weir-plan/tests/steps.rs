//! Single changes, step by step.

use std::net::{IpAddr, Ipv4Addr};

use weir_abi::{
    BackendState, Budget, Encapsulation, Family, HashFields, NoBackend, Policy, ServerIds, ServerKey,
    ServiceKey, Traits,
};
use weir_maglev::RingSize;
use weir_plan::{
    Desired, DesiredBackend, DesiredDirector, DesiredService, Limits, Model, NextHop, Observed, Op, Path,
    SourceList, diff,
};

const LIMITS: Limits =
    Limits { service_entries: 64, ring_slots: 256 * 24, backends: 64, servers: 8, sources: 8, prefixes: 8 };

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn one_service(drain: u32, addresses: &[u8], now: u32) -> Desired {
    let hop = NextHop {
        mac: [2; 6],
        source_mac: [4; 6],
        ifindex: 2,
        vlan: 0,
        mtu: 1500,
        source: v4(1),
        spread: false,
    };
    let backends = addresses.iter().map(|last| DesiredBackend {
        address: v4(*last),
        encapsulation: Encapsulation::Ip4InIp4,
        weight: 1,
        down: false,
        server_ids: Vec::new(),
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
        traits: Traits::default(),
        policy: Policy::new(0, 10, NoBackend::Drop),
        sources: None,
        drain,
        ring_size: RingSize::MIN,
        backends: backends.collect(),
    };
    Desired { director: DesiredDirector::default(), services: vec![service], now }
}

fn observed(model: &Model) -> Observed {
    let Ok(observed) = Observed::read(model);
    observed
}

/// What kinds of steps they are.
fn kinds(ops: &[Op]) -> Vec<String> {
    ops.iter()
        .map(|op| format!("{op:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned())
        .collect()
}

fn apply(model: &mut Model, desired: &Desired) -> Vec<Op> {
    let ops = diff(&observed(model), desired).expect("a plan");
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
    let drained = observed(&model).backends[&2];
    assert_eq!((drained.state(), drained.drain_until()), (BackendState::Draining, 160));
    assert_eq!(apply(&mut model, &one_service(60, &[10], 159)), []);

    apply(&mut model, &one_service(60, &[10, 11], 159));
    let back = observed(&model).backends[&2];
    assert_eq!((back.state(), back.drain_until()), (BackendState::Up, 0));

    apply(&mut model, &one_service(60, &[10], 200));
    apply(&mut model, &one_service(60, &[10], 260));
    assert_eq!(observed(&model).backends.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_change_of_ring_does_not_rebuild_the_service_table() {
    let mut model = Model::new(LIMITS);
    apply(&mut model, &one_service(0, &[10], 1));
    let table = model.table;
    let ops = apply(&mut model, &one_service(0, &[10, 11], 1));
    assert_eq!(model.table, table);
    assert_eq!(kinds(&ops), ["Grace", "PutBackend", "PutRing", "SetRing"]);
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
    let error = diff(&observed(&Model::new(limits)), &one_service(0, &[10, 11], 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are more backends, with those still draining, than the 1 the backend table can hold"
    );
    let limits = Limits { ring_slots: 128, ..LIMITS };
    let error = diff(&observed(&Model::new(limits)), &one_service(0, &[10], 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free range of 256 slots for a new ring of service 192.0.2.100:80/tcp in the ring table of 128 slots"
    );
    let limits = Limits { service_entries: 2, ..LIMITS };
    let error = diff(&observed(&Model::new(limits)), &one_service(0, &[10], 1)).unwrap_err();
    assert_eq!(error.to_string(), "2 services and VIPs do not fit into the service table of 1 places");
}

#[test]
fn a_backend_that_is_put_down_keeps_its_id_and_loses_its_flows() {
    let mut model = Model::new(LIMITS);
    let mut desired = one_service(60, &[10, 11], 1);
    apply(&mut model, &desired);
    desired.services[0].backends[1].down = true;
    let ops = apply(&mut model, &desired);
    assert_eq!(kinds(&ops), ["Grace", "PutRing", "SetRing", "SetBackend"], "out of the ring first");
    assert_eq!(observed(&model).backends[&2].state(), BackendState::Down);

    desired.services[0].backends[1].down = false;
    let ops = apply(&mut model, &desired);
    assert_eq!(kinds(&ops), ["Grace", "SetBackend", "PutRing", "SetRing"], "into the ring last");
    assert_eq!(observed(&model).backends[&2].state(), BackendState::Up);
}

#[test]
fn another_encapsulation_is_another_backend() {
    let mut model = Model::new(LIMITS);
    let mut desired = one_service(60, &[10], 1);
    apply(&mut model, &desired);
    desired.services[0].backends[0].encapsulation = Encapsulation::GueInIp4;
    apply(&mut model, &desired);
    let states: Vec<_> = observed(&model).backends.values().map(|b| (b.encapsulation(), b.state())).collect();
    assert_eq!(
        states,
        [
            (Some(Encapsulation::Ip4InIp4), BackendState::Draining),
            (Some(Encapsulation::GueInIp4), BackendState::Up)
        ]
    );
}

#[test]
fn those_who_take_turns_come_one_after_the_other() {
    let mut model = Model::new(LIMITS);
    let mut desired = one_service(0, &[10, 11, 12], 1);
    desired.services[0].traits =
        Traits::new(HashFields::Flow, ServerIds::None, Traits::TURNS, Budget::UNLIMITED);
    apply(&mut model, &desired);
    let slots = &observed(&model).services.iter().find(|s| s.id() != 0).expect("the service").slots.clone();
    let in_turn: Vec<u32> = slots.iter().copied().take(3).cycle().take(slots.len()).collect();
    assert!(slots[0] != slots[1] && slots[1] != slots[2] && slots[0] != slots[2], "{slots:?}");
    assert_eq!(*slots, in_turn);

    // The turns that the datapath takes are none of the plan's business.
    for record in &mut model.services {
        record[7] = record[7].wrapping_add(5 << 32);
    }
    assert_eq!(apply(&mut model, &desired), []);
    let mut another = desired.services[0].clone();
    another.key.port = 81_u16.to_be();
    desired.services.push(another);
    assert!(kinds(&apply(&mut model, &desired)).contains(&"PublishServices".to_owned()));
    let turn = |port: u16| {
        let key = ServiceKey { port: port.to_be(), ..desired.services[0].key };
        let entry = observed(&model).service(&key).expect("it is live").entry;
        model.services[entry as usize][7] >> 32
    };
    assert_eq!((turn(80), turn(81)), (5, 0), "in the next table they go on");
}

#[test]
fn a_server_id_stays_with_a_backend_that_drains() {
    let mut model = Model::new(LIMITS);
    let mut desired = one_service(60, &[10, 11], 1);
    desired.services[0].traits = Traits::new(HashFields::Flow, ServerIds::Quic, 0, Budget::UNLIMITED);
    desired.services[0].backends[0].server_ids = vec![7];
    desired.services[0].backends[1].server_ids = vec![8, 9];
    apply(&mut model, &desired);
    let key = |number| ServerKey::of_packet(1, number);
    assert_eq!(model.servers, [(key(7), 1), (key(8), 2), (key(9), 2)].into());

    desired.services[0].backends.pop();
    desired.services[0].backends[0].server_ids = vec![9];
    apply(&mut model, &desired);
    assert_eq!(model.servers, [(key(8), 2), (key(9), 1)].into(), "9 is another's now, 7 nobody's");
    desired.now = 61;
    apply(&mut model, &desired);
    assert_eq!(model.servers, [(key(9), 1)].into());
}

fn denying(text: &str) -> Option<SourceList> {
    let text = format!(
        "director = {{ interfaces = [\"eth0\"] }}\n[[service]]\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\ndeny = {text}"
    );
    let config = weir_config::parse("", &text).expect("valid");
    SourceList::new(&config.services[0].sources, &[])
}

#[test]
fn a_list_is_written_before_it_is_named_and_removed_when_nobody_reads_it() {
    let mut model = Model::new(LIMITS);
    let mut desired = one_service(0, &[10], 1);
    desired.services[0].traits =
        Traits::new(HashFields::Flow, ServerIds::None, Traits::SOURCES, Budget::UNLIMITED);
    desired.services[0].sources = denying("[\"10.0.0.0/8\", \"11.0.0.0/8\"]");
    let ops = apply(&mut model, &desired);
    assert_eq!(kinds(&ops), ["Grace", "PutBackend", "PutSources", "PutRing", "PublishServices"]);
    assert_eq!(model.sources.len(), 2);

    desired.services[0].sources = denying("[\"10.0.0.0/8\"]");
    let ops = apply(&mut model, &desired);
    assert_eq!(kinds(&ops), ["Grace", "PutSources", "PublishServices", "Grace", "KeepSources"]);
    assert_eq!(model.sources.len(), 1);

    // A process that was killed while it wrote another one.
    model.stores_left = Some(1);
    desired.services[0].sources = denying("[\"12.0.0.0/8\", \"13.0.0.0/8\"]");
    apply(&mut model, &desired);
    model.stores_left = None;
    assert_eq!(model.sources.len(), 2);
    desired.services[0].sources = denying("[\"10.0.0.0/8\"]");
    assert_eq!(kinds(&apply(&mut model, &desired)), ["Grace", "KeepSources"]);
    assert_eq!(model.sources.len(), 1);
}

#[test]
fn too_many_servers_sources_or_prefixes_are_refused_before_anything_is_done() {
    let small = Limits { servers: 1, sources: 1, prefixes: 1, ..LIMITS };
    let refused = |change: fn(&mut Desired)| {
        let mut desired = one_service(0, &[10], 1);
        change(&mut desired);
        diff(&observed(&Model::new(small)), &desired).unwrap_err().to_string()
    };
    let error = refused(|desired| {
        let service = &mut desired.services[0];
        service.traits = Traits::new(HashFields::Flow, ServerIds::Quic, 0, Budget::UNLIMITED);
        service.backends[0].server_ids = vec![1, 2];
    });
    assert_eq!(error, "2 server ids and backends with `sources` do not fit into the table of 1 servers");
    let error = refused(|desired| desired.services[0].sources = denying("[\"10.0.0.0/8\", \"11.0.0.0/8\"]"));
    assert_eq!(error, "2 prefixes of clients do not fit into the table of 1");
    let error = refused(|desired| {
        for len in [24, 25] {
            let mut service = desired.services[0].clone();
            service.key.vip = Ipv4Addr::new(198, 51, 100, 0).into();
            service.key.prefix_len = len;
            desired.services.push(service);
        }
    });
    assert_eq!(error, "2 VIP prefixes do not fit into the table of 1");
}
