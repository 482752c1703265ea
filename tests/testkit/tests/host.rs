//! Fixtures and properties of the datapath as compiled for the host.
use proptest::prelude::*;
use std::sync::LazyLock;
use weir_abi::{BackendState, Encapsulation, Reason, Verdict};
use weir_datapath::{Action, process};
use weir_testkit::packet::{Builder, fragments};
use weir_testkit::{
    Fixture, How, Image, MemoryFrame, MemoryTables, Random, SPREAD, ServiceSpec, Travel, fixtures, outer,
    random_image, random_packet,
};

const IFINDEX: u32 = 1;

#[test]
fn every_fixture_holds_with_exact_counters() {
    let failed: Vec<String> = fixtures(IFINDEX).iter().filter_map(|fixture| hold(fixture).err()).collect();
    assert!(failed.is_empty(), "{} fixtures fail:\n{}", failed.len(), failed.join("\n"));
}

/// Sends a fixture's packets through the datapath; `Err` says what is the first to be otherwise.
fn hold(fixture: &Fixture) -> Result<(), String> {
    let tables = MemoryTables::new(&fixture.image);
    let mut held = fixture.held(IFINDEX);
    for (number, step) in fixture.steps.iter().enumerate() {
        let problem = |what: String| Err(format!("{}, packet {number}: {what}", fixture.name));
        let mut reasons = tables.reasons();
        let backends = |tables: &MemoryTables| -> u64 {
            tables.backend_counts().values().map(|count| count.packets).sum()
        };
        let before = backends(&tables);
        let mut frame = MemoryFrame::new(&step.input);
        let outcome = process(&mut frame, &&tables);
        if outcome.reason != step.reason {
            return problem(format!("{} instead of {}", outcome.reason.label(), step.reason.label()));
        }
        let count = reasons.entry(step.reason).or_default();
        count.packets += 1;
        count.bytes += step.input.len() as u64;
        if tables.reasons() != reasons {
            return problem(format!("counters by reason are {:?}, not {reasons:?}", tables.reasons()));
        }
        let to_backend = outcome.reason.verdict() == Verdict::Forward || outcome.reason == Reason::Local;
        if backends(&tables) - before != u64::from(to_backend) {
            return problem("counters by backend".into());
        }
        if let Err(what) = held.next(outcome.action, frame.bytes()) {
            return problem(what);
        }
    }
    Ok(())
}

#[test]
fn every_reason_but_the_unreachable_has_a_fixture() {
    let seen: Vec<Reason> =
        fixtures(IFINDEX).iter().flat_map(|fixture| fixture.steps.iter().map(|step| step.reason)).collect();
    // Not reachable by a packet alone: exhausted headroom, contradicting tables, a backend that went down.
    let other = [Reason::NoHeadroom, Reason::TableCorrupt, Reason::RingRehome];
    for reason in Reason::ALL {
        assert!(seen.contains(reason) || other.contains(reason), "no fixture for {}", reason.label());
    }
}

/// The fixture with forty flows, each seen twice.
fn spread() -> &'static Fixture {
    static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
        fixtures(IFINDEX).into_iter().find(|fixture| fixture.name == SPREAD).expect("it is there")
    });
    &FIXTURE
}

/// Runs one packet; panics inside `process` fail the property by themselves.
fn run(tables: &MemoryTables, packet: &[u8]) -> (weir_datapath::Outcome, Vec<u8>) {
    let mut frame = MemoryFrame::new(packet);
    let outcome = process(&mut frame, &tables);
    (outcome, frame.bytes().to_vec())
}

#[test]
fn a_flow_moves_when_its_backend_goes_down_and_only_then() {
    let fixture = spread();
    let tables = MemoryTables::new(&fixture.image);
    let first = run(&tables, &fixture.steps[0].input).1;
    let id = *tables.backend_counts().keys().next().expect("one backend was used");
    for (state, stays) in [(BackendState::Draining, true), (BackendState::Down, false)] {
        let word = &tables.backend_words(id)[5];
        let kind = u16::from_le_bytes([state as u8, Encapsulation::Ip4InIp4 as u8]);
        word.set(word.get() & 0x0000_ffff_ffff_ffff | u64::from(kind) << 48);
        let (outcome, bytes) = run(&tables, &fixture.steps[40].input);
        if stays {
            assert_eq!(outcome.reason, Reason::FlowHit);
            assert_eq!(bytes[30..34], first[30..34], "same real server");
        } else {
            // The ring still names the dead backend here, which user space never leaves so: refused, not misrouted.
            assert_eq!(outcome.reason, Reason::TableCorrupt);
        }
    }
}

/// What spreads packets over queues and paths (spread sources, GUE's source ports, flow labels) does so for later
/// fragments too, which have no ports of their own.
#[test]
fn later_fragments_spread_like_flows() {
    let base = ServiceSpec { protocol: 17, ..ServiceSpec::tcp("192.0.2.10", &["10.0.0.11"]) };
    // Outer source and UDP source port, or the flow label.
    type Free = fn(&[u8]) -> Vec<u8>;
    let cases: [(Travel, &str, Free); 3] = [
        (Travel::IpipSpread, "10.0.0.11", |frame| frame[28..30].to_vec()),
        (Travel::Gue, "10.0.0.11", |frame| frame[34..36].to_vec()),
        (Travel::Ipip, "2001:db8::11", |frame| frame[15..18].to_vec()),
    ];
    for (encapsulation, server, free) in cases {
        let backends = vec![server.parse().expect("an address")];
        let tables = MemoryTables::new(&Image::new(
            vec![ServiceSpec { encapsulation, backends, ..base.clone() }],
            IFINDEX,
        ));
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..32 {
            let packet = Builder::new("198.51.100.7", "192.0.2.10").payload(64).udp(1000, 80);
            let [first, later] = fragments(&packet, 16, id);
            run(&tables, &first);
            let (outcome, bytes) = run(&tables, &later);
            assert_eq!(outcome.reason, Reason::FragmentFollowed);
            seen.insert(free(&bytes));
        }
        assert!(seen.len() > 24, "{encapsulation:?}: 32 packets differ in only {} values", seen.len());
    }
}

#[test]
fn a_full_bucket_replaces_the_expired_then_the_unconfirmed_then_the_oldest() {
    use weir_abi::FlowEntry;
    let (now, idle) = (1000, 100);
    let entry = |age: u32, confirmed| FlowEntry::new(7, 3, now - age, confirmed).worth(now, idle);
    let order = [
        FlowEntry::default().worth(now, idle),
        entry(101, true),
        entry(50, false),
        entry(0, false),
        entry(100, true),
        entry(0, true),
    ];
    assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Random tables, random packets: one reason a packet, counted once; a passed packet is byte-identical; a forwarded
    /// one is wrapped exactly once for a backend of the service it was sent to; nothing else is touched.
    #[test]
    fn every_packet_has_one_reason_and_passes_unchanged_or_leaves_whole(seed: u64) {
        let mut random = Random(seed);
        let image = random_image(&mut random, IFINDEX);
        let tables = MemoryTables::new(&image);
        for number in 1..=20u64 {
            let packet = random_packet(&mut random);
            let (outcome, bytes) = run(&tables, &packet);
            prop_assert_eq!(tables.reasons().values().map(|count| count.packets).sum::<u64>(), number);
            match outcome.reason.verdict() {
                Verdict::Pass => prop_assert_eq!(&bytes, &packet),
                Verdict::Drop => prop_assert_eq!(outcome.action, Action::Drop),
                // An answer is checked byte by byte in the fixtures.
                Verdict::Reply => prop_assert_eq!(outcome.action, Action::Reply),
                Verdict::Forward => {
                    let inner = outer::untagged(&packet).1;
                    let destination = if inner[0] >> 4 == 4 {
                        std::net::IpAddr::from(<[u8; 4]>::try_from(&inner[16..20]).expect("four bytes"))
                    } else {
                        std::net::IpAddr::from(<[u8; 16]>::try_from(&inner[24..40]).expect("sixteen bytes"))
                    };
                    let sent = image.specs.iter().filter(|spec| spec.has_vip(destination)).any(|spec| {
                        let how = How::of(spec, &image.director);
                        spec.backends.iter().any(|b| outer::check_wrapped(&packet, &bytes, *b, how).is_ok())
                    });
                    prop_assert!(sent, "not sent once to a backend of its VIP: {:02x?}", bytes);
                }
            }
        }
    }

    /// A flow stays with its backend for as long as the table remembers it, whatever else happens in between.
    #[test]
    fn a_flow_keeps_its_backend(seed: u64) {
        let mut random = Random(seed);
        let fixture = spread();
        let tables = MemoryTables::new(&fixture.image);
        let mut homes = std::collections::HashMap::new();
        for _ in 0..300 {
            let step = &fixture.steps[random.below(fixture.steps.len())];
            let (_, bytes) = run(&tables, &step.input);
            // Source port and outer destination address.
            let (port, home) = (step.input[34..36].to_vec(), bytes[30..34].to_vec());
            prop_assert_eq!(homes.entry(port).or_insert_with(|| home.clone()), &home);
        }
    }
}
