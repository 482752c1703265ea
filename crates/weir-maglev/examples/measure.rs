//! Measures rings: how long they take to build, how exactly they meet weights, how much a change moves, and what
//! doubling keeps. `cargo run --release -p weir-maglev --example measure`

#![allow(clippy::cast_precision_loss)] // counts of slots, far below 2^52

use std::time::Instant;

use weir_maglev::{Identity, Member, Ring, RingSize, build};

fn members(weights: impl IntoIterator<Item = u32>, cluster: u32) -> Vec<Member> {
    (0..)
        .zip(weights)
        .map(|(value, weight)| {
            let name = [cluster.to_be_bytes(), u32::to_be_bytes(value)].concat();
            Member { identity: Identity::of(&name), weight, value }
        })
        .collect()
}

fn ring(slots: u32, members: &[Member]) -> Ring {
    build(RingSize::new(slots).unwrap(), members).unwrap().unwrap()
}

/// Slots that differ, and those of them that belonged to someone else than `gone`, in per cent of all.
fn moved(from: &Ring, to: &Ring, but_for: u32) -> (f64, f64) {
    let pairs = || from.slots().iter().zip(to.slots()).filter(|(a, b)| a != b);
    let others = pairs().filter(|(a, b)| **a != but_for && **b != but_for).count();
    let all = from.slots().len() as f64 / 100.0;
    (pairs().count() as f64 / all, others as f64 / all)
}

fn mean(clusters: u32, mut of: impl FnMut(u32) -> (f64, f64)) -> (f64, f64) {
    let sum = (0..clusters).map(&mut of).fold((0.0, 0.0), |sum, (a, b)| (sum.0 + a, sum.1 + b));
    (sum.0 / f64::from(clusters), sum.1 / f64::from(clusters))
}

fn main() {
    println!("time to build (best of 20)");
    for (slots, n) in
        [(256, 2), (1024, 10), (16384, 100), (65536, 100), (65536, 1000), (1 << 20, 100), (1 << 20, 10_000)]
    {
        for (what, weights) in
            [("equal", vec![1; n]), ("1..=100", (0..n as u32).map(|i| i % 100 + 1).collect())]
        {
            let members = members(weights, 0);
            let best = (0..20).map(|_| {
                let start = Instant::now();
                std::hint::black_box(ring(slots, &members));
                start.elapsed()
            });
            println!("  {slots:>8} slots {n:>6} members {what:>8}: {:?}", best.min().unwrap());
        }
    }

    println!("slots moved, per cent of all: by the change itself, and beside it (between others)");
    for (slots, n) in
        [(256, 2_u32), (512, 3), (1024, 10), (16384, 100), (65536, 100), (65536, 500), (131_072, 1000)]
    {
        let clusters = if slots > 20_000 { 5 } else { 40 };
        let remove = mean(clusters, |cluster| {
            let all = members(vec![1; n as usize], cluster);
            moved(&ring(slots, &all), &ring(slots, &all[1..]), 0)
        });
        println!(
            "  {slots:>8} slots {n:>5} equal, one removed: {:6.3} {:6.3} (ideal {:.3})",
            remove.0,
            remove.1,
            100.0 / f64::from(n)
        );
        let mixed = |cluster| members((0..n).map(|i| i % 10 + 1), cluster);
        for (what, weight) in [("1 removed", 0), ("1 -> 2", 2), ("1 -> 10", 10)] {
            let change = mean(clusters, |cluster| {
                let before = mixed(cluster);
                let mut after = before.clone();
                after[0].weight = weight;
                moved(&ring(slots, &before), &ring(slots, &after), 0)
            });
            let total: u32 = mixed(0).iter().map(|m| m.weight).sum();
            let (before, after) = (1.0 / f64::from(total), f64::from(weight) / f64::from(total - 1 + weight));
            println!(
                "  {slots:>8} slots {n:>5} of 1..=10, {what:>9}: {:6.3} {:6.3} (ideal {:.3})",
                change.0,
                change.1,
                100.0 * (after - before).abs()
            );
        }
    }

    println!(
        "doubling: slots of the larger ring whose owner is that of the slot they descend from, per cent"
    );
    for (slots, n) in [(256, 2), (1024, 10), (16384, 100), (65536, 100), (65536, 500)] {
        let all = members(vec![1; n], 0);
        let (small, large) = (ring(slots, &all), ring(slots * 2, &all));
        let kept = (0..large.slots().len())
            .filter(|&j| large.slots()[j] == small.slots()[j % slots as usize])
            .count();
        println!("  {slots:>8} slots {n:>5} members: {:6.2}", 100.0 * kept as f64 / f64::from(slots * 2));
    }
}
