//! The programs under test, their tables, and the driver that feeds them.
use crate::case::{Case, FIRST_OF_MANY, GUE_VIP4, SERVICES, Target, VIP4, VIP6};
use anyhow::{bail, ensure};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::Ordering;
use weir_abi::{Count, Reason, map};
use weir_kernel::bpf::{LoadOptions, Loaded, Mapped, Program, RawMap, TestRun, load, test_run};
use weir_testkit::{Image, ServiceSpec, Travel};

/// Flow buckets of the director: 4 M flows, so that 1 M flows load it to a quarter.
const FLOW_BUCKETS: u32 = 1 << 19;
/// How often a sample of the LRU variant is tried.
const LRU_ATTEMPTS: u32 = 4;
/// Backends behind each service.
const BACKENDS: u8 = 100;
/// Jiffies to ticks at 250 Hz, about 8 s.
const TICK_SHIFT: u32 = 11;
/// The interface BPF_PROG_TEST_RUN says packets came in by: the loopback. The backends' egress is the same, so that the
/// verdict is XDP_TX.
const LOOPBACK: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Everything loaded.
pub(crate) struct Rig {
    driver: Program,
    targets: RawMap,
    config: RawMap,
    base: Program,
    floor: Program,
    iptunnel: Program,
    director: (Program, RawMap),
    lru: (Program, RawMap),
    flows: Mapped<8>,
    bench: Loaded,
    // The maps live as long as the objects that own them.
    _director: Loaded,
}

impl Rig {
    /// For test runs.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::load(LOOPBACK, &[])
    }

    /// For packets that come in by the interface `ifindex` and go out by it. Without the LRU variant's memory, which
    /// would take most of the time there is.
    pub(crate) fn on_wire(ifindex: u32) -> anyhow::Result<Self> {
        Self::load(ifindex, &[("BENCH_LRU".to_owned(), 1)])
    }

    fn load(ifindex: u32, other_sizes: &[(String, u32)]) -> anyhow::Result<Self> {
        let image = image(ifindex);
        let mut sizes = LoadOptions {
            max_entries: vec![
                (map::RINGS.to_owned(), image.rings.len() as u32),
                (map::SERVICES.to_owned(), image.services.len() as u32),
            ],
            ..LoadOptions::default()
        };
        sizes.max_entries.extend_from_slice(other_sizes);
        let mut bench = load("bench", &sizes)?;
        sizes.max_entries.push((map::FLOWS.to_owned(), FLOW_BUCKETS));
        let mut director = load("director", &sizes)?;
        fill(&bench, &image)?;
        fill(&director, &image)?;
        fill_sample(&bench.map("BENCH_VIP2TNL")?)?;
        Ok(Self {
            driver: bench.program("driver")?,
            targets: bench.map("BENCH_TARGET")?,
            config: bench.map("BENCH_DRIVER")?,
            base: bench.program("base")?,
            floor: bench.program("floor")?,
            iptunnel: bench.program("iptunnel")?,
            flows: Mapped::new(&director.map(map::FLOWS)?)?,
            lru: (bench.program("lru")?, bench.map(map::REASONS)?),
            director: (director.program("director")?, director.map(map::REASONS)?),
            bench,
            _director: director,
        })
    }

    /// A program of the benchmark's own, and maps.
    pub(crate) fn bench_program(&mut self, name: &str) -> anyhow::Result<Program> {
        Ok(self.bench.program(name)?)
    }

    pub(crate) fn bench_map(&self, name: &str) -> anyhow::Result<RawMap> {
        Ok(self.bench.map(name)?)
    }

    pub(crate) fn program(&self, target: Target) -> &Program {
        match target {
            Target::Floor => &self.floor,
            Target::Iptunnel => &self.iptunnel,
            Target::Director => &self.director.0,
            Target::Lru => &self.lru.0,
        }
    }

    /// Instructions the verifier walked to accept the target.
    pub(crate) fn verified_insns(&self, target: Target) -> anyhow::Result<Option<u32>> {
        Ok(self.program(target).info()?.verified_insns)
    }

    /// Brings the flows of a hit case into the flow table, and for the director nothing else.
    fn warm(&self, case: &Case) -> anyhow::Result<()> {
        if case.target == Target::Director {
            self.flows.records().flatten().for_each(|entry| entry.store(0, Ordering::Relaxed));
        }
        if !case.fresh {
            self.run(case, self.program(case.target), case.flows.max(1000), 0)?;
        }
        Ok(())
    }

    /// One sample: nanoseconds of the harness, and of harness and program together. `round` salts fresh flows.
    pub(crate) fn measure(&self, case: &Case, repeat: u32, round: u32) -> anyhow::Result<(u32, u32)> {
        // The kernel's LRU, near what it can hold on one CPU, now and then forgets flows that it was just told. Such a
        // sample is not the case it claims to be; another one may be.
        let attempts = if case.target == Target::Lru { LRU_ATTEMPTS } else { 1 };
        let mut outcome = self.sample(case, repeat, round);
        for _ in 1..attempts {
            if outcome.is_err() {
                outcome = self.sample(case, repeat, round);
            }
        }
        outcome
    }

    fn sample(&self, case: &Case, repeat: u32, round: u32) -> anyhow::Result<(u32, u32)> {
        let repeat = if case.fresh { case.flows } else { repeat.max(case.flows) };
        let salt = if case.fresh { round << 14 } else { 0 };
        self.warm(case)?;
        let harness = self.run(case, &self.base, repeat, salt)?.duration;
        let before = self.reasons(case.target)?;
        let run = self.run(case, self.program(case.target), repeat, salt)?;
        let after = self.reasons(case.target)?;

        let passes = case.reason.is_some_and(|reason| matches!(reason.verdict(), weir_abi::Verdict::Pass));
        ensure!(
            run.retval == if passes { XDP_PASS } else { XDP_TX },
            "{}: returned {}",
            case.name,
            run.retval
        );
        ensure!(run.packet.len() == case.out_len(), "{}: not wrapped exactly once", case.name);
        if let Some(reason) = case.reason {
            let packets = |counts: &[Count]| counts[reason as usize].packets;
            let counted = packets(&after) - packets(&before);
            // A bucket that overflowed loses an entry now and then, and when the clock ticks meanwhile each loss leads to
            // the next; more than 1 in 500 is not the case it claims to be.
            if counted + u64::from(repeat) / 500 < u64::from(repeat) {
                bail!("{}: only {counted} of {repeat} packets were {}", case.name, reason.label());
            }
        }
        Ok((harness.as_nanos() as u32, run.duration.as_nanos() as u32))
    }

    /// Says which packets the driver or the generator makes, from the first on.
    pub(crate) fn configure(&self, case: &Case, salt: u32) -> anyhow::Result<()> {
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        };
        let words = [
            case.packet.len() as u64,
            word(&case.packet[..8]),
            word(&case.packet[8..14]),
            u64::from(case.flows - 1),
            u64::from(salt) | 0x0a00_0000,
            if case.packet[12] == 0x08 { 4 } else { 6 },
            0,
            u64::from(case.services - 1),
        ];
        Ok(self.config.set(&0u32.to_ne_bytes(), &bytes_of(&words), 0)?)
    }

    fn run(&self, case: &Case, target: &Program, repeat: u32, salt: u32) -> anyhow::Result<TestRun> {
        self.configure(case, salt)?;
        let fd = target.as_fd().as_raw_fd();
        self.targets.set(&0u32.to_ne_bytes(), &fd.to_ne_bytes(), 0)?;
        Ok(test_run(&self.driver, &case.packet, None, repeat)?)
    }

    /// What was counted under each reason so far.
    pub(crate) fn reasons(&self, target: Target) -> anyhow::Result<Vec<Count>> {
        let counters = match target {
            Target::Lru => &self.lru.1,
            _ => &self.director.1,
        };
        Ok(counters.counts(Reason::COUNT)?)
    }
}

pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// One TCP service for each family, one of UDP and one in GUE over IPv4, 100 backends each, rings of about 160 slots a
/// backend; and many small services. All backends are reached by the interface `ifindex`.
fn image(ifindex: u32) -> Image {
    let backends4 = (1..=BACKENDS).map(|n| std::net::IpAddr::from([10, 1, 0, n]));
    let backends6 =
        (1..=BACKENDS).map(|n| std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, u16::from(n)]));
    let tcp4 = ServiceSpec { backends: backends4.collect(), ring_log2: 14, ..ServiceSpec::tcp(VIP4, &[]) };
    let tcp6 = ServiceSpec { backends: backends6.collect(), ring_log2: 14, ..ServiceSpec::tcp(VIP6, &[]) };
    let udp4 = ServiceSpec { protocol: 17, ..tcp4.clone() };
    let gue4 = ServiceSpec { encapsulation: Travel::Gue, ..ServiceSpec { ..tcp4.clone() } };
    let gue4 = ServiceSpec { vip: GUE_VIP4.parse().expect("a literal address"), ..gue4 };
    let mut specs = vec![tcp4, tcp6, udp4, gue4];
    // Ten backends and 1,024 slots each: as many slots a backend as a ring is given by itself.
    specs.extend((0..SERVICES).map(|number| {
        let ([a, b], [c, d]) = (FIRST_OF_MANY, number.to_be_bytes());
        ServiceSpec {
            vip: std::net::IpAddr::from([a, b, c, d]),
            backends: (1..=10).map(|n| std::net::IpAddr::from([10, 64 + c, d, n])).collect(),
            ring_log2: 10,
            ..ServiceSpec::tcp(VIP4, &[])
        }
    }));
    let mut image = Image::new(specs, ifindex);
    image.set_flow_geometry(FLOW_BUCKETS, TICK_SHIFT);
    image
}

fn fill(object: &Loaded, image: &Image) -> anyhow::Result<()> {
    let put = |name: &str, records: &mut dyn Iterator<Item = Vec<u8>>| -> anyhow::Result<()> {
        let map = object.map(name)?;
        for (index, record) in records.enumerate() {
            map.set(&(index as u32).to_ne_bytes(), &record, 0)?;
        }
        Ok(())
    };
    put(map::BACKENDS, &mut image.backends.iter().map(|record| bytes_of(record)))?;
    put(map::RINGS, &mut image.rings.iter().map(|slot| slot.to_ne_bytes().to_vec()))?;
    put(map::SERVICES, &mut image.services.iter().map(|record| bytes_of(record)))?;
    put(map::CONTROL, &mut std::iter::once(bytes_of(&image.control)))
}

/// The sample's map: the IPv4 VIP, port 80, TCP.
fn fill_sample(map: &RawMap) -> anyhow::Result<()> {
    let key =
        [u64::from(u32::from_ne_bytes([192, 0, 2, 10])), 0, u64::from(80u16.to_be()) | 2 << 16 | 6 << 32];
    let mut value = vec![0u8; 40];
    value[..4].copy_from_slice(&[10, 0, 0, 2]);
    value[16..20].copy_from_slice(&[10, 1, 0, 1]);
    value[32] = 2;
    value[34..40].copy_from_slice(&weir_testkit::image::NEXT_HOP_MAC);
    Ok(map.set(&bytes_of(&key), &value, 0)?)
}
