//! Test runs: what user space writes is what the program sees, and what it counts is what user space reads.

use std::{net::Ipv4Addr, sync::atomic::Ordering::Relaxed};

use weir_abi::{
    BackendFields, BackendState, Control, Count, Encapsulation, Family, NoBackend, Policy, Reason, RingRange,
    RingSlot, Service, ServiceKey, ServiceTable, Traits, service_index,
};
use weir_kernel::{
    bpf::{Director, LoadOptions, XdpRequest, attach_pass, live_run, load, test_run},
    net::Sysctl,
};

use crate::{Scratch, director};

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([0x08, 0x06]);
    frame.resize(60, 0);
    frame
}

pub(crate) fn syn(destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([198, 51, 100, 7]);
    frame.extend(destination.octets());
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// One service with one backend, id 1, reached by the interface packets come from.
pub(crate) fn serve(director: &Director) -> u32 {
    let key =
        ServiceKey { vip: VIP.into(), family: Family::V4, protocol: 6, port: 80u16.to_be(), prefix_len: 0 };
    let backend = BackendFields {
        destination: Ipv4Addr::new(10, 0, 0, 11).into(),
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        next_hop_mac: [2, 0, 0, 0, 0, 3],
        mtu: 1500,
        source_mac: [2, 0, 0, 0, 0, 1],
        state: BackendState::Up,
        encapsulation: Encapsulation::Ip4InIp4,
        spread_source: false,
        ifindex: crate::LO,
        vlan: 0,
        service_id: 1,
        drain_until: 0,
    };
    let record = director.backends().record(1).expect("backend 1");
    for (word, value) in record.iter().zip(backend.record()) {
        word.store(value, Relaxed);
    }
    for slot in 0..16 {
        director.rings().slot(slot).expect("slot").store(RingSlot::settled(1).0, Relaxed);
    }
    let table = ServiceTable::new(0, 4, 1);
    let index = service_index(&key, table.seed()) & table.mask();
    let service = Service(director.services().record(index).expect("service"));
    service.set_ring(RingRange::new(0, 4));
    service.set_policy(1, Traits::default(), Policy::new(1, 100, NoBackend::Drop));
    service.set_key(&key);
    Control(director.control().record(0).expect("control")).set_service_table(table);
    index
}

fn count(director: &Director, reason: Reason) -> Count {
    director.reasons().expect("counters")[reason as usize]
}

#[test]
fn a_run_gives_the_verdict_the_packet_and_the_counters() {
    let scratch = Scratch::new();
    let director = director(&scratch.state());
    let run = test_run(director.program(), &arp(), None, 5).expect("a run");
    assert_eq!((run.retval, run.packet.as_slice()), (XDP_PASS, arp().as_slice()));
    assert_eq!(count(&director, Reason::NotIp), Count { packets: 5, bytes: 300 });
    let total: u64 = director.reasons().expect("counters").iter().map(|count| count.packets).sum();
    assert_eq!(total, 5);
}

#[test]
fn the_program_sees_stores_at_once() {
    let scratch = Scratch::new();
    let director = director(&scratch.state());
    let run = || test_run(director.program(), &syn(VIP), None, 1).expect("a run");
    assert_eq!(run().retval, XDP_PASS);
    assert_eq!(count(&director, Reason::NotService).packets, 1);

    let index = serve(&director);
    let wrapped = run();
    assert!(matches!(wrapped.retval, XDP_TX | XDP_REDIRECT), "{}", wrapped.retval);
    assert_eq!(wrapped.packet.len(), 80);
    assert_eq!(wrapped.packet[..6], [2, 0, 0, 0, 0, 3]);
    assert_eq!(wrapped.packet[30..34], [10, 0, 0, 11]);
    assert_eq!(count(&director, Reason::RingNew), Count { packets: 1, bytes: 60 });
    assert_eq!(director.backend_count(1).expect("counter"), Count { packets: 1, bytes: 60 });
    let all = director.all_backend_counts(64).expect("counters");
    assert_eq!((all.len(), all[1].packets, all[2].packets), (64, 1, 0));

    director.zero_backend_count(1).expect("zeroed");
    assert_eq!(director.backend_count(1).expect("counter"), Count::default());

    Service(director.services().record(index).expect("service")).set_ring(RingRange::NONE);
    director.backends().record(1).expect("backend")[5].store(0, Relaxed);
    assert_eq!(run().retval, XDP_DROP);
    assert_eq!(count(&director, Reason::NoBackendDrop).packets, 1);
}

#[test]
fn an_adopted_table_forwards_with_the_new_program() {
    let scratch = Scratch::new();
    let first = director(&scratch.state());
    serve(&first);
    drop(first);
    let second = director(&scratch.state());
    let wrapped = test_run(second.program(), &syn(VIP), None, 1).expect("a run");
    assert!(matches!(wrapped.retval, XDP_TX | XDP_REDIRECT), "{}", wrapped.retval);
    assert_eq!(count(&second, Reason::RingNew).packets, 1);
}

#[test]
fn the_ingress_interface_of_a_run_can_be_chosen() {
    let scratch = Scratch::new();
    let director = director(&scratch.state());
    serve(&director);
    crate::in_netns(|rtnl| {
        let (index, _) = crate::veth(rtnl, "v0", 1500);
        let to = |ifindex: u32| {
            let record = director.backends().record(1).expect("backend");
            let sum = record[6].load(Relaxed) & !0xffff_ffff;
            record[6].store(sum | u64::from(ifindex), Relaxed);
        };
        to(index);
        let here = test_run(director.program(), &syn(VIP), Some(index), 1).expect("a run");
        assert_eq!(here.retval, XDP_TX, "out where it came in");
        to(index + 1);
        let there = test_run(director.program(), &syn(VIP), Some(index), 1).expect("a run");
        assert_eq!(there.retval, XDP_REDIRECT, "out elsewhere");
    });
}

#[test]
fn live_frames_cross_the_wire_and_each_is_counted() {
    const FRAMES: u32 = 1000;
    let scratch = Scratch::new();
    let mut director = director(&scratch.state());
    crate::in_netns(|rtnl| {
        // Nobody else sends: a new link would look for IPv6 routers.
        Sysctl::ipv6_conf("default", "disable_ipv6").expect("a name").set("1").expect("set");
        let (index, peer) = crate::veth(rtnl, "v0", 1500);
        director.attach(index, XdpRequest::Native).expect("attached");
        // Frames only leave an interface whose own end has a program or GRO too.
        let _pass = attach_pass(peer, None).expect("attached");
        let smallest =
            LoadOptions { max_entries: vec![("BENCH_LRU".to_owned(), 1)], ..LoadOptions::default() };
        let sender = load("bench", &smallest).expect("load").program("base").expect("a program that sends");
        live_run(&sender, &syn(VIP), peer, FRAMES).expect("sent");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while count(&director, Reason::NotService).packets < u64::from(FRAMES) {
            assert!(std::time::Instant::now() < deadline, "{:?}", count(&director, Reason::NotService));
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let counted = count(&director, Reason::NotService);
        assert_eq!(counted, Count { packets: u64::from(FRAMES), bytes: 60 * u64::from(FRAMES) });
        let error = live_run(&sender, &syn(VIP), 4242, 1).expect_err("no such interface");
        crate::has_advice(&error);
    });
}
