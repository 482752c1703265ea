//! What a change of the configuration costs the daemon: building rings, and planning and storing them.
//!
//! Owns: the cases. May not touch: the kernel; the tables are [`weir_plan::Model`]'s, plain memory like the mapped ones.
//! Invariant: a case that is reported was planned in full: another plan would be empty.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weir_maglev::{Identity, Member, RingSize, build};
use weir_plan::{Desired, Limits, Model, NextHop, Observed, Path, Planner};

/// How often each is done.
const ROUNDS: usize = 5;
/// Services that change at once, and backends of each.
const SERVICES: u16 = 1000;
const BACKENDS: u8 = 50;

/// Milliseconds of each case.
pub(crate) struct Times {
    rows: Vec<(&'static str, f64)>,
}

/// Measures all of it.
pub(crate) fn measure() -> anyhow::Result<Times> {
    Ok(Times { rows: vec![("ring_65536x1000", ring()?), ("rebuild_1000_services", services()?)] })
}

impl Times {
    /// An array of objects.
    pub(crate) fn json(&self) -> Value {
        let rows = self
            .rows
            .iter()
            .map(|(name, ms)| json!({ "name": name, "ms_best": (ms * 100.0).round() / 100.0 }));
        rows.collect()
    }
    /// Lines for people.
    pub(crate) fn table(&self) -> String {
        let rows = self.rows.iter().map(|(name, ms)| format!("{name:<22} {ms:>9.2}\n"));
        format!("\nmilliseconds of a change, best of {ROUNDS}\n\n{}", rows.collect::<String>())
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A ring of 65,536 slots for 1,000 backends.
fn ring() -> anyhow::Result<f64> {
    let size = RingSize::new(1 << 16).context("a power of two")?;
    let members: Vec<Member> = (0..1000)
        .map(|number| {
            let address = IpAddr::from(Ipv4Addr::from(0x0a00_0001 + number));
            Member { identity: Identity::of_address(address), weight: 1, value: number + 1 }
        })
        .collect();
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let built = build(size, &members)?;
        best = best.min(milliseconds(begun));
        ensure!(built.is_some(), "no ring was built");
    }
    Ok(best)
}

/// The rings of all services built anew and swapped in, because every weight changed.
fn services() -> anyhow::Result<f64> {
    let limits = Limits {
        service_entries: 1 << 14,
        ring_slots: 1 << 25,
        backends: 1 << 17,
        servers: 1,
        sources: 1,
        prefixes: 1,
    };
    let (mut model, mut planner) = (Model::new(limits), Planner::default());
    let mut best = f64::MAX;
    for round in 0..=ROUNDS {
        let desired = desired(round)?;
        let begun = Instant::now();
        let plan = planner.plan(&observed(&model), &desired)?;
        for op in &plan {
            op.apply(&mut model).unwrap_or_else(|never| match never {});
        }
        // The first one makes everything, ids and all; the others are what a change costs.
        if round > 0 {
            best = best.min(milliseconds(begun));
        }
        ensure!(planner.plan(&observed(&model), &desired)?.is_empty(), "the plan was not all of it");
    }
    Ok(best)
}

fn observed(model: &Model) -> Observed {
    Observed::read(model).unwrap_or_else(|never| match never {})
}

fn desired(round: usize) -> anyhow::Result<Desired> {
    let mut text = "[director]\ninterfaces = [\"eth0\"]\n".to_owned();
    for service in 0..SERVICES {
        let [high, low] = service.to_be_bytes();
        let vip = format!("198.18.{high}.{low}");
        writeln!(text, "[[service]]\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nbackend = [")?;
        for backend in 1..=BACKENDS {
            let weight = 1 + (usize::from(backend) + round) % 2;
            writeln!(text, "{{ address = \"10.{high}.{low}.{backend}\", weight = {weight} }},")?;
        }
        writeln!(text, "]")?;
    }
    let config = weir_config::parse("benchmark", &text)?;
    let hop = NextHop {
        mac: [2, 0, 0, 0, 0, 1],
        source_mac: [2, 0, 0, 0, 0, 2],
        ifindex: 2,
        vlan: 0,
        mtu: 1500,
        source: IpAddr::from([10, 0, 0, 2]),
        spread: false,
    };
    Ok(Desired::new(&config, 1, Duration::from_secs(8), |_, _| Path::Known(hop)))
}
