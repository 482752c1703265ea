//! Fixtures and properties of the datapath as compiled for the host.
use proptest::prelude::*;
use weir_abi::{BackendState, Encapsulation, Reason, Verdict};
use weir_datapath::{Action, process};
use weir_testkit::{How, MemoryFrame, MemoryTables, Random, fixtures, outer, random_image, random_packet};

const IFINDEX: u32 = 1;

#[test]
fn every_fixture_holds_with_exact_counters() {
    for fixture in fixtures(IFINDEX) {
        let tables = MemoryTables::new(&fixture.image);
        for (number, step) in fixture.steps.iter().enumerate() {
            let name = format!("{}, packet {number}", fixture.name);
            let (before, backends_before) = (tables.reasons(), tables.backend_counts());
            let mut frame = MemoryFrame::new(&step.input);
            let outcome = process(&mut frame, &&tables);
            assert_eq!(outcome.reason, step.reason, "{name}");

            let mut reasons = before;
            let count = reasons.entry(step.reason).or_default();
            count.packets += 1;
            count.bytes += step.input.len() as u64;
            assert_eq!(tables.reasons(), reasons, "{name}: counters by reason");
            let counted: u64 = tables.backend_counts().values().map(|count| count.packets).sum();
            let counted_before: u64 = backends_before.values().map(|count| count.packets).sum();
            let forwarded = outcome.reason.verdict() == Verdict::Forward || outcome.reason == Reason::Local;
            let forwarded = u64::from(forwarded);
            assert_eq!(counted - counted_before, forwarded, "{name}: counters by backend");

            assert_eq!(step.check(outcome.action, frame.bytes(), IFINDEX), Ok(()), "{name}");
        }
    }
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

/// Runs one packet; panics inside `process` fail the property by themselves.
fn run(tables: &MemoryTables, packet: &[u8]) -> (weir_datapath::Outcome, Vec<u8>) {
    let mut frame = MemoryFrame::new(packet);
    let outcome = process(&mut frame, &tables);
    (outcome, frame.bytes().to_vec())
}

#[test]
fn a_flow_moves_when_its_backend_goes_down_and_only_then() {
    let fixture = &fixtures(IFINDEX)[5];
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
                        spec.backends.iter().any(|b| outer::check_wrapped(&packet, &bytes, *b, &how).is_ok())
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
        let fixture = &fixtures(IFINDEX)[5];
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
