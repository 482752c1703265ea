//! Suites of named cases: running them, telling what they showed, cleaning up after them.
//!
//! Owns: the types a suite is declared with, order, panics, the tally. May not touch: namespaces, weir.
//! Invariant: a case can only pass by returning `Ok`; a panic, an error and a case that says nothing all fail it.
//!
//! A suite is one file with one table. This is all of it:
//!
//! ```ignore
//! //! Suite `example`: what it is about.
//! use crate::harness::{Case, Context, Suite};
//! use crate::network::{Lab, Topology};
//!
//! pub(crate) const SUITE: Suite = Suite {
//!     name: "example",
//!     about: "one line for `weir-e2e list`",
//!     cases: &[Case { name: "client reaches the VIP", run: client_reaches_vip }],
//! };
//!
//! fn client_reaches_vip(cx: &mut Context<'_>) -> anyhow::Result<()> {
//!     let lab = Lab::up(cx, Topology::Routed)?; // dropped, and taken down, whatever happens
//!     let out = lab.exec("client", &["curl", "-sS", "--max-time", "2", "http://192.0.2.10/"])?;
//!     anyhow::ensure!(out.ok(), "no answer: {out}"); // `{out}` shows command, exit code and output
//!     cx.show(format!("answer: {}", out.stdout.trim())); // at least one line, at best two
//!     Ok(())
//! }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::bail;

use crate::weir::Weir;

/// A named set of cases.
pub(crate) struct Suite {
    /// For `--suite` and for labs' names: short, lower case.
    pub(crate) name: &'static str,
    /// One line for `list`.
    pub(crate) about: &'static str,
    /// In the order they run.
    pub(crate) cases: &'static [Case],
}

/// One case.
pub(crate) struct Case {
    /// What holds if it passes, as a short sentence.
    pub(crate) name: &'static str,
    /// The case itself. It makes what it needs and leaves nothing behind.
    pub(crate) run: fn(&mut Context<'_>) -> anyhow::Result<()>,
}

/// What a case is given.
pub(crate) struct Context<'a> {
    /// The binary under test.
    pub(crate) weir: &'a Weir,
    suite: &'static str,
    serial: usize,
    labs: usize,
    shown: Vec<String>,
}

impl Context<'_> {
    /// Says what the case showed; printed under its name.
    pub(crate) fn show(&mut self, line: impl Into<String>) {
        self.shown.push(line.into());
    }

    /// A name no other case, suite or run of this program uses at the same time: at most 20 letters, digits and `-`.
    pub(crate) fn unique_name(&mut self) -> String {
        self.labs += 1;
        let initials: String = self.suite.chars().take(4).collect();
        format!("{initials}{}-{}-{}", std::process::id(), self.serial, self.labs)
    }
}

/// How many cases went which way.
#[derive(Default)]
pub(crate) struct Tally {
    /// Cases that passed.
    pub(crate) passed: usize,
    /// Cases that failed.
    pub(crate) failed: usize,
}

/// Prints suites and their cases.
pub(crate) fn list(suites: &[&Suite]) {
    for suite in suites {
        println!("{}: {}", suite.name, suite.about);
        for case in suite.cases {
            println!("    {}", case.name);
        }
    }
}

/// The suites with these names, or all of them if there are no names.
pub(crate) fn select(suites: &[&'static Suite], names: &[String]) -> anyhow::Result<Vec<&'static Suite>> {
    for name in names {
        if !suites.iter().any(|suite| suite.name == name) {
            let known: Vec<_> = suites.iter().map(|suite| suite.name).collect();
            bail!("there is no suite `{name}`; there are {}", known.join(", "));
        }
    }
    Ok(suites.iter().copied().filter(|s| names.is_empty() || names.iter().any(|n| n == s.name)).collect())
}

/// Runs the cases of `suites` whose name contains `filter`, one after the other.
pub(crate) fn run(suites: &[&'static Suite], filter: Option<&str>, weir: &Weir) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut serial = 0;
    for suite in suites {
        for case in suite.cases.iter().filter(|case| filter.is_none_or(|text| case.name.contains(text))) {
            serial += 1;
            let mut context = Context { weir, suite: suite.name, serial, labs: 0, shown: Vec::new() };
            let begun = Instant::now();
            let outcome = attempt(case, &mut context);
            let seconds = begun.elapsed().as_secs_f64();
            for line in &context.shown {
                println!("    {line}");
            }
            match outcome {
                Ok(()) => {
                    tally.passed += 1;
                    println!("{}: {}: ok ({seconds:.1} s)", suite.name, case.name);
                }
                Err(error) => {
                    tally.failed += 1;
                    println!("{}: {}: FAILED ({seconds:.1} s)", suite.name, case.name);
                    for line in format!("{error:#}").lines() {
                        println!("    ! {line}");
                    }
                }
            }
        }
    }
    if serial == 0 {
        bail!("no case has {:?} in its name; see `weir-e2e list`", filter.unwrap_or_default());
    }
    Ok(tally)
}

fn attempt(case: &Case, context: &mut Context<'_>) -> anyhow::Result<()> {
    // Labs are dropped while the panic unwinds, so that nothing is left behind.
    match catch_unwind(AssertUnwindSafe(|| (case.run)(context))) {
        Ok(Ok(())) if context.shown.is_empty() => bail!("the case passed without showing anything"),
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "unknown".to_owned());
            bail!("panic: {text}")
        }
    }
}
