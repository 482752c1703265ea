//! Fixtures through the datapath as compiled for the host, and what a fixture cannot say.
use weir_abi::{BackendState, Encapsulation, NoBackend, Reason, Verdict};
use weir_datapath::process;
use weir_testkit::packet::{Builder, fragments};
use weir_testkit::{
    DirectorSpec, Fixture, Image, MemoryFrame, MemoryTables, SPREAD, ServiceSpec, Travel, fixtures,
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
fn spread() -> Fixture {
    fixtures(IFINDEX).into_iter().find(|fixture| fixture.name == SPREAD).expect("it is there")
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

#[test]
fn fragments_are_forgotten_after_four_ticks_of_eight_seconds() {
    let spec = ServiceSpec { protocol: 17, ..ServiceSpec::tcp("192.0.2.10", &["10.0.0.11"]) };
    let mut image = Image::new(vec![spec], IFINDEX);
    // A tick is a jiffy.
    image.set_flow_geometry(1 << 10, 0);
    let tables = MemoryTables::new(&image);
    let packet = Builder::new("198.51.100.7", "192.0.2.10").payload(64).udp(1000, 80);
    let [first, later] = fragments(&packet, 16, 1);
    // The clock of the table's entries wraps after 4096 ticks.
    for began in [0, 4000, 4094] {
        tables.set_jiffies(began);
        run(&tables, &first);
        for (age, reason) in
            [(0, Reason::FragmentFollowed), (4, Reason::FragmentFollowed), (5, Reason::FragmentOrphan)]
        {
            tables.set_jiffies(began + age);
            assert_eq!(run(&tables, &later).0.reason, reason, "{age} ticks after tick {began}");
        }
    }
}

#[test]
fn budgets_are_renewed_with_each_tick() {
    use weir_abi::Budget;
    let spec = ServiceSpec { budget: Budget::at_least(2), ..ServiceSpec::tcp("192.0.2.10", &["10.0.0.11"]) };
    let none =
        ServiceSpec { port: 81, backends: Vec::new(), no_backend: NoBackend::Unreachable, ..spec.clone() };
    let director = DirectorSpec { error_budget: 2, ..DirectorSpec::default() };
    let mut image = Image::with(vec![spec, none], director, &[], IFINDEX);
    image.set_flow_geometry(1 << 10, 0);
    let tables = MemoryTables::new(&image);
    for tick in [0, 1, 5000] {
        tables.set_jiffies(tick);
        let reasons = |port: u16| -> Vec<Reason> {
            let packet = |from| Builder::new("198.51.100.7", "192.0.2.10").tcp(from, port, 0x02);
            let first = 10 * tick as u16;
            (first..first + 3).map(|from| run(&tables, &packet(from)).0.reason).collect()
        };
        assert_eq!(reasons(80), [Reason::RingNew, Reason::RingNew, Reason::RingUntracked], "tick {tick}");
        let told = Reason::UnreachableReply;
        assert_eq!(reasons(81), [told, told, Reason::NoBackendDrop], "tick {tick}");
    }
}

/// What is free in a frame: outer source, UDP source port or flow label.
type Free = fn(&[u8]) -> Vec<u8>;

/// What spreads packets over queues and paths (spread sources, GUE's source ports, flow labels) does so for later
/// fragments too, which have no ports of their own.
#[test]
fn later_fragments_spread_like_flows() {
    let base = ServiceSpec { protocol: 17, ..ServiceSpec::tcp("192.0.2.10", &["10.0.0.11"]) };
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
