//! The same packets through the verified program (BPF_PROG_TEST_RUN), and through both at once at random.
//!
//! Privileged: without root these tests fail; `cargo xtask test` runs them with what they need.
use std::sync::atomic::Ordering;
use weir_abi::{Count, FLOWS_PER_BUCKET, Reason, map};
use weir_datapath::{Action, process};
use weir_kernel::bpf::{LoadOptions, Loaded, Mapped, Program, RawMap, load, test_run};
use weir_testkit::{
    Expected, Image, MemoryFrame, MemoryTables, Random, fixtures, outer, random_image, random_packet,
};

/// What BPF_PROG_TEST_RUN says packets came in by: the loopback.
const LOOPBACK: u32 = 1;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
/// Packets shorter than this are refused by BPF_PROG_TEST_RUN.
const MIN_FRAME: usize = 14;

/// The director's program in the kernel, with its tables mapped.
struct Kernel {
    program: Program,
    control: Mapped<8>,
    services: Mapped<8>,
    rings: Mapped<1>,
    backends: Mapped<8>,
    flows: Mapped<FLOWS_PER_BUCKET>,
    reasons: RawMap,
    backend_counts: RawMap,
    _object: Loaded,
}

fn counts(map: &RawMap, len: u32) -> Vec<Count> {
    let sum = |index: u32| {
        let cpus = map.get_per_cpu(&index.to_ne_bytes()).expect("readable").expect("inside the array");
        cpus.iter().fold(Count::default(), |sum, value| {
            let field = |at: usize| u64::from_ne_bytes(value[at..at + 8].try_into().expect("eight bytes"));
            Count { packets: sum.packets + field(0), bytes: sum.bytes + field(8) }
        })
    };
    (0..len).map(sum).collect()
}

impl Kernel {
    fn new() -> Self {
        let sizes = [
            (map::SERVICES, 256),
            (map::RINGS, 1 << 14),
            (map::BACKENDS, 64),
            (map::FLOWS, 1 << 10),
            (map::BACKEND_COUNTS, 64),
        ];
        let max_entries = sizes.map(|(name, size)| (name.to_owned(), size)).to_vec();
        let mut object = load("director", &LoadOptions { max_entries, ..LoadOptions::default() })
            .expect("loading the director needs root; `cargo xtask test` runs this with sudo");
        let map = |name| object.map(name).expect("the director has this map");
        let (control, services, backends) = (map(map::CONTROL), map(map::SERVICES), map(map::BACKENDS));
        let (rings, flows) = (map(map::RINGS), map(map::FLOWS));
        let (reasons, backend_counts) = (map(map::REASONS), map(map::BACKEND_COUNTS));
        Self {
            control: Mapped::new(&control).expect("mmap"),
            services: Mapped::new(&services).expect("mmap"),
            rings: Mapped::new(&rings).expect("mmap"),
            backends: Mapped::new(&backends).expect("mmap"),
            flows: Mapped::new(&flows).expect("mmap"),
            program: object.program("director").expect("the verifier accepts the director"),
            reasons,
            backend_counts,
            _object: object,
        }
    }

    /// Puts an image into the maps and empties the flow table.
    fn fill(&self, image: &Image) {
        let put = |to: &Mapped<8>, records: &[[u64; 8]]| {
            for (index, record) in to.records().enumerate() {
                let words = records.get(index).copied().unwrap_or([0; 8]);
                record.iter().zip(words).for_each(|(cell, word)| cell.store(word, Ordering::Relaxed));
            }
        };
        put(&self.control, std::slice::from_ref(&image.control));
        put(&self.services, &image.services);
        put(&self.backends, &image.backends);
        for (index, slot) in self.rings.records().enumerate() {
            slot[0].store(image.rings.get(index).copied().unwrap_or(0), Ordering::Relaxed);
        }
        self.flows.records().flatten().for_each(|entry| entry.store(0, Ordering::Relaxed));
        assert_eq!(self.flows.len(), image.flow_buckets, "host and kernel have flow tables of one size");
    }

    fn run(&self, packet: &[u8]) -> (Action, Vec<u8>) {
        let run = test_run(&self.program, packet, None, 1).expect("test run");
        let action = match run.retval {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            XDP_TX => Action::Send { ifindex: LOOPBACK },
            other => panic!("unexpected return value {other}"),
        };
        (action, run.packet)
    }

    fn flow_words(&self) -> Vec<u64> {
        self.flows.records().flatten().map(|entry| entry.load(Ordering::Relaxed)).collect()
    }
}

/// Differences of two readings of the counters.
fn risen(before: &[Count], after: &[Count]) -> Vec<Count> {
    let rise = |(b, a): (&Count, &Count)| Count { packets: a.packets - b.packets, bytes: a.bytes - b.bytes };
    before.iter().zip(after).map(rise).collect()
}

#[test]
fn every_fixture_holds_in_the_kernel() {
    let kernel = Kernel::new();
    for fixture in fixtures(LOOPBACK) {
        kernel.fill(&fixture.image);
        for (number, step) in fixture.steps.iter().enumerate() {
            let name = format!("{}, packet {number}", fixture.name);
            let before = counts(&kernel.reasons, Reason::COUNT);
            let (action, bytes) = kernel.run(&step.input);
            let risen = risen(&before, &counts(&kernel.reasons, Reason::COUNT));
            for reason in Reason::ALL {
                let expected = if *reason == step.reason { (1, step.input.len() as u64) } else { (0, 0) };
                let count = risen[*reason as usize];
                assert_eq!((count.packets, count.bytes), expected, "{name}: {}", reason.label());
            }
            match &step.expected {
                Expected::Passed => assert_eq!((action, &bytes), (Action::Pass, &step.input), "{name}"),
                Expected::Dropped => assert_eq!(action, Action::Drop, "{name}"),
                Expected::Wrapped(backends) => {
                    assert_eq!(action, Action::Send { ifindex: LOOPBACK }, "{name}");
                    let results: Vec<_> =
                        backends.iter().map(|b| outer::check_wrapped(&step.input, &bytes, *b)).collect();
                    assert!(results.iter().any(Result::is_ok), "{name}: {results:?}");
                }
            }
        }
    }
}

/// The number of random packets: 10^5, or what `WEIR_DIFFERENTIAL_PACKETS` says.
fn packets() -> u64 {
    std::env::var("WEIR_DIFFERENTIAL_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

#[test]
fn host_and_kernel_agree_on_random_packets_and_tables() {
    let kernel = Kernel::new();
    let (per_image, total) = (500, packets());
    for round in 0..total.div_ceil(per_image) {
        let mut random = Random(0x5eed_0000 + round);
        let image = random_image(&mut random, LOOPBACK);
        kernel.fill(&image);
        let tables = MemoryTables::new(&image);
        let (reasons, backends) = (
            counts(&kernel.reasons, Reason::COUNT),
            counts(&kernel.backend_counts, image.backends.len() as u32),
        );
        for number in 0..per_image {
            let packet = random_packet(&mut random);
            if packet.len() < MIN_FRAME {
                continue;
            }
            let mut frame = MemoryFrame::new(&packet);
            let outcome = process(&mut frame, &&tables);
            let (action, bytes) = kernel.run(&packet);
            let name = format!("seed {:#x}, packet {number} {packet:02x?}", 0x5eed_0000 + round);
            assert_eq!(action, outcome.action, "{name}: {:?}", outcome.reason);
            assert_eq!(bytes, frame.bytes(), "{name}: {:?}", outcome.reason);
        }
        let host: Vec<Count> = Reason::ALL
            .iter()
            .map(|reason| tables.reasons().get(reason).copied().unwrap_or_default())
            .collect();
        assert_eq!(risen(&reasons, &counts(&kernel.reasons, Reason::COUNT)), host, "round {round}: reasons");
        let host: Vec<Count> = (0..image.backends.len() as u32)
            .map(|id| tables.backend_counts().get(&id).copied().unwrap_or_default())
            .collect();
        assert_eq!(
            risen(&backends, &counts(&kernel.backend_counts, image.backends.len() as u32)),
            host,
            "round {round}: backends"
        );
        assert_eq!(kernel.flow_words(), tables.flow_words(), "round {round}: flow tables");
    }
}
