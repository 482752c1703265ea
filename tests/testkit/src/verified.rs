//! The director as the kernel verified it, under BPF_PROG_TEST_RUN.
//!
//! Owns: the maps' contents and the counters' readings around a run. May not touch: what a packet should become; that is
//! the fixture's. Invariant: what it says happened was read from the kernel, never computed here.

use std::sync::atomic::Ordering;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use weir_abi::{Count, FLOWS_PER_BUCKET, Reason, map};
use weir_datapath::Action;
use weir_kernel::bpf::{Error, LoadOptions, Loaded, Mapped, Program, RawMap, load, test_run};

use crate::{Fixture, Image};

/// What BPF_PROG_TEST_RUN says packets came in by: the loopback.
pub const LOOPBACK: u32 = 1;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The director's program in the kernel, with its tables mapped.
#[derive(Debug)]
pub struct Kernel {
    program: Program,
    control: Mapped<8>,
    services: Mapped<8>,
    rings: Mapped<1>,
    backends: Mapped<8>,
    flows: Mapped<FLOWS_PER_BUCKET>,
    fragments: Mapped<FLOWS_PER_BUCKET>,
    reasons: RawMap,
    backend_counts: RawMap,
    servers: RawMap,
    sources: RawMap,
    prefixes: RawMap,
    budgets: RawMap,
    limiter: RawMap,
    _object: Loaded,
}

impl Kernel {
    /// Loads the director with small tables. Needs root.
    ///
    /// The calling thread stays on one CPU from then on: what each CPU keeps for itself is then one thing.
    pub fn new() -> Result<Self, Error> {
        Self::running("director")
    }

    /// The same for the director's program for packets in several buffers.
    pub fn for_several_buffers() -> Result<Self, Error> {
        Self::running("director_frags")
    }

    fn running(program: &str) -> Result<Self, Error> {
        stay_on_one_cpu();
        let sizes = [
            (map::SERVICES, 1024),
            (map::RINGS, 1 << 14),
            (map::BACKENDS, 64),
            (map::FLOWS, 1 << 10),
            (map::BACKEND_COUNTS, 64),
            (map::FRAGMENTS, 1 << 6),
            (map::BUDGETS, 64),
        ];
        let max_entries = sizes.map(|(name, size)| (name.to_owned(), size)).to_vec();
        let mut object = load("director", &LoadOptions { max_entries, ..LoadOptions::default() })?;
        Ok(Self {
            control: Mapped::new(&object.map(map::CONTROL)?)?,
            services: Mapped::new(&object.map(map::SERVICES)?)?,
            rings: Mapped::new(&object.map(map::RINGS)?)?,
            backends: Mapped::new(&object.map(map::BACKENDS)?)?,
            flows: Mapped::new(&object.map(map::FLOWS)?)?,
            reasons: object.map(map::REASONS)?,
            backend_counts: object.map(map::BACKEND_COUNTS)?,
            fragments: Mapped::new(&object.map(map::FRAGMENTS)?)?,
            servers: object.map(map::SERVERS)?,
            sources: object.map(map::SOURCES)?,
            prefixes: object.map(map::PREFIXES)?,
            budgets: object.map(map::BUDGETS)?,
            limiter: object.map(map::LIMITER)?,
            program: object.program(program)?,
            _object: object,
        })
    }

    /// Puts an image into the maps and empties the flow table.
    pub fn fill(&self, image: &Image) {
        put(&self.control, std::slice::from_ref(&image.control));
        put(&self.services, &image.services);
        self.update(image);
        self.flows.records().flatten().for_each(|entry| entry.store(0, Ordering::Relaxed));
        assert_eq!(self.flows.len(), image.flow_buckets, "host and kernel have flow tables of one size");
        self.fragments.records().flatten().for_each(|entry| entry.store(0, Ordering::Relaxed));
        assert_eq!(self.fragments.len(), image.fragment_buckets, "and fragment tables");
        let set = |map: &RawMap, key: &[u8], value: u64| {
            map.set(key, &value.to_ne_bytes(), 0).expect("a word can be stored");
        };
        for map in [&self.servers, &self.sources, &self.prefixes] {
            for key in map.keys().expect("readable") {
                map.delete(&key).expect("a key that is there can be removed");
            }
        }
        for (key, backend) in &image.servers {
            set(&self.servers, &key.0.to_ne_bytes(), u64::from(*backend));
        }
        for (key, rule) in &image.sources {
            set(&self.sources, &key.0.map(u64::to_ne_bytes).concat(), rule.0);
        }
        for (key, len) in &image.prefixes {
            set(&self.prefixes, &key.0.map(u64::to_ne_bytes).concat(), u64::from(*len));
        }
        for id in 0..self.budgets.info().max_entries {
            set(&self.budgets, &id.to_ne_bytes(), 0);
        }
        set(&self.limiter, &0_u32.to_ne_bytes(), 0);
    }

    /// Rings and backends as in this image, which has the same services; everything else stays.
    pub fn update(&self, image: &Image) {
        put(&self.backends, &image.backends);
        for (index, slot) in self.rings.records().enumerate() {
            slot[0].store(image.rings.get(index).copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Runs the program once: its verdict, and the packet as it left it. (Both a reply and what is sent out of the
    /// interface it came in by are [`Action::Send`]: the kernel does not tell them apart.)
    pub fn run(&self, packet: &[u8]) -> (Action, Vec<u8>) {
        let run = test_run(&self.program, packet, None, 1).expect("test run");
        let action = match run.retval {
            XDP_PASS => Action::Pass,
            XDP_DROP => Action::Drop,
            XDP_TX => Action::Send { ifindex: LOOPBACK },
            other => panic!("unexpected return value {other}"),
        };
        (action, run.packet)
    }

    /// The counters of all reasons.
    pub fn reasons(&self) -> Vec<Count> {
        self.reasons.counts(Reason::COUNT).expect("readable")
    }

    /// The counters of the first `len` backends.
    pub fn backend_counts(&self, len: u32) -> Vec<Count> {
        self.backend_counts.counts(len).expect("readable")
    }

    /// The flow table, word by word.
    pub fn flow_words(&self) -> Vec<u64> {
        self.flows.records().flatten().map(|entry| entry.load(Ordering::Relaxed)).collect()
    }

    /// The fragment table, word by word.
    pub fn fragment_words(&self) -> Vec<u64> {
        self.fragments.records().flatten().map(|entry| entry.load(Ordering::Relaxed)).collect()
    }

    /// The first `len` words of the service table, whose turn it is among them.
    pub fn service_words(&self, len: usize) -> Vec<u64> {
        self.services.records().flatten().take(len).map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// How many flows of the first `len` services were remembered, and how many errors sent, in the last tick.
    pub fn spent(&self, len: u32) -> (Vec<u64>, u64) {
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        let budget =
            |id: u32| self.budgets.get(&id.to_ne_bytes()).expect("readable").expect("inside the array");
        let limiter = self.limiter.get_per_cpu(&0_u32.to_ne_bytes()).expect("readable").expect("one");
        // All CPUs but one have sent none.
        ((0..len).map(|id| word(&budget(id))).collect(), limiter.iter().map(|cpu| word(cpu)).sum())
    }

    /// Sends a fixture's packets through the program, in the fixture's tables.
    ///
    /// # Panics
    /// Where verdict, bytes, reason or a counter differ from what the fixture says.
    pub fn hold(&self, fixture: &Fixture) {
        self.fill(&fixture.image);
        let mut held = fixture.held(LOOPBACK);
        for (number, step) in fixture.steps.iter().enumerate() {
            let name = format!("{}, packet {number}", fixture.name);
            let before = self.reasons();
            let (action, bytes) = self.run(&step.input);
            let risen = risen(&before, &self.reasons());
            for reason in Reason::ALL {
                let expected = if *reason == step.reason { (1, step.input.len() as u64) } else { (0, 0) };
                let count = risen[*reason as usize];
                assert_eq!((count.packets, count.bytes), expected, "{name}: {}", reason.label());
            }
            assert_eq!(held.next(action, &bytes), Ok(()), "{name}");
        }
    }
}

/// These records, and zero behind them.
fn put(to: &Mapped<8>, records: &[[u64; 8]]) {
    for (index, record) in to.records().enumerate() {
        let words = records.get(index).copied().unwrap_or([0; 8]);
        record.iter().zip(words).for_each(|(cell, word)| cell.store(word, Ordering::Relaxed));
    }
}

fn stay_on_one_cpu() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("a thread may ask where it may run");
    let cpu = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true)).expect("it runs somewhere");
    let mut one = CpuSet::new();
    one.set(cpu).expect("a CPU that was in such a set");
    sched_setaffinity(this_thread, &one).expect("a thread may stay where it may run");
}

/// Differences of two readings of the counters.
pub fn risen(before: &[Count], after: &[Count]) -> Vec<Count> {
    let rise = |(b, a): (&Count, &Count)| Count { packets: a.packets - b.packets, bytes: a.bytes - b.bytes };
    before.iter().zip(after).map(rise).collect()
}
