//! The agent's programs as the kernel verified them, against the same packet logic on the host: equal verdicts, reasons,
//! counters and bytes, for packets made at random around the addresses the tables hold.
//!
//! Privileged: without root these tests fail; `cargo xtask test` runs them with what they need.
use std::cell::RefCell;
use std::net::IpAddr;
use weir_abi::agent::{
    self, AddressKey, Clamp, ClampReason, DirectorKey, GuePort, Reason, SegmentLimits, Verdict, role,
};
use weir_abi::{Address, Count, Family};
use weir_datapath::decap::{AgentTables, unwrap, unwrap_tagged};
use weir_datapath::mss::{SegmentTables, clamp};
use weir_kernel::bpf::{LoadOptions, Loaded, RawMap, load, test_run};
use weir_testkit::packet::Builder;
use weir_testkit::{MemoryFrame, Random};
use weir_wire::{Gue, IpProtocol};
use zerocopy::IntoBytes as _;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const OWN: [&str; 2] = ["10.0.0.11", "2001:db8:a::11"];
const DIRECTORS: [(&str, u8); 2] = [("10.0.1.0", 24), ("2001:db8:d::", 64)];
const DIRECTOR_ADDRESSES: [&str; 2] = ["10.0.1.77", "2001:db8:d::77"];
const STRANGERS: [&str; 2] = ["10.0.2.77", "2001:db8:e::77"];
const LIMITS: SegmentLimits = SegmentLimits::new(1440, 1420);
const GUE_PORT: u16 = Gue::PORT;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn ours(addresses: &[&str], family: Family, address: Address) -> bool {
    addresses.iter().any(|text| Family::of(ip(text)) == family && Address::from(ip(text)) == address)
}

/// The same knowledge as in the kernel's maps, and what was counted.
#[derive(Default)]
struct Host {
    unwrapped: RefCell<Vec<(Reason, u64)>>,
    clamped: RefCell<Vec<(ClampReason, u64)>>,
}

impl AgentTables for Host {
    fn is_director(&self, family: Family, address: Address) -> bool {
        let octets = address.octets();
        match family {
            Family::V4 => octets[..3] == [10, 0, 1],
            Family::V6 => octets[..8] == [0x20, 1, 0x0d, 0xb8, 0, 0x0d, 0, 0],
        }
    }
    fn is_own(&self, family: Family, address: Address) -> bool {
        ours(&OWN, family, address)
    }
    fn is_vip(&self, family: Family, address: Address) -> bool {
        ours(&VIPS, family, address)
    }
    fn gue_port(&self) -> GuePort {
        GuePort::new(GUE_PORT)
    }
    fn count(&self, reason: Reason, bytes: u64) {
        self.unwrapped.borrow_mut().push((reason, bytes));
    }
}

impl SegmentTables for Host {
    fn is_vip(&self, family: Family, address: Address) -> bool {
        ours(&VIPS, family, address)
    }
    fn limits(&self) -> SegmentLimits {
        LIMITS
    }
    fn count(&self, reason: ClampReason, bytes: u64) {
        self.clamped.borrow_mut().push((reason, bytes));
    }
}

struct Kernel {
    object: Loaded,
    reasons: RawMap,
    clamps: RawMap,
}

impl Kernel {
    fn new() -> Self {
        let object = load("agent", &LoadOptions::default())
            .expect("loading the agent needs root; `cargo xtask test` runs this with sudo");
        let map = |name| object.map(name).expect("the agent has this map");
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        for (texts, role) in [(VIPS, role::VIP), (OWN, role::OWN)] {
            for text in texts {
                let key = AddressKey::new(Family::of(ip(text)), ip(text).into());
                map(agent::ADDRESSES)
                    .set(&bytes(&key.0), &role.to_ne_bytes(), 0)
                    .expect("room for an address");
            }
        }
        for (text, len) in DIRECTORS {
            let key = DirectorKey::network(Family::of(ip(text)), ip(text).into(), len);
            map(agent::DIRECTORS).set(&bytes(&key.0), &1u64.to_ne_bytes(), 0).expect("room for a network");
        }
        let config = bytes(&[agent::IDENTITY, LIMITS.0, GuePort::new(GUE_PORT).0]);
        map(agent::CONFIG).set(&0u32.to_ne_bytes(), &config, 0).expect("one record");
        Self { reasons: map(agent::REASONS), clamps: map(agent::CLAMPS), object }
    }

    fn run(&mut self, program: &str, packet: &[u8]) -> (u32, Vec<u8>) {
        let program = self.object.program(program).expect("the verifier accepts the agent");
        let run = test_run(program, packet, None, 1).expect("test run");
        (run.retval, run.packet)
    }
}

fn assert_counted_once(before: &[Count], after: &[Count], index: u32, bytes: u64, what: &str) {
    for (at, (before, after)) in before.iter().zip(after).enumerate() {
        let mut expected = *before;
        if at == index as usize {
            expected.packets += 1;
            expected.bytes += bytes;
        }
        assert_eq!(*after, expected, "counter {at} for {what}");
    }
}

fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len())]
}

/// Mostly packets that one condition keeps from being unwrapped, or none; some with bytes changed, some noise.
fn arriving(random: &mut Random) -> Vec<u8> {
    if random.one_in(20) {
        return (0..34 + random.below(80)).map(|_| random.bits() as u8).collect();
    }
    let inner_family = random.below(2);
    let outer_family = random.below(2);
    let vip = if random.one_in(8) { OWN[inner_family] } else { VIPS[inner_family] };
    let inner = Builder::new(STRANGERS[inner_family], vip)
        .tos(random.bits() as u8)
        .payload(random.below(100))
        .tcp(40000, 80, 0x10);
    let source = if random.one_in(8) { STRANGERS[outer_family] } else { DIRECTOR_ADDRESSES[outer_family] };
    let destination = if random.one_in(8) { STRANGERS[outer_family] } else { OWN[outer_family] };
    let options =
        if outer_family == 0 && random.one_in(4) { vec![1; 4 * random.below(11)] } else { Vec::new() };
    let mut outer = Builder::new(source, destination).tos(random.bits() as u8).options(&options);
    outer.payload = inner[14..].to_vec();
    let right = if inner_family == 0 { IpProtocol::IPV4 } else { IpProtocol::IPV6 };
    let protocol = if random.one_in(8) {
        pick(random, &[IpProtocol::IPV4, IpProtocol::IPV6, IpProtocol::TCP, IpProtocol::FRAGMENT])
    } else {
        right
    };
    let extension = pick(random, &[IpProtocol::FRAGMENT, IpProtocol::DESTINATION_OPTIONS]);
    let mut packet = match outer_family {
        1 if random.one_in(10) => outer.ip(extension, &[right.0, 0, 1, 4, 0, 0, 0, 0]),
        _ if random.one_in(2) => {
            if random.one_in(2) {
                outer.payload.splice(..0, Gue::new(protocol).as_bytes().iter().copied());
            }
            outer.udp(random.bits() as u16, if random.one_in(16) { 53 } else { GUE_PORT })
        }
        _ => outer.ip(protocol, &[]),
    };
    for _ in 0..if random.one_in(3) { random.below(4) } else { 0 } {
        push_tag(random, &mut packet);
    }
    mutate(random, &mut packet, 8 + 14 + 60 + 12 + 40);
    packet
}

/// Puts a VLAN tag behind the Ethernet addresses.
fn push_tag(random: &mut Random, packet: &mut Vec<u8>) {
    let kind: [u8; 2] = pick(random, &[[0x81, 0x00], [0x88, 0xa8]]);
    let tci = (random.bits() as u16).to_be_bytes();
    packet.splice(12..12, [kind, tci].concat());
}

/// Segments from VIPs and others, with options in any order and place.
fn leaving(random: &mut Random) -> Vec<u8> {
    let family = random.below(2);
    let source = if random.one_in(6) { OWN[family] } else { VIPS[family] };
    let mut options: Vec<u8> = Vec::new();
    for _ in 0..random.below(6) {
        match random.below(5) {
            0 => options.push(1),
            1 => options.extend([4, 2]),
            2 => options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            3 => options.extend([3, 3, 7]),
            _ => options.extend([2, 4, random.bits() as u8 & 7, random.bits() as u8]),
        }
    }
    options.resize(options.len().next_multiple_of(4).min(40), 0);
    let mut builder = Builder::new(source, STRANGERS[family]);
    builder.payload.clone_from(&options);
    if random.one_in(3) {
        builder.payload.extend([0x5a; 30]);
    }
    if family == 0 && random.one_in(8) {
        builder.options = vec![1; 4 * random.below(11)];
    }
    let flags = pick(random, &[0x02, 0x12, 0x12, 0x10]);
    let mut packet = builder.tcp(80, 40000, flags);
    let tcp = if family == 0 { 34 + builder.options.len() } else { 54 };
    packet[tcp + 12] = (((20 + options.len()) / 4) << 4) as u8;
    mutate(random, &mut packet, tcp + 60);
    packet
}

fn mutate(random: &mut Random, packet: &mut Vec<u8>, head: usize) {
    if random.one_in(3) {
        for _ in 0..=random.below(3) {
            let at = 12 + random.below(packet.len().min(head) - 12);
            packet[at] = random.bits() as u8;
        }
    }
    if random.one_in(8) {
        packet.truncate(34 + random.below(packet.len() - 33));
    }
}

/// Whether BPF_PROG_TEST_RUN takes the packet for a tc program: it refuses IP packets shorter than their fixed header.
fn tc_takes(packet: &[u8]) -> bool {
    match packet[12..14] {
        [0x08, 0x00] => packet.len() >= 34,
        [0x86, 0xdd] => packet.len() >= 54,
        _ => true,
    }
}

const ROUNDS: usize = 30_000;

fn unwrapping_agrees(program: &str, seed: u64) {
    let is_tc = program == agent::UNWRAP_TC;
    let (drop, pass) = if is_tc { (TC_ACT_SHOT, TC_ACT_UNSPEC) } else { (XDP_DROP, XDP_PASS) };
    let (mut kernel, mut random) = (Kernel::new(), Random(seed));
    let mut seen = [0usize; Reason::COUNT as usize];
    let mut before = kernel.reasons.counts(Reason::COUNT).expect("readable");
    for round in 0..ROUNDS {
        let packet = arriving(&mut random);
        if is_tc && !tc_takes(&packet) {
            continue;
        }
        let (host, mut frame) = (Host::default(), MemoryFrame::new(&packet));
        let reason = if is_tc { unwrap(&mut frame, &host) } else { unwrap_tagged(&mut frame, &host) };
        seen[reason as usize] += 1;
        let (retval, out) = kernel.run(program, &packet);
        let what = format!("seed {seed} round {round} {}: {packet:02x?}", reason.label());
        match reason.verdict() {
            Verdict::Drop => assert_eq!(retval, drop, "{what}"),
            Verdict::Pass => {
                assert_eq!(retval, pass, "{what}");
                assert_eq!(out, packet, "{what}");
            }
            Verdict::Unwrap => {
                assert_eq!(retval, pass, "{what}");
                assert_eq!(out, frame.bytes(), "{what}");
            }
        }
        let after = kernel.reasons.counts(Reason::COUNT).expect("readable");
        assert_counted_once(&before, &after, reason as u32, packet.len() as u64, &what);
        assert_eq!(*host.unwrapped.borrow(), [(reason, packet.len() as u64)]);
        before = after;
    }
    // The packets must be varied enough to mean something: every reason but the one only a kernel can give.
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::CannotShrink) {
        assert!(seen[*reason as usize] > 0, "no packet had the reason {}", reason.label());
    }
}

#[test]
fn xdp_and_host_unwrap_alike() {
    unwrapping_agrees(agent::UNWRAP_XDP, 1);
}

#[test]
fn xdp_for_several_buffers_and_host_unwrap_alike() {
    unwrapping_agrees(agent::UNWRAP_FRAGS, 4);
}

/// What is behind the first buffer is part of the packet: its length is checked against all of it and counted whole.
#[test]
fn a_packet_in_several_buffers_is_unwrapped_whole() {
    let mut kernel = Kernel::new();
    for size in [1_400, 3_000, 4_500, 8_900, 20_000] {
        let inner = Builder::new(STRANGERS[0], VIPS[0]).payload(size).tcp(40000, 80, 0x10);
        let mut outer = Builder::new(DIRECTOR_ADDRESSES[1], OWN[1]);
        outer.payload = inner[14..].to_vec();
        let packet = outer.ip(IpProtocol::IPV4, &[]);
        let before = kernel.reasons.counts(Reason::COUNT).expect("readable");
        let (retval, out) = kernel.run(agent::UNWRAP_FRAGS, &packet);
        assert_eq!(retval, XDP_PASS, "{size}");
        assert!(out == inner, "{size}: unwrapped to something else");
        let after = kernel.reasons.counts(Reason::COUNT).expect("readable");
        let unwrapped = Reason::Unwrapped4In6 as u32;
        assert_counted_once(&before, &after, unwrapped, packet.len() as u64, &format!("{size}"));
    }
}

#[test]
fn tc_and_host_unwrap_alike() {
    unwrapping_agrees(agent::UNWRAP_TC, 2);
}

#[test]
fn tc_and_host_clamp_alike() {
    let (mut kernel, mut random) = (Kernel::new(), Random(3));
    let mut seen = [0usize; ClampReason::COUNT as usize];
    let mut before = kernel.clamps.counts(ClampReason::COUNT).expect("readable");
    for round in 0..ROUNDS {
        let packet = leaving(&mut random);
        if !tc_takes(&packet) {
            continue;
        }
        let (host, mut frame) = (Host::default(), MemoryFrame::new(&packet));
        let reason = clamp(&mut frame, &host);
        seen[reason as usize] += 1;
        let (retval, out) = kernel.run(agent::CLAMP_MSS, &packet);
        let what = format!("round {round} {}: {packet:02x?}", reason.label());
        assert_eq!(retval, TC_ACT_UNSPEC, "{what}");
        assert_eq!(out, frame.bytes(), "{what}");
        assert_eq!(out == packet, reason.verdict() == Clamp::Untouched, "{what}");
        let after = kernel.clamps.counts(ClampReason::COUNT).expect("readable");
        assert_counted_once(&before, &after, reason as u32, packet.len() as u64, &what);
        assert_eq!(*host.clamped.borrow(), [(reason, packet.len() as u64)]);
        before = after;
    }
    for reason in ClampReason::ALL {
        assert!(seen[*reason as usize] > 0, "no packet had the reason {}", reason.label());
    }
}
