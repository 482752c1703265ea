//! What holds of the director's datapath for any tables, any packets, in any order.
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use weir_abi::{HashFields, Reason, Traits, Verdict};
use weir_datapath::{Outcome, process};
use weir_testkit::fuzz::once;
use weir_testkit::packet::{Builder, fragments, tagged};
use weir_testkit::{
    Image, MemoryFrame, MemoryTables, Random, RealServers, ServiceSpec, Travel, random_image, random_packet,
};

const IFINDEX: u32 = 1;

/// The addresses of an address family: VIP, client, a router between, real servers.
struct Side {
    vip: &'static str,
    client: &'static str,
    router: &'static str,
    servers: [&'static str; 3],
    /// ICMP errors.
    errors: [u8; 3],
}

const SIDES: [Side; 2] = [
    Side {
        vip: "192.0.2.10",
        client: "198.51.100.7",
        router: "203.0.113.1",
        servers: ["10.0.0.11", "10.0.0.12", "10.0.0.13"],
        errors: [3, 11, 12],
    },
    Side {
        vip: "2001:db8:1::10",
        client: "2001:db8:7::7",
        router: "2001:db8:9::1",
        servers: ["2001:db8::11", "2001:db8::12", "2001:db8::13"],
        errors: [1, 2, 3],
    },
];

impl Side {
    fn of(random: &mut Random) -> &'static Self {
        &SIDES[random.below(2)]
    }
    fn service(&self, flags: u32) -> ServiceSpec {
        ServiceSpec { protocol: 17, port: 0, flags, ..ServiceSpec::tcp(self.vip, &self.servers) }
    }
    /// A datagram of one of the clients.
    fn from(&self, client: u8, port: u16) -> Builder {
        let mut builder = Builder::new(self.client, self.vip).payload(64);
        builder.source = match builder.source {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + u32::from(client)).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + u128::from(client)).to_be_bytes()),
        };
        builder.payload[0] = port as u8;
        builder
    }
}

/// Runs one packet.
fn run(tables: &MemoryTables, packet: &[u8]) -> (Outcome, Vec<u8>) {
    let mut frame = MemoryFrame::new(packet);
    let outcome = process(&mut frame, &tables);
    (outcome, frame.bytes().to_vec())
}

/// The outer destination of a frame with no tag that is wrapped in IP of its own family.
fn home(frame: &[u8]) -> Vec<u8> {
    frame[if frame[12] == 0x08 { 30..34 } else { 38..54 }].to_vec()
}

/// The address as [`home`] has it.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Takes one of the backends down, another one than is down already; its address.
fn take_one_down(random: &mut Random, image: &mut Image, tables: &MemoryTables) -> Option<Vec<u8>> {
    let alive = image.alive(0);
    if alive.len() < 2 {
        return None;
    }
    let address = alive[random.below(alive.len())];
    let at = image.specs[0].backends.iter().position(|backend| *backend == address)?;
    image.take_down(at as u32 + 1, true);
    tables.update(image);
    Some(octets(address))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// [`once`] says what.
    #[test]
    fn every_packet_has_one_reason_and_passes_unchanged_or_leaves_whole(seed: u64) {
        let mut random = Random(seed);
        let mut image = random_image(&mut random, IFINDEX);
        let tables = MemoryTables::new(&image);
        for number in 1..=20u64 {
            if random.one_in(10) && image.backends.len() > 1 {
                image.take_down(1 + random.below(image.backends.len() - 1) as u32, true);
                tables.update(&image);
            }
            once(&image, &tables, &random_packet(&mut random));
            prop_assert_eq!(tables.reasons().values().map(|count| count.packets).sum::<u64>(), number);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// A flow stays with its backend for as long as that lives, whatever happens to others; then it moves once.
    #[test]
    fn a_flow_keeps_its_backend(seed: u64) {
        let mut random = Random(seed);
        let side = Side::of(&mut random);
        let flags = if random.one_in(2) { Traits::TURNS } else { 0 };
        let mut image = Image::new(vec![side.service(flags)], IFINDEX);
        let tables = MemoryTables::new(&image);
        let mut homes: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for _ in 0..300 {
            if random.one_in(60)
                && let Some(down) = take_one_down(&mut random, &mut image, &tables)
            {
                homes.retain(|_, home| *home != down);
            }
            let port = random.below(40) as u16;
            let (outcome, bytes) = run(&tables, &side.from(0, port).udp(port, 80));
            let known = homes.contains_key(&port);
            prop_assert_eq!(outcome.reason == Reason::FlowHit, known, "{:?}", outcome.reason);
            prop_assert_eq!(homes.entry(port).or_insert_with(|| home(&bytes)), &home(&bytes));
        }
    }

    /// The same of a client, whatever ports it comes from and goes to.
    #[test]
    fn persistence_keeps_a_client(seed: u64) {
        let mut random = Random(seed);
        let side = Side::of(&mut random);
        let spec = ServiceSpec {
            hash: HashFields::Source,
            ..side.service(Traits::PERSISTENT | if random.one_in(2) { Traits::TURNS } else { 0 })
        };
        let mut image = Image::new(vec![spec], IFINDEX);
        let tables = MemoryTables::new(&image);
        let mut homes: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for _ in 0..300 {
            if random.one_in(60)
                && let Some(down) = take_one_down(&mut random, &mut image, &tables)
            {
                homes.retain(|_, home| *home != down);
            }
            let client = random.below(30) as u8;
            let (from, to) = (random.bits() as u16, 1 + random.below(1000) as u16);
            let (outcome, bytes) = run(&tables, &side.from(client, from).udp(from, to));
            prop_assert_eq!(outcome.reason == Reason::FlowHit, homes.contains_key(&client));
            prop_assert_eq!(homes.entry(client).or_insert_with(|| home(&bytes)), &home(&bytes));
        }
    }

    /// Later fragments go where their packet's first one went last, or nowhere; in any order.
    #[test]
    fn fragments_follow_their_first_or_go_nowhere(seed: u64) {
        let mut random = Random(seed);
        let side = Side::of(&mut random);
        let mut image = Image::new(vec![side.service(Traits::TURNS)], IFINDEX);
        let tables = MemoryTables::new(&image);
        let mut homes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let first_id = random.bits() as u32;
        for _ in 0..200 {
            if random.one_in(80)
                && let Some(down) = take_one_down(&mut random, &mut image, &tables)
            {
                homes.retain(|_, home| *home != down);
            }
            let id = first_id.wrapping_add(random.below(24) as u32);
            let id = if side.router.contains(':') { id } else { id & 0xffff };
            let port = random.below(20) as u16;
            let [first, later] = fragments(&side.from(0, port).udp(port, 80), 8 * (1 + random.below(4)), id);
            if random.one_in(3) {
                let (outcome, bytes) = run(&tables, &first);
                prop_assert_eq!(outcome.reason.verdict(), Verdict::Forward);
                homes.insert(id, home(&bytes));
                continue;
            }
            let (outcome, bytes) = run(&tables, &later);
            let Some(of_first) = homes.get(&id) else {
                prop_assert_eq!(outcome.reason, Reason::FragmentOrphan);
                continue;
            };
            prop_assert_eq!(outcome.reason, Reason::FragmentFollowed);
            prop_assert_eq!(&home(&bytes), of_first);
        }
    }

    /// An ICMP error about a flow goes to the flow's backend, and leaves no trace.
    #[test]
    fn an_icmp_error_goes_to_the_backend_of_its_flow(seed: u64) {
        let mut random = Random(seed);
        let side = Side::of(&mut random);
        let image = Image::new(vec![side.service(Traits::TURNS)], IFINDEX);
        let tables = MemoryTables::new(&image);
        let mut homes: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for _ in 0..200 {
            let port = random.below(40) as u16;
            if random.one_in(2) {
                let (_, bytes) = run(&tables, &side.from(0, port).udp(port, 80));
                prop_assert_eq!(homes.entry(port).or_insert_with(|| home(&bytes)), &home(&bytes));
                continue;
            }
            let reply = Builder::new(side.vip, side.client).payload(40).udp(80, port);
            let error = Builder { payload: reply[14..].to_vec(), ..Builder::new(side.router, side.vip) };
            let error = error.icmp(side.errors[random.below(3)], random.below(4) as u8, [0; 4]);
            let before = (tables.flow_words(), tables.service_words());
            let (outcome, bytes) = run(&tables, &error);
            prop_assert_eq!(outcome.reason, Reason::IcmpForwarded);
            prop_assert_eq!((tables.flow_words(), tables.service_words()), before, "it left a trace");
            if let Some(of_flow) = homes.get(&port) {
                prop_assert_eq!(&home(&bytes), of_flow);
            }
        }
    }

    /// What a real server unwraps is what was sent to the VIP, in whatever it travelled.
    #[test]
    fn wrapping_and_unwrapping_is_nothing(seed: u64, tos: u8, len in 0_usize..1300) {
        let mut random = Random(seed);
        let mut seen = BTreeSet::new();
        for encapsulation in [Travel::Ipip, Travel::IpipSpread, Travel::Gue] {
            for side in &SIDES {
                for server in ["10.0.0.11", "2001:db8::11"] {
                    let spec = ServiceSpec {
                        encapsulation,
                        vlan: if random.one_in(2) { 0 } else { 7 },
                        backends: vec![server.parse().expect("an address")],
                        ..side.service(0)
                    };
                    let image = Image::new(vec![spec], IFINDEX);
                    let tables = MemoryTables::new(&image);
                    let port = random.bits() as u16;
                    let whole = side.from(0, port).payload(len).tos(tos).udp(port, 80);
                    let [first, later] = fragments(&whole, 8, port.into());
                    for packet in [whole.clone(), tagged(&whole, &[(0x8100, port)]), first, later] {
                        let (outcome, bytes) = run(&tables, &packet);
                        prop_assert_eq!(outcome.reason.verdict(), Verdict::Forward);
                        prop_assert_eq!(RealServers(&image).get_back(&packet, &bytes), Ok(()));
                        seen.insert(outcome.reason);
                    }
                }
            }
        }
        prop_assert!(seen.contains(&Reason::FragmentFollowed));
    }
}
