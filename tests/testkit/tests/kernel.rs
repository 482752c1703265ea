//! The same packets through the verified program (BPF_PROG_TEST_RUN), and through both at once at random.
//!
//! Privileged: without root these tests fail; `cargo xtask test` runs them with what they need.
use std::collections::BTreeMap;
use weir_abi::{Count, Reason};
use weir_datapath::{Action, process};
use weir_testkit::verified::{Kernel, LOOPBACK, risen};
use weir_testkit::{MemoryFrame, MemoryTables, Random, fixtures, random_image, random_packet};

fn kernel() -> Kernel {
    Kernel::new().expect("loading the director needs root; `cargo xtask test` runs this with sudo")
}

#[test]
fn every_fixture_holds_in_the_kernel() {
    let kernel = kernel();
    for fixture in fixtures(LOOPBACK) {
        kernel.hold(&fixture);
    }
}

#[test]
fn every_fixture_holds_in_the_program_for_packets_in_several_buffers() {
    let kernel = Kernel::for_several_buffers().expect("loading the director needs root");
    for fixture in fixtures(LOOPBACK) {
        kernel.hold(&fixture);
    }
}

/// The number of random packets: 10^5, or what `WEIR_DIFFERENTIAL_PACKETS` says.
fn packets() -> u64 {
    std::env::var("WEIR_DIFFERENTIAL_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

/// What no packet alone brings about: all headroom used up.
const UNREACHABLE: [Reason; 1] = [Reason::NoHeadroom];

#[test]
fn host_and_kernel_agree_on_random_packets_and_tables() {
    agree(&kernel(), packets());
}

#[test]
fn so_does_the_program_for_packets_in_several_buffers() {
    let kernel = Kernel::for_several_buffers().expect("loading the director needs root");
    agree(&kernel, packets() / 4);
}

fn agree(kernel: &Kernel, total: u64) {
    let per_image = 500;
    let mut seen = BTreeMap::new();
    for round in 0..total.div_ceil(per_image) {
        let seed = 0x5eed_0000 + round;
        let mut random = Random(seed);
        let mut image = random_image(&mut random, LOOPBACK);
        kernel.fill(&image);
        let tables = MemoryTables::new(&image);
        let (backends, services) = (image.backends.len() as u32, image.specs.len() as u32);
        let before = (kernel.reasons(), kernel.backend_counts(backends));
        for number in 0..per_image {
            if number % 100 == 99 && backends > 1 {
                // As user space leaves the tables, and as it never does.
                image.take_down(1 + random.below(backends as usize - 1) as u32, !random.one_in(4));
                tables.update(&image);
                kernel.update(&image);
            }
            let packet = random_packet(&mut random);
            let mut frame = MemoryFrame::new(&packet);
            let outcome = process(&mut frame, &&tables);
            let (action, bytes) = kernel.run(&packet);
            let name = format!("seed {seed:#x}, packet {number} {packet:02x?}");
            let sent = Action::Send { ifindex: LOOPBACK };
            let expected = if outcome.action == Action::Reply { sent } else { outcome.action };
            assert_eq!(action, expected, "{name}: {:?}", outcome.reason);
            assert_eq!(bytes, frame.bytes(), "{name}: {:?}", outcome.reason);
        }
        let host: Vec<Count> = Reason::ALL
            .iter()
            .map(|reason| tables.reasons().get(reason).copied().unwrap_or_default())
            .collect();
        assert_eq!(risen(&before.0, &kernel.reasons()), host, "seed {seed:#x}: reasons");
        let host: Vec<Count> =
            (0..backends).map(|id| tables.backend_counts().get(&id).copied().unwrap_or_default()).collect();
        assert_eq!(risen(&before.1, &kernel.backend_counts(backends)), host, "seed {seed:#x}: backends");
        assert_eq!(kernel.flow_words(), tables.flow_words(), "seed {seed:#x}: flow tables");
        assert_eq!(kernel.fragment_words(), tables.fragment_words(), "seed {seed:#x}: fragment tables");
        assert_eq!(kernel.spent(services), tables.spent(), "seed {seed:#x}: budgets and limiter");
        let host = tables.service_words();
        assert_eq!(kernel.service_words(host.len()), host, "seed {seed:#x}: whose turn it is");
        for (reason, count) in tables.reasons() {
            *seen.entry(reason).or_insert(0) += count.packets;
        }
    }
    // Of fewer packets than a whole run, not all can be asked for.
    if total >= 20_000 {
        for reason in Reason::ALL {
            let packets = seen.get(reason).copied().unwrap_or(0);
            assert_eq!(packets == 0, UNREACHABLE.contains(reason), "{packets} were {}", reason.label());
        }
    }
}
