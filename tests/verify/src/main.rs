//! Every BPF program of weir before the verifier of the running kernel, and the packet fixtures through it.
//!
//! Owns: what is checked, and one line of report for each check. May not touch: interfaces, pins; nothing is attached.
//! As process 1 it is all there is in a virtual machine, see [`guest`]; `cargo xtask check-kernels` runs it both ways and
//! reads the report. Invariant: the last line is `N passed, N failed`, and a program without a budget
//! fails.

mod budget;
mod guest;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use budget::{BUDGETS, NEVER_ATTACHED, within};
use weir_kernel::bpf::{LoadOptions, Loaded, jit_enabled, load, objects};
use weir_testkit::{
    fixtures,
    verified::{Kernel, LOOPBACK},
};

fn main() -> ExitCode {
    if !guest::is_guest() {
        return check();
    }
    guest::prepare();
    let outcome = catch_unwind(check);
    guest::power_off();
    outcome.unwrap_or(ExitCode::FAILURE)
}

/// How the checks ended.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn report(&mut self, name: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(detail) => {
                self.passed += 1;
                println!("{}", format!("ok     {name:<24} {detail}").trim_end());
            }
            Err(why) => {
                self.failed += 1;
                println!("FAILED {name:<24} {why}");
            }
        }
    }
}

fn check() -> ExitCode {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let jit = if jit_enabled() == Some(true) { "on" } else { "off" };
    println!("kernel {}, jit {jit}", release.trim());
    let mut tally = Tally::default();
    for object in objects::names().filter(|name| !NEVER_ATTACHED.contains(name)) {
        match load(object, &LoadOptions::default()) {
            Ok(loaded) => verify(object, &loaded, &mut tally),
            Err(error) => tally.report(object, Err(error.to_string())),
        }
    }
    hold(&mut tally);
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Loads every program of an object, the budgeted ones first: a budget without a program is a failure too.
fn verify(object: &str, loaded: &Loaded, tally: &mut Tally) {
    let budgets: Vec<_> = BUDGETS.into_iter().filter(|budget| budget.object == object).collect();
    for budget in &budgets {
        // From an object of its own: an array of programs takes one kind only, and some objects have more.
        let cost = load(object, &LoadOptions::default())
            .and_then(|mut own| own.program(budget.program)?.info())
            .map_err(|error| error.to_string())
            .and_then(|info| within(*budget, &info));
        tally.report(&format!("{object}/{}", budget.program), cost);
    }
    for program in loaded.program_names() {
        if budgets.iter().all(|budget| budget.program != program) {
            let why = "has no budget; give it one in tests/verify/src/budget.rs";
            tally.report(&format!("{object}/{program}"), Err(why.to_owned()));
        }
    }
}

/// Sends every fixture through the director.
fn hold(tally: &mut Tally) {
    let kernel = match Kernel::new() {
        Ok(kernel) => kernel,
        Err(error) => return tally.report("fixtures", Err(error.to_string())),
    };
    for fixture in fixtures(LOOPBACK) {
        // What differed is said by the panic, before this.
        let held = catch_unwind(AssertUnwindSafe(|| kernel.hold(&fixture)));
        tally.report(
            &fixture.name,
            held.map(|()| String::new()).map_err(|_| "what differs is above".to_owned()),
        );
    }
}
