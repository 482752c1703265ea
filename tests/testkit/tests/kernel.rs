//! The same packets through the verified program (BPF_PROG_TEST_RUN), and through both at once at random.
//!
//! Privileged: without root these tests fail; `cargo xtask test` runs them with what they need.
use weir_abi::{Count, Reason};
use weir_datapath::{Action, process};
use weir_testkit::verified::{Kernel, LOOPBACK, risen};
use weir_testkit::{MemoryFrame, MemoryTables, Random, fixtures, random_image, random_packet};

/// Packets shorter than this are refused by BPF_PROG_TEST_RUN.
const MIN_FRAME: usize = 14;

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

#[test]
fn host_and_kernel_agree_on_random_packets_and_tables() {
    let kernel = kernel();
    let (per_image, total) = (500, packets());
    for round in 0..total.div_ceil(per_image) {
        let mut random = Random(0x5eed_0000 + round);
        let image = random_image(&mut random, LOOPBACK);
        kernel.fill(&image);
        let tables = MemoryTables::new(&image);
        let (reasons, backends) = (kernel.reasons(), kernel.backend_counts(image.backends.len() as u32));
        for number in 0..per_image {
            let packet = random_packet(&mut random);
            if packet.len() < MIN_FRAME {
                continue;
            }
            let mut frame = MemoryFrame::new(&packet);
            let outcome = process(&mut frame, &&tables);
            let (action, bytes) = kernel.run(&packet);
            let name = format!("seed {:#x}, packet {number} {packet:02x?}", 0x5eed_0000 + round);
            let sent = Action::Send { ifindex: LOOPBACK };
            let expected = if outcome.action == Action::Reply { sent } else { outcome.action };
            assert_eq!(action, expected, "{name}: {:?}", outcome.reason);
            assert_eq!(bytes, frame.bytes(), "{name}: {:?}", outcome.reason);
        }
        let host: Vec<Count> = Reason::ALL
            .iter()
            .map(|reason| tables.reasons().get(reason).copied().unwrap_or_default())
            .collect();
        assert_eq!(risen(&reasons, &kernel.reasons()), host, "round {round}: reasons");
        let host: Vec<Count> = (0..image.backends.len() as u32)
            .map(|id| tables.backend_counts().get(&id).copied().unwrap_or_default())
            .collect();
        assert_eq!(
            risen(&backends, &kernel.backend_counts(image.backends.len() as u32)),
            host,
            "round {round}: backends"
        );
        assert_eq!(kernel.flow_words(), tables.flow_words(), "round {round}: flow tables");
        assert_eq!(kernel.fragment_words(), tables.fragment_words(), "round {round}: fragment tables");
    }
}
