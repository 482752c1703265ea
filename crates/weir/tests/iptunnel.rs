//! The `iptunnel` program as the kernel verified it, against the same packet logic on the host: the same bytes, the same
//! verdict, the same counters. Needs root.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;

use weir_abi::iptunnel::{DROPS, DropReason, MTU, RXCNT, Tunnel, VIP2TNL, Vip};
use weir_datapath::iptunnel::{Pass, Tables, Verdict, process};
use weir_kernel::bpf::{LoadOptions, Loaded, Program, RawMap, load, test_run};
use weir_testkit::{MemoryFrame, Random, packet::Builder};
use weir_wire::IpProtocol;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

const MTU_BYTES: u32 = 1500;
const SYN: u8 = 2;
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// The host's side.
#[derive(Default)]
struct HostTables {
    tunnels: HashMap<Vip, Tunnel>,
    id: Cell<[u8; 2]>,
    wrapped: RefCell<HashMap<u32, u64>>,
    dropped: RefCell<HashMap<u32, u64>>,
}

impl Tables for HostTables {
    fn tunnel(&self, vip: &Vip) -> Option<Tunnel> {
        self.tunnels.get(vip).copied()
    }
    fn mtu(&self) -> u32 {
        MTU_BYTES
    }
    fn fresh_id(&self) -> [u8; 2] {
        self.id.get()
    }
    fn count(&self, protocol: u8) {
        *self.wrapped.borrow_mut().entry(protocol.into()).or_default() += 1;
    }
    fn count_drop(&self, reason: DropReason) {
        *self.dropped.borrow_mut().entry(reason as u32).or_default() += 1;
    }
}

/// Both sides with the same entries.
struct Pair {
    host: HostTables,
    program: Program,
    rxcnt: RawMap,
    drops: RawMap,
    loaded: Loaded,
}

impl Pair {
    fn new() -> Self {
        let mut loaded = load("iptunnel", &LoadOptions::default()).expect("the object loads (as root)");
        let program = loaded.program("xdp_tx_iptunnel").expect("the verifier accepts the program");
        let map = |name| loaded.map(name).expect("the object has the map");
        let (vip2tnl, rxcnt, drops, mtu) = (map(VIP2TNL), map(RXCNT), map(DROPS), map(MTU));
        mtu.set(&[0; 4], &MTU_BYTES.to_ne_bytes(), 0).expect("the MTU is stored");
        let mut host = HostTables::default();
        let entries = [
            ("192.0.2.1", 80, 6, "10.1.1.1", "10.1.1.2", NEXT_HOP),
            ("192.0.2.1", 53, 17, "10.1.1.1", "10.1.1.2", NEXT_HOP),
            ("192.0.2.2", 80, 6, "2001:db8:9::1", "2001:db8:9::2", NEXT_HOP),
            ("192.0.2.3", 0, 1, "255.255.255.254", "255.255.254.255", NEXT_HOP),
            ("192.0.2.3", 80, 6, "10.1.1.1", "10.1.1.2", [0; 6]),
            ("2001:db8:1::1", 80, 6, "2001:db8:9::1", "2001:db8:9::2", NEXT_HOP),
            ("2001:db8:1::1", 0, 58, "2001:db8:9::1", "2001:db8:9::2", NEXT_HOP),
            ("2001:db8:1::2", 80, 6, "10.1.1.1", "10.1.1.2", NEXT_HOP),
        ];
        for (vip, port, protocol, source, destination, dmac) in entries {
            let vip = Vip::new(ip(vip), port, protocol);
            let tunnel = Tunnel::new(ip(source), ip(destination), dmac);
            vip2tnl.set(&vip.to_bytes(), &tunnel.to_bytes(), 1).expect("the entry is stored");
            host.tunnels.insert(vip, tunnel);
        }
        Self { host, program, rxcnt, drops, loaded }
    }

    /// Runs a packet through both, and compares.
    fn run(&self, packet: &[u8]) -> Verdict {
        let kernel = test_run(&self.program, packet, None, 1).expect("the program runs");
        let mut frame = MemoryFrame::new(packet);
        if kernel.retval == XDP_TX && kernel.packet[12..14] == [8, 0] {
            // The one thing the host cannot foretell.
            self.host.id.set([kernel.packet[18], kernel.packet[19]]);
        }
        let verdict = process(&mut frame, &self.host);
        let action = match verdict {
            Verdict::Pass(_) => XDP_PASS,
            Verdict::Drop(_) => XDP_DROP,
            Verdict::Transmit => XDP_TX,
        };
        assert_eq!(kernel.retval, action, "{verdict:?} on the host for {packet:02x?}");
        assert_eq!(kernel.packet, frame.bytes(), "{verdict:?} for {packet:02x?}");
        verdict
    }

    /// Compares every counter.
    fn compare_counters(&self) {
        for (map, host, count) in
            [(&self.rxcnt, &self.host.wrapped, 256), (&self.drops, &self.host.dropped, 3)]
        {
            for index in 0..count {
                let values = map.get_per_cpu(&u32::to_ne_bytes(index)).expect("the counter is read");
                let sum: u64 = values
                    .expect("the array has the index")
                    .iter()
                    .map(|value| u64::from_ne_bytes(value.as_slice().try_into().expect("eight bytes")))
                    .sum();
                let expected = host.borrow().get(&index).copied().unwrap_or(0);
                assert_eq!(sum, expected, "{}[{index}]", map.name());
            }
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// What `bpftool map show` prints for the sample.
#[test]
fn maps_have_the_samples_shapes() {
    let pair = Pair::new();
    for (name, map_type, key, value) in [("vip2tnl", 1, 24, 40), ("rxcnt", 6, 4, 8)] {
        let info = pair.loaded.map(name).expect("the object has the map").info();
        assert_eq!(
            (info.map_type, info.key_size, info.value_size, info.max_entries, info.flags),
            (map_type, key, value, 256, 0),
            "{name}"
        );
    }
}

#[test]
fn kernel_and_host_agree_on_every_case() {
    let pair = Pair::new();
    let v4 = |destination| Builder::new("198.51.100.7", destination);
    let v6 = |destination| Builder::new("2001:db8:5::7", destination);
    let too_big = Verdict::Drop(DropReason::TooBig);
    let not_vip = Verdict::Pass(Pass::NotVip);
    let mut fragment = v4("192.0.2.1").tcp(40_000, 80, SYN);
    fragment[20] = 0x20;
    let mut vlan = v4("192.0.2.1").tcp(40_000, 80, SYN);
    vlan.splice(12..12, [0x81, 0, 0, 5]);
    let mut group = v4("192.0.2.1").tcp(40_000, 80, SYN);
    group[0] |= 1;
    let ping = [8, 0, 0, 0, 0, 1, 0, 1];
    for (packet, verdict) in [
        (v4("192.0.2.1").tos(0xb9).tcp(40_000, 80, SYN), Verdict::Transmit),
        (v4("192.0.2.1").udp(40_000, 53), Verdict::Transmit),
        (v4("192.0.2.1").options(&[7, 7, 4, 0, 0, 80, 0, 80]).tcp(40_000, 80, SYN), Verdict::Transmit),
        (v4("192.0.2.2").tos(1).tcp(40_000, 80, SYN), Verdict::Transmit),
        (v4("192.0.2.3").ip(IpProtocol::ICMP, &ping), Verdict::Transmit),
        (v6("2001:db8:1::1").tos(0x2e).tcp(40_000, 80, SYN), Verdict::Transmit),
        (v6("2001:db8:1::1").ip(IpProtocol::ICMPV6, &ping), Verdict::Transmit),
        (v4("192.0.2.1").payload(1440).tcp(40_000, 80, SYN), Verdict::Transmit),
        (v4("192.0.2.1").payload(1441).tcp(40_000, 80, SYN), too_big),
        (v4("192.0.2.2").payload(1421).tcp(40_000, 80, SYN), too_big),
        (v4("192.0.2.3").tcp(40_000, 80, SYN), Verdict::Drop(DropReason::NoNextHop)),
        (v4("192.0.2.1").tcp(40_000, 81, SYN), not_vip),
        (v4("192.0.2.1").ip(IpProtocol::ICMP, &ping), not_vip),
        (v4("192.0.2.9").payload(0).ip(IpProtocol::TCP, &[0; 3]), Verdict::Pass(Pass::Malformed)),
        (v6("2001:db8:1::2").tcp(40_000, 80, SYN), Verdict::Pass(Pass::Unsupported)),
        (fragment, Verdict::Pass(Pass::Fragment)),
        (vlan, Verdict::Pass(Pass::NotIp)),
        (group, Verdict::Pass(Pass::Group)),
    ] {
        assert_eq!(pair.run(&packet), verdict, "{packet:02x?}");
    }
    pair.compare_counters();
}

/// The outer id is fresh for each packet, and never what happened to lie in the headroom.
#[test]
fn outer_ids_differ() {
    let pair = Pair::new();
    let packet = Builder::new("198.51.100.7", "192.0.2.1").tcp(40_000, 80, SYN);
    let ids: std::collections::BTreeSet<[u8; 2]> = (0..64)
        .map(|_| {
            let out = test_run(&pair.program, &packet, None, 1).expect("the program runs").packet;
            [out[18], out[19]]
        })
        .collect();
    assert!(ids.len() > 32, "64 packets had {} different ids", ids.len());
}

/// Packets near the entries with random bytes changed, and cut anywhere.
#[test]
fn kernel_and_host_agree_on_random_packets() {
    let pair = Pair::new();
    let mut random = Random(0x1997);
    let mut seen = HashMap::<String, u32>::new();
    for _ in 0..30_000 {
        let mut packet = random_packet(&mut random);
        for _ in 0..random.below(3) {
            let at = random.below(packet.len());
            packet[at] = random.bits() as u8;
        }
        if random.one_in(8) {
            packet.truncate(14 + random.below(packet.len() - 14));
        }
        *seen.entry(format!("{:?}", pair.run(&packet))).or_default() += 1;
    }
    pair.compare_counters();
    for verdict in
        ["Transmit", "Pass(NotVip)", "Pass(Malformed)", "Pass(NotIp)", "Pass(Fragment)", "Pass(Group)"]
    {
        assert!(seen.get(verdict).is_some_and(|count| *count > 20), "{verdict} is hardly seen: {seen:?}");
    }
}

fn random_packet(random: &mut Random) -> Vec<u8> {
    let last = random.below(4);
    let builder = if random.one_in(2) {
        Builder::new("198.51.100.7", &format!("192.0.2.{last}"))
    } else {
        Builder::new("2001:db8:5::7", &format!("2001:db8:1::{last}"))
    };
    let builder = builder.tos(random.bits() as u8).payload(random.below(1600));
    let builder =
        if builder.source.is_ipv4() { builder.options(&vec![1; 4 * random.below(11)]) } else { builder };
    let port = [80, 53, 81][random.below(3)];
    match random.below(4) {
        0 => builder.udp(40_000, port),
        1 => builder.ip(IpProtocol([1, 58, 44, 132][random.below(4)]), &[8, 0, 0, 80]),
        _ => builder.tcp(40_000, port, SYN),
    }
}
